//! Typing without being seen, and never leaving a terminal that shows nothing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

/// The terminal of standard input.
#[derive(Clone, Default)]
pub(crate) struct Echo {
    /// How the terminal was before it was made to hide what is typed.
    before: Arc<Mutex<Option<Termios>>>,
}

impl Echo {
    /// Shows or hides what is typed.
    pub(crate) fn show(&self, visible: bool) -> io::Result<()> {
        if visible { self.restore() } else { self.hide() }
    }

    /// Puts the terminal in order and ends the process when a signal asks for its end. Must be called inside the
    /// runtime, on which another thread waits for the signals.
    pub(crate) fn guard_against_signals(&self) -> io::Result<()> {
        for kind in
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]
        {
            let (echo, mut signals) = (self.clone(), signal(kind)?);
            tokio::spawn(async move {
                signals.recv().await;
                // There is nobody left to tell when the terminal is gone.
                let _ = echo.restore();
                end(kind);
            });
        }
        Ok(())
    }

    fn hide(&self) -> io::Result<()> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = tcgetattr(io::stdin())?;
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        *before = Some(shown);
        Ok(tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden)?)
    }

    fn restore(&self) -> io::Result<()> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
        match before {
            Some(before) => Ok(tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before)?),
            None => Ok(()),
        }
    }
}

/// As if the signal had ended us: what shells make of it.
#[allow(clippy::disallowed_methods)] // A program may end itself.
fn end(kind: SignalKind) {
    std::process::exit(128 + kind.as_raw_value());
}
