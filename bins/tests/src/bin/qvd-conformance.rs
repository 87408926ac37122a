//! Checks the rows of the protocol's conformance table against the programs, and ends with
//! `rows=117 passed=N later=M failed=F`; the exit status is 0 when none failed.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::process::ExitCode;

use clap::Parser;
use qvd_system_tests::conformance;

/// Checks the rows of the protocol's conformance table against the programs.
#[derive(Debug, Parser)]
#[command(name = "qvd-conformance")]
struct Options {
    /// Rows to check; all of them when none is named
    #[arg(value_name = "ROW", value_parser = clap::value_parser!(u32).range(1..=i64::from(conformance::ROWS)))]
    rows: Vec<u32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match conformance::check(&options.rows) {
        Ok(totals) => {
            totals.lines().iter().for_each(|line| println!("{line}"));
            println!("{totals}");
            if totals.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("conformance: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
