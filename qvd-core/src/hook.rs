//! Programs or code that run when something happens.

use std::fmt::Debug;

use async_trait::async_trait;

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

/// One event with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEvent {
    /// What happened.
    pub kind: HookKind,
    /// Pairs in the order in which a program gets them as arguments.
    pub params: Params,
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
pub struct HookError {
    /// Name of the hook.
    pub hook: String,
    /// What went wrong, one line.
    pub message: String,
    /// Exit status of a program, when it has one.
    pub status: Option<i32>,
}
