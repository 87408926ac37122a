//! What a driver asks about a host and its processes.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sys::signal::Signal;

use super::cgroup::VmCgroups;
use super::lock::{LockContent, VmLock};
use super::process::{Custody, Life, PidFd, ProcessId};

/// The lock of a machine as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// There is no lock file: the machine never ran on this storage.
    Absent,
    /// Nobody holds it.
    Free,
    /// Somebody does.
    Held(LockContent),
}

/// What a driver asks the kernel about its machines, and how it ends them.
///
/// # Contract
///
/// A process is meant by number and start time together: another one under the same number is never told of nor
/// signalled. A process that ended counts as [`Life::Gone`], collected by its parent or not.
///
/// # Cancellation
///
/// Not asynchronous: each call is short and done when it returns.
///
/// # Errors
///
/// Every error means "could not be told", never "is not there".
///
/// # Example
///
/// ```
/// use qvd_hypervisor::hostops::{HostOps, Life, ProcessId, SystemHost};
///
/// # fn main() -> std::io::Result<()> {
/// let own = ProcessId::me()?;
/// assert!(matches!(SystemHost.life(own)?, Life::Alive(_)));
/// let another = ProcessId { start: own.start + 1, ..own };
/// assert_eq!(SystemHost.life(another)?, Life::Gone);
/// # Ok(()) }
/// ```
pub trait HostOps: Debug + Send + Sync + 'static {
    /// Name of this boot.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn boot_id(&self) -> io::Result<String>;

    /// Whether a process lives.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn life(&self, process: ProcessId) -> io::Result<Life>;

    /// Sends a signal to that very process; gone is fine.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn signal(&self, process: ProcessId, signal: Signal) -> io::Result<()>;

    /// A descriptor that becomes readable when the process ends; none when it has.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn watch(&self, process: ProcessId) -> io::Result<Option<OwnedFd>>;

    /// Who holds a lock.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn lock_state(&self, path: &Path) -> io::Result<LockState>;

    /// The holder that works in a machine's directory, told by the processes themselves.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn custody(&self, dir: &Path) -> io::Result<Option<Custody>>;

    /// Interfaces of the host that `owner` made for machines.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    fn network_devices(&self, owner: &str) -> io::Result<Vec<String>>;

    /// Processes of a machine's payload.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn payload(&self, groups: &VmCgroups) -> io::Result<Vec<i32>>;

    /// Sends SIGKILL to a machine's payload.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn kill_payload(&self, groups: &VmCgroups) -> io::Result<()>;
}

/// The host that the program runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemHost;

impl HostOps for SystemHost {
    fn boot_id(&self) -> io::Result<String> {
        super::process::boot_id()
    }

    fn life(&self, process: ProcessId) -> io::Result<Life> {
        process.life()
    }

    fn signal(&self, process: ProcessId, signal: Signal) -> io::Result<()> {
        match PidFd::open(process)? {
            Some(handle) => handle.signal(signal),
            None => Ok(()),
        }
    }

    fn watch(&self, process: ProcessId) -> io::Result<Option<OwnedFd>> {
        PidFd::open(process)?.map(|handle| handle.as_fd().try_clone_to_owned()).transpose()
    }

    fn lock_state(&self, path: &Path) -> io::Result<LockState> {
        match VmLock::holder(path) {
            Ok(Some(content)) => Ok(LockState::Held(content)),
            Ok(None) => Ok(LockState::Free),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LockState::Absent),
            Err(error) => Err(error),
        }
    }

    fn custody(&self, dir: &Path) -> io::Result<Option<Custody>> {
        Custody::of(dir)
    }

    fn network_devices(&self, owner: &str) -> io::Result<Vec<String>> {
        crate::net::apply::devices_of(owner)
    }

    fn payload(&self, groups: &VmCgroups) -> io::Result<Vec<i32>> {
        groups.payload()
    }

    fn kill_payload(&self, groups: &VmCgroups) -> io::Result<()> {
        if groups.is_empty() { Ok(()) } else { groups.kill_payload() }
    }
}
