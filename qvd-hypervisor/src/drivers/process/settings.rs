//! What the process driver is told.

use std::path::{Path, PathBuf};

use qvd_core::config::{Config, Source};
use sha2::{Digest as _, Sha256};

use crate::net::plan::BridgeSettings;

/// How the process driver works on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessSettings {
    /// Run-time state (`path.run`); machines are below `vms`.
    pub run_dir: PathBuf,
    /// Homes and locks (`path.storage.homefs`).
    pub homefs_dir: PathBuf,
    /// The program that is started with the word `holder` and calls [`holder::main`](crate::holder::main).
    pub self_exe: PathBuf,
    /// The agent's program (`command.qvd-vma`).
    pub vma_program: PathBuf,
    /// Name of this host (`nodename`): signs locks, names control groups.
    pub node: String,
    /// A file whose text is appended to each agent's configuration (`vm.process.vma.config`).
    pub vma_config: Option<PathBuf>,
    /// A directory that new session homes begin as a copy of (`vm.process.home.skel`).
    pub home_skeleton: Option<PathBuf>,
    /// Directories of the host that stay visible inside (`vm.process.expose`).
    pub exposed: Vec<PathBuf>,
    /// Directories of the site that no machine sees, besides run-time state and homes: the whole storage
    /// (`path.storage.root`) and where the SQLite file is (`database.path`), with what else a site keeps there.
    pub hidden: Vec<PathBuf>,
    /// Namespaces, or only a holder (`vm.process.isolation` = `none`).
    pub isolated: bool,
    /// A bridge on which each machine has an address of its own (`vm.process.network` = `bridge`); without it machines
    /// are on the host's network and answer on unix sockets.
    pub bridge: Option<BridgeSettings>,
    /// User number of machine 0 when the caller is root (`vm.process.uid.base`).
    pub uid_base: u32,
    /// First X display number (`internal.nxagent.display`); machines begin at different ones.
    pub first_display: u32,
    /// Account of the router (`l7r.as_user`): its group may reach the sockets of machines that root started.
    pub router_user: String,
    /// Mount point of the control groups (`path.cgroup`).
    pub cgroup_mount: PathBuf,
    /// The X server that the agent will start (`command.nxagent`); only looked for by the check.
    pub nxagent: PathBuf,
}

impl ProcessSettings {
    /// Settings with defaults for the rest.
    pub fn new(
        run_dir: impl Into<PathBuf>,
        homefs_dir: impl Into<PathBuf>,
        self_exe: impl Into<PathBuf>,
        vma_program: impl Into<PathBuf>,
    ) -> Self {
        Self {
            run_dir: run_dir.into(),
            homefs_dir: homefs_dir.into(),
            self_exe: self_exe.into(),
            vma_program: vma_program.into(),
            node: "localhost".to_owned(),
            vma_config: None,
            home_skeleton: None,
            exposed: Vec::new(),
            hidden: Vec::new(),
            isolated: true,
            bridge: None,
            uid_base: 2_000_000,
            first_display: 100,
            router_user: String::new(),
            cgroup_mount: PathBuf::from("/sys/fs/cgroup"),
            nxagent: PathBuf::from("nxagent"),
        }
    }

    /// Settings from the configuration; `self_exe` is the running program.
    pub fn from_config(config: &Config, self_exe: &Path) -> Self {
        let optional = |key: &str| Some(config.path(key)).filter(|path| !path.as_os_str().is_empty());
        let defaults = Self::new(
            config.path("path.run"),
            config.path("path.storage.homefs"),
            self_exe,
            vma_program(config, self_exe),
        );
        Self {
            node: config.text("nodename"),
            vma_config: optional("vm.process.vma.config"),
            // A default that is not on this system is no mistake.
            home_skeleton: optional("vm.process.home.skel").filter(|path| path.is_dir()),
            exposed: config.list("vm.process.expose").into_iter().map(PathBuf::from).collect(),
            hidden: hidden(config),
            isolated: config.text("vm.process.isolation") != "none",
            bridge: (config.text("vm.process.network") == "bridge").then(|| bridge(config)),
            uid_base: uid_base(config).unwrap_or(defaults.uid_base),
            first_display: u32::try_from(config.integer("internal.nxagent.display"))
                .unwrap_or(defaults.first_display),
            router_user: config.text("l7r.as_user"),
            cgroup_mount: config.path("path.cgroup"),
            nxagent: optional("command.nxagent").unwrap_or_else(|| defaults.nxagent.clone()),
            ..defaults
        }
    }

    /// Name of this installation's control groups: two sites on one machine have machines with the same ids, and
    /// often the same node name, but never the same run directory.
    pub fn cgroup_name(&self) -> String {
        let digest = Sha256::digest(self.run_dir.as_os_str().as_encoded_bytes());
        let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{short}", self.node)
    }

    /// The directory of all machines.
    pub fn vms_dir(&self) -> PathBuf {
        self.run_dir.join("vms")
    }
}

/// As configured, else a range of the storage's own: two sites on one machine have machines with the same ids, which
/// must not be the same account. Hosts that share a storage agree. The usual storage has the usual range.
fn uid_base(config: &Config) -> Option<u32> {
    let configured = u32::try_from(config.integer("vm.process.uid.base")).ok()?;
    let storage = config.path("path.storage.homefs");
    let usual = Config::defaults();
    if config.source("vm.process.uid.base").is_some_and(|source| *source != Source::Default)
        || storage == usual.path("path.storage.homefs")
    {
        return Some(configured);
    }
    let digest = Sha256::digest(storage.as_os_str().as_encoded_bytes());
    let nth = u32::from(u16::from_be_bytes([digest[0], digest[1]])) % UID_RANGES + 1;
    configured.checked_add(nth * UID_RANGE)
}

fn hidden(config: &Config) -> Vec<PathBuf> {
    let database = (config.text("database.driver") == "sqlite").then(|| config.path("database.path"));
    let database = database.as_deref().and_then(Path::parent).filter(|dir| dir.is_absolute());
    [config.path("path.storage.root")].into_iter().chain(database.map(Path::to_owned)).collect()
}

fn bridge(config: &Config) -> BridgeSettings {
    BridgeSettings {
        bridge: config.text("vm.network.bridge"),
        device_prefix: config.text("internal.vm.network.device.prefix"),
        mac_prefix: config.text("vm.network.mac.prefix"),
        mask_bits: config.netmask("vm.network.netmask"),
        gateway: config.ipv4("vm.network.gateway"),
        vma_port: config.port("internal.vm.port.vma"),
    }
}

/// As configured, else beside the running program, else where programs that only QVD calls are.
fn vma_program(config: &Config, self_exe: &Path) -> PathBuf {
    if let Some(program) = config.command("command.qvd-vma").into_iter().next() {
        return PathBuf::from(program);
    }
    let beside = self_exe.with_file_name("qvd-vma");
    if beside.exists() { beside } else { config.path("path.qvd.bin").join("qvd-vma") }
}

/// User numbers of one storage.
const UID_RANGE: u32 = 1_000_000;

/// As many ranges as fit below the largest user number.
const UID_RANGES: u32 = 4_200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_fills_every_setting() {
        let config = Config::builder()
            .set("nodename", "n1")
            .set("path.run", "/tmp/r")
            .set("path.storage.root", "/tmp/s")
            .set("vm.process.isolation", "none")
            .set("vm.process.uid.base", "5000")
            .set("vm.process.home.skel", "/nonexistent")
            .set("database.driver", "sqlite")
            .set("database.path", "/tmp/d/qvd.db")
            .set("command.qvd-vma", "/opt/qvd-vma")
            .build()
            .unwrap();
        let settings = ProcessSettings::from_config(&config, Path::new("/usr/bin/qvd"));
        assert_eq!(settings.vms_dir(), Path::new("/tmp/r/vms"));
        assert_eq!(settings.homefs_dir, Path::new("/tmp/s/homefs"));
        assert_eq!(settings.vma_program, Path::new("/opt/qvd-vma"));
        assert_eq!((settings.uid_base, settings.first_display, settings.isolated), (5000, 100, false));
        assert_eq!(settings.hidden, [Path::new("/tmp/s"), Path::new("/tmp/d")]);
        assert_eq!(settings.bridge, None, "the host's network, unless a bridge is asked for");
        assert_eq!((settings.vma_config, settings.home_skeleton), (None, None));
    }

    #[test]
    fn two_sites_on_one_machine_have_accounts_of_their_own() {
        let base = |pairs: &[(&str, &str)]| {
            let builder =
                pairs.iter().fold(Config::builder(), |builder, (key, value)| builder.set(*key, *value));
            ProcessSettings::from_config(&builder.build().unwrap(), Path::new("/usr/bin/qvd")).uid_base
        };
        assert_eq!(base(&[]), 2_000_000);
        let (one, other) =
            (base(&[("path.storage.root", "/tmp/a")]), base(&[("path.storage.root", "/tmp/b")]));
        assert_eq!(one, base(&[("path.storage.root", "/tmp/a"), ("path.run", "/tmp/elsewhere")]));
        assert!(one != other && one != 2_000_000 && other != 2_000_000, "{one} {other}");
        assert_eq!((one % UID_RANGE, other % UID_RANGE), (0, 0));
        assert_eq!(base(&[("path.storage.root", "/tmp/a"), ("vm.process.uid.base", "5000")]), 5000);
        let last = 2_000_000_u32.checked_add(UID_RANGES * UID_RANGE).and_then(|n| n.checked_add(UID_RANGE));
        assert!(last.is_some_and(|last| last < u32::MAX));
    }

    #[test]
    fn a_bridge_is_asked_for_by_name_and_brings_its_network() {
        let config = Config::builder()
            .set("vm.process.network", "bridge")
            .set("vm.network.netmask", "255.255.0.0")
            .set("vm.network.gateway", "10.3.0.1")
            .build()
            .unwrap();
        let bridge = ProcessSettings::from_config(&config, Path::new("/usr/bin/qvd")).bridge.unwrap();
        assert_eq!((bridge.bridge.as_str(), bridge.device_prefix.as_str()), ("qvdnet", "qvd"));
        assert_eq!((bridge.mask_bits, bridge.gateway), (Some(16), Some([10, 3, 0, 1].into())));
        assert_eq!((bridge.vma_port, bridge.mac_prefix.as_str()), (3030, "54:52:00"));
    }

    #[test]
    fn the_agent_is_looked_for_beside_the_program_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::defaults();
        let exe = dir.path().join("qvd");
        assert_eq!(vma_program(&config, &exe), Path::new("/usr/lib/qvd/bin/qvd-vma"));
        std::fs::write(dir.path().join("qvd-vma"), "").unwrap();
        assert_eq!(vma_program(&config, &exe), dir.path().join("qvd-vma"));
    }
}
