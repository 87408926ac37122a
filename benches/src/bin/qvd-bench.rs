//! `qvd-bench [PART]…`: ours against HAProxy, nginx and a plain copy, side by side in one run; the targets stand last.
//!
//! Parts: idle, bulk, trips, sessions, workers, veth, connect, storm; all of them when none is named, here or in
//! `QVD_BENCH_PARTS`. How long it takes: `QVD_BENCH_ROUNDS`, `QVD_BENCH_SECONDS` (per figure), `QVD_BENCH_IDLE`,
//! `QVD_BENCH_STORM_USERS`, `QVD_BENCH_STORM_SECONDS`. With `QVD_BENCH_RESULTS=FILE` the sections of the parts that ran
//! are put into that file.
//!
//! `qvd-bench profile FIGURE [PARTY]` samples one party under one figure's load; see the module `profile`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qvd_benches::run::Plan;
use qvd_benches::{machine, parts, peers, profile, run};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| args.get(at).map(String::as_str).context("a word is missing");
    let address = |at: usize| -> Result<SocketAddr> { word(at)?.parse().context("no address") };
    match args.first().map(String::as_str) {
        // The yardsticks that are part of the bench are this program again.
        Some("plain-copy") => block_on_one(peers::run_plain_copy(address(1)?, address(2)?)),
        Some("buffered-tls") => {
            block_on_one(peers::run_buffered_tls(address(1)?, address(2)?, Path::new(word(3)?)))
        }
        Some("across") => {
            let plan = Plan::new(&[], |name| std::env::var(name).ok().filter(|_| name != "QVD_BENCH_PARTS"))?;
            let rounds = word(2)?.parse().context("no number of rounds")?;
            let share = word(3)?.parse().context("no share")?;
            machine::raise_file_limit();
            block_on(parts::veth::run_inside(word(1)?, rounds, share, &plan))
        }
        Some("profile") => {
            let own = std::env::current_exe().context("cannot find the running program")?;
            let dir = own.with_file_name("profiles");
            let files = block_on(profile::profile(word(1)?, word(2).unwrap_or("ours"), &dir))?;
            files.iter().for_each(|file| println!("{}", file.display()));
            Ok(())
        }
        _ => {
            let plan = Plan::new(&args, |name| std::env::var(name).ok())?;
            let file = std::env::var_os("QVD_BENCH_RESULTS").map(PathBuf::from);
            machine::raise_file_limit();
            block_on(run::run(&plan, file.as_deref()))
        }
    }
}

/// Runs something to its end, or to Ctrl-C or SIGTERM; what it started ends with it.
fn block_on<T>(done: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = done => done,
            () = asked_to_end() => bail!("interrupted"),
        }
    })
}

fn block_on_one(done: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(done)
}

/// Ctrl-C or SIGTERM.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => std::future::pending().await,
    }
}
