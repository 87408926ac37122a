//! What runs virtual machines: the driver trait and its value types.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

mod endpoint;
mod error;
mod remains;
mod spec;

pub use endpoint::{Endpoint, InvalidEndpoint, VMA_SOCKET, X_SOCKET};
pub use error::{Blame, HypervisorError};
pub use remains::{ExitInfo, Found};
pub use spec::{ImageSpec, LaunchPlace, Prepared, VmSpec};

use crate::id::VmId;

/// What a driver can do. Declared, not found out by calling and failing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Starts from a disk image; without it an image of format `none` is right.
    pub needs_image: bool,
    /// Gives each virtual machine a network of its own.
    pub own_network: bool,
    /// Keeps a home between runs.
    pub keeps_home: bool,
    /// Its virtual machines outlive the process that launched them and can be adopted.
    pub survives_restart: bool,
    /// [`RunningVm::terminate`] asks the guest; without it only [`RunningVm::kill`] ends a machine.
    pub polite_stop: bool,
    /// There is a real agent behind the endpoint; without it the machine counts as running at once.
    pub has_agent: bool,
}

impl Capabilities {
    /// None; a driver sets what it has.
    pub fn none() -> Self {
        Self::default()
    }
}

/// One thing that [`Hypervisor::check`] looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// What was looked at, a few words.
    pub what: String,
    /// What was found (a version, a path, an error).
    pub found: String,
    /// None when all is well; otherwise what to do about it.
    pub remedy: Option<String>,
    /// Whether the driver can do without it.
    pub required: bool,
}

impl Check {
    /// Something that is as it should be.
    pub fn passed(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), found: found.into(), remedy: None, required: true }
    }

    /// Something that the driver cannot work with, and what to do about it.
    pub fn failed(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::passed(what, found) }
    }

    /// The driver can do without it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

/// A driver: runs virtual machines of one kind on this host.
///
/// # Contract
///
/// * [`prepare`](Hypervisor::prepare) takes the lock of the virtual machine first and is idempotent for
///   the same run. It never deletes, truncates or formats a home.
/// * [`launch`](Hypervisor::launch) follows a `prepare` of the same run; a machine that was never prepared is refused.
///   A run is started at most once: a second call for one that lives returns the living one, for one that has ended and
///   was not cleaned up yet it fails with [`HypervisorError::EarlyExit`].
/// * All that a launch starts is inside [`VmSpec::place`], where there is one, before anything of the machine runs. A
///   driver that cannot do that refuses the launch. The place is the caller's: `cleanup` empties it and leaves it.
/// * [`find`](Hypervisor::find) is read-only and lists everything of this driver on this host, also what no
///   database knows, and what has ended until it is cleaned up. What could not be read is [`Found::Unknown`] or an error,
///   never a shorter list.
/// * [`cleanup`](Hypervisor::cleanup) is idempotent and legal after any crash. It refuses with
///   [`HypervisorError::Busy`] while a process of the machine lives, and releases the lock last.
/// * A driver never touches the database.
///
/// # Cancellation
///
/// Dropping the future cancels. A dropped `prepare` or `launch` may leave debris, or even a running machine;
/// `find` sees it and `cleanup` must succeed on what does not live.
///
/// # Errors
///
/// [`HypervisorError`]; its [`Blame`] tells whether the machine, the host or nobody is at fault.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use qvd_core::hypervisor::*;
/// use qvd_core::VmId;
///
/// /// Runs nothing.
/// #[derive(Debug)]
/// struct Null;
///
/// #[async_trait::async_trait]
/// impl Hypervisor for Null {
///     fn name(&self) -> &str { "null" }
///     fn capabilities(&self) -> Capabilities {
///         let mut capabilities = Capabilities::none();
///         capabilities.polite_stop = true;
///         capabilities
///     }
///     async fn check(&self) -> Vec<Check> { Vec::new() }
///     async fn prepare(&self, _: &VmSpec) -> Result<Prepared, HypervisorError> { Ok(Prepared::default()) }
///     async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
///         Err(HypervisorError::unsupported(spec.vm_id, "launch"))
///     }
///     async fn find(&self) -> Result<Vec<Found>, HypervisorError> { Ok(Vec::new()) }
///     async fn cleanup(&self, _: VmId) -> Result<(), HypervisorError> { Ok(()) }
/// }
/// ```
#[async_trait]
pub trait Hypervisor: Debug + Send + Sync + 'static {
    /// Name, as in `vm.hypervisor`.
    fn name(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks at every prerequisite on this host, all in one report.
    async fn check(&self) -> Vec<Check>;

    /// Makes disks, home and network ready.
    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError>;

    /// Starts it.
    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError>;

    /// Everything of this driver on this host.
    async fn find(&self) -> Result<Vec<Found>, HypervisorError>;

    /// Removes what a run left behind; keeps the home.
    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError>;
}

/// A virtual machine that was launched or adopted.
///
/// # Contract
///
/// Dropping the handle ends nothing. [`exited`](RunningVm::exited) may be awaited by any number of callers, also
/// after the end. [`kill`](RunningVm::kill) answers `Ok` only when the machine is verified dead.
///
/// # Cancellation
///
/// Every call may be dropped; the effect of [`kill`](RunningVm::kill) may go on.
///
/// # Errors
///
/// [`HypervisorError::StillAlive`] from `kill` names what would not die.
///
/// # Example
///
/// ```
/// use qvd_core::hypervisor::RunningVm;
///
/// async fn stop(vm: &dyn RunningVm) {
///     let _ = vm.terminate().await;
///     println!("{}: {}", vm.endpoint(), vm.exited().await);
/// }
/// ```
#[async_trait]
pub trait RunningVm: Debug + Send + Sync + 'static {
    /// Where its agent and desktop are reached.
    fn endpoint(&self) -> Endpoint;

    /// Waits for its end.
    async fn exited(&self) -> ExitInfo;

    /// Asks it to end; returns once asked.
    async fn terminate(&self) -> Result<(), HypervisorError>;

    /// Ends it within `limit`.
    async fn kill(&self, limit: Duration) -> Result<(), HypervisorError>;
}
