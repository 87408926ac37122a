//! Sweeps the hand-over of desktops: cuts connects, resumes and takeovers at every observable step and at seeded
//! offsets, with the real nxagent and nxproxy, and ends with `cuts=N kept=K lost=L agent_crashes=C`.
//!
//! The exit status is 0 when no desktop was lost and no agent died; without the guard (`--guard 0`), which exists
//! because desktops are lost then, it is 0 when all cuts could be made.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use qvd_system_tests::handover::{Extent, OFFSETS, Sweep, Totals};
use qvd_system_tests::interrupts::cancel_on_interrupt;

/// Cuts hand-overs of desktops at every step and looks whether the desktop is kept.
#[derive(Debug, Parser)]
#[command(name = "qvd-handover")]
struct Options {
    /// Also steps of 50 ms over the whole hand-over, both ways of cutting at every step, and many byte offsets
    #[arg(long, conflicts_with = "dangerous")]
    full: bool,

    /// Only the byte offsets of a resume at which stock nxagent dies
    #[arg(long)]
    dangerous: bool,

    /// Seeded offsets of each kind; --full has its own number
    #[arg(long, value_name = "N", default_value_t = OFFSETS, conflicts_with_all = ["full", "dangerous"])]
    offsets: usize,

    /// Decides the offsets; printed, so that a run can be repeated
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Whether the library that keeps nxagent alive is preloaded (vma.nxagent.guard)
    #[arg(long, value_enum, default_value_t = Guard::Auto)]
    guard: Guard,

    /// Where to work; a loss leaves its logs there. Default: a directory below the temporary one
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guard {
    Auto,
    #[value(name = "0")]
    Off,
}

fn main() -> ExitCode {
    let options = Options::parse();
    cancel_on_interrupt("handover");
    match sweep(&options) {
        Ok(totals) => {
            println!("{totals}");
            let is_clean = totals.lost == 0 && totals.agent_crashes() == 0;
            if is_clean || options.guard == Guard::Off { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("handover: failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn sweep(options: &Options) -> Result<Totals> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let (dir, temporary) = match &options.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let temporary = tempfile::Builder::new().prefix("qvd-handover-").tempdir();
            let temporary = temporary.context("cannot make a temporary directory")?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    if dir.join("encrypted").exists() || dir.join("plain").exists() {
        bail!("{} holds an earlier sweep; name another directory", dir.display());
    }
    let extent = match (options.full, options.dangerous) {
        (true, _) => Extent::Full,
        (false, true) => Extent::Dangerous,
        (false, false) => Extent::Steps { offsets: options.offsets },
    };
    let guard = options.guard == Guard::Auto;
    println!("seed={seed} guard={} (repeat with --seed {seed})", if guard { "auto" } else { "0" });
    let totals = Sweep { extent, seed, guard }.run(&dir, &|line| println!("{line}"))?;
    for fact in totals.facts() {
        println!("{fact}");
    }
    // Without the guard losses explain themselves; whoever wants those logs names a directory.
    if totals.lost > 0
        && guard
        && let Some(temporary) = temporary
    {
        println!("logs kept below {}", temporary.keep().display());
    }
    Ok(totals)
}

fn random_seed() -> Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.context("cannot read /dev/urandom")?;
    Ok(u32::from_le_bytes(bytes).into())
}
