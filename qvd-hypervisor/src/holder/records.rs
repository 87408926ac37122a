//! What driver, holder and restarted driver tell each other through files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use qvd_core::hypervisor::ExitInfo;

use crate::hostops::{ProcessId, VmCgroups, write_atomically};
use crate::net::plan::MachineNetwork;

/// Name of [`RunRecord`]'s file.
pub const RUN_RECORD: &str = "run.json";

/// Name of [`ExitRecord`]'s file.
pub const EXIT_RECORD: &str = "exit";

/// What the holder printed.
pub const HOLDER_LOG: &str = "holder.log";

/// What the agent printed.
pub const CONSOLE_LOG: &str = "console.log";

/// The agent's logs, in the machine's home: the file system of run-time state is small, and everybody's.
pub const AGENT_LOGS: &str = ".qvd-log";

/// The machine's own run directory.
pub const GUEST_DIR: &str = "guest";

/// Name of an order's file. Each launch has its own: a holder that was delayed past a clean-up finds its order gone.
pub fn launch_file_name(nonce: &str) -> String {
    format!("launch-{nonce}.json")
}

/// How a machine is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Own pid, mount, ipc and uts namespaces.
    Namespaces,
    /// Nothing but a holder that ends all descendants; for systems that allow no namespaces.
    None,
}

/// The account that the agent and the session run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User number, never 0.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Name inside the machine.
    pub login: String,
    /// Home directory of that name.
    pub home: String,
    /// Whether the holder is root and must become this account; else it already is.
    pub switch: bool,
}

/// Everything a holder needs to know to run one machine once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The machine.
    pub vm_id: i64,
    /// The run.
    pub run_id: i64,
    /// Incarnation of the host.
    pub host_incarnation: i64,
    /// Name of the host.
    pub node: String,
    /// Names the specification that this order was made from.
    pub spec_digest: String,
    /// Lock file.
    pub lock: PathBuf,
    /// Home, on the host.
    pub home: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Who it runs as.
    pub account: Account,
    /// Group that may reach the machine's sockets besides its account.
    pub socket_group: Option<u32>,
    /// Bytes of memory.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Mount point of the control groups.
    pub cgroup_mount: PathBuf,
    /// Name of this installation's control groups below `qvd.slice`.
    pub cgroup_name: String,
    /// Control groups that the caller made for this machine; none means that the holder makes them.
    #[serde(default)]
    pub place: Option<Vec<PathBuf>>,
    /// The agent's program, on the host.
    pub agent: PathBuf,
    /// Directories of the host that stay visible although something covers them.
    pub exposed: Vec<PathBuf>,
    /// Directories of the site that the machine must not see.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    /// The agent's configuration.
    pub agent_config: String,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// Its own network; without it the machine is on the host's and answers on unix sockets.
    pub network: Option<MachineNetwork>,
}

/// What a holder answers to its launcher: one JSON document on its standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The agent was started.
    Launched,
    /// Somebody holds the lock.
    HomeInUse {
        /// What the lock file says of the holder.
        holder: String,
        /// The run that it names.
        run_id: i64,
    },
    /// The order was withdrawn before the holder got to it.
    Withdrawn,
    /// It did not work.
    Failed {
        /// What was tried, with its subject.
        operation: String,
        /// The system's answer.
        reason: String,
    },
}

/// What runs in a machine's directory. It is read by programs older and younger than the one that wrote it: new
/// members have a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Form of the record, [`RunRecord::VERSION`] when written; 0 before there was a number.
    #[serde(default)]
    pub version: u32,
    /// The machine.
    pub vm_id: i64,
    /// The run.
    pub run_id: i64,
    /// Incarnation of the host.
    pub host_incarnation: i64,
    /// Name of the host.
    pub node: String,
    /// Names the specification.
    pub spec_digest: String,
    /// The boot that the process identities belong to.
    pub boot_id: String,
    /// The holder.
    pub holder: ProcessId,
    /// The first process of the machine, once it was made.
    pub init: Option<ProcessId>,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// Its own network.
    #[serde(default)]
    pub network: Option<MachineNetwork>,
    /// Its control groups.
    pub cgroups: VmCgroups,
    /// The lock that its holder holds.
    pub lock: PathBuf,
    /// When it was launched (RFC 3339, UTC).
    pub started: String,
}

impl RunRecord {
    /// The form that this program writes.
    pub const VERSION: u32 = 1;
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The run.
    pub run_id: i64,
    /// Exit status of the agent.
    pub code: Option<i32>,
    /// Signal that ended the agent, or the machine as a whole.
    pub signal: Option<i32>,
    /// The kernel killed something of it for want of memory.
    pub out_of_memory: bool,
    /// Last lines of the console.
    pub last_words: String,
}

impl From<ExitRecord> for ExitInfo {
    fn from(exit: ExitRecord) -> Self {
        let mut info = Self::default().saying(exit.last_words);
        (info.code, info.signal, info.out_of_memory) = (exit.code, exit.signal, exit.out_of_memory);
        info
    }
}

/// Reads a record; none when there is no such file. One that makes no sense is `InvalidData`, which no failure of
/// the reading itself is.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a record whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(record)?, 0o600)
}
