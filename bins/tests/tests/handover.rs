//! Hand-overs cut at every observable step: no desktop that somebody was connected to is lost.
//!
//! The whole sweep is `qvd-handover` (`make handover`); here each step is cut once, with a few seeded offsets.

use qvd_system_tests::handover::{Extent, Sweep, Totals};
use qvd_system_tests::process::in_path;

const PARTS: [&str; 5] = ["nxagent", "nxproxy", "Xvfb", "jwm", "xterm"];

/// Offsets of the three kinds, the same ones in every run; `qvd-handover` takes new ones each time.
const SEED: u64 = 20_151_105;

fn swept(extent: Extent, guard: bool) -> Option<Totals> {
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !in_path(part)).collect();
    if !missing.is_empty() {
        qvd_system_tests::skip(&format!("{} missing", missing.join(", ")));
        return None;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sweep = Sweep { extent, seed: SEED, guard };
    let totals = sweep.run(dir.path(), &|line| eprintln!("{line}")).expect("the cuts can be made");
    eprintln!("{totals}");
    if totals.lost > 0 && guard {
        eprintln!("logs kept below {}", dir.keep().display());
    }
    Some(totals)
}

#[test]
fn no_desktop_is_lost_by_a_cut_at_any_step() {
    let Some(totals) = swept(Extent::Steps { offsets: 2 }, true) else { return };
    assert!(totals.cuts >= 60, "few steps were seen: {totals}");
    assert_eq!((totals.lost, totals.kept), (0, totals.cuts), "{totals}");
    assert!(totals.crashes.is_empty(), "{:?}", totals.crashes);
}

/// For the record: stock nxagent dies at these bytes more often than not, but need not each time. What must hold is
/// that every desktop that was lost with its agent is put down to it.
#[test]
fn without_the_guard_lost_desktops_are_put_down_to_their_agents() {
    let Some(totals) = swept(Extent::Dangerous, false) else { return };
    let crashes: usize = totals.crashes.values().sum();
    assert_eq!(totals.cuts, 5);
    assert_eq!(totals.kept + totals.lost, totals.cuts);
    assert!(crashes >= totals.lost, "{} lost, but only {:?}", totals.lost, totals.crashes);
}
