//! Every pair of phase and event, the laws under random events, and the diagram of the module page.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::xsession::output::Report;

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

/// A machine in `phase` as it usually is there, and a moment at which its deadline has just passed.
fn in_phase(phase: Phase, origin: Instant) -> (Machine, Instant) {
    let limits = Limits::default();
    let mut machine = Machine::new(limits);
    machine.phase = phase;
    machine.suspended_at = Some(origin);
    machine.start_pending = matches!(phase, Phase::Consulting | Phase::Reconsulting);
    let after = |limit| Some(origin + limit);
    machine.deadline = match phase {
        Phase::Stopped
        | Phase::Consulting
        | Phase::Provisioning
        | Phase::Connected
        | Phase::Suspended
        | Phase::Reconsulting => None,
        Phase::Preparing => after(limits.preparing),
        Phase::Launching => after(limits.initiating),
        Phase::Listening | Phase::ListeningAgain => after(limits.listening),
        Phase::Suspending | Phase::WokenUnasked => after(limits.suspending),
        Phase::Stopping => after(limits.stopping),
        Phase::Waking => {
            machine.unanswered = Some(Sent { at: origin, times: 1 });
            machine.hook_started = true;
            machine.failed_wakes = DEAF_AFTER - 1;
            after(limits.initiating)
        }
    };
    machine.give_up_at = machine.deadline;
    let now = machine.deadline.unwrap_or(origin + limits.stopping);
    (machine, now)
}

/// What the pairs do that do anything: event, phases, next phase, actions in short.
fn table() -> Vec<(Event, &'static str, Phase, &'static str)> {
    use Event::*;
    use Phase as P;
    use Report as R;
    let out = Event::Output;
    vec![
        (StartAsked, "stopped", P::Consulting, "consult"),
        (StartAsked, "suspended", P::Reconsulting, "consult-resume"),
        (StartAsked, "consulting", P::Consulting, "refuse:starting"),
        (StartAsked, "reconsulting", P::Reconsulting, "refuse:starting"),
        (StartAsked, "connected", P::Connected, "hup suspending-first"),
        (StartAsked, "preparing", P::Preparing, "refuse:starting"),
        (StartAsked, "launching", P::Launching, "refuse:starting"),
        (StartAsked, "waking", P::Waking, "refuse:starting"),
        (StartAsked, "provisioning", P::Provisioning, "refuse:provisioning"),
        (StartAsked, "listening", P::Listening, "refuse:listening"),
        (StartAsked, "listening-again", P::ListeningAgain, "refuse:listening"),
        (StartAsked, "suspending", P::Suspending, "refuse:suspending"),
        (StartAsked, "woken-unasked", P::WokenUnasked, "refuse:suspending"),
        (StartAsked, "stopping", P::Stopping, "refuse:stopping"),
        (SuspendAsked, "connected", P::Connected, "hup suspend:true"),
        (SuspendAsked, "listening-again", P::Suspending, "publish:suspending hup suspend:true"),
        (SuspendAsked, "stopped", P::Stopped, "suspend:false"),
        (SuspendAsked, "consulting", P::Stopped, "cancel refuse:stopped suspend:true"),
        (SuspendAsked, "preparing", P::Preparing, "suspend:true"),
        (SuspendAsked, "provisioning", P::Provisioning, "suspend:true"),
        (SuspendAsked, "launching", P::Launching, "suspend:true"),
        (SuspendAsked, "listening", P::Stopping, "publish:stopping term suspend:true"),
        (SuspendAsked, "suspending", P::Suspending, "suspend:false"),
        (SuspendAsked, "suspended", P::Suspended, "suspend:false"),
        (SuspendAsked, "reconsulting", P::Suspended, "cancel refuse:suspended suspend:true"),
        (SuspendAsked, "waking", P::Waking, "suspend:true"),
        (SuspendAsked, "woken-unasked", P::WokenUnasked, "suspend:false"),
        (SuspendAsked, "stopping", P::Stopping, "suspend:false"),
        (StopAsked, "stopped", P::Stopped, "stop:false"),
        (StopAsked, "stopping", P::Stopping, "stop:false"),
        (StopAsked, "consulting", P::Stopped, "cancel refuse:stopping stop:true"),
        (StopAsked, "preparing", P::Stopped, "publish:stopped cancel cleanup stop:true"),
        (StopAsked, "provisioning", P::Stopped, "publish:stopped cancel cleanup stop:true"),
        (StopAsked, "launching", P::Stopped, "publish:stopped cancel cleanup stop:true"),
        (StopAsked, "listening", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "connected", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "suspending", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "suspended", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "reconsulting", P::Stopping, "publish:stopping term cancel refuse:stopping stop:true"),
        (StopAsked, "waking", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "listening-again", P::Stopping, "publish:stopping term stop:true"),
        (StopAsked, "woken-unasked", P::Stopping, "publish:stopping term stop:true"),
        (Consulted, "consulting", P::Preparing, "publish:starting started prepare"),
        (Consulted, "reconsulting", P::Waking, "publish:starting hup connect-hook"),
        (ConsultFailed, "consulting", P::Stopped, "failed"),
        (ConsultFailed, "reconsulting", P::Suspended, "failed"),
        (ProvisioningBegan, "preparing", P::Provisioning, "publish:provisioning"),
        (LaunchBegan, "preparing", P::Launching, ""),
        (LaunchBegan, "provisioning", P::Launching, "publish:starting"),
        (Launched, "launching", P::Listening, "publish:listening"),
        (LaunchFailed, "preparing", P::Stopped, "publish:stopped cleanup"),
        (LaunchFailed, "provisioning", P::Stopped, "publish:stopped cleanup"),
        (LaunchFailed, "launching", P::Stopped, "publish:stopped cleanup"),
        // In these two the pending start is the hook's that comes before.
        (ConnectHookPassed, "consulting", P::Consulting, "started"),
        (ConnectHookPassed, "reconsulting", P::Reconsulting, "started"),
        (ConnectHookFailed, "consulting", P::Consulting, "failed"),
        (ConnectHookFailed, "reconsulting", P::Reconsulting, "failed"),
        (ConnectHookFailed, "listening-again", P::Suspending, "publish:suspending hup"),
        (SessionEnded, "connected", P::Stopping, "publish:stopping term"),
        (SessionEnded, "suspending", P::Stopping, "publish:stopping term"),
        (SessionEnded, "suspended", P::Stopping, "publish:stopping term"),
        (SessionEnded, "reconsulting", P::Stopping, "publish:stopping term cancel refuse:stopping"),
        (SessionEnded, "waking", P::Stopping, "publish:stopping term"),
        (SessionEnded, "listening-again", P::Stopping, "publish:stopping term"),
        (SessionEnded, "woken-unasked", P::Stopping, "publish:stopping term"),
        (AgentGone, "listening", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "connected", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "suspending", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "suspended", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "reconsulting", P::Consulting, "publish:stopped died end-session cleanup"),
        (AgentGone, "waking", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "listening-again", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "woken-unasked", P::Stopped, "publish:stopped died end-session cleanup"),
        (AgentGone, "stopping", P::Stopped, "publish:stopped end-session cleanup"),
        (Deadline, "preparing", P::Stopped, "publish:stopped cancel timed-out cleanup"),
        (Deadline, "launching", P::Stopped, "publish:stopped cancel timed-out cleanup"),
        (Deadline, "listening", P::Stopping, "publish:stopping nobody-came term"),
        (Deadline, "listening-again", P::Suspending, "publish:suspending nobody-came hup"),
        (Deadline, "suspending", P::Stopping, "publish:stopping timed-out term"),
        (Deadline, "woken-unasked", P::Stopping, "publish:stopping timed-out term"),
        (Deadline, "waking", P::Stopping, "publish:stopping timed-out term"),
        (Deadline, "stopping", P::Stopping, "kill"),
        (out(R::Waiting), "waking", P::ListeningAgain, "publish:listening"),
        (out(R::Waiting), "woken-unasked", P::Suspending, "hup"),
        (out(R::Waiting), "suspended", P::Suspending, "publish:suspending hup"),
        (out(R::Started), "listening", P::Connected, "publish:connected start-session"),
        (out(R::Resuming), "suspending", P::WokenUnasked, ""),
        (out(R::Resuming), "suspended", P::WokenUnasked, "publish:suspending"),
        (out(R::Resumed), "suspending", P::Connected, "publish:connected"),
        (out(R::Resumed), "suspended", P::Connected, "publish:connected"),
        (out(R::Resumed), "waking", P::Connected, "publish:connected"),
        (out(R::Resumed), "listening-again", P::Connected, "publish:connected"),
        (out(R::Resumed), "woken-unasked", P::Connected, "publish:connected"),
        (out(R::Resumed), "reconsulting", P::Connected, "publish:connected cancel refuse:connected"),
        (out(R::Suspending), "listening", P::Suspending, "publish:suspending"),
        (out(R::Suspending), "connected", P::Suspending, "publish:suspending"),
        (out(R::Suspending), "listening-again", P::Suspending, "publish:suspending"),
        (out(R::Suspending), "woken-unasked", P::Suspending, ""),
        (out(R::Suspended), "listening", P::Suspended, "publish:suspended"),
        (out(R::Suspended), "connected", P::Suspended, "publish:suspended"),
        (out(R::Suspended), "suspending", P::Suspended, "publish:suspended"),
        (out(R::Suspended), "listening-again", P::Suspended, "publish:suspended"),
        (out(R::Suspended), "woken-unasked", P::Suspended, "publish:suspended"),
        (out(R::Suspended), "stopping", P::Stopping, "term"),
        // The table's moment is that of giving up; the retry has its own test.
        (out(R::Suspended), "waking", P::Stopping, "publish:stopping timed-out term"),
    ]
    .into_iter()
    .chain([R::Terminating, R::Terminated].into_iter().flat_map(|r| ends(out(r), "")))
    .chain([R::Aborting, R::Aborted].into_iter().flat_map(|r| ends(out(r), "aborted")))
    .collect()
}

fn ends(event: Event, recorded: &'static str) -> Vec<(Event, &'static str, Phase, &'static str)> {
    let phases =
        ["listening", "connected", "suspending", "suspended", "waking", "listening-again", "woken-unasked"];
    let (plain, pending) = match recorded {
        "" => ("publish:stopping", "publish:stopping cancel failed"),
        _ => ("publish:stopping aborted", "publish:stopping aborted cancel failed"),
    };
    let mut rows: Vec<_> = phases.map(|phase| (event, phase, Phase::Stopping, plain)).into();
    rows.push((event, "reconsulting", Phase::Stopping, pending));
    rows
}

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

#[test]
fn every_pair_of_phase_and_event_does_what_the_table_says() {
    let (table, origin) = (table(), Instant::now());
    let mut used = 0;
    for phase in Phase::ALL {
        for event in events() {
            let rows: Vec<_> =
                table.iter().filter(|(e, p, ..)| *e == event && *p == phase.as_str()).collect();
            assert!(rows.len() <= 1, "{phase} × {event:?} is there twice");
            used += rows.len();
            let expected =
                rows.first().map_or((phase, String::new()), |(.., next, words)| (*next, (*words).to_owned()));
            let (mut machine, now) = in_phase(phase, origin);
            let actions = machine.step(event, now);
            assert_eq!((machine.phase(), short(&actions)), expected, "{phase} × {event:?}");
        }
    }
    assert_eq!(used, table.len(), "a row names a phase that does not exist");
}

#[test]
fn the_diagram_shows_the_moves_of_the_code() {
    let origin = Instant::now();
    let mut moves = BTreeSet::new();
    for phase in Phase::ALL {
        for event in events() {
            for sleep in [Sleep::Asleep, Sleep::Rising, Sleep::Waiting] {
                for (unwanted, deaf) in [(false, false), (true, false), (false, true), (true, true)] {
                    let (mut machine, now) = in_phase(phase, origin);
                    machine.sleep = sleep;
                    machine.unwanted = unwanted;
                    machine.failed_wakes = if deaf { DEAF_AFTER - 1 } else { 0 };
                    machine.step(event, now);
                    if machine.phase() != phase {
                        moves.insert((phase.as_str(), machine.phase().as_str()));
                    }
                }
            }
        }
    }
    let drawn: BTreeSet<_> = include_str!("mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! ")?.split_once(" → "))
        .filter(|(from, _)| Phase::ALL.iter().any(|phase| phase.as_str() == from.trim()))
        .flat_map(|(from, to)| to.split(", ").map(move |to| (from.trim(), to.trim())))
        .collect();
    assert_eq!(drawn, moves);
    // And what callers see of it is what everybody agreed on.
    let public =
        |name: &str| Phase::ALL.iter().find(|phase| phase.as_str() == name).map(|phase| phase.public());
    let seen: BTreeSet<_> = moves.iter().map(|(from, to)| (public(from), public(to))).collect();
    let seen: BTreeSet<_> = seen.into_iter().filter(|(from, to)| from != to).collect();
    let agreed: BTreeSet<_> = XState::ALL
        .iter()
        .flat_map(|from| XState::ALL.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from.may_become(*to))
        .map(|(from, to)| (Some(from), Some(to)))
        .collect();
    assert_eq!(seen, agreed);
}

/// Feeds events at growing times (milliseconds) and collects what is to be done.
struct Script {
    machine: Machine,
    origin: Instant,
}

impl Script {
    fn new() -> Self {
        Self { machine: Machine::new(Limits::default()), origin: Instant::now() }
    }

    fn at(&mut self, milliseconds: u64, event: Event) -> String {
        short(&self.machine.step(event, self.origin + Duration::from_millis(milliseconds)))
    }

    /// To suspended at one second.
    fn suspended() -> Self {
        let mut script = Self::new();
        for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
            script.at(0, event);
        }
        for report in [Report::Started, Report::Suspending, Report::Suspended] {
            script.at(1000, Event::Output(report));
        }
        assert_eq!(script.machine.phase(), Phase::Suspended);
        script
    }

    fn deadline(&self) -> u64 {
        let deadline = self.machine.deadline().unwrap();
        u64::try_from((deadline - self.origin).as_millis()).unwrap()
    }
}

#[test]
fn an_agent_is_not_woken_before_it_has_settled() {
    let mut script = Script::suspended();
    script.at(1010, Event::StartAsked);
    assert_eq!(script.at(1020, Event::Consulted), "publish:starting");
    assert_eq!(script.deadline(), 1200);
    assert_eq!(script.at(1200, Event::Deadline), "hup connect-hook");
    assert_eq!(script.at(1201, Event::ConnectHookPassed), "started");
    assert_eq!(script.at(1210, Event::Output(Report::Resuming)), "");
    assert_eq!(script.at(1220, Event::Output(Report::Waiting)), "publish:listening");
}

#[test]
fn a_lost_hup_is_sent_again() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    assert_eq!(script.at(5000, Event::Consulted), "publish:starting hup connect-hook");
    assert_eq!(script.deadline(), 6000);
    assert_eq!(script.at(6000, Event::Deadline), "hup");
    script.at(6010, Event::Output(Report::Resuming));
    // Once it reacts it is left alone, however slow it is.
    assert_eq!(script.deadline(), 25_000);
    assert_eq!(script.at(7000, Event::Deadline), "");
}

#[test]
fn a_resume_that_comes_to_nothing_is_tried_again() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    script.at(5010, Event::Output(Report::Resuming));
    script.at(5020, Event::Output(Report::Suspending));
    assert_eq!(script.at(5030, Event::Output(Report::Suspended)), "");
    assert_eq!(script.at(5230, Event::Deadline), "hup");
}

#[test]
fn a_resume_that_is_called_off_leaves_the_agent_asleep() {
    let mut script = Script::suspended();
    // Before the agent knows of it.
    script.at(1010, Event::StartAsked);
    script.at(1020, Event::Consulted);
    assert_eq!(script.at(1030, Event::SuspendAsked), "publish:suspended refuse:suspended suspend:true");
    assert_eq!(script.machine.deadline(), None);
    // Behind the HUP.
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    assert_eq!(script.at(5010, Event::SuspendAsked), "suspend:true");
    script.at(5020, Event::Output(Report::Resuming));
    assert_eq!(script.at(5030, Event::Output(Report::Waiting)), "publish:suspending hup");
    assert_eq!(script.at(5040, Event::Output(Report::Suspended)), "publish:suspended");
    // The next resume is wanted again.
    script.at(6000, Event::StartAsked);
    script.at(6000, Event::Consulted);
    script.at(6010, Event::Output(Report::Resuming));
    assert_eq!(script.at(6020, Event::Output(Report::Waiting)), "publish:listening");
}

#[test]
fn a_first_start_that_is_called_off_ends_when_its_agent_waits() {
    for called_off in 0..3 {
        let mut script = Script::new();
        script.at(0, Event::StartAsked);
        for (at, event) in
            [Event::Consulted, Event::ProvisioningBegan, Event::LaunchBegan].into_iter().enumerate()
        {
            script.at(10, event);
            if at == called_off {
                assert_eq!(script.at(10, Event::SuspendAsked), "suspend:true");
            }
        }
        assert_eq!(script.at(20, Event::Launched), "publish:stopping term");
        script.at(900, Event::AgentGone);
        assert_eq!(script.machine.phase(), Phase::Stopped);
        for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan] {
            script.at(1000, event);
        }
        assert_eq!(script.at(1000, Event::Launched), "publish:listening");
    }
}

#[test]
fn a_deaf_agent_is_ended_only_when_it_stays_deaf() {
    let mut script = Script::suspended();
    for round in 1..=DEAF_AFTER {
        let start = 100_000 * u64::from(round);
        script.at(start, Event::StartAsked);
        script.at(start, Event::Consulted);
        while script.machine.phase() == Phase::Waking {
            let at = script.deadline();
            script.at(at, Event::Deadline);
        }
        let expected = if round < DEAF_AFTER { Phase::Suspended } else { Phase::Stopping };
        assert_eq!(script.machine.phase(), expected, "round {round}");
    }
}

#[test]
fn a_hup_that_crosses_the_agents_own_suspend_does_no_harm() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(100, Event::StartAsked), "hup suspending-first");
    assert_eq!(script.at(200, Event::StartAsked), "suspending-first", "one is outstanding");
    script.at(300, Event::Output(Report::Suspending));
    script.at(400, Event::Output(Report::Suspended));
    // Our HUP came too late and woke it.
    assert_eq!(script.at(410, Event::Output(Report::Resuming)), "publish:suspending");
    assert_eq!(script.at(420, Event::StartAsked), "refuse:suspending");
    assert_eq!(script.at(430, Event::Output(Report::Waiting)), "hup");
    script.at(440, Event::Output(Report::Suspending));
    assert_eq!(script.at(450, Event::Output(Report::Suspended)), "publish:suspended");
}

#[test]
fn an_agent_that_woke_during_the_hook_is_taken_as_it_is() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5001, Event::Output(Report::Resuming));
    script.at(5002, Event::Output(Report::Waiting));
    assert_eq!(script.at(5003, Event::Consulted), "publish:listening connect-hook");

    let mut refused = Script::suspended();
    refused.at(5000, Event::StartAsked);
    refused.at(5001, Event::Output(Report::Resuming));
    refused.at(5002, Event::Output(Report::Waiting));
    assert_eq!(refused.at(5003, Event::ConsultFailed), "publish:suspending failed hup");
}

#[test]
fn a_lost_suspending_hup_can_be_sent_again_later() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(0, Event::StartAsked), "hup suspending-first");
    assert_eq!(script.at(4999, Event::StartAsked), "suspending-first");
    assert_eq!(script.at(5000, Event::StartAsked), "hup suspending-first");
}

#[test]
fn a_suspending_hup_that_a_connected_agent_does_not_answer_is_sent_again_a_few_times() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    script.at(0, Event::Output(Report::Started));
    assert_eq!(script.at(0, Event::SuspendAsked), "hup suspend:true");
    for again in 1..u64::from(DEAF_AFTER) {
        assert_eq!(script.deadline(), 5000 * again);
        assert_eq!(script.at(5000 * again, Event::Deadline), "hup");
    }
    assert_eq!(script.at(15_000, Event::Deadline), "");
    assert_eq!(script.machine.deadline(), None, "it is left to whoever looks at it");
    assert_eq!(script.machine.phase(), Phase::Connected);
    assert_eq!(script.at(16_000, Event::SuspendAsked), "hup suspend:true");
    script.at(16_001, Event::Output(Report::Suspending));
    assert_eq!(script.at(16_010, Event::Output(Report::Suspended)), "publish:suspended");
}

/// The agent had said that it waits and did not yet.
#[test]
fn a_hup_that_comes_just_before_the_wait_is_sent_again_until_it_is_answered() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    assert_eq!(script.at(5001, Event::SuspendAsked), "suspend:true");
    assert_eq!(script.at(5010, Event::Output(Report::Waiting)), "publish:suspending hup");
    assert_eq!(script.deadline(), 6010);
    assert_eq!(script.at(6010, Event::Deadline), "hup");
    assert_eq!(script.at(7010, Event::Deadline), "hup");
    script.at(7011, Event::Output(Report::Suspending));
    // Once it reacts it is left alone, and has the time that it takes.
    assert_eq!(script.deadline(), 25_010);
    assert_eq!(script.at(24_000, Event::Deadline), "");
    assert_eq!(script.at(24_500, Event::Output(Report::Suspended)), "publish:suspended");
    assert_eq!(script.machine.deadline(), None);
}

#[test]
fn one_hup_too_many_wakes_the_agent_and_does_no_harm() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    script.at(5001, Event::SuspendAsked);
    script.at(5010, Event::Output(Report::Waiting));
    // It was only slow.
    assert_eq!(script.at(6010, Event::Deadline), "hup");
    script.at(6020, Event::Output(Report::Suspending));
    script.at(6030, Event::Output(Report::Suspended));
    script.at(6040, Event::Output(Report::Resuming));
    assert_eq!(script.at(6050, Event::Output(Report::Waiting)), "hup");
    assert_eq!(script.at(6060, Event::Output(Report::Suspended)), "publish:suspended");
}

#[test]
fn an_agent_that_answers_no_hup_is_ended_in_the_end() {
    let mut script = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Resuming)] {
        script.at(5000, event);
    }
    assert_eq!(script.at(5001, Event::ConnectHookPassed), "started");
    script.at(5001, Event::SuspendAsked);
    script.at(5010, Event::Output(Report::Waiting));
    let mut hups = 0;
    let end = loop {
        let at = script.deadline();
        match script.at(at, Event::Deadline).as_str() {
            "hup" => hups += 1,
            other => break (at, other.to_owned()),
        }
    };
    assert_eq!(end, (25_010, "publish:stopping timed-out term".to_owned()));
    assert_eq!(hups, 19);
}

#[test]
fn a_term_is_sent_again_until_it_is_answered() {
    let mut script = Script::suspended();
    assert_eq!(script.at(5000, Event::StopAsked), "publish:stopping term stop:true");
    assert_eq!(script.deadline(), 6000);
    assert_eq!(script.at(6000, Event::Deadline), "term");
    assert_eq!(script.at(6010, Event::Output(Report::Suspended)), "term");
    assert_eq!(script.at(7010, Event::Deadline), "term");
    script.at(7020, Event::Output(Report::Terminating));
    assert_eq!(script.deadline(), 25_000);
    assert_eq!(script.at(25_000, Event::Deadline), "kill");
    assert_eq!(script.deadline(), 45_000);
    assert_eq!(script.at(45_000, Event::Deadline), "kill");
}

#[test]
fn a_refusing_connect_hook_of_a_resume_puts_the_agent_back_to_sleep() {
    let mut script = Script::suspended();
    script.at(5000, Event::StartAsked);
    script.at(5000, Event::Consulted);
    assert_eq!(script.at(5001, Event::ConnectHookFailed), "failed");
    script.at(5002, Event::Output(Report::Resuming));
    assert_eq!(script.at(5003, Event::Output(Report::Waiting)), "publish:suspending hup");
}

#[test]
fn a_client_that_is_there_has_the_time_that_its_link_takes() {
    let mut script = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        script.at(0, event);
    }
    assert_eq!(script.deadline(), 10_000);
    assert_eq!(script.at(9000, Event::Output(Report::Accepted)), "");
    assert_eq!(script.deadline(), 129_000);
    assert_eq!(script.at(10_000, Event::Deadline), "");
    assert_eq!(script.at(128_000, Event::Output(Report::Started)), "publish:connected start-session");
    assert_eq!(script.machine.deadline(), None);

    let mut never = Script::new();
    for event in [Event::StartAsked, Event::Consulted, Event::LaunchBegan, Event::Launched] {
        never.at(0, event);
    }
    never.at(9000, Event::Output(Report::Accepted));
    assert_eq!(never.at(129_000, Event::Deadline), "publish:stopping too-slow term");

    let mut resumed = Script::suspended();
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Waiting)] {
        resumed.at(5000, event);
    }
    resumed.at(6000, Event::Output(Report::Accepted));
    assert_eq!(resumed.at(15_000, Event::Deadline), "");
    assert_eq!(resumed.at(126_000, Event::Deadline), "publish:suspending too-slow hup");
    // The next wait is for another client.
    resumed.at(126_100, Event::Output(Report::Suspended));
    for event in [Event::StartAsked, Event::Consulted, Event::Output(Report::Waiting)] {
        resumed.at(130_000, event);
    }
    assert_eq!(resumed.at(140_000, Event::Deadline), "publish:suspending nobody-came hup");
}

fn any_event() -> impl Strategy<Value = Event> {
    proptest::sample::select(events())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_laws_hold_whatever_happens(steps in proptest::collection::vec((any_event(), 0u64..3000), 1..120)) {
        let limits = Limits::default();
        let origin = Instant::now();
        let mut now = origin;
        let mut machine = Machine::new(limits);
        let (mut unanswered, mut alive, mut desktops) = (0i32, false, 0);
        let (mut published, mut asleep_since): (XState, Option<Instant>) = (XState::Stopped, None);
        for (event, pause) in steps {
            now += Duration::from_millis(pause);
            let before = machine.phase();
            if event == Event::StartAsked {
                unanswered += 1;
            }
            if event == Event::Launched && before == Phase::Launching {
                prop_assert!(!alive, "launched twice");
                (alive, desktops) = (true, 0);
            }
            if event == Event::Output(Report::Suspended) {
                asleep_since = Some(now);
            } else if matches!(event, Event::Output(_)) {
                asleep_since = None;
            }
            for action in machine.step(event, now) {
                match action {
                    Action::Hup | Action::Term | Action::Kill => {
                        prop_assert!(alive, "{action:?} without an agent");
                        let settled = asleep_since.is_none_or(|at| now >= at + limits.settle);
                        let waking = machine.phase() == Phase::Waking;
                        prop_assert!(action != Action::Hup || !waking || settled, "HUP before it settled");
                    }
                    Action::AnswerStart(_) => unanswered -= 1,
                    Action::StartSession => desktops += 1,
                    Action::Publish(state) => {
                        prop_assert_ne!(state, published, "published twice");
                        prop_assert!(published.may_become(state), "{published} → {state}");
                        published = state;
                    }
                    Action::EndSession => alive = false,
                    Action::Consult { .. }
                    | Action::Prepare
                    | Action::RunConnectHook
                    | Action::CancelEffect
                    | Action::Cleanup
                    | Action::RecordFailure(..)
                    | Action::AnswerSuspend(_)
                    | Action::AnswerStop(_) => {}
                }
            }
            prop_assert!((0..=1).contains(&unanswered), "{unanswered} starts without an answer");
            prop_assert!(desktops <= 1, "two desktops on one agent");
            prop_assert_eq!(published, machine.state());
            let waits = machine.phase() == Phase::Consulting || machine.phase() == Phase::Reconsulting
                || machine.phase() == Phase::Waking || machine.hook_started;
            prop_assert!(unanswered == 0 || waits, "nobody will answer in {}", machine.phase());
        }
        // From anywhere: told to stop, and the agent's end reported, it is stopped and owes no answer.
        let answered = machine.step(Event::StopAsked, now).iter().chain(&machine.step(Event::AgentGone, now))
            .filter(|action| matches!(action, Action::AnswerStart(_))).count();
        prop_assert_eq!(machine.phase(), Phase::Stopped);
        prop_assert_eq!(i32::try_from(answered).unwrap(), unanswered);
        prop_assert_eq!(machine.deadline(), None);
    }

    #[test]
    fn nothing_waits_for_ever_where_a_limit_is_due(steps in proptest::collection::vec(any_event(), 1..60)) {
        let mut now = Instant::now();
        let mut machine = Machine::new(Limits::default());
        for event in steps {
            machine.step(event, now);
            prop_assert!(machine.deadline().is_none_or(|at| at >= now));
        }
        // Left alone, every phase with a limit comes to rest or keeps killing.
        for _ in 0..100 {
            let Some(at) = machine.deadline() else { return Ok(()) };
            now = at;
            let killed = machine.step(Event::Deadline, now).contains(&Action::Kill);
            if killed {
                prop_assert_eq!(machine.phase(), Phase::Stopping);
                return Ok(());
            }
        }
        prop_assert!(false, "still {} with a deadline", machine.phase());
    }
}
