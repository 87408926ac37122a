//! Child processes that end together with what they started.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, Uid};
use tokio::process::{Child, ChildStdin, Command};

use crate::process_tree;
use crate::xsession::user_command::UserCommand;

/// A child that leads its own process group. Dropping it ends it, unless it was [left alone](Self::release): it
/// kills the group, or lets go of a child that ends by itself then, with more than its group.
#[derive(Debug)]
pub(crate) struct GroupChild {
    child: Child,
    group: Pid,
    armed: bool,
    /// What keeps it running: its end is the child's.
    hold: Option<ChildStdin>,
}

impl GroupChild {
    /// Starts `command` as the leader of a new process group.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
        Ok(Self { child, group: Pid::from_raw(pid), armed: pid > 1, hold: None })
    }

    /// Starts a program of the session's user, which reads nothing.
    pub(crate) fn spawn_user(user: &UserCommand, command: &mut Command) -> io::Result<Self> {
        if !user.kept {
            return Self::spawn(command.stdin(Stdio::null()));
        }
        let mut started = Self::spawn(command.stdin(Stdio::piped()))?;
        started.hold = started.child.stdin.take();
        Ok(started)
    }

    /// The leader's process id, which is the group's.
    pub(crate) fn pid(&self) -> Pid {
        self.group
    }

    /// Waits for the leader. Cancellation safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end: by letting go of it, else by SIGTERM to its group. Whether there is anything to wait for.
    pub(crate) fn ask_to_end(&mut self) -> bool {
        // One that was waited for has ended, and has left nothing behind when it was held.
        match self.hold.take() {
            Some(_) => self.child.id().is_some(),
            None => signal_group(self.group, Signal::SIGTERM),
        }
    }

    /// What is left of the group is not ended with this value.
    pub(crate) fn release(&mut self) {
        self.armed = false;
    }
}

impl Drop for GroupChild {
    fn drop(&mut self) {
        if self.armed && self.hold.is_none() {
            signal_group(self.group, Signal::SIGKILL);
        }
    }
}

/// A process of a user's that is nobody's child here, told apart from another one that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: Pid,
    started: Option<u64>,
    user: Uid,
}

impl Identity {
    /// The process that has this number now, and is or will be the user's.
    pub(crate) fn of(pid: Pid, user: Uid) -> Self {
        Self { pid, started: process_tree::started(pid.as_raw()), user }
    }

    pub(crate) fn pid(self) -> Pid {
        self.pid
    }

    /// Whose it is.
    pub(crate) fn user(self) -> Uid {
        self.user
    }

    /// Whether it still is that process, and the user's in every respect.
    pub(crate) fn holds(self) -> bool {
        let pid = self.pid.as_raw();
        pid > 1
            && self.started.is_some()
            && self.started == process_tree::started(pid)
            && process_tree::belongs_to(pid, self.user.as_raw())
    }

    /// Sends it a signal; one that is gone already is no failure. Never a group, never everybody, never a process
    /// that has other rights than the user.
    pub(crate) fn signal(self, signal: Signal) {
        if !self.holds() {
            tracing::debug!(pid = %self.pid, %signal, "the process to signal is gone");
            return;
        }
        if let Err(error) = kill(self.pid, signal) {
            tracing::debug!(pid = %self.pid, %signal, %error, "a process was not signalled");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_that_went_to_another_process_or_user_is_not_signalled() {
        let mut child = GroupChild::spawn(Command::new("/bin/sleep").arg("100")).unwrap();
        let own = Uid::effective();
        let right = Identity::of(child.pid(), own);
        let wrong = Identity { started: right.started.map(|at| at + 1), ..right };
        let foreign = Identity { user: Uid::from_raw(own.as_raw() + 1), ..right };
        wrong.signal(Signal::SIGKILL);
        foreign.signal(Signal::SIGKILL);
        assert!(child.child.try_wait().unwrap().is_none());
        right.signal(Signal::SIGKILL);
        assert_eq!(describe(child.wait().await.unwrap()), "killed by SIGKILL");
    }
}
