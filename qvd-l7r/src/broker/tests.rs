//! The machine alone: every phase with every event, the texts in order, the limits, and what must hold always.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use qvd_core::model::VmRuntime;
use qvd_core::state::{UserCommand, UserState, VmCommand, VmState, XState};
use qvd_core::{HostId, RunId, SessionId, VmId};

use super::*;

const MINE: SessionId = SessionId::from_u128(1);
const OTHER: SessionId = SessionId::from_u128(2);

fn row(state: VmState) -> VmRuntime {
    let stopped = state == VmState::Stopped;
    VmRuntime {
        vm_id: VmId::new(7),
        host_id: (!stopped).then(|| HostId::new(1)),
        run_id: RunId::new(1),
        host_incarnation: (!stopped).then_some(1),
        vm_state: state,
        vm_phase: None,
        vm_cmd: None,
        current_di_id: None,
        vm_address: None,
        vm_vma_port: None,
        vm_x_port: None,
        blocked: false,
        blocked_reason: None,
        fail_count: 0,
        last_error: None,
        user_state: UserState::Connecting,
        user_cmd: None,
        real_user_id: None,
        l7r_host_id: Some(HostId::new(1)),
        session_id: Some(MINE),
    }
}

fn claimed() -> VmRuntime {
    VmRuntime {
        host_id: Some(HostId::new(1)),
        host_incarnation: Some(1),
        vm_cmd: Some(VmCommand::Start),
        ..row(VmState::Stopped)
    }
}

fn boxed(state: VmState) -> Box<VmRuntime> {
    Box::new(row(state))
}

/// A machine with a clock of its own.
struct Run {
    machine: Machine,
    now: Instant,
    told: Vec<String>,
}

impl Run {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { machine: Machine::new(VmId::new(7), MINE, limits), now: Instant::now(), told: Vec::new() }
    }

    /// Feeds an event; returns the actions besides telling the client.
    fn feed(&mut self, event: Event) -> Vec<Action> {
        let actions = self.machine.step(event, self.now);
        self.told.extend(actions.iter().filter_map(|a| match a {
            Action::Tell(step) => Some(step.text(VmId::new(7))),
            _ => None,
        }));
        actions.into_iter().filter(|a| !matches!(a, Action::Tell(_))).collect()
    }

    fn feed_all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        events.into_iter().map(|e| self.feed(e)).last().unwrap_or_default()
    }

    /// Lets the time of the deadline come.
    fn deadline(&mut self) -> Vec<Action> {
        self.now = self.machine.deadline().expect("the machine waits for time");
        self.feed(Event::Deadline)
    }

    fn reach_settling(&mut self) {
        self.feed_all([
            Event::Begin,
            Event::Acquired(boxed(VmState::Running)),
            Event::HookPassed,
            Event::Row(boxed(VmState::Running)),
        ]);
    }

    fn reach_starting(&mut self) {
        self.reach_settling();
        assert_eq!(self.feed(Event::XState(XState::Suspended)), [Action::Look]);
        assert_eq!(self.feed(Event::Row(boxed(VmState::Running))), [Action::StartX]);
    }

    fn reach_arriving(&mut self) {
        self.reach_starting();
        assert_eq!(self.feed(Event::XStarted), [Action::AskXState]);
    }

    fn reach_dialling(&mut self) {
        self.reach_arriving();
        assert_eq!(self.feed(Event::XState(XState::Listening)), [Action::Look]);
        let actions = self.feed(Event::Row(boxed(VmState::Running)));
        assert_eq!(actions, [Action::CountNxAttempt, Action::Dial]);
    }
}

/// The reason of a refusal behind which the agent is not told anything.
fn refused(actions: &[Action]) -> Reason {
    match actions {
        [Action::Refuse(Refusal::Unavailable(reason))] => reason.clone(),
        other => panic!("not a refusal: {other:?}"),
    }
}

/// The reason of a refusal behind which the agent is told that nobody comes.
fn called_off(actions: &[Action]) -> Reason {
    match actions {
        [Action::Refuse(Refusal::Unavailable(reason)), Action::CallOff] => reason.clone(),
        other => panic!("not called off: {other:?}"),
    }
}

fn aborted() -> Event {
    let mut row = row(VmState::Running);
    row.user_cmd = Some(UserCommand::Abort);
    Event::Row(Box::new(row))
}

fn stolen() -> Event {
    let mut row = row(VmState::Running);
    row.session_id = Some(OTHER);
    Event::Row(Box::new(row))
}

#[test]
fn row_51_a_cold_start_tells_nine_steps_in_order_then_switches() {
    let mut run = Run::new();
    assert_eq!(run.feed(Event::Begin), [Action::Acquire]);
    let other = VmRuntime { session_id: Some(OTHER), ..row(VmState::Stopped) };
    assert_eq!(run.feed(Event::NotAcquired(Box::new(other))), [Action::AskAbort(OTHER)]);
    assert_eq!(run.feed(Event::AbortAsked), []);
    assert_eq!(run.feed(Event::Woken), [Action::Acquire]);
    assert_eq!(run.feed(Event::Acquired(boxed(VmState::Stopped))), [Action::RunHook]);
    assert_eq!(run.feed(Event::HookPassed), [Action::Claim]);
    assert_eq!(run.feed(Event::Claimed(Box::new(claimed()))), []);
    assert_eq!(run.feed(Event::Woken), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Starting))), []);
    assert_eq!(run.deadline(), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::AskXState]);
    assert_eq!(run.feed(Event::XState(XState::Stopped)), [Action::AskXFailure]);
    assert_eq!(run.feed(Event::XFailure(None)), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::StartX]);
    assert_eq!(run.feed(Event::XStarted), [Action::AskXState]);
    assert_eq!(run.feed(Event::XState(XState::Starting)), []);
    assert_eq!(run.deadline(), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::AskXState]);
    assert_eq!(run.feed(Event::XState(XState::Listening)), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::CountNxAttempt, Action::Dial]);
    assert_eq!(run.feed(Event::Dialled), [Action::CountNxOk, Action::Commit]);
    assert_eq!(run.feed(Event::Committed), [Action::Switch]);
    assert_eq!(run.feed(Event::Switched), []);
    assert!(run.machine.is_forwarding());
    assert_eq!(
        run.told,
        [
            "Aborting contending session for VM_ID: 7",
            "Session acquired for VM_ID: 7",
            "Assigning VM 7 to host",
            "Starting virtual machine",
            "Waiting for VM to reach state 'running'",
            "Starting X session at VM 7",
            "Waiting for X session to come up on VM 7",
            "Connecting X session for VM_ID: 7",
            "Connection established",
        ]
    );
}

#[test]
fn row_52_53_a_running_machine_is_neither_assigned_nor_waited_for() {
    let mut run = Run::new();
    run.reach_dialling();
    assert_eq!(
        run.told,
        [
            "Session acquired for VM_ID: 7",
            "Starting X session at VM 7",
            "Waiting for X session to come up on VM 7",
            "Connecting X session for VM_ID: 7",
        ]
    );
}

#[test]
fn row_57_114_without_a_host_the_reason_says_so() {
    for (event, reason) in [
        (Event::NoHost, Reason::NoHost),
        (Event::NoHostClaimed, Reason::NotAssigned),
        (Event::NotClaimed(boxed(VmState::Stopped)), Reason::StateChanged),
    ] {
        let mut run = Run::new();
        run.feed_all([Event::Begin, Event::Acquired(boxed(VmState::Stopped)), Event::HookPassed]);
        assert_eq!(refused(&run.feed(event)), reason);
    }
}

#[test]
fn a_start_ordered_by_somebody_else_is_as_good() {
    let mut run = Run::new();
    run.feed_all([Event::Begin, Event::Acquired(boxed(VmState::Stopped)), Event::HookPassed]);
    assert_eq!(run.feed(Event::NotClaimed(boxed(VmState::Starting))), []);
    assert_eq!(run.feed(Event::Woken), [Action::Look]);
}

#[test]
fn row_58_a_machine_that_never_runs_is_given_up_after_270_seconds_with_few_words() {
    let mut run = Run::new();
    run.feed_all([
        Event::Begin,
        Event::Acquired(boxed(VmState::Stopped)),
        Event::HookPassed,
        Event::Claimed(Box::new(claimed())),
    ]);
    let begun = run.now;
    let mut looks = 0;
    let end = loop {
        let actions = run.deadline();
        if actions == [Action::Look] {
            looks += 1;
            assert_eq!(run.feed(Event::Row(boxed(VmState::Starting))), []);
        } else {
            break actions;
        }
    };
    assert_eq!(refused(&end), Reason::VmTimeout);
    assert_eq!((run.now - begun).as_secs(), 270);
    assert_eq!(looks, 134, "every 2 s");
    let waiting = run.told.iter().filter(|t| t.starts_with("Waiting for VM")).count();
    assert_eq!(waiting, 5, "at once, then every 60 s: {:?}", run.told);
}

#[test]
fn row_59_a_machine_that_goes_back_to_stopped_is_given_up() {
    let mut run = Run::new();
    run.feed_all([
        Event::Begin,
        Event::Acquired(boxed(VmState::Stopped)),
        Event::HookPassed,
        Event::Claimed(Box::new(claimed())),
    ]);
    run.deadline();
    assert_eq!(refused(&run.feed(Event::Row(boxed(VmState::Stopped)))), Reason::NotStarted);
}

#[test]
fn a_machine_that_stops_while_its_desktop_comes_up_is_given_up() {
    let mut run = Run::new();
    run.reach_arriving();
    run.feed(Event::XState(XState::Starting));
    run.deadline();
    assert_eq!(refused(&run.feed(Event::Row(boxed(VmState::Stopping)))), Reason::NotStarted);
}

#[test]
fn row_60_61_x_start_is_tried_21_times_a_second_apart_and_the_agents_words_are_passed_on() {
    let mut run = Run::new();
    run.reach_starting();
    let begun = run.now;
    for _ in 0..20 {
        assert_eq!(run.feed(Event::XRefused("hook failed".into())), []);
        assert_eq!(run.deadline(), [Action::Look], "whether it is still wanted is checked between tries");
        assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::StartX]);
    }
    assert_eq!((run.now - begun).as_secs(), 20);
    assert_eq!(
        refused(&run.feed(Event::XRefused("hook failed".into()))),
        Reason::XRefused("hook failed".into())
    );
}

#[test]
fn an_x_start_without_answer_may_have_worked() {
    for (state, next) in [
        (XState::Listening, vec![Action::Look]),
        (XState::Starting, vec![Action::AskXState]),
        (XState::Provisioning, vec![Action::AskXState]),
        (XState::Suspended, vec![]),
    ] {
        let mut run = Run::new();
        run.reach_starting();
        assert_eq!(run.feed(Event::XSilent), [Action::AskXState]);
        assert_eq!(run.feed(Event::XState(state)), next, "{state}");
    }
}

#[test]
fn row_62_provisioning_has_no_limit_and_what_follows_has_its_own() {
    let mut run = Run::new();
    run.reach_arriving();
    let begun = run.now;
    while run.now - begun < Duration::from_secs(300) {
        assert_eq!(run.feed(Event::XState(XState::Provisioning)), []);
        assert_eq!(run.deadline(), [Action::Look]);
        assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::AskXState]);
    }
    assert_eq!(run.feed(Event::XState(XState::Starting)), [], "the limit begins behind it");
    run.deadline();
    run.feed(Event::Row(boxed(VmState::Running)));
    assert_eq!(run.feed(Event::XState(XState::Listening)), [Action::Look]);
}

#[test]
fn row_63_a_desktop_that_does_not_come_up_is_given_up_after_ten_seconds() {
    for answer in [Event::XState(XState::Starting), Event::XStateUnknown] {
        let mut run = Run::new();
        run.reach_arriving();
        let begun = run.now;
        let end = loop {
            let actions = run.feed(answer.clone());
            if !actions.is_empty() {
                break actions;
            }
            run.deadline();
            run.feed(Event::Row(boxed(VmState::Running)));
        };
        assert_eq!(refused(&end), Reason::XTimeout);
        let took = (run.now - begun).as_secs_f32();
        assert!((10.0..11.1).contains(&took), "{took}");
    }
}

#[test]
fn row_64_a_desktop_that_goes_elsewhere_is_given_up() {
    for state in [XState::Suspended, XState::Connected, XState::Suspending] {
        let mut run = Run::new();
        run.reach_arriving();
        assert_eq!(refused(&run.feed(Event::XState(state))), Reason::XStateWentTo(state));
    }
}

#[test]
fn a_desktop_that_ends_while_it_comes_up_is_told_in_the_agents_words() {
    for state in [XState::Stopped, XState::Stopping] {
        for (words, reason) in [
            (None, Reason::XStateWentTo(state)),
            (Some("it crashed".to_owned()), Reason::XFailed("it crashed".into())),
        ] {
            let mut run = Run::new();
            run.reach_arriving();
            assert_eq!(run.feed(Event::XState(state)), [Action::AskXFailure]);
            assert_eq!(refused(&run.feed(Event::XFailure(words))), reason);
        }
    }
}

#[test]
fn how_the_last_desktop_ended_is_told_before_the_next_is_started() {
    let mut run = Run::new();
    run.reach_settling();
    assert_eq!(run.feed(Event::XState(XState::Stopped)), [Action::AskXFailure]);
    let actions = run.machine.step(Event::XFailure(Some("it crashed".into())), run.now);
    let told = Action::TellFailure("it crashed".into());
    assert_eq!(actions, [told, Action::Tell(Step::StartingX), Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::StartX]);
}

#[test]
fn a_displaced_viewer_is_given_three_seconds_to_leave_the_desktop() {
    let mut run = Run::new();
    run.reach_settling();
    let begun = run.now;
    let next = loop {
        let actions = run.feed(Event::XState(XState::Connected));
        if !actions.is_empty() {
            break actions;
        }
        assert_eq!(run.deadline(), [Action::Look]);
        assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::AskXState]);
    };
    assert_eq!(next, [Action::Look], "then x_start, which sends the other viewer away");
    assert_eq!((run.now - begun).as_secs(), 3);

    let mut run = Run::new();
    run.reach_settling();
    assert_eq!(run.feed(Event::XState(XState::Suspending)), []);
    run.deadline();
    run.feed(Event::Row(boxed(VmState::Running)));
    assert_eq!(run.feed(Event::XState(XState::Suspended)), [Action::Look], "no longer than it takes");
}

#[test]
fn the_desktop_is_dialled_again_when_it_refuses_and_its_state_is_not_asked_again() {
    let mut run = Run::new();
    run.reach_dialling();
    let begun = run.now;
    let end = loop {
        let actions = run.feed(Event::NotDialled("connection refused".into()));
        if !actions.is_empty() {
            break actions;
        }
        assert_eq!(run.deadline(), [Action::Look]);
        assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::Dial], "counted once");
    };
    assert_eq!(end, [Action::AskXFailure], "it may have ended behind its own back");
    let mut ended = run.machine.clone();
    let actions = ended.step(Event::XFailure(Some("it crashed".into())), run.now);
    assert_eq!(refused(&actions), Reason::XFailed("it crashed".into()));
    assert_eq!(refused(&run.feed(Event::XFailure(None))), Reason::NotDialled("connection refused".into()));
    assert!((10.0..11.1).contains(&(run.now - begun).as_secs_f32()));
}

#[test]
fn row_66_an_abort_in_the_row_is_seen_at_every_look() {
    for seen in [aborted, stolen] {
        let mut run = Run::new();
        run.feed_all([Event::Begin, Event::Acquired(boxed(VmState::Running)), Event::HookPassed]);
        assert_eq!(refused(&run.feed(seen())), Reason::Aborted, "while booting");

        let mut run = Run::new();
        run.reach_starting();
        run.feed(Event::XRefused("later".into()));
        run.deadline();
        assert_eq!(refused(&run.feed(seen())), Reason::Aborted, "between tries");
    }
    let before_dialling = |seen: Event| {
        let mut run = Run::new();
        run.reach_arriving();
        run.feed(Event::XState(XState::Listening));
        run.feed(seen)
    };
    assert_eq!(called_off(&before_dialling(aborted())), Reason::Aborted, "the desktop is not touched");
    assert_eq!(refused(&before_dialling(stolen())), Reason::Aborted, "the desktop is another's");
    let mut run = Run::new();
    run.reach_dialling();
    run.feed(Event::Dialled);
    let Event::Row(row) = aborted() else { unreachable!() };
    assert_eq!(refused(&run.feed(Event::NotCommitted(row))), Reason::Aborted, "at commit");
}

#[test]
fn row_67_a_session_that_does_not_go_is_left_after_thirty_seconds() {
    let mut run = Run::new();
    run.feed(Event::Begin);
    let begun = run.now;
    let other = || {
        let mut row = row(VmState::Running);
        row.session_id = Some(OTHER);
        Event::NotAcquired(Box::new(row))
    };
    let end = loop {
        assert_eq!(run.feed(other()), [Action::AskAbort(OTHER)]);
        run.feed(Event::AbortAsked);
        let actions = run.deadline();
        if actions != [Action::Acquire] {
            break actions;
        }
    };
    assert_eq!(refused(&end), Reason::Contended);
    assert_eq!((run.now - begun).as_secs(), 30);
    assert_eq!(run.told, ["Aborting contending session for VM_ID: 7"], "once");
}

#[test]
fn a_client_that_leaves_is_not_answered() {
    let mut run = Run::new();
    run.reach_settling();
    assert_eq!(run.feed(Event::ClientGone), [Action::Abandon]);
    assert!(run.machine.is_over());
}

#[test]
fn an_agent_that_makes_a_desktop_ready_is_told_when_nobody_comes() {
    let refusal = Action::Refuse(Refusal::Unavailable(Reason::Aborted));
    type Reach = fn(&mut Run);
    let reached: [(&str, Reach); 5] = [
        ("x_start is on its way", Run::reach_starting),
        ("x_start had no answer", |run| {
            run.reach_starting();
            run.feed(Event::XSilent);
        }),
        ("it comes up", Run::reach_arriving),
        ("it listens", |run| {
            run.reach_arriving();
            run.feed(Event::XState(XState::Listening));
        }),
        ("it is dialled", Run::reach_dialling),
    ];
    for (when, reach) in reached {
        for (event, end) in [(Event::ClientGone, Action::Abandon), (Event::Aborted, refusal.clone())] {
            let mut run = Run::new();
            reach(&mut run);
            assert_eq!(run.feed(event.clone()), [end, Action::CallOff], "{when}, {event:?}");
        }
    }
    // The stream that was dialled tells it, and one that goes elsewhere is not ours.
    let mut run = Run::new();
    run.reach_dialling();
    run.feed(Event::Dialled);
    assert_eq!(run.feed(Event::ClientGone), [Action::Abandon]);
    let mut run = Run::new();
    run.reach_arriving();
    assert_eq!(refused(&run.feed(Event::XState(XState::Connected))), Reason::XStateWentTo(XState::Connected));
    // Found out by a look at the row.
    let mut run = Run::new();
    run.reach_arriving();
    run.feed(Event::XState(XState::Listening));
    assert_eq!(run.feed(aborted()), [refusal, Action::CallOff]);
}

#[test]
fn a_desktop_that_its_viewer_had_not_left_is_not_called_off_before_it_is_ours() {
    let mut run = Run::new();
    run.reach_settling();
    loop {
        if run.feed(Event::XState(XState::Suspending)) == [Action::Look] {
            break;
        }
        run.deadline();
        run.feed(Event::Row(boxed(VmState::Running)));
    }
    assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::StartX]);
    let mut after = run.machine.clone();
    assert_eq!(after.step(Event::ClientGone, run.now), [Action::Abandon]);
    run.feed(Event::XStarted);
    assert_eq!(run.feed(Event::ClientGone), [Action::Abandon, Action::CallOff]);
}

#[test]
fn a_session_that_goes_while_it_is_asked_to_is_not_waited_for() {
    let contended = || {
        let mut row = row(VmState::Running);
        row.session_id = Some(OTHER);
        Event::NotAcquired(Box::new(row))
    };
    let mut run = Run::new();
    run.feed_all([Event::Begin, contended()]);
    assert_eq!(run.feed(Event::AlreadyGone), [Action::Acquire]);
    // Woken between the write and the wait, by what may have been its end.
    assert_eq!(run.feed(Event::Woken), []);
    assert_eq!(run.feed(contended()), [Action::AskAbort(OTHER)]);
    assert_eq!(run.feed(Event::AbortAsked), [Action::Acquire]);
    assert_eq!(run.feed(contended()), [Action::AskAbort(OTHER)]);
    assert_eq!(run.feed(Event::Woken), []);
    assert_eq!(run.feed(Event::AbortAsked), [Action::Acquire]);
    // A hint counts once.
    assert_eq!(run.feed(contended()), [Action::AskAbort(OTHER)]);
    assert_eq!(run.feed(Event::AbortAsked), []);
}

#[test]
fn a_change_while_the_row_is_read_is_looked_at() {
    let mut run = Run::new();
    run.feed_all([Event::Begin, Event::Acquired(boxed(VmState::Starting)), Event::HookPassed]);
    assert_eq!(run.feed(Event::Woken), []);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Starting))), [Action::Look]);
    assert_eq!(run.feed(Event::Row(boxed(VmState::Starting))), [], "once");
}

#[test]
fn without_news_of_the_row_the_limits_still_run() {
    let mut run = Run::new();
    run.feed_all([Event::Begin, Event::Acquired(boxed(VmState::Running)), Event::HookPassed]);
    let begun = run.now;
    let end = loop {
        assert_eq!(run.feed(Event::RowUnread), []);
        let actions = run.deadline();
        if actions != [Action::Look] {
            break actions;
        }
    };
    assert_eq!(refused(&end), Reason::VmTimeout);
    assert_eq!((run.now - begun).as_secs(), 270);

    type Reach = fn(&mut Run);
    let expected: [(&str, Reach, bool); 4] = [
        (
            "settling",
            |run| {
                run.reach_settling();
                run.feed(Event::XState(XState::Connected));
                run.deadline();
            },
            false,
        ),
        (
            "starting",
            |run| {
                run.reach_starting();
                run.feed(Event::XRefused("later".into()));
                run.deadline();
            },
            false,
        ),
        (
            "arriving",
            |run| {
                run.reach_arriving();
                run.feed(Event::XState(XState::Provisioning));
                run.deadline();
            },
            true,
        ),
        (
            "dialling",
            |run| {
                run.reach_arriving();
                run.feed(Event::XState(XState::Listening));
            },
            true,
        ),
    ];
    for (phase, reach, expects_client) in expected {
        let reason = |end: &[Action]| if expects_client { called_off(end) } else { refused(end) };
        let mut run = Run::new();
        reach(&mut run);
        let begun = run.now;
        let end = loop {
            let actions = run.feed(Event::RowUnread);
            if !actions.is_empty() {
                break actions;
            }
            assert_eq!(run.deadline(), [Action::Look], "{phase}");
        };
        assert_eq!(reason(&end), Reason::Database, "{phase}");
        let took = (run.now - begun).as_secs_f32();
        assert!((9.9..11.1).contains(&took), "{phase}: {took}");

        // A database that does not even fail.
        let mut run = Run::new();
        reach(&mut run);
        let begun = run.now;
        assert_eq!(reason(&run.deadline()), Reason::Database, "{phase}");
        assert_eq!((run.now - begun).as_secs(), 10, "{phase}");
    }
}

#[test]
fn an_outage_that_passes_in_time_ends_nothing() {
    let mut run = Run::new();
    run.reach_arriving();
    let begun = run.now;
    while run.now - begun < Duration::from_secs(60) {
        run.feed(Event::XState(XState::Provisioning));
        for _ in 0..5 {
            run.deadline();
            assert_eq!(run.feed(Event::RowUnread), []);
        }
        run.deadline();
        assert_eq!(run.feed(Event::Row(boxed(VmState::Running))), [Action::AskXState]);
    }
}

fn any_row() -> impl Strategy<Value = Box<VmRuntime>> {
    let states = proptest::sample::select(VmState::ALL.to_vec());
    let sessions = prop_oneof![4 => Just(Some(MINE)), 1 => Just(Some(OTHER)), 1 => Just(None)];
    (states, sessions, any::<bool>(), proptest::bool::weighted(0.1), proptest::bool::weighted(0.1)).prop_map(
        |(state, session, start, abort, blocked)| {
            let mut r = if start && state == VmState::Stopped { claimed() } else { row(state) };
            r.session_id = session;
            r.user_state = if session.is_some() { UserState::Connecting } else { UserState::Disconnected };
            r.user_cmd = (abort && session.is_some()).then_some(UserCommand::Abort);
            r.blocked = blocked;
            Box::new(r)
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    let x = proptest::sample::select(XState::ALL.to_vec());
    prop_oneof![
        Just(Event::Begin),
        any_row().prop_map(Event::Acquired),
        any_row().prop_map(Event::NotAcquired),
        Just(Event::AbortAsked),
        Just(Event::AlreadyGone),
        Just(Event::HookPassed),
        any_row().prop_map(Event::Claimed),
        any_row().prop_map(Event::NotClaimed),
        Just(Event::NoHost),
        Just(Event::NoHostClaimed),
        any_row().prop_map(Event::Row),
        Just(Event::RowGone),
        Just(Event::RowUnread),
        x.prop_map(Event::XState),
        Just(Event::XStateUnknown),
        Just(Event::XStarted),
        Just(Event::XRefused("no".into())),
        Just(Event::XSilent),
        Just(Event::XFailure(None)),
        Just(Event::XFailure(Some("it crashed".into()))),
        Just(Event::Dialled),
        Just(Event::NotDialled("no".into())),
        any_row().prop_map(Event::NotCommitted),
        Just(Event::Committed),
        Just(Event::Switched),
        Just(Event::Failed(Failure::Database)),
        Just(Event::Failed(Failure::Hook)),
        Just(Event::ClientGone),
        Just(Event::Aborted),
        Just(Event::Stopping),
        Just(Event::Woken),
        Just(Event::Deadline),
    ]
}

/// The answers that an effect can have; everything else the shell may report at any time.
fn answers(action: &Action) -> Vec<Event> {
    let mine = || boxed(VmState::Running);
    match action {
        Action::Acquire => vec![
            Event::Acquired(mine()),
            Event::Acquired(boxed(VmState::Stopped)),
            Event::NotAcquired(Box::new(VmRuntime { session_id: Some(OTHER), ..row(VmState::Running) })),
            Event::NotAcquired(Box::new(VmRuntime { session_id: None, ..row(VmState::Running) })),
            Event::RowGone,
            Event::Failed(Failure::Database),
        ],
        Action::AskAbort(_) => {
            vec![Event::AbortAsked, Event::AlreadyGone, Event::RowGone, Event::Failed(Failure::Database)]
        }
        Action::RunHook => vec![Event::HookPassed, Event::Failed(Failure::Hook)],
        Action::Claim => vec![
            Event::Claimed(Box::new(claimed())),
            Event::NotClaimed(boxed(VmState::Starting)),
            Event::NotClaimed(boxed(VmState::Stopped)),
            Event::NoHost,
            Event::NoHostClaimed,
            Event::RowGone,
            Event::Failed(Failure::Database),
        ],
        Action::Look => VmState::ALL
            .iter()
            .map(|s| Event::Row(boxed(*s)))
            .chain([Event::RowGone, Event::RowUnread, Event::Row(Box::new(claimed()))])
            .collect(),
        Action::AskXState => {
            XState::ALL.iter().map(|s| Event::XState(*s)).chain([Event::XStateUnknown]).collect()
        }
        Action::AskXFailure => vec![Event::XFailure(None), Event::XFailure(Some("it crashed".into()))],
        Action::StartX => {
            vec![Event::XStarted, Event::XRefused("no".into()), Event::XSilent]
        }
        Action::Dial => vec![Event::Dialled, Event::NotDialled("no".into())],
        Action::Commit => vec![
            Event::Committed,
            Event::NotCommitted(mine()),
            Event::RowGone,
            Event::Failed(Failure::Database),
        ],
        Action::Switch => vec![Event::Switched, Event::ClientGone],
        Action::Tell(_)
        | Action::TellFailure(_)
        | Action::CountNxAttempt
        | Action::CountNxOk
        | Action::Refuse(_)
        | Action::Abandon
        | Action::CallOff => vec![],
    }
}

fn effects(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|a| !answers(a).is_empty()).cloned().collect()
}

/// Every machine that can be reached by answers alone, within so many steps.
fn reachable(depth: usize) -> Vec<(Machine, Option<Action>, Instant)> {
    let now = Instant::now();
    let mut found = vec![(Machine::new(VmId::new(7), MINE, Limits::default()), None, now)];
    let mut seen = std::collections::HashSet::new();
    let mut at = 0;
    while at < found.len() && at < 20_000 {
        let (machine, waiting, now) = found[at].clone();
        at += 1;
        let next: Vec<(Event, Instant)> = match (&waiting, machine.deadline()) {
            _ if machine.is_over() || machine.is_forwarding() => vec![],
            (Some(action), _) => answers(action).into_iter().map(|e| (e, now)).collect(),
            (None, Some(at)) => vec![(Event::Deadline, at), (Event::Woken, now)],
            (None, None) => vec![(Event::Begin, now)],
        };
        for (event, now) in next {
            let mut after = machine.clone();
            let actions = after.step(event, now);
            let waiting = effects(&actions).pop();
            let key = format!("{:?}{waiting:?}", after.phase_name());
            if seen.len() < depth && seen.insert(key) {
                found.push((after, waiting, now));
            }
        }
    }
    found
}

/// Each event, those with a row with each kind of row.
fn every_event() -> Vec<Event> {
    let changed = |change: fn(&mut VmRuntime)| {
        let mut row = row(VmState::Running);
        change(&mut row);
        Box::new(row)
    };
    let mut rows: Vec<Box<VmRuntime>> = VmState::ALL.iter().map(|state| boxed(*state)).collect();
    rows.push(Box::new(claimed()));
    rows.push(changed(|r| r.user_cmd = Some(UserCommand::Abort)));
    rows.push(changed(|r| r.session_id = Some(OTHER)));
    rows.push(changed(|r| r.blocked = true));
    rows.push(changed(|r| {
        r.session_id = None;
        r.user_state = UserState::Disconnected;
    }));
    let with_row = [
        Event::Acquired as fn(Box<VmRuntime>) -> Event,
        Event::NotAcquired,
        Event::Claimed,
        Event::NotClaimed,
        Event::Row,
        Event::NotCommitted,
    ];
    let mut events: Vec<Event> =
        with_row.into_iter().flat_map(|event| rows.iter().cloned().map(event)).collect();
    events.extend(XState::ALL.iter().map(|state| Event::XState(*state)));
    events.extend([
        Event::Begin,
        Event::AbortAsked,
        Event::AlreadyGone,
        Event::HookPassed,
        Event::NoHost,
        Event::NoHostClaimed,
        Event::RowGone,
        Event::RowUnread,
        Event::XStateUnknown,
        Event::XStarted,
        Event::XRefused("no".into()),
        Event::XSilent,
        Event::XFailure(None),
        Event::XFailure(Some("it crashed".into())),
        Event::Dialled,
        Event::NotDialled("no".into()),
        Event::Committed,
        Event::Switched,
        Event::Failed(Failure::Database),
        Event::Failed(Failure::Hook),
        Event::ClientGone,
        Event::Aborted,
        Event::Stopping,
        Event::Woken,
        Event::Deadline,
    ]);
    events
}

#[test]
fn every_phase_takes_every_event_without_getting_stuck() {
    let machines = reachable(10_000);
    let phases: std::collections::BTreeSet<String> = machines.iter().map(|(m, ..)| m.phase_name()).collect();
    for (machine, waiting, now) in &machines {
        for event in every_event() {
            for now in [*now, machine.deadline().unwrap_or(*now), *now + Duration::from_secs(3600)] {
                let mut after = machine.clone();
                let actions = after.step(event.clone(), now);
                check(machine, &after, waiting.as_ref(), &event, &actions);
            }
        }
    }
    assert!(phases.len() >= 24, "{} phases were reached: {phases:?}", phases.len());
}

/// What must hold of every step.
fn check(before: &Machine, after: &Machine, waiting: Option<&Action>, event: &Event, actions: &[Action]) {
    let what = || format!("{before:?}\n+ {event:?}\n= {actions:?}\n{after:?}");
    let started = effects(actions);
    assert!(started.len() <= 1, "one effect at a time: {}", what());
    let ends = actions.iter().filter(|a| matches!(a, Action::Refuse(_) | Action::Abandon)).count();
    assert!(ends <= 1, "one end: {}", what());
    assert_eq!(ends == 1, after.is_over() && !before.is_over(), "an end is answered once: {}", what());
    if before.is_over() || before.is_forwarding() {
        assert!(actions.is_empty(), "nothing after the end: {}", what());
    }
    if started.iter().any(|a| matches!(a, Action::Dial)) {
        assert!(matches!(event, Event::Row(_)), "dialled only behind a look at the row: {}", what());
    }
    let ignored = after.waits_like(before) && actions.is_empty();
    let still_waits = ignored && waiting.is_some();
    let alive = after.is_over()
        || after.is_forwarding()
        || !started.is_empty()
        || after.deadline().is_some()
        || still_waits
        || (ignored && before.is_fresh());
    assert!(alive, "stuck: {}", what());
}

proptest! {
    #[test]
    fn random_histories_end_or_wait(events in proptest::collection::vec((any_event(), 0u64..400), 0..80)) {
        let mut machine = Machine::new(VmId::new(7), MINE, Limits::default());
        let mut now = Instant::now();
        let mut waiting: Option<Action> = None;
        let mut told = Vec::new();
        for (event, pause) in std::iter::once((Event::Begin, 0)).chain(events) {
            now += Duration::from_millis(pause);
            let before = machine.clone();
            let actions = machine.step(event.clone(), now);
            check(&before, &machine, waiting.as_ref(), &event, &actions);
            if let Some(effect) = effects(&actions).pop() {
                waiting = Some(effect);
            } else if !machine.waits_like(&before) {
                waiting = None;
            }
            told.extend(actions.into_iter().filter_map(|a| match a {
                Action::Tell(step) => Some(step),
                _ => None,
            }));
        }
        // Below a minute nothing is said twice, and never are there more than nine steps.
        let mut steps = told.clone();
        steps.dedup();
        prop_assert!(steps.is_sorted() && steps.len() <= 9, "{told:?}");
        prop_assert!(told.len() == steps.len(), "{told:?}");
    }
}
