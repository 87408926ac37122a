//! Every pair of phase and event (`table`), what happened one day or might (`stories`), and what always holds (`laws`).

mod laws;
mod stories;
mod table;

use super::*;
use crate::xsession::output::Report;

/// Every event once.
fn events() -> Vec<Event> {
    let mut events = vec![
        Event::StartAsked,
        Event::SuspendAsked,
        Event::StopAsked,
        Event::Consulted,
        Event::ConsultFailed,
        Event::ProvisioningBegan,
        Event::LaunchBegan,
        Event::Launched,
        Event::LaunchFailed,
        Event::ConnectHookPassed,
        Event::ConnectHookFailed,
        Event::SessionEnded,
        Event::AgentGone,
        Event::Deadline,
    ];
    events.extend(Report::ALL.map(Event::Output));
    events
}

/// Actions in a few words.
fn short(actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Publish(state) => format!("publish:{state}"),
        Action::Consult { resume: false } => "consult".to_owned(),
        Action::Consult { resume: true } => "consult-resume".to_owned(),
        Action::Prepare => "prepare".to_owned(),
        Action::RunConnectHook => "connect-hook".to_owned(),
        Action::CancelEffect => "cancel".to_owned(),
        Action::Hup => "hup".to_owned(),
        Action::Term => "term".to_owned(),
        Action::Kill => "kill".to_owned(),
        Action::StartSession => "start-session".to_owned(),
        Action::EndSession => "end-session".to_owned(),
        Action::Cleanup => "cleanup".to_owned(),
        Action::RecordFailure(_, Failure::Died) => "died".to_owned(),
        Action::RecordFailure(_, Failure::Aborted) => "aborted".to_owned(),
        Action::RecordFailure(_, Failure::TimedOut) => "timed-out".to_owned(),
        Action::RecordFailure(_, Failure::NobodyCame) => "nobody-came".to_owned(),
        Action::RecordFailure(_, Failure::TooSlow) => "too-slow".to_owned(),
        Action::AnswerStart(StartAnswer::Starting) => "started".to_owned(),
        Action::AnswerStart(StartAnswer::Refused(state)) => format!("refuse:{state}"),
        Action::AnswerStart(StartAnswer::SuspendingFirst) => "suspending-first".to_owned(),
        Action::AnswerStart(StartAnswer::Failed) => "failed".to_owned(),
        Action::AnswerSuspend(acted) => format!("suspend:{acted}"),
        Action::AnswerStop(acted) => format!("stop:{acted}"),
    };
    actions.iter().map(word).collect::<Vec<_>>().join(" ")
}
