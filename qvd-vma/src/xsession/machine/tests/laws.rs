//! What holds whatever happens.

use proptest::prelude::*;

use super::*;

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
