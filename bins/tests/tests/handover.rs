//! Hand-overs cut at every observable step: no desktop that somebody was connected to is lost.
//!
//! The whole sweep is `qvd-handover` (`make handover`); here each step is cut once, with the seeded offsets. What was
//! cut is written into a report, since nobody sees the output of a test that passed.

use qvd_system_tests::handover::{Extent, OFFSETS, Sweep, Totals};
use qvd_system_tests::process::in_path;
use qvd_system_tests::report::Report;
use qvd_system_tests::trace::Source;

const PARTS: [&str; 5] = ["nxagent", "nxproxy", "Xvfb", "jwm", "xterm"];

/// Offsets of the three kinds, the same ones in every run; `qvd-handover` takes new ones each time.
const SEED: u64 = 20_151_105;

fn swept(extent: Extent, guard: bool, report: &str) -> Option<Totals> {
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !in_path(part)).collect();
    if !missing.is_empty() {
        qvd_system_tests::skip(&format!("{} missing", missing.join(", ")));
        return None;
    }
    let dir = tempfile::Builder::new().prefix("qvd-lab-").tempdir().expect("a temporary directory");
    let report = Report::begin(env!("CARGO_TARGET_TMPDIR"), report).expect("a report");
    report.line(&format!("hand-overs cut with guard={}, seed {SEED}:", if guard { "auto" } else { "0" }));
    let sweep = Sweep { extent, seed: SEED, guard };
    let totals = sweep.run(dir.path(), &|line| report.line(line)).expect("the cuts can be made");
    totals.facts().iter().for_each(|fact| report.line(fact));
    report.line(&totals.to_string());
    if guard && (totals.lost > 0 || totals.agent_crashes() > 0) {
        eprintln!("logs kept below {}", dir.keep().display());
    }
    Some(totals)
}

#[test]
fn no_desktop_is_lost_by_a_cut_at_any_step() {
    let Some(totals) = swept(Extent::Steps { offsets: OFFSETS }, true, "handover") else { return };
    assert!(totals.guarded > 0 && totals.bare == 0, "every agent has the guard: {totals:?}");

    // It is cut where it should be: each source says steps, and the cuts come at their moments.
    let least = [
        (Source::Client, 15),
        (Source::Call, 4),
        (Source::Agent, 12),
        (Source::Nxagent, 5),
        (Source::Node, 8),
    ];
    for (source, least) in least {
        let seen = totals.steps.get(&source).copied().unwrap_or_default();
        assert!(seen.in_time >= least, "few cuts at steps of {source}: {seen}");
    }
    let steps = totals.all_steps();
    assert!(steps.in_time * 10 >= steps.all() * 9, "the steps of too many cuts did not come: {steps}");
    assert_eq!(
        totals.bytes.in_time,
        totals.bytes.all(),
        "each byte comes, sooner or later: {}",
        totals.bytes
    );
    assert!(totals.times.all() + totals.bytes.all() >= 3 * OFFSETS, "{totals:?}");

    assert_eq!((totals.lost, totals.kept), (0, totals.cuts), "{totals}");
    assert!(totals.crashes.is_empty(), "{:?}", totals.crashes);
}

/// For the record: the same agent without the guard dies at these bytes nearly each time, though it need not, and every
/// desktop that is lost is put down to it. Were the guard loaded here, or not needed, no agent would die.
#[test]
fn without_the_guard_agents_die_and_lost_desktops_are_put_down_to_them() {
    let Some(totals) = swept(Extent::Dangerous, false, "agent-without-guard") else { return };
    assert!(totals.bare > 0 && totals.guarded == 0, "no agent has the guard: {totals:?}");
    assert_eq!((totals.cuts, totals.bytes.in_time), (5, 5), "{totals:?}");
    assert_eq!(totals.kept + totals.lost, totals.cuts);
    assert!(totals.agent_crashes() >= 1, "{totals}");
    assert!(totals.agent_crashes() >= totals.lost, "{} lost, but only {:?}", totals.lost, totals.crashes);
}
