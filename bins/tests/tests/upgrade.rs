//! An upgrade that nobody notices; `make upgrade-test` is the same with a line for each step.

use qvd_system_tests::process::in_path;
use qvd_system_tests::report::Report;
use qvd_system_tests::upgrade::Upgrade;

#[test]
fn routers_are_succeeded_and_nobody_is_dropped_or_refused() {
    if !in_path("psql") {
        return qvd_system_tests::skip("PostgreSQL missing");
    }
    let report = Report::begin(env!("CARGO_TARGET_TMPDIR"), "upgrade").expect("a report");
    let upgrade = Upgrade { sessions: 200, upgrades: 2 };
    let totals = upgrade.run(&|line| eprintln!("{line}")).expect("every part comes up");
    totals.facts.iter().for_each(|line| report.line(line));
    report.line(&totals.to_string());
    assert_eq!(totals.sessions, 200);
    assert!(totals.dropped.is_empty(), "{:?}", totals.dropped);
    assert!(totals.refused.is_empty(), "{:?}", totals.refused);
}
