//! Succeeds routers while two hundred people work, and ends with `sessions=200 dropped=0 refused=0`; the exit status
//! is 0 when nobody noticed.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::process::ExitCode;

use clap::Parser;
use qvd_system_tests::upgrade::Upgrade;

/// Succeeds routers while people work.
#[derive(Debug, Parser)]
#[command(name = "qvd-upgrade")]
struct Options {
    /// Sessions that live all the time
    #[arg(long, default_value_t = 200)]
    sessions: usize,

    /// How often the router is succeeded
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    upgrades: u16,
}

fn main() -> ExitCode {
    let Options { sessions, upgrades } = Options::parse();
    match (Upgrade { sessions, upgrades }).run(&|line| println!("{line}")) {
        Ok(totals) => {
            totals.dropped.iter().for_each(|line| println!("dropped: {line}"));
            totals.refused.iter().for_each(|line| println!("refused: {line}"));
            if let Some(fact) = totals.facts.last() {
                println!("{fact}");
            }
            println!("{totals}");
            let is_well = totals.dropped.is_empty() && totals.refused.is_empty();
            if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("upgrade: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
