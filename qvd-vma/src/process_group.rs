//! Child processes that end together with what they started.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A child that leads its own process group. Dropping it kills the group, unless it was
/// [left alone](Self::release).
#[derive(Debug)]
pub(crate) struct GroupChild {
    child: Child,
    group: Pid,
    armed: bool,
}

impl GroupChild {
    /// Starts `command` as the leader of a new process group.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        Ok(Self { child, group: Pid::from_raw(pid), armed: pid > 1 })
    }

    /// The leader's process id, which is the group's.
    pub(crate) fn pid(&self) -> Pid {
        self.group
    }

    /// Waits for the leader. Cancellation safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// What is left of the group is not ended with this value.
    pub(crate) fn release(&mut self) {
        self.armed = false;
    }
}

impl Drop for GroupChild {
    fn drop(&mut self) {
        if self.armed {
            signal_group(self.group, Signal::SIGKILL);
        }
    }
}

/// Signals every process of a group; whether there was one.
pub(crate) fn signal_group(group: Pid, signal: Signal) -> bool {
    // 0 would be our own group, 1 every process there is.
    if group.as_raw() <= 1 {
        return false;
    }
    match killpg(group, signal) {
        Ok(()) => true,
        Err(Errno::ESRCH) => false,
        Err(error) => {
            tracing::warn!(%group, %signal, %error, "cannot signal a process group");
            true
        }
    }
}

/// How a process ended, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}
