//! Signals of a daemon.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that daemons of QVD understand. Made once, early, so that none is lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `SIGTERM` or `SIGINT`: end in order.
    Stop,
    /// `SIGHUP`: read the configuration again.
    Reload,
    /// `SIGUSR1`: log what is going on.
    Report,
    /// `SIGUSR2`: end and leave behind what can live on.
    Leave,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    ///
    /// When the process cannot install handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::Report,
            _ = self.user2.recv() => Asked::Leave,
        }
    }

    /// Waits for `SIGTERM` or `SIGINT`; the others are taken and ignored.
    pub async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
