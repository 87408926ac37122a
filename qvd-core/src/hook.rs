//! Programs or code that run when something happens.

use std::fmt::{self, Debug};

use async_trait::async_trait;

use crate::error::ErrorKind;
use crate::secret::Names;
use crate::vma::Params;

/// What happened, or is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookKind {
    /// Host, before a virtual machine is launched.
    PreStart,
    /// Host, after its agent answered.
    PostStart,
    /// Host, after it is gone.
    PostStop,
    /// Agent, before a desktop is started or resumed.
    PreConnect,
    /// Agent, a desktop starts or resumes.
    Connect,
    /// Agent, a desktop is to be suspended.
    Suspend,
    /// Agent, a desktop is to be ended.
    Stop,
    /// Agent, the machine is to be powered off.
    PowerOff,
    /// Agent, the machine is about to expire.
    Expire,
    /// Agent, a user now looks at the desktop.
    Connected,
    /// Agent, nobody looks any more.
    Suspended,
    /// Agent, the desktop is gone.
    Disconnected,
    /// Agent, the home directory is missing.
    MountHome,
    /// Agent, the account is missing.
    AddUser,
    /// Agent, the account was made.
    AfterAddUser,
}

impl HookKind {
    /// Whether a failing hook stops what it announces. Hooks of states run beside it and cannot.
    pub const fn may_veto(self) -> bool {
        !matches!(self, Self::Connected | Self::Suspended | Self::Disconnected | Self::PostStop)
    }
}

/// One event with what is known about it. Its `Debug` shows the names of the pairs, not their values: the key of a
/// session's channels is among them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookEvent {
    /// What happened.
    pub kind: HookKind,
    /// Pairs in the order in which a program gets them as arguments.
    pub params: Params,
}

impl HookEvent {
    /// An event with its pairs.
    pub fn new(kind: HookKind, params: Params) -> Self {
        Self { kind, params }
    }
}

impl fmt::Debug for HookEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = Names(self.params.iter().map(|(name, _)| name.as_str()));
        f.debug_struct("HookEvent").field("kind", &self.kind).field("params", &params).finish()
    }
}

/// Something to run at an event.
///
/// # Contract
///
/// [`run`](Hook::run) is called only for kinds that [`wants`](Hook::wants) answered true to. Whether a failure
/// vetoes is the event's property ([`HookKind::may_veto`]), not the hook's.
///
/// # Cancellation
///
/// The caller drops the future at its time limit; a program hook kills its process group then.
///
/// # Errors
///
/// [`HookError`] carries a text for people and, for programs, the exit status.
///
/// # Example
///
/// ```
/// use qvd_core::hook::{Hook, HookError, HookEvent, HookKind};
///
/// /// Counts connects.
/// #[derive(Debug, Default)]
/// struct Counter(std::sync::atomic::AtomicU64);
///
/// #[async_trait::async_trait]
/// impl Hook for Counter {
///     fn name(&self) -> &str { "counter" }
///     fn wants(&self, kind: HookKind) -> bool { kind == HookKind::Connected }
///     async fn run(&self, _event: &HookEvent) -> Result<(), HookError> {
///         self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Hook: Debug + Send + Sync + 'static {
    /// Name for logs.
    fn name(&self) -> &str;

    /// Whether it is to be called for this kind.
    fn wants(&self, kind: HookKind) -> bool;

    /// Does its work.
    async fn run(&self, event: &HookEvent) -> Result<(), HookError>;
}

/// A hook failed.
#[derive(Debug, thiserror::Error)]
#[error("hook {hook} failed: {message}")]
#[non_exhaustive]
pub struct HookError {
    /// Name of the hook.
    pub hook: String,
    /// What went wrong, one line.
    pub message: String,
    /// Exit status of a program, when it has one.
    pub status: Option<i32>,
}

impl HookError {
    /// A failure of the hook with this name, in words of one line.
    pub fn new(hook: impl Into<String>, message: impl Into<String>) -> Self {
        Self { hook: hook.into(), message: message.into(), status: None }
    }

    /// Adds the exit status of a program.
    #[must_use]
    pub fn with_status(mut self, status: Option<i32>) -> Self {
        self.status = status;
        self
    }

    /// Classification: a hook that fails objects to what it was told of, and may think otherwise later.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Conflict
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_does_not_show_the_values_of_its_pairs() {
        let params = vec![("qvd.slave.key".to_owned(), "k3y-of-the-channels".to_owned())];
        let shown = format!("{:?}", HookEvent::new(HookKind::Connected, params));
        assert!(shown.contains("qvd.slave.key") && !shown.contains("k3y-of"), "{shown}");
    }
}
