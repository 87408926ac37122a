//! What the process driver is told.

use std::path::{Path, PathBuf};

use qvd_core::config::Config;
use sha2::{Digest as _, Sha256};

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
    /// Namespaces, or only a holder (`vm.process.isolation` = `none`).
    pub isolated: bool,
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
            isolated: true,
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
            isolated: config.text("vm.process.isolation") != "none",
            uid_base: u32::try_from(config.integer("vm.process.uid.base")).unwrap_or(defaults.uid_base),
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

/// As configured, else beside the running program, else where programs that only QVD calls are.
fn vma_program(config: &Config, self_exe: &Path) -> PathBuf {
    if let Some(program) = config.command("command.qvd-vma").into_iter().next() {
        return PathBuf::from(program);
    }
    let beside = self_exe.with_file_name("qvd-vma");
    if beside.exists() { beside } else { config.path("path.qvd.bin").join("qvd-vma") }
}

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
            .set("command.qvd-vma", "/opt/qvd-vma")
            .build()
            .unwrap();
        let settings = ProcessSettings::from_config(&config, Path::new("/usr/bin/qvd"));
        assert_eq!(settings.vms_dir(), Path::new("/tmp/r/vms"));
        assert_eq!(settings.homefs_dir, Path::new("/tmp/s/homefs"));
        assert_eq!(settings.vma_program, Path::new("/opt/qvd-vma"));
        assert_eq!((settings.uid_base, settings.first_display, settings.isolated), (5000, 100, false));
        assert_eq!((settings.vma_config, settings.home_skeleton), (None, None));
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
