//! Ctrl-C in a program that has started others: it stops waiting and cleans up.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::cancel;

/// From now on Ctrl-C, SIGTERM and SIGHUP make every wait of this crate fail; `program` is named when that happens.
///
/// Handlers, not a blocked mask: programs started from here would inherit that, and nxagent waits for ever for a
/// child that cannot be terminated.
pub fn cancel_on_interrupt(program: &'static str) {
    std::thread::spawn(move || {
        if let Err(e) = wait_for_one(program) {
            eprintln!("{program}: cannot watch for Ctrl-C: {e:#}");
        }
    });
}

fn wait_for_one(program: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        eprintln!("\n{program}: interrupted, cleaning up");
        cancel();
        Ok(())
    })
}
