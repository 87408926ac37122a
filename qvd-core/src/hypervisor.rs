//! What runs virtual machines: the driver trait and its value types.

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::ErrorKind;
use crate::id::{DiId, RunId, UserId, VmId};
use crate::units::Mebibytes;

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

/// The disk image to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSpec {
    /// Its id.
    pub di_id: DiId,
    /// File name inside the images directory.
    pub path: String,
    /// Format as recorded; never guessed from the content.
    pub format: String,
}

impl ImageSpec {
    /// The image of that id, in a file of that name, of the format that was recorded.
    pub fn new(di_id: DiId, path: impl Into<String>, format: impl Into<String>) -> Self {
        Self { di_id, path: path.into(), format: format.into() }
    }
}

/// Where all processes of one machine must be: made by the host before the launch, so that its fence can end what it
/// has never heard of, whatever the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaunchPlace {
    /// Directories of control groups, one per hierarchy. Groups below them are inside too.
    pub cgroups: Vec<PathBuf>,
}

impl LaunchPlace {
    /// These control groups, which exist.
    pub fn in_cgroups(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { cgroups: directories.into_iter().collect() }
    }
}

/// Everything a driver needs to know to run one virtual machine once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmSpec {
    /// The virtual machine.
    pub vm_id: VmId,
    /// This run of it.
    pub run_id: RunId,
    /// Incarnation of the host that claims it.
    pub host_incarnation: i64,
    /// Name as the administrator wrote it; foreign text.
    pub name: String,
    /// Owner.
    pub user_id: UserId,
    /// Owner's login.
    pub login: String,
    /// Memory limit.
    pub memory: Mebibytes,
    /// Image to start from.
    pub image: ImageSpec,
    /// Whether the system disk is written to a layer above the image.
    pub use_overlay: bool,
    /// Home size; none means no home of its own.
    pub home: Option<Mebibytes>,
    /// Name of the home as recorded by an earlier run.
    pub storage: Option<String>,
    /// Address of its own, when it has one.
    pub ip: Option<String>,
    /// Where its processes must be; none leaves the place to the driver.
    pub place: Option<LaunchPlace>,
}

impl VmSpec {
    /// A specification with defaults: 256 MiB, no image, no home, no address.
    pub fn new(vm_id: VmId, run_id: RunId, name: impl Into<String>, login: impl Into<String>) -> Self {
        Self {
            vm_id,
            run_id,
            host_incarnation: 0,
            name: name.into(),
            user_id: UserId::new(0),
            login: login.into(),
            memory: Mebibytes(256),
            image: ImageSpec::new(DiId::new(0), "", "none"),
            use_overlay: true,
            home: None,
            storage: None,
            ip: None,
            place: None,
        }
    }
}

/// What [`Hypervisor::prepare`] made ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// Name of the home in use, to be recorded with the virtual machine.
    pub storage: Option<String>,
}

/// Where the agent and the desktop of a running virtual machine are reached.
///
/// The text form is what the database keeps as `vm_address`: an IP address, or `unix:DIR` for a
/// directory that holds the sockets [`VMA_SOCKET`] and [`X_SOCKET`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Own network.
    Ip {
        /// Address.
        address: IpAddr,
        /// TCP port of the agent.
        vma_port: u16,
        /// TCP port of the desktop.
        x_port: u16,
    },
    /// Unix sockets in a private directory that the machine itself cannot change.
    Unix {
        /// The directory.
        dir: PathBuf,
    },
}

/// Name of the agent's socket inside a [`Endpoint::Unix`] directory.
pub const VMA_SOCKET: &str = "vma.sock";

/// Path of the desktop's socket below a [`Endpoint::Unix`] directory. The X server of the machine binds it, so it is
/// in a directory of the machine's own; what lies there is not to be trusted.
pub const X_SOCKET: &str = "guest/nx.sock";

impl Endpoint {
    /// Reads the columns of a run-time row.
    ///
    /// # Errors
    ///
    /// [`InvalidEndpoint`] when the address is neither an IP address nor `unix:DIR`, or ports are missing.
    pub fn from_row(
        address: &str,
        vma_port: Option<u16>,
        x_port: Option<u16>,
    ) -> Result<Self, InvalidEndpoint> {
        if let Some(dir) = address.strip_prefix("unix:") {
            return Ok(Self::Unix { dir: PathBuf::from(dir) });
        }
        match (IpAddr::from_str(address), vma_port, x_port) {
            (Ok(address), Some(vma_port), Some(x_port)) => Ok(Self::Ip { address, vma_port, x_port }),
            _ => Err(InvalidEndpoint { address: address.to_owned() }),
        }
    }

    /// The text for `vm_address`.
    pub fn address_text(&self) -> String {
        match self {
            Self::Ip { address, .. } => address.to_string(),
            Self::Unix { dir } => format!("unix:{}", dir.display()),
        }
    }

    /// The agent's TCP port, for the row.
    pub fn vma_port(&self) -> Option<u16> {
        match self {
            Self::Ip { vma_port, .. } => Some(*vma_port),
            Self::Unix { .. } => None,
        }
    }

    /// The desktop's TCP port, for the row.
    pub fn x_port(&self) -> Option<u16> {
        match self {
            Self::Ip { x_port, .. } => Some(*x_port),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address_text())
    }
}

/// A stored address that cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{address}' with its ports is no address of a virtual machine")]
pub struct InvalidEndpoint {
    address: String,
}

/// How a virtual machine ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitInfo {
    /// Exit status of its main process.
    pub code: Option<i32>,
    /// Signal that ended its main process.
    pub signal: Option<i32>,
    /// Ran into its memory limit.
    pub out_of_memory: bool,
    /// Last lines that the driver's process printed, for error messages; bounded.
    pub last_words: String,
}

impl ExitInfo {
    /// It ended with an exit status.
    pub fn status(code: i32) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// It was ended by a signal.
    pub fn signal(signal: i32) -> Self {
        Self { signal: Some(signal), ..Self::default() }
    }

    /// With what was printed last.
    #[must_use]
    pub fn saying(mut self, last_words: impl Into<String>) -> Self {
        self.last_words = last_words.into();
        self
    }
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => write!(f, "ended by signal {signal}")?,
            (Some(code), None) => write!(f, "exit status {code}")?,
            (None, None) => f.write_str("ended")?,
        }
        if self.out_of_memory {
            f.write_str(" (out of memory)")?;
        }
        Ok(())
    }
}

/// What is left of a virtual machine of a past life.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// It runs and can be adopted.
    Running {
        /// The virtual machine.
        vm_id: VmId,
        /// The run that launched it.
        run_id: RunId,
        /// The machine, adopted: as good as launched by the caller.
        vm: Arc<dyn RunningVm>,
    },
    /// Pieces without a life: files, mounts, or a process that is not the recorded one.
    Partial {
        /// The virtual machine.
        vm_id: VmId,
        /// What there is, for logs.
        parts: Vec<String>,
        /// How its last run ended, and which run that was, where that was written down.
        ended: Option<(RunId, ExitInfo)>,
    },
    /// Could not be told; never to be taken for absent.
    Unknown {
        /// The virtual machine.
        vm_id: VmId,
        /// Why not.
        reason: String,
    },
}

impl Found {
    /// The virtual machine that this is about.
    pub fn vm_id(&self) -> VmId {
        match self {
            Self::Running { vm_id, .. } | Self::Partial { vm_id, .. } | Self::Unknown { vm_id, .. } => *vm_id,
        }
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

/// Who is at fault when a run fails: decides what is counted and blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The virtual machine: image, guest, damaged home. Counts towards blocking it.
    Vm,
    /// The host: disk full, no cgroup, no bridge. Counts against the host.
    Host,
    /// Nobody that blocking would help: home in use or not mounted, a wrong setting, cancelled, wrong moment.
    Nobody,
}

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// The host lacks or refused something.
    #[error("VM {vm}: cannot {operation}")]
    Host {
        /// The virtual machine.
        vm: VmId,
        /// What was tried, with its subject.
        operation: String,
        /// The system's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image is missing, damaged or of the wrong kind.
    #[error("VM {vm}: image '{path}': {problem}")]
    Image {
        /// The virtual machine.
        vm: VmId,
        /// File name of the image.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another run, perhaps of another host, holds the lock of this machine or home. Also the answer of a clean-up
    /// that may not touch anything as long as that is so.
    #[error("VM {vm}: home in use by {holder}")]
    HomeInUse {
        /// The virtual machine.
        vm: VmId,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// The home that an earlier run used is not there.
    #[error("VM {vm}: {problem}")]
    HomeMissing {
        /// The virtual machine.
        vm: VmId,
        /// Which home, where it was looked for, what to do.
        problem: String,
    },
    /// The home is there and cannot be used as it is.
    #[error("VM {vm}: {problem}")]
    HomeDamaged {
        /// The virtual machine.
        vm: VmId,
        /// Which home, what is wrong with it, what to do.
        problem: String,
    },
    /// The guest ended before it was of use.
    #[error("VM {vm}: ended early ({exit})")]
    EarlyExit {
        /// The virtual machine.
        vm: VmId,
        /// How.
        exit: ExitInfo,
    },
    /// A setting or a value of the machine is unusable.
    #[error("VM {vm}: {problem}")]
    Config {
        /// The virtual machine.
        vm: VmId,
        /// What and what to do.
        problem: String,
    },
    /// A process of the machine still lives.
    #[error("VM {vm}: still busy: {what}")]
    Busy {
        /// The virtual machine.
        vm: VmId,
        /// What lives.
        what: String,
    },
    /// Killed, but not gone within the limit.
    #[error("VM {vm}: still alive after being killed: {what}")]
    StillAlive {
        /// The virtual machine.
        vm: VmId,
        /// Processes and their state.
        what: String,
    },
    /// Called off before it was done.
    #[error("VM {vm}: {operation} was called off")]
    Cancelled {
        /// The virtual machine.
        vm: VmId,
        /// What was called off.
        operation: String,
    },
    /// The driver cannot do this.
    #[error("VM {vm}: {operation} is not supported by this driver")]
    Unsupported {
        /// The virtual machine.
        vm: VmId,
        /// What was asked.
        operation: &'static str,
    },
}

impl HypervisorError {
    /// A [`HypervisorError::Host`] for a failed operation.
    pub fn host(
        vm: VmId,
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Host { vm, operation: operation.into(), source: source.into() }
    }

    /// A [`HypervisorError::Unsupported`].
    pub fn unsupported(vm: VmId, operation: &'static str) -> Self {
        Self::Unsupported { vm, operation }
    }

    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Image { .. } | Self::EarlyExit { .. } | Self::HomeDamaged { .. } => Blame::Vm,
            Self::Host { .. } => Blame::Host,
            Self::HomeInUse { .. }
            | Self::HomeMissing { .. }
            | Self::Config { .. }
            | Self::Busy { .. }
            | Self::StillAlive { .. }
            | Self::Cancelled { .. }
            | Self::Unsupported { .. } => Blame::Nobody,
        }
    }

    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { .. } => ErrorKind::Unavailable,
            Self::Image { .. } | Self::HomeDamaged { .. } | Self::Config { .. } => ErrorKind::Invalid,
            Self::HomeMissing { .. } => ErrorKind::NotFound,
            Self::HomeInUse { .. } | Self::Busy { .. } | Self::Cancelled { .. } => ErrorKind::Conflict,
            Self::EarlyExit { .. } => ErrorKind::Internal,
            Self::StillAlive { .. } => ErrorKind::Timeout,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_the_row() {
        let unix = Endpoint::Unix { dir: "/run/qvd/vms/7".into() };
        assert_eq!(unix.address_text(), "unix:/run/qvd/vms/7");
        assert_eq!(Endpoint::from_row(&unix.address_text(), unix.vma_port(), unix.x_port()).unwrap(), unix);
        let ip = Endpoint::Ip { address: [10, 3, 15, 254].into(), vma_port: 3030, x_port: 4100 };
        assert_eq!(Endpoint::from_row("10.3.15.254", Some(3030), Some(4100)).unwrap(), ip);
        assert!(Endpoint::from_row("10.3.15.254", None, Some(4100)).is_err());
        assert!(Endpoint::from_row("desk", Some(1), Some(2)).is_err());
    }

    #[test]
    fn only_what_blocking_would_help_is_charged() {
        let vm = VmId::new(7);
        let text = || "x".to_owned();
        let exit = ExitInfo::default();
        for (error, blame) in [
            (HypervisorError::Image { vm, path: text(), problem: text() }, Blame::Vm),
            (HypervisorError::EarlyExit { vm, exit }, Blame::Vm),
            (HypervisorError::HomeDamaged { vm, problem: text() }, Blame::Vm),
            (HypervisorError::host(vm, "write", "disk full"), Blame::Host),
            (HypervisorError::HomeInUse { vm, holder: text() }, Blame::Nobody),
            (HypervisorError::HomeMissing { vm, problem: text() }, Blame::Nobody),
            (HypervisorError::Config { vm, problem: text() }, Blame::Nobody),
            (HypervisorError::Busy { vm, what: text() }, Blame::Nobody),
            (HypervisorError::StillAlive { vm, what: text() }, Blame::Nobody),
            (HypervisorError::Cancelled { vm, operation: text() }, Blame::Nobody),
            (HypervisorError::unsupported(vm, "launch"), Blame::Nobody),
        ] {
            assert_eq!(error.blame(), blame, "{error:?}");
        }
    }
}
