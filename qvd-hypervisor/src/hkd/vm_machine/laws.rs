//! Random lives: whatever happens in whatever order, these hold.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use qvd_core::hypervisor::ExitInfo;

use super::{Action, Event, Failure, Limits, Outcome, Past, Phase, Traits, VmMachine, Write, Wrote};

/// What may happen next; the world turns it into an event only if it can happen there.
#[derive(Clone, Copy, Debug)]
enum Luck {
    Succeeds,
    Fails,
    FailsButLives,
    HomeTaken,
    Writes,
    LosesGuard,
    WriteFails,
    Answers,
    Silent,
    Dies,
    Waits,
    Stop,
    Kill,
    Alert,
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        12 => Just(Luck::Succeeds),
        2 => Just(Luck::Fails),
        1 => Just(Luck::FailsButLives),
        2 => Just(Luck::HomeTaken),
        12 => Just(Luck::Writes),
        1 => Just(Luck::LosesGuard),
        1 => Just(Luck::WriteFails),
        4 => Just(Luck::Answers),
        1 => Just(Luck::Silent),
        1 => Just(Luck::Dies),
        2 => Just(Luck::Waits),
        1 => Just(Luck::Stop),
        1 => Just(Luck::Kill),
        1 => Just(Luck::Alert),
    ]
}

/// A shell, driver and database in one value, which checks the laws at each action.
struct World {
    machine: VmMachine,
    now: Instant,
    traits: Traits,
    in_flight: Option<Action>,
    writes: VecDeque<Wrote>,
    monitored: bool,
    prepared: bool,
    lives: bool,
    ever_lived: bool,
    heavy: bool,
    starting: bool,
    owned: bool,
    cleared: bool,
    outcome: Option<Outcome>,
}

impl World {
    fn new(traits: Traits, debug: bool) -> Self {
        Self {
            machine: VmMachine::new(Limits { debug, ..Limits::default() }),
            now: Instant::now(),
            traits,
            in_flight: None,
            writes: VecDeque::new(),
            monitored: false,
            prepared: false,
            lives: false,
            ever_lived: false,
            heavy: false,
            starting: false,
            owned: true,
            cleared: false,
            outcome: None,
        }
    }

    fn tell(&mut self, event: Event) {
        for action in self.machine.step(event, self.now) {
            self.perform(action);
        }
        if let Some(deadline) = self.machine.deadline() {
            assert!(deadline >= self.now, "a limit in the past");
        }
    }

    fn perform(&mut self, action: Action) {
        assert!(self.outcome.is_none(), "{action:?} after the end");
        if action.is_effect() {
            assert!(self.in_flight.is_none(), "{action:?} beside {:?}", self.in_flight);
            self.in_flight = Some(action.clone());
        }
        match action {
            Action::Abandon => {
                // A launch that is cut may have come to life.
                self.lives |= self.in_flight.take().expect("something to abandon") == Action::Launch;
            }
            Action::Prepare => assert!(self.owned && self.heavy && self.starting, "prepared without slots"),
            Action::Launch => assert!(self.prepared && self.owned, "launched without being prepared"),
            Action::Write(write) => {
                assert!(self.owned, "wrote {write:?} into a foreign row");
                if write == Write::Clear {
                    assert!(!self.lives && !self.prepared, "cleared while something is left");
                }
                self.writes.push_back(write.kind());
            }
            Action::DropWrites => self.writes.clear(),
            Action::ReleaseStarting => assert!(std::mem::take(&mut self.starting), "no starting slot"),
            Action::ReleasePermits => {
                assert!(std::mem::take(&mut self.heavy), "no heavy slot");
                self.starting = false;
            }
            Action::KeepPermits => {
                assert!(!self.heavy && !self.starting, "slots taken twice");
                (self.heavy, self.starting) = (true, true);
            }
            Action::StartMonitor(_) => self.monitored = true,
            Action::StopMonitor => assert!(std::mem::take(&mut self.monitored), "no monitor"),
            Action::Finish(outcome) => {
                assert!(!self.heavy && !self.starting, "slots leaked");
                assert!(!self.monitored && self.in_flight.is_none());
                match outcome {
                    Outcome::Stopped => assert!(self.cleared && !self.lives && !self.prepared),
                    Outcome::Disowned => assert!(!self.owned && !self.lives && !self.prepared),
                    Outcome::Left => assert!(!self.cleared),
                }
                self.outcome = Some(outcome);
            }
            Action::Load
            | Action::TakeStartPermit
            | Action::TakeStopPermit
            | Action::RunHook(_)
            | Action::Poweroff
            | Action::Terminate
            | Action::Kill { .. }
            | Action::Cleanup
            | Action::Alert
            | Action::CountAttempt
            | Action::CountSuccess => {}
        }
    }

    /// The effect in flight works, as far as the world lets it.
    fn succeed(&mut self) {
        let Some(effect) = self.in_flight.take() else { return };
        let event = match effect {
            Action::Load => Event::Loaded(self.traits),
            Action::TakeStartPermit => {
                assert!(!self.heavy && !self.starting, "slots taken twice");
                (self.heavy, self.starting) = (true, true);
                Event::Done
            }
            Action::TakeStopPermit => {
                assert!(!self.heavy, "slot taken twice");
                self.heavy = true;
                Event::Done
            }
            Action::Prepare => {
                self.prepared = true;
                Event::Done
            }
            Action::Launch => {
                self.lives = true;
                Event::Done
            }
            Action::Kill { .. } => {
                self.lives = false;
                Event::Done
            }
            Action::Cleanup if self.lives => Event::Failed(Failure::nobody("busy")),
            Action::Cleanup => {
                self.prepared = false;
                Event::Done
            }
            _ => Event::Done,
        };
        self.tell(event);
    }

    fn happen(&mut self, luck: Luck) {
        self.ever_lived |= self.lives;
        match luck {
            Luck::Succeeds => self.succeed(),
            Luck::Fails | Luck::FailsButLives => {
                if let Some(effect) = self.in_flight.take() {
                    // Debris of half a prepare, or a machine that lives although its launch failed.
                    self.prepared |= effect == Action::Prepare;
                    self.lives |= effect == Action::Launch && matches!(luck, Luck::FailsButLives);
                    self.tell(Event::Failed(Failure::vm("broken")));
                }
            }
            Luck::HomeTaken => {
                let needs_lock = |effect: &mut Action| {
                    matches!(effect, Action::Prepare | Action::Launch | Action::Cleanup)
                };
                if let Some(effect) = self.in_flight.take_if(needs_lock) {
                    // Pieces beside somebody else's home may stay as long as nothing of them ever lived.
                    self.prepared &= effect != Action::Cleanup || self.ever_lived;
                    self.tell(Event::HomeInUse("home in use".to_owned()));
                }
            }
            Luck::Writes => {
                if let Some(kind) = self.writes.pop_front() {
                    self.cleared |= kind == Wrote::Clear;
                    self.tell(Event::Written(kind));
                }
            }
            Luck::LosesGuard => {
                if self.writes.pop_front().is_some() {
                    self.owned = false;
                    self.tell(Event::GuardLost);
                }
            }
            Luck::WriteFails => {
                if let Some(kind) = self.writes.pop_front() {
                    self.tell(Event::WriteFailed(kind, "constraint".to_owned()));
                }
            }
            Luck::Answers if self.monitored => self.tell(Event::Alive),
            Luck::Silent if self.monitored => self.tell(Event::Dead("silent".to_owned())),
            Luck::Dies if self.lives && self.in_flight != Some(Action::Launch) => {
                self.lives = false;
                self.tell(Event::Exited(ExitInfo::signal(9)));
            }
            Luck::Answers | Luck::Silent | Luck::Dies => {}
            Luck::Waits => {
                self.now += Duration::from_secs(1);
                if let Some(deadline) = self.machine.deadline() {
                    self.now = self.now.max(deadline);
                }
                self.tell(Event::Deadline);
            }
            Luck::Stop => self.tell(Event::Stop),
            Luck::Kill => self.tell(Event::Kill),
            Luck::Alert => self.tell(Event::Alert),
        }
    }

    /// From here on everything works: it must come to an end.
    fn end(&mut self) {
        self.tell(Event::Stop);
        for _ in 0..200 {
            if self.outcome.is_some() {
                return;
            }
            if self.in_flight.is_some() && self.in_flight != Some(Action::Terminate) {
                self.succeed();
            } else if !self.writes.is_empty() {
                self.happen(Luck::Writes);
            } else if self.in_flight.is_some() {
                self.succeed();
            } else if self.machine.deadline().is_some() {
                self.happen(Luck::Waits);
            } else if self.monitored {
                self.happen(Luck::Answers);
            } else {
                panic!("stuck in {:?}", self.machine.phase());
            }
        }
        panic!("never ends: {:?}", self.machine.phase());
    }
}

fn traits() -> impl Strategy<Value = Traits> {
    (any::<bool>(), any::<bool>()).prop_map(|(has_agent, polite_stop)| Traits { has_agent, polite_stop })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_started_machine_obeys_the_laws_and_ends(
        traits in traits(), debug: bool, script in prop::collection::vec(luck(), 0..120),
    ) {
        let mut world = World::new(traits, debug);
        world.tell(Event::Start);
        for luck in script {
            world.happen(luck);
        }
        world.end();
    }

    #[test]
    fn an_adopted_machine_obeys_the_laws_and_ends(
        traits in traits(), past in prop::sample::select(Past::ALL), debug: bool,
        script in prop::collection::vec(luck(), 0..80),
    ) {
        let mut world = World::new(traits, debug);
        world.prepared = true;
        world.lives = past != Past::Gone;
        world.ever_lived = true;
        world.owned = past != Past::Foreign;
        world.tell(Event::Adopt(past, traits));
        for luck in script {
            world.happen(luck);
        }
        world.end();
    }

    #[test]
    fn events_out_of_place_never_panic_and_end_nothing_twice(
        events in prop::collection::vec(0_usize..17, 0..60),
    ) {
        let mut machine = VmMachine::new(Limits::default());
        let mut ends = 0;
        for kind in events {
            let event = match kind {
                0 => Event::Start,
                1 => Event::Adopt(Past::Running, Traits { has_agent: true, polite_stop: true }),
                2 => Event::Loaded(Traits { has_agent: true, polite_stop: true }),
                3 => Event::Done,
                4 => Event::Failed(Failure::host("x")),
                5 => Event::Written(Wrote::Endpoint),
                6 => Event::WriteFailed(Wrote::Clear, "x".to_owned()),
                7 => Event::GuardLost,
                8 => Event::Alive,
                9 => Event::Dead("x".to_owned()),
                10 => Event::Exited(ExitInfo::default()),
                11 => Event::Deadline,
                12 => Event::Stop,
                13 => Event::Kill,
                14 => Event::HomeInUse("x".to_owned()),
                15 => {
                    let traits = Traits { has_agent: true, polite_stop: true };
                    Event::FoundDead { booting: true, exit: None, traits }
                }
                _ => Event::Alert,
            };
            let actions = machine.step(event, Instant::now());
            ends += actions.iter().filter(|action| matches!(action, Action::Finish(_))).count();
            if machine.phase() == Phase::Finished {
                prop_assert_eq!(machine.deadline(), None);
            }
        }
        prop_assert!(ends <= 1);
    }
}
