//! Ctrl-C in a program that has started others: it stops waiting and cleans up.

use std::io::Write as _;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::cancel;

/// From now on Ctrl-C, SIGTERM and SIGHUP make every wait of this crate fail; `program` is named when that happens.
/// A second one ends the program without cleaning up.
///
/// Handlers, not a blocked mask: programs started from here would inherit that, and nxagent waits for ever for a
/// child that cannot be terminated.
pub fn cancel_on_interrupt(program: &'static str) {
    std::thread::spawn(move || {
        if let Err(e) = watch(program) {
            eprintln!("{program}: cannot watch for Ctrl-C: {e:#}");
        }
    });
}

/// As a shell tells of SIGINT.
const EXIT_IMPATIENT: i32 = 130;

#[expect(clippy::disallowed_methods, reason = "the second Ctrl-C of a person who does not want to wait")]
fn watch(program: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut asked = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        };
        asked().await;
        cancel();
        // The terminal may be what went away.
        let _ =
            writeln!(std::io::stderr(), "\n{program}: interrupted, cleaning up (once more: ends at once)");
        asked().await;
        std::process::exit(EXIT_IMPATIENT)
    })
}
