//! Short scripts: each is something that happened, or must never happen, to somebody.

use std::time::{Duration, Instant};

use qvd_core::hook::HookKind;
use qvd_core::hypervisor::{Blame, ExitInfo};
use qvd_core::state::{VmPhase, VmState};

use super::{Action, Event, Failure, Limits, Outcome, Past, Phase, Traits, VmMachine, Watch, Write, Wrote};

const TRAITS: Traits = Traits { has_agent: true, polite_stop: true };

struct Story {
    machine: VmMachine,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        Self { machine: VmMachine::new(Limits::default()), now: Instant::now() }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.machine.step(event, self.now)
    }

    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        self.now += Duration::from_secs(seconds);
        self.tell(Event::Deadline)
    }

    fn boot(&mut self) {
        for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
            self.tell(event);
        }
        self.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
        for event in [Event::Done, Event::Done, Event::Done, Event::Written(Wrote::Endpoint)] {
            self.tell(event);
        }
        assert_eq!(self.machine.phase(), Phase::AwaitingAgent);
    }

    fn run(&mut self) {
        self.boot();
        self.tell(Event::Alive);
        self.tell(Event::Written(Wrote::State(VmState::Running, None)));
        self.tell(Event::Done);
        assert_eq!(self.machine.phase(), Phase::Monitoring);
    }
}

#[test]
fn a_start_in_order() {
    let mut story = Story::new();
    let saved = |state, phase| Action::Write(Write::State(state, phase));
    assert_eq!(story.tell(Event::Start)[0], Action::Load);
    assert_eq!(story.tell(Event::Loaded(TRAITS)), [Action::CountAttempt, Action::TakeStartPermit]);
    assert_eq!(story.tell(Event::Done), [Action::Cleanup]);
    let setup = (VmState::Starting, Some(VmPhase::Starting2));
    assert_eq!(story.tell(Event::Done), [saved(setup.0, setup.1)]);
    assert_eq!(story.tell(Event::Written(Wrote::State(setup.0, setup.1))), [Action::Prepare]);
    assert_eq!(story.tell(Event::Done), [Action::RunHook(HookKind::PreStart)]);
    assert_eq!(story.tell(Event::Done), [Action::Launch]);
    let booted = [Action::Write(Write::Endpoint), Action::StartMonitor(Watch::Starting)];
    assert_eq!(story.tell(Event::Done), booted);
    assert!(story.tell(Event::Written(Wrote::Endpoint)).is_empty());
    assert_eq!(
        story.tell(Event::Alive),
        [Action::StopMonitor, Action::ReleaseStarting, saved(VmState::Running, None)]
    );
    assert_eq!(
        story.tell(Event::Written(Wrote::State(VmState::Running, None))),
        [Action::Write(Write::Success), Action::CountSuccess, Action::RunHook(HookKind::PostStart)]
    );
    assert_eq!(story.tell(Event::Done), [Action::StartMonitor(Watch::Running), Action::ReleasePermits]);
}

#[test]
fn a_graceful_stop_asks_the_agent_then_the_driver_then_kills() {
    let mut story = Story::new();
    story.run();
    assert!(story.tell(Event::Stop).contains(&Action::TakeStopPermit));
    assert!(story.tell(Event::Done).contains(&Action::Poweroff));
    story.tell(Event::Done);
    assert_eq!(story.machine.phase(), Phase::ShuttingDown);
    assert!(story.wait(179).is_empty(), "it has 180 seconds");
    assert!(story.wait(1).contains(&Action::Terminate));
    assert!(story.wait(30).contains(&Action::Kill { limit: Duration::from_secs(60) }));
    assert!(story.tell(Event::Done).contains(&Action::Cleanup));
    story.tell(Event::Done);
    assert_eq!(story.tell(Event::Done), [Action::Write(Write::Clear)]);
    assert_eq!(
        story.tell(Event::Written(Wrote::Clear)),
        [Action::ReleasePermits, Action::Finish(Outcome::Stopped)]
    );
}

#[test]
fn a_boot_that_never_answers_is_a_failed_start_of_the_machine() {
    let mut story = Story::new();
    story.boot();
    let actions = story.tell(Event::Dead("no answer for 180 s".to_owned()));
    let failure = Failure { blame: Blame::Vm, text: "no answer for 180 s".to_owned() };
    assert!(actions.contains(&Action::Write(Write::Failure { failure, failed_start: true })));
    assert!(actions.contains(&Action::Terminate), "an agent that was never heard is not asked to power off");
}

#[test]
fn a_stop_during_the_launch_waits_for_its_end_and_then_acts() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
        story.tell(event);
    }
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    story.tell(Event::Done);
    story.tell(Event::Done);
    assert_eq!(story.machine.phase(), Phase::Launching);
    assert!(story.tell(Event::Stop).is_empty());
    assert!(story.tell(Event::Done).contains(&Action::Terminate));
}

#[test]
fn a_lost_guard_kills_and_writes_nothing_more() {
    let mut story = Story::new();
    story.run();
    let mut actions = story.tell(Event::GuardLost);
    assert_eq!(actions[0], Action::DropWrites);
    assert!(actions.iter().any(|a| matches!(a, Action::Kill { .. })));
    actions.extend(story.tell(Event::Failed(Failure::host("still alive"))));
    actions.extend(story.tell(Event::Failed(Failure::nobody("busy"))));
    actions.extend(story.wait(60));
    actions.extend(story.tell(Event::Done));
    actions.extend(story.tell(Event::Done));
    assert!(actions.iter().all(|action| !matches!(action, Action::Write(_))), "{actions:?}");
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Disowned)));
}

#[test]
fn a_zombie_is_reaped_less_and_less_often() {
    let mut story = Story::new();
    story.tell(Event::Adopt(Past::Unknown, TRAITS));
    let mut pauses = Vec::new();
    for _ in 0..6 {
        story.tell(Event::Failed(Failure::host("still alive")));
        assert_eq!(story.machine.phase(), Phase::ReapCleaning, "it may be gone without having been seen");
        story.tell(Event::Failed(Failure::nobody("busy")));
        let deadline = story.machine.deadline().unwrap();
        pauses.push((deadline - story.now).as_secs());
        story.now = deadline;
        story.tell(Event::Deadline);
        assert_eq!(story.machine.phase(), Phase::ReapKilling);
    }
    assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
}

#[test]
fn an_end_by_itself_is_told_but_does_not_count() {
    let mut story = Story::new();
    story.run();
    let mut exit = ExitInfo::signal(9);
    exit.out_of_memory = true;
    let actions = story.tell(Event::Exited(exit));
    let failure = Failure::nobody("ended by itself (ended by signal 9 (out of memory))");
    assert!(actions.contains(&Action::Write(Write::Failure { failure, failed_start: false })), "{actions:?}");
    assert!(actions.contains(&Action::Cleanup));

    let mut story = Story::new();
    story.run();
    let actions = story.tell(Event::Exited(ExitInfo::status(0)));
    assert!(!actions.iter().any(|a| matches!(a, Action::Write(Write::Failure { .. }))), "{actions:?}");
}

#[test]
fn an_adopted_desktop_is_left_in_peace() {
    let mut story = Story::new();
    let actions = story.tell(Event::Adopt(Past::Running, TRAITS));
    assert_eq!(actions, [Action::StartMonitor(Watch::Running)]);
}

#[test]
fn a_driver_without_agent_runs_at_once() {
    let mut story = Story::new();
    let silent = Traits { has_agent: false, polite_stop: false };
    for event in [Event::Start, Event::Loaded(silent), Event::Done, Event::Done] {
        story.tell(event);
    }
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    for event in [Event::Done, Event::Done, Event::Done, Event::Written(Wrote::Endpoint)] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), Phase::SavingRunning);
    story.tell(Event::Written(Wrote::State(VmState::Running, None)));
    assert_eq!(story.tell(Event::Done), [Action::ReleasePermits]);
    story.tell(Event::Stop);
    assert!(story.tell(Event::Done).iter().any(|a| matches!(a, Action::Kill { .. })));
}

#[test]
fn a_node_that_goes_leaves_what_would_not_die_to_the_next_daemon() {
    let mut story = Story::new();
    story.run();
    assert!(story.tell(Event::Kill).iter().any(|a| matches!(a, Action::Kill { .. })));
    let actions = story.tell(Event::Failed(Failure::host("in state D")));
    assert!(actions.contains(&Action::Write(Write::State(VmState::Zombie, Some(VmPhase::Zombie2)))));
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Left)));
}

#[test]
fn a_home_in_use_is_waited_for_without_slots_longer_each_time() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
        story.tell(event);
    }
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let actions = story.tell(Event::HomeInUse("home in use by node b".to_owned()));
        assert_eq!(story.machine.phase(), Phase::HomeWait);
        assert!(actions.contains(&Action::ReleasePermits), "{actions:?}");
        let told = Failure::nobody("home in use by node b");
        assert!(actions.contains(&Action::Write(Write::Failure { failure: told, failed_start: false })));
        let deadline = story.machine.deadline().unwrap();
        pauses.push((deadline - story.now).as_secs());
        story.now = deadline;
        assert_eq!(story.tell(Event::Deadline)[0], Action::TakeStartPermit);
        // The clean-up finds it in use as well.
        story.tell(Event::Done);
        assert_eq!(story.machine.phase(), Phase::CleaningOld);
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    story.tell(Event::Done);
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    assert_eq!(story.tell(Event::Done), [Action::RunHook(HookKind::PreStart)], "free at last");
}

#[test]
fn a_start_that_waits_for_its_home_can_be_stopped() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done] {
        story.tell(event);
    }
    story.tell(Event::HomeInUse("home in use by node b".to_owned()));
    assert_eq!(story.tell(Event::Stop), [Action::Write(Write::Clear)], "nothing of it is here");

    // One that found it in use only at its launch has left pieces.
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
        story.tell(event);
    }
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    for event in [Event::Done, Event::Done, Event::HomeInUse("held".to_owned())] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), Phase::HomeWait);
    assert_eq!(story.tell(Event::Stop)[0], Action::Cleanup);
    // Its home still is somebody else's: nothing of this run is in there to be waited for.
    let cleaned = story.tell(Event::HomeInUse("held".to_owned()));
    assert_eq!(cleaned, [Action::RunHook(HookKind::PostStop)]);
    assert_eq!(story.tell(Event::Done), [Action::Write(Write::Clear)]);
}

#[test]
fn a_stop_of_a_start_that_cleans_ends_beside_a_home_that_is_in_use() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), Phase::CleaningOld);
    story.tell(Event::Stop);
    story.tell(Event::HomeInUse("held".to_owned()));
    assert_eq!(story.machine.phase(), Phase::PostStop);
}

#[test]
fn what_has_lived_is_not_clean_beside_a_home_that_is_in_use() {
    let mut story = Story::new();
    story.run();
    story.tell(Event::Exited(ExitInfo::default()));
    assert_eq!(story.machine.phase(), Phase::CleaningUp);
    story.tell(Event::HomeInUse("held".to_owned()));
    assert_eq!(story.machine.phase(), Phase::ReapKilling);
}

#[test]
fn remains_that_cannot_be_cleaned_are_a_failure_of_the_start() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), Phase::CleaningOld);
    let failure = Failure::host("cannot remove its control groups");
    let actions = story.tell(Event::Failed(failure.clone()));
    assert!(actions.contains(&Action::Write(Write::Failure { failure, failed_start: true })), "{actions:?}");
    assert_eq!(story.machine.phase(), Phase::ReapKilling);
}

#[test]
fn a_stop_waits_five_seconds_for_a_launch() {
    let mut story = Story::new();
    for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
        story.tell(event);
    }
    story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
    for event in [Event::Done, Event::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), Phase::Launching);
    assert!(story.tell(Event::Stop).is_empty());
    assert!(story.wait(4).is_empty());
    assert!(story.tell(Event::Stop).is_empty(), "a second stop does not begin to wait anew");
    let actions = story.wait(1);
    assert_eq!(actions[0], Action::Abandon);
    assert!(actions.iter().any(|a| matches!(a, Action::Kill { .. })), "{actions:?}");
    assert!(!actions.iter().any(|a| matches!(a, Action::Write(Write::Failure { .. }))), "nobody's failure");
}

#[test]
fn a_start_that_gets_no_slot_in_time_ends_and_is_nobodys_failure() {
    let mut story = Story::new();
    story.tell(Event::Start);
    story.tell(Event::Loaded(TRAITS));
    let actions = story.wait(600);
    let failure = Failure::nobody("no slot to start in became free in time");
    assert!(actions.contains(&Action::Write(Write::Failure { failure, failed_start: true })), "{actions:?}");
    assert_eq!(actions.last(), Some(&Action::Write(Write::Clear)));
}

#[test]
fn a_boot_is_watched_while_the_row_cannot_be_written() {
    let launched = || {
        let mut story = Story::new();
        for event in [Event::Start, Event::Loaded(TRAITS), Event::Done, Event::Done] {
            story.tell(event);
        }
        story.tell(Event::Written(Wrote::State(VmState::Starting, Some(VmPhase::Starting2))));
        story.tell(Event::Done);
        story.tell(Event::Done);
        let actions = story.tell(Event::Done);
        assert!(actions.contains(&Action::StartMonitor(Watch::Starting)), "{actions:?}");
        assert_eq!(story.machine.phase(), Phase::SavingEndpoint);
        story
    };
    let mut quick = launched();
    assert!(quick.tell(Event::Alive).is_empty(), "the row must say where it is first");
    quick.tell(Event::Written(Wrote::Endpoint));
    assert_eq!(quick.machine.phase(), Phase::SavingRunning);

    let mut silent = launched();
    assert!(silent.tell(Event::Dead("silent".to_owned())).contains(&Action::Terminate));
}

#[test]
fn an_adopted_boot_holds_its_slots_until_it_runs() {
    let mut story = Story::new();
    let actions = story.tell(Event::Adopt(Past::Starting, TRAITS));
    assert_eq!(actions[0], Action::KeepPermits);
    story.tell(Event::Written(Wrote::Endpoint));
    assert!(story.tell(Event::Alive).contains(&Action::ReleaseStarting));
    story.tell(Event::Written(Wrote::State(VmState::Running, None)));
    assert!(story.tell(Event::Done).contains(&Action::ReleasePermits));
}

#[test]
fn an_end_that_no_daemon_saw_is_told_afterwards() {
    let found = |booting, exit| {
        let mut story = Story::new();
        let actions = story.tell(Event::FoundDead { booting, exit, traits: TRAITS });
        assert_eq!(story.machine.phase(), Phase::CleaningUp);
        actions
    };
    let killed = ExitInfo::signal(9);
    let told = |failure, failed_start| Action::Write(Write::Failure { failure, failed_start });
    let failure = Failure::nobody("ended by itself (ended by signal 9)");
    assert_eq!(found(false, Some(killed.clone()))[0], told(failure, false));
    let failure = Failure::vm("ended before its agent answered (ended by signal 9)");
    assert_eq!(found(true, Some(killed))[0], told(failure, true));
    let well = ExitInfo::status(0);
    assert_eq!(found(false, Some(well))[0], Action::Cleanup, "nothing to tell");
    // Nobody wrote down how: charged to nobody.
    for booting in [false, true] {
        let actions = found(booting, None);
        let Action::Write(Write::Failure { failure, failed_start: false }) = &actions[0] else {
            panic!("{actions:?}");
        };
        assert_eq!(failure.blame, Blame::Nobody);
    }
}
