//! Every (phase × event) pair, once, and the diagram of the module page.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use qvd_core::hypervisor::ExitInfo;
use qvd_core::state::{VmPhase, VmState};

use super::{Event, Failure, Limits, Past, Phase, Traits, VmMachine, Wrote};

const TRAITS: Traits = Traits { has_agent: true, polite_stop: true };

/// The columns of the table.
fn events() -> Vec<(&'static str, Event)> {
    let wrote = |state, phase| Event::Written(Wrote::State(state, phase));
    vec![
        ("start", Event::Start),
        ("loaded", Event::Loaded(TRAITS)),
        ("done", Event::Done),
        ("failed", Event::Failed(Failure::vm("broken"))),
        ("home_in_use", Event::HomeInUse("held".to_owned())),
        ("wrote_setup", wrote(VmState::Starting, Some(VmPhase::Starting2))),
        ("wrote_run", wrote(VmState::Running, None)),
        ("wrote_addr", Event::Written(Wrote::Endpoint)),
        ("wrote_record", Event::Written(Wrote::Record)),
        ("wrote_clear", Event::Written(Wrote::Clear)),
        ("nowrite_state", Event::WriteFailed(Wrote::State(VmState::Running, None), "x".to_owned())),
        ("nowrite_addr", Event::WriteFailed(Wrote::Endpoint, "x".to_owned())),
        ("nowrite_clear", Event::WriteFailed(Wrote::Clear, "x".to_owned())),
        ("guard_lost", Event::GuardLost),
        ("alive", Event::Alive),
        ("dead", Event::Dead("silent".to_owned())),
        ("exited", Event::Exited(ExitInfo::status(1))),
        ("deadline", Event::Deadline),
        ("stop", Event::Stop),
        ("kill", Event::Kill),
        ("alert", Event::Alert),
    ]
}

fn adoptions() -> Vec<(&'static str, Event)> {
    let past = |past| Event::Adopt(past, TRAITS);
    let dead = |booting, exit| Event::FoundDead { booting, exit, traits: TRAITS };
    vec![
        ("adopt_starting", past(Past::Starting)),
        ("adopt_running", past(Past::Running)),
        ("adopt_debugging", past(Past::Debugging)),
        ("adopt_stopping", past(Past::Stopping)),
        ("adopt_zombie", past(Past::Zombie)),
        ("adopt_gone", past(Past::Gone)),
        ("found_dead", dead(false, Some(ExitInfo::status(1)))),
        ("found_unborn", dead(true, None)),
        ("adopt_unknown", past(Past::Unknown)),
        ("adopt_foreign", past(Past::Foreign)),
    ]
}

/// A machine in every phase, each reached by the shortest way from the beginning. `debug` opens the last one.
fn machines(now: Instant) -> BTreeMap<usize, VmMachine> {
    let mut reached = BTreeMap::new();
    for debug in [false, true] {
        let mut queue = VecDeque::from([VmMachine::new(Limits { debug, ..Limits::default() })]);
        let mut seen = BTreeSet::new();
        while let Some(machine) = queue.pop_front() {
            if !seen.insert(machine.phase() as usize) {
                continue;
            }
            for (name, event) in events() {
                // The table is about the ordinary machine: not yet told to hurry, still owner of its row.
                if !matches!(name, "kill" | "guard_lost") {
                    let (mut next, at) = (machine.clone(), late(&machine, now, name));
                    next.step(event, at);
                    queue.push_back(next);
                }
            }
            reached.entry(machine.phase() as usize).or_insert(machine);
        }
    }
    reached
}

/// The clock of a step: past the limit when the limit is what is tested.
fn late(machine: &VmMachine, now: Instant, event: &str) -> Instant {
    match (event, machine.deadline()) {
        ("deadline", Some(deadline)) => deadline + Duration::from_millis(1),
        _ => now,
    }
}

fn table() -> String {
    let now = Instant::now();
    let machines = machines(now);
    assert_eq!(machines.len(), Phase::ALL.len(), "some phase cannot be reached");
    let mut text = String::new();
    for machine in machines.values() {
        text.push_str(&format!("{:?}\n", machine.phase()));
        for (name, event) in events().into_iter().chain(adoptions()) {
            let mut next = machine.clone();
            let actions = next.step(event, late(machine, now, name));
            if next.phase() != machine.phase() || !actions.is_empty() {
                text.push_str(&format!("  {name:<15} {:?}: {}\n", next.phase(), brief(&actions)));
            }
        }
    }
    text
}

fn brief(actions: &[super::Action]) -> String {
    let brief = |action: &super::Action| match action {
        super::Action::Write(super::Write::State(state, phase)) => {
            format!("save {}", phase.map_or(state.as_str(), |phase| phase.as_str()))
        }
        super::Action::Write(super::Write::Failure { failed_start, .. }) => {
            format!("record{}", if *failed_start { " failed start" } else { "" })
        }
        super::Action::Write(write) => format!("save {write:?}"),
        super::Action::Kill { limit } => format!("Kill {}s", limit.as_secs()),
        other => format!("{other:?}"),
    };
    actions.iter().map(brief).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_phase_answers_every_event_as_the_table_says() {
    let expected = include_str!("table.txt");
    let actual = table();
    if std::env::var_os("QVD_UPDATE_TABLES").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/hkd/vm_machine/table.txt");
        std::fs::write(file, &actual).unwrap();
        return;
    }
    for (line, (expected, actual)) in expected.lines().zip(actual.lines()).enumerate() {
        assert_eq!(actual, expected, "table.txt:{}", line + 1);
    }
    assert_eq!(actual.lines().count(), expected.lines().count());
}

#[test]
fn the_diagram_on_the_page_is_that_of_the_code() {
    let page = include_str!("mod.rs");
    let drawn: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("//!     ")?.split_once(" --> "))
        .map(|(from, to)| (from.to_owned(), to.split_whitespace().next().unwrap_or("").to_owned()))
        .collect();
    let now = Instant::now();
    let mut coded = BTreeSet::new();
    let mut note = |from: String, to: &VmMachine| {
        let to = to.phase().vm_state().to_string();
        if from != to {
            coded.insert((from, to));
        }
    };
    for machine in machines(now).values() {
        let from = machine.phase().vm_state().to_string();
        for debug in [false, true] {
            for (name, event) in events() {
                let mut next = machine.clone();
                next.set_limits(Limits { debug, ..Limits::default() });
                next.step(event, late(machine, now, name));
                match machine.phase() {
                    Phase::Idle if name == "start" => note("[start]".to_owned(), &next),
                    _ => note(from.clone(), &next),
                }
            }
        }
    }
    for (_, event) in adoptions() {
        let mut next = VmMachine::new(Limits::default());
        next.step(event, now);
        note("[adopt]".to_owned(), &next);
    }
    // A machine that is no longer the owner, or is told to hurry, ends from zombie.
    for mut hurried in [Past::Foreign, Past::Zombie].map(|past| {
        let mut machine = VmMachine::new(Limits::default());
        machine.step(Event::Adopt(past, TRAITS), now);
        machine
    }) {
        hurried.step(Event::Done, now);
        hurried.step(Event::Done, now);
        note("zombie".to_owned(), &hurried);
    }
    assert_eq!(drawn, coded);
    for (from, to) in &coded {
        if let (Ok(from), Ok(to)) = (from.parse::<VmState>(), to.parse::<VmState>()) {
            assert!(from.may_become(to), "{from} may not become {to}");
        }
    }
}
