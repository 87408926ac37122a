//! Stories of nodes that come up and go down, and the laws under random events.

use super::*;
use proptest::prelude::*;

struct Story {
    machine: HostMachine,
    now: Instant,
}

impl Story {
    fn running() -> Self {
        let mut story = Self { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        assert_eq!(story.tell(HostEvent::Begin), [HostAction::Lock]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::LoadHost]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::TakeOver]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::StartTicker, HostAction::CheckDrivers]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Adopt]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Save(HostState::Running)]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Obey]);
        story
    }

    fn tell(&mut self, event: HostEvent) -> Vec<HostAction> {
        self.machine.step(event, self.now)
    }

    fn wait(&mut self, seconds: u64) -> Vec<HostAction> {
        self.now += Duration::from_secs(seconds);
        self.tell(HostEvent::Deadline)
    }
}

#[test]
fn a_stop_gives_the_machines_their_time_then_kills_again_and_again() {
    let mut story = Story::running();
    assert_eq!(
        story.tell(HostEvent::Shutdown(Shutdown::Stop)),
        [HostAction::StopObeying, HostAction::Save(HostState::Stopping)]
    );
    assert_eq!(story.tell(HostEvent::Failed("database away".into())), [HostAction::StopVms]);
    assert!(story.wait(299).is_empty());
    assert_eq!(story.wait(1), [HostAction::KillVms]);
    assert_eq!(story.wait(100), [HostAction::KillVms]);
    assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
    assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::Stop))]);
}

#[test]
fn what_would_not_end_keeps_the_host_from_saying_stopped() {
    let mut story = Story::running();
    story.tell(HostEvent::Shutdown(Shutdown::Stop));
    story.tell(HostEvent::Done);
    story.wait(300);
    let actions = story.tell(HostEvent::Empty { left: 2 });
    assert!(matches!(&actions[..], [HostAction::Finish(End::Failed(text))] if text.contains('2')));
}

#[test]
fn an_abort_kills_at_once_and_saves_beside_it() {
    let mut story = Story::running();
    assert_eq!(
        story.tell(HostEvent::Shutdown(Shutdown::Abort)),
        [HostAction::StopObeying, HostAction::KillVms, HostAction::Save(HostState::Stopping)]
    );
    assert!(story.tell(HostEvent::Done).is_empty());
    assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
    assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::Abort))]);
}

#[test]
fn an_abort_overtakes_a_stop() {
    let mut story = Story::running();
    story.tell(HostEvent::Shutdown(Shutdown::Stop));
    let mut saving = Story { machine: story.machine.clone(), now: story.now };
    assert_eq!(
        saving.tell(HostEvent::Shutdown(Shutdown::Abort)),
        [HostAction::Abandon, HostAction::KillVms, HostAction::Save(HostState::Stopping)]
    );
    story.tell(HostEvent::Done);
    assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty(), "asking twice changes nothing");
    assert_eq!(story.tell(HostEvent::Shutdown(Shutdown::Abort)), [HostAction::KillVms]);
}

fn adopting() -> Story {
    let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
    for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), HostPhase::Adopting);
    story
}

#[test]
fn a_driver_that_cannot_look_holds_up_the_word_stopped_alone() {
    let mut blind = adopting();
    assert_eq!(blind.tell(HostEvent::PartlyDone), [HostAction::Save(HostState::Running)]);
    blind.tell(HostEvent::Done);
    let mut seeing = Story { machine: blind.machine.clone(), now: blind.now };
    for story in [&mut blind, &mut seeing] {
        story.tell(HostEvent::Shutdown(Shutdown::Stop));
        story.tell(HostEvent::Done);
    }
    let end = blind.tell(HostEvent::Empty { left: 0 });
    assert!(matches!(&end[..], [HostAction::Finish(End::Failed(text))] if text.contains("could not")));
    assert!(seeing.tell(HostEvent::Inspected).is_empty());
    assert_eq!(seeing.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
}

#[test]
fn an_inspection_that_hangs_is_given_up_sooner_when_the_node_is_to_stop() {
    let mut story = adopting();
    assert!(story.wait(59).is_empty());
    assert_eq!(story.wait(1), [HostAction::Abandon]);
    assert_eq!(story.wait(10), [HostAction::Adopt], "and begun anew");
    assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
    assert!(story.wait(4).is_empty());
    let actions = story.wait(1);
    assert_eq!(actions, [HostAction::Abandon, HostAction::Save(HostState::Stopping)]);

    let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
    for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), HostPhase::CheckingDrivers);
    let actions = story.tell(HostEvent::Shutdown(Shutdown::Stop));
    assert_eq!(actions, [HostAction::Abandon, HostAction::Adopt], "whether they work matters no more");
}

#[test]
fn a_stop_at_start_up_first_learns_what_runs_here() {
    let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
    for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
        story.tell(event);
    }
    assert_eq!(story.machine.phase(), HostPhase::Adopting);
    assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
    assert_eq!(story.tell(HostEvent::Done), [HostAction::Save(HostState::Stopping)]);
}

#[test]
fn an_abort_at_start_up_first_learns_what_runs_here_and_then_kills() {
    let kill = [HostAction::KillVms, HostAction::Save(HostState::Stopping)];
    for answer in [HostEvent::Done, HostEvent::PartlyDone] {
        let mut story = adopting();
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Abort)).is_empty(), "the look goes on");
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty(), "and the abort is remembered");
        assert_eq!(story.tell(answer), kill);
    }

    let mut story = adopting();
    story.tell(HostEvent::Failed("cannot read /proc".into()));
    assert_eq!(story.machine.phase(), HostPhase::AdoptWait);
    assert_eq!(story.tell(HostEvent::Shutdown(Shutdown::Abort)), [HostAction::Adopt], "a last look");
    assert!(story.wait(4).is_empty());
    let late = story.wait(1);
    assert_eq!(late, [&[HostAction::Abandon], &kill[..]].concat());
    let end = story.tell(HostEvent::Empty { left: 0 });
    assert!(
        matches!(&end[..], [.., HostAction::Finish(End::Failed(_))]),
        "nobody knows what is left: {end:?}"
    );
}

#[test]
fn a_stopped_that_is_refused_is_no_success() {
    let mut story = Story::running();
    story.tell(HostEvent::Shutdown(Shutdown::Stop));
    story.tell(HostEvent::Done);
    assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
    let end = story.tell(HostEvent::Failed("VM 7 is not stopped".into()));
    assert_eq!(end, [HostAction::Finish(End::Failed("VM 7 is not stopped".into()))]);
}

#[test]
fn keeping_touches_no_machine() {
    let mut story = Story::running();
    assert_eq!(
        story.tell(HostEvent::Shutdown(Shutdown::KeepVms)),
        [HostAction::StopObeying, HostAction::DetachVms, HostAction::Save(HostState::Starting)]
    );
    assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::KeepVms))]);
}

#[test]
fn a_lost_row_ends_everything_without_a_write() {
    let mut story = Story::running();
    let actions = story.tell(HostEvent::Lost("taken over".into()));
    assert_eq!(actions, [HostAction::StopObeying, HostAction::DisownVms]);
    assert_eq!(
        story.tell(HostEvent::Empty { left: 0 }),
        [HostAction::Finish(End::Lost("taken over".into()))]
    );
}

#[test]
fn a_failed_inspection_is_repeated_and_a_refused_lock_is_the_end() {
    let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
    for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
        story.tell(event);
    }
    assert!(story.tell(HostEvent::Failed("cannot read /proc".into())).is_empty());
    assert_eq!(story.wait(10), [HostAction::Adopt]);

    let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
    story.tell(HostEvent::Begin);
    assert_eq!(
        story.tell(HostEvent::Failed("held".into())),
        [HostAction::Finish(End::Failed("held".into()))]
    );
}

fn event(kind: usize) -> HostEvent {
    match kind {
        0 => HostEvent::Begin,
        1 | 2 => HostEvent::Done,
        3 => HostEvent::Failed("x".into()),
        4 => HostEvent::Shutdown(Shutdown::Stop),
        5 => HostEvent::Shutdown(Shutdown::KeepVms),
        6 => HostEvent::Lost("x".into()),
        7 => HostEvent::Empty { left: 0 },
        8 => HostEvent::Empty { left: 1 },
        9 => HostEvent::Shutdown(Shutdown::Abort),
        10 => HostEvent::PartlyDone,
        11 => HostEvent::Inspected,
        _ => HostEvent::Deadline,
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_ends_once_and_never_acts_after_that(
        kinds in prop::collection::vec(0_usize..13, 0..60),
    ) {
        let mut machine = HostMachine::new(HostLimits::default());
        let mut now = Instant::now();
        let (mut taken, mut ended, mut in_flight) = (false, false, false);
        // What the row may say: a write that failed or was abandoned may have come through.
        let (mut row, mut writing) = (vec![HostState::Starting], None);
        let script = kinds.into_iter().map(event);
        let end = [HostEvent::Done, HostEvent::Done, HostEvent::Empty { left: 0 }];
        let finale = [HostEvent::Shutdown(Shutdown::Stop)].into_iter().chain(end.clone()).chain(end.clone()).chain(end);
        for event in script.chain(finale) {
            if event == HostEvent::Deadline {
                now = machine.deadline().unwrap_or(now);
            }
            if matches!(event, HostEvent::Done | HostEvent::PartlyDone | HostEvent::Failed(_)) {
                if !in_flight {
                    continue;
                }
                in_flight = false;
                taken |= machine.phase() == HostPhase::TakingOver && event == HostEvent::Done;
                if event == HostEvent::Done && writing.is_some() {
                    row.clear();
                }
                row.extend(writing.take());
            }
            for action in machine.step(event.clone(), now) {
                prop_assert!(!ended, "{:?} after the end", action);
                if action.is_effect() {
                    prop_assert!(!in_flight, "{:?} beside another", action);
                    in_flight = true;
                }
                match action {
                    HostAction::Abandon => {
                        in_flight = false;
                        row.extend(writing.take());
                    }
                    HostAction::Save(state) => {
                        prop_assert!(taken, "wrote before the take-over");
                        for before in &row {
                            prop_assert!(*before == state || before.may_become(state), "{before} → {state}");
                        }
                        writing = Some(state);
                    }
                    HostAction::Finish(_) => ended = true,
                    _ => {}
                }
            }
        }
        prop_assert!(ended, "still {:?}", machine.phase());
    }
}
