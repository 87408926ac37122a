//! Every pair of phase and event once, and the diagram of the module page.

use std::collections::BTreeSet;

use super::*;

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
    let drawn: BTreeSet<_> = include_str!("../mod.rs")
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
