//! Every row of the protocol's conformance table against the programs; `make conformance` prints the same lines.

use qvd_system_tests::conformance;
use qvd_system_tests::process::in_path;
use qvd_system_tests::report::Report;

/// What some rows cannot do without.
const PARTS: [&str; 7] = ["nxagent", "nxproxy", "Xvfb", "jwm", "xterm", "openssl", "psql"];

/// Rows that may still wait: the slave channel.
const SLAVE_CHANNEL: std::ops::RangeInclusive<u32> = 99..=103;

#[test]
fn every_row_that_is_due_is_as_the_table_says() {
    let missing: Vec<_> = PARTS.into_iter().filter(|part| !in_path(part)).collect();
    if !missing.is_empty() {
        return qvd_system_tests::skip(&format!("{} missing", missing.join(", ")));
    }
    let totals = conformance::check(&[]).expect("the rows can be checked");
    let report = Report::begin(env!("CARGO_TARGET_TMPDIR"), "conformance").expect("a report");
    totals.lines().iter().for_each(|line| report.line(line));
    report.line(&totals.to_string());
    assert_eq!(totals.failed(), 0, "{totals}");
    let waiting: Vec<u32> = totals.later().into_iter().filter(|row| !SLAVE_CHANNEL.contains(row)).collect();
    assert!(waiting.is_empty(), "these rows are due: {waiting:?}");
}
