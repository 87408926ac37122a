//! Plain structs of the things that the database stores.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::id::{DiId, HostId, OsfId, RunId, SessionId, TenantId, UserId, VmId};
use crate::state::{HostState, UserCommand, UserState, VmCommand, VmPhase, VmState};
use crate::units::Mebibytes;

/// Key/value pairs attached to a host, flavour, image, user or virtual machine, sorted by key.
pub type Properties = BTreeMap<String, String>;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Login, already normalised.
    pub login: String,
    /// Password in PHC string form, or a legacy digest; none for external authentication.
    pub password_hash: Option<crate::Secret<String>>,
    /// A blocked user cannot log in.
    pub blocked: bool,
}

/// An operating system flavour: a family of disk images and the parameters to run them with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Osf {
    /// Its id.
    pub id: OsfId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Name, unique in its tenant.
    pub name: String,
    /// Memory of each virtual machine.
    pub memory: Mebibytes,
    /// Whether the system disk is written to a layer above the image.
    pub use_overlay: bool,
    /// Size of the home volume; none means no home volume.
    pub home: Option<Mebibytes>,
    /// Driver that runs its virtual machines; none means the host's `vm.hypervisor`.
    pub hypervisor: Option<String>,
}

impl Osf {
    /// Whether each of its virtual machines gets an address of its own. Those of the process and no-op drivers share
    /// the host's network. `default_driver` is `vm.hypervisor`.
    pub fn needs_address(&self, default_driver: &str) -> bool {
        !matches!(self.hypervisor.as_deref().unwrap_or(default_driver), "process" | "nothing")
    }
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// Its id.
    pub id: DiId,
    /// The flavour it belongs to.
    pub osf_id: OsfId,
    /// File name inside the images directory.
    pub path: String,
    /// Version, unique in its flavour.
    pub version: String,
    /// `qcow2`, `raw`, `tar`, `tar.gz`, `tar.bz2`, `tar.xz`, `tar.zst`, or `none` for drivers that need no image.
    pub format: String,
    /// Tags, sorted.
    pub tags: Vec<DiTag>,
    /// A blocked image is not chosen at a start.
    pub blocked: bool,
}

/// A tag of a disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiTag {
    /// The tag's text, unique in its flavour.
    pub tag: String,
    /// A fixed tag can be neither moved nor removed.
    pub fixed: bool,
}

/// A host: one server node.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Name; equals `nodename` in that node's configuration file.
    pub name: String,
    /// Address, as text.
    pub address: String,
    /// Whether it may run a router.
    pub frontend: bool,
    /// Whether it may run virtual machines.
    pub backend: bool,
    /// Drivers that work there, preferred one first; empty while unknown.
    pub hypervisors: Vec<String>,
    /// Its run-time row.
    pub runtime: HostRuntime,
}

/// What is known of a host at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRuntime {
    /// Life cycle.
    pub state: HostState,
    /// A blocked host takes no new work and its router answers 503.
    pub blocked: bool,
    /// Grows by one each time a daemon takes the host over.
    pub incarnation: i64,
    /// When the daemon last reported, by the database's clock.
    pub ok_ts: Option<SystemTime>,
    /// Until when the daemon holds the host, by the database's clock.
    pub lease_until: Option<SystemTime>,
    /// Process id of the daemon.
    pub pid: Option<i64>,
    /// Memory for virtual machines.
    pub usable_ram: Option<Mebibytes>,
    /// Processor capacity, in bogomips.
    pub usable_cpu: Option<f64>,
    /// Virtual machines assigned to it, whatever their state.
    pub vms_assigned: u32,
}

/// A virtual machine, its static part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// The tenant it belongs to (its user's).
    pub tenant_id: TenantId,
    /// Name, unique in its tenant.
    pub name: String,
    /// Its owner.
    pub user_id: UserId,
    /// Its flavour.
    pub osf_id: OsfId,
    /// Tag that names the disk image at each start.
    pub di_tag: String,
    /// IPv4 address, if it has one of its own.
    pub ip: Option<String>,
    /// Name of its home, once recorded; never changed afterwards.
    pub storage: Option<String>,
}

/// A virtual machine, its run-time row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRuntime {
    /// The virtual machine.
    pub vm_id: VmId,
    /// Host it is assigned to.
    pub host_id: Option<HostId>,
    /// Fencing token of the current or last run.
    pub run_id: RunId,
    /// The host's incarnation at the claim.
    pub host_incarnation: Option<i64>,
    /// Life cycle.
    pub vm_state: VmState,
    /// Finer step, for people.
    pub vm_phase: Option<VmPhase>,
    /// Command that waits for the host.
    pub vm_cmd: Option<VmCommand>,
    /// Image it booted from.
    pub current_di_id: Option<DiId>,
    /// Where the agent and the desktop are reached; see [`crate::hypervisor::Endpoint`].
    pub vm_address: Option<String>,
    /// TCP port of the agent; none with a unix address.
    pub vm_vma_port: Option<u16>,
    /// TCP port of the desktop; none with a unix address.
    pub vm_x_port: Option<u16>,
    /// Users may not connect.
    pub blocked: bool,
    /// Why it is blocked, in words.
    pub blocked_reason: Option<String>,
    /// Failed starts in a row that count against the virtual machine.
    pub fail_count: u32,
    /// Last failure, in words.
    pub last_error: Option<String>,
    /// Session state.
    pub user_state: UserState,
    /// Command that waits for the session's router.
    pub user_cmd: Option<UserCommand>,
    /// User who connected last.
    pub real_user_id: Option<UserId>,
    /// Host of the router that owns the session.
    pub l7r_host_id: Option<HostId>,
    /// The session.
    pub session_id: Option<SessionId>,
}
