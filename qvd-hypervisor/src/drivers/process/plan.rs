//! From a specification to a holder's order. Pure.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use qvd_core::VmId;
use qvd_core::hypervisor::{VMA_SOCKET, VmSpec};

use super::settings::ProcessSettings;
use crate::holder::{
    AGENT_LOGS, Account, GUEST_BIN, GUEST_DIR, GUEST_HOME, GUEST_RUN, Isolation, Order, safe_name,
};
use crate::net::plan::MachineNetwork;

/// What the plan depends on besides specification and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// User number of the caller; 0 means that machines get numbers of their own.
    pub(super) uid: u32,
    /// Group number of the caller.
    pub(super) gid: u32,
    /// Group of the router's account, where there is one.
    pub(super) router_group: Option<u32>,
    /// The machine's home, on the host.
    pub(super) home: PathBuf,
    /// The lock file, on the host.
    pub(super) lock: PathBuf,
    /// Text to append to the agent's configuration.
    pub(super) extra_config: String,
}

/// A machine that cannot be planned; what and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unplannable(String);

/// The account of a machine: a number of its own for root, else the caller itself.
///
/// # Errors
///
/// [`Unplannable`] when the number would leave the range of user numbers.
pub(super) fn account(
    settings: &ProcessSettings,
    vm: VmId,
    login: &str,
    uid: u32,
    gid: u32,
) -> Result<Account, Unplannable> {
    let login = safe_name(login);
    let home = format!("{GUEST_HOME}/{login}");
    if uid != 0 {
        return Ok(Account { uid, gid, login, home, switch: false });
    }
    let number = i64::from(settings.uid_base) + vm.get();
    match u32::try_from(number) {
        Ok(number) if settings.uid_base > 0 && number < u32::MAX - 1 => {
            Ok(Account { uid: number, gid: number, login, home, switch: true })
        }
        _ => Err(Unplannable(format!(
            "user number {number} does not exist: set vm.process.uid.base to another"
        ))),
    }
}

/// The order for a run.
///
/// # Errors
///
/// [`Unplannable`] for what no launch could make work.
pub(super) fn order(
    settings: &ProcessSettings,
    spec: &VmSpec,
    around: &Surroundings,
) -> Result<Order, Unplannable> {
    if !matches!(spec.image.format.as_str(), "none" | "") {
        return Err(Unplannable(format!(
            "the image's format is '{}', but a process machine starts from none: qa di add … format=none",
            spec.image.format
        )));
    }
    let mut account = account(settings, spec.vm_id, &spec.login, around.uid, around.gid)?;
    let isolation = if settings.isolated { Isolation::Namespaces } else { Isolation::None };
    let guest = guest_dir(settings, spec.vm_id);
    let (run, homes, bin) = match isolation {
        Isolation::Namespaces => {
            (PathBuf::from(GUEST_RUN), PathBuf::from(GUEST_HOME), PathBuf::from(GUEST_BIN))
        }
        Isolation::None => {
            let longest = guest.join(VMA_SOCKET).as_os_str().len();
            if longest >= LONGEST_SOCKET_PATH {
                return Err(Unplannable(format!(
                    "'{}' is too long for a socket's path without namespaces: choose a shorter path.run",
                    guest.display()
                )));
            }
            account.home = around.home.join(&account.login).to_string_lossy().into_owned();
            let programs = settings.vma_program.parent().unwrap_or(Path::new("/"));
            (guest, around.home.clone(), programs.to_owned())
        }
    };
    let network = network(settings, spec, around.uid)?;
    let display = match network {
        // Nobody else is there to have taken it.
        Some(_) => settings.first_display.into(),
        None => i64::from(settings.first_display) + spec.vm_id.get().rem_euclid(DISPLAY_SPREAD),
    };
    let sockets = network.is_none();
    let agent_config =
        agent_config(&run, &homes, &bin, &account.login, display, sockets, &around.extra_config);
    let mut order = Order {
        vm_id: spec.vm_id.get(),
        run_id: spec.run_id.get(),
        host_incarnation: spec.host_incarnation,
        node: settings.node.clone(),
        spec_digest: String::new(),
        lock: around.lock.clone(),
        home: around.home.clone(),
        hostname: host_name(&spec.name, spec.vm_id),
        account,
        socket_group: around.router_group,
        memory: spec.memory.bytes(),
        processes: PROCESSES,
        cgroup_mount: settings.cgroup_mount.clone(),
        cgroup_name: settings.cgroup_name(),
        place: spec.place.as_ref().map(|place| place.cgroups.clone()),
        agent: settings.vma_program.clone(),
        exposed: settings.exposed.clone(),
        hidden: hidden(settings),
        agent_config,
        isolation,
        network,
    };
    order.spec_digest = digest(&order);
    Ok(order)
}

/// What the machines of a site have in common and no machine may see.
fn hidden(settings: &ProcessSettings) -> Vec<PathBuf> {
    let common = [settings.run_dir.clone(), settings.homefs_dir.clone()];
    common.into_iter().chain(settings.hidden.iter().cloned()).collect()
}

fn network(
    settings: &ProcessSettings,
    spec: &VmSpec,
    uid: u32,
) -> Result<Option<MachineNetwork>, Unplannable> {
    let Some(bridge) = &settings.bridge else { return Ok(None) };
    if uid != 0 || !settings.isolated {
        return Err(Unplannable(
            "only root can give a machine a network of its own, in namespaces of its own: set \
             vm.process.network=host"
                .to_owned(),
        ));
    }
    let owner = settings.cgroup_name();
    MachineNetwork::new(bridge, &owner, spec.vm_id, spec.ip.as_deref(), settings.first_display)
        .map(Some)
        .map_err(Unplannable)
}

/// The machine's directory, which only the caller's account can change.
pub(super) fn vm_dir(settings: &ProcessSettings, vm: VmId) -> PathBuf {
    settings.vms_dir().join(vm.to_string())
}

/// The machine's own run directory, with its sockets.
pub(super) fn guest_dir(settings: &ProcessSettings, vm: VmId) -> PathBuf {
    vm_dir(settings, vm).join(GUEST_DIR)
}

/// The agent's configuration; the extra text comes last and so wins. Its calls come in where the holder listens: the
/// socket that is named here is made only by an agent that was started by hand.
fn agent_config(
    run: &Path,
    homes: &Path,
    bin: &Path,
    login: &str,
    display: i64,
    sockets: bool,
    extra: &str,
) -> String {
    let path = |path: &Path| escape(&path.to_string_lossy());
    let (run, homes, bin) = (path(run), path(homes), path(bin));
    let listening = if sockets {
        format!("vma.rpc.socket = {run}/{VMA_SOCKET}\nvma.nxagent.listen = {run}/nx.sock\n")
    } else {
        "vma.rpc.socket =\nvma.nxagent.listen =\n".to_owned()
    };
    format!(
        "path.run = {run}\n\
         path.log = {homes}/{AGENT_LOGS}\n\
         path.tmp = /tmp\n\
         path.qvd.bin = {bin}\n\
         vma.pid_file = {run}/vma.pid\n\
         {listening}\
         vma.nxagent.authority = 1\n\
         vma.user.home.path = {homes}\n\
         vma.user.home.drive =\n\
         vma.user.default.name = {}\n\
         internal.nxagent.display = {display}\n\
         {extra}\n",
        escape(login)
    )
}

/// A value that the file syntax reads back as it is.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace("${", "${{}")
}

/// A machine's name as a host name: letters, digits and hyphens, at most 63; foreign text otherwise.
fn host_name(name: &str, vm: VmId) -> String {
    let clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    match clean.trim_matches('-') {
        "" => format!("vm-{vm}"),
        name => name.to_owned(),
    }
}

fn digest(order: &Order) -> String {
    // An order is plain data: it always has a text form.
    let text = serde_json::to_vec(order).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Enough for any desktop, too few for a fork bomb to matter.
const PROCESSES: u32 = 4096;

/// Machines begin to look for a free display at different numbers, so that they rarely meet.
const DISPLAY_SPREAD: i64 = 1000;

/// What the kernel takes as a socket's path, with its end.
const LONGEST_SOCKET_PATH: usize = 108;

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::RunId;
    use qvd_core::config::Config;

    fn settings() -> ProcessSettings {
        ProcessSettings::new("/run/qvd", "/srv/homefs", "/usr/bin/qvd", "/usr/bin/qvd-vma")
    }

    fn around(uid: u32) -> Surroundings {
        Surroundings {
            uid,
            gid: uid,
            router_group: None,
            home: "/srv/homefs/7-fs".into(),
            lock: "/srv/homefs/.qvd-vm-7.lock".into(),
            extra_config: "vma.user.umask = 0077".into(),
        }
    }

    fn spec(name: &str) -> VmSpec {
        VmSpec::new(VmId::new(7), RunId::new(3), name, "ann")
    }

    #[test]
    fn the_agent_reads_what_was_meant() {
        let order = order(&settings(), &spec("desk"), &around(0)).unwrap();
        let config = Config::builder().file("vma.conf", &order.agent_config).build().unwrap();
        assert_eq!(config.path("vma.rpc.socket"), Path::new("/run/qvd/vma.sock"));
        assert_eq!(config.path("vma.nxagent.listen"), Path::new("/run/qvd/nx.sock"));
        assert_eq!(config.path("path.log"), Path::new("/home/.qvd-log"));
        assert!(config.flag("vma.nxagent.authority"));
        assert_eq!(config.integer("internal.nxagent.display"), 107);
        assert_eq!(config.text("vma.user.umask"), "0077");
        assert_eq!(config.text("vma.user.default.name"), "ann");
    }

    #[test]
    fn on_a_bridge_a_machine_has_ports_and_no_sockets() {
        let mut settings = settings();
        let config = Config::builder()
            .set("vm.process.network", "bridge")
            .set("vm.network.netmask", "255.255.255.0")
            .build()
            .unwrap();
        settings.bridge = ProcessSettings::from_config(&config, Path::new("/usr/bin/qvd")).bridge;
        let mut spec = spec("desk");
        let refused = order(&settings, &spec, &around(0)).unwrap_err().to_string();
        assert!(refused.contains("no address"), "{refused}");
        spec.ip = Some("10.3.15.7".into());
        let made = order(&settings, &spec, &around(0)).unwrap();
        let endpoint = made.network.unwrap().endpoint();
        assert_eq!((endpoint.address_text().as_str(), endpoint.x_port()), ("10.3.15.7", Some(4100)));
        let config = Config::builder().file("vma.conf", &made.agent_config).build().unwrap();
        assert_eq!(config.text("vma.rpc.socket"), "");
        assert_eq!(config.text("vma.nxagent.listen"), "");
        assert_eq!(config.integer("internal.nxagent.display"), 100);
        let refused = order(&settings, &spec, &around(1000)).unwrap_err().to_string();
        assert!(refused.contains("only root") && refused.contains("vm.process.network=host"), "{refused}");
    }

    #[test]
    fn odd_paths_survive_the_configuration() {
        let mut settings = settings();
        settings.isolated = false;
        settings.run_dir = "/tmp/a b, \\c ${path.log} ü".into();
        let order = order(&settings, &spec("desk"), &around(1000)).unwrap();
        let config = Config::builder().file("vma.conf", &order.agent_config).build().unwrap();
        assert_eq!(config.path("vma.rpc.socket"), settings.run_dir.join("vms/7/guest/vma.sock"));
    }

    #[test]
    fn root_gives_each_machine_a_number_and_never_its_own() {
        let root = order(&settings(), &spec("desk"), &around(0)).unwrap().account;
        assert_eq!((root.uid, root.gid, root.switch), (2_000_007, 2_000_007, true));
        let user = order(&settings(), &spec("desk"), &around(1000)).unwrap().account;
        assert_eq!((user.uid, user.switch, user.home.as_str()), (1000, false, "/home/ann"));
        let mut wrong = settings();
        wrong.uid_base = 0;
        assert!(order(&wrong, &spec("desk"), &around(0)).is_err());
        wrong.uid_base = u32::MAX - 8;
        assert!(order(&wrong, &spec("desk"), &around(0)).is_err());
    }

    #[test]
    fn any_name_becomes_a_host_name() {
        for (name, host) in [
            ("Desk 1", "desk-1"),
            ("-rf", "rf"),
            ("a,b", "a-b"),
            ("büro", "b-ro"),
            ("日本", "vm-7"),
            ("", "vm-7"),
            ("../../etc", "etc"),
        ] {
            assert_eq!(host_name(name, VmId::new(7)), host, "{name:?}");
        }
        assert_eq!(host_name(&"x".repeat(200), VmId::new(7)).len(), 63);
    }

    #[test]
    fn an_image_or_a_path_that_cannot_work_is_refused_with_a_remedy() {
        let mut wants_image = spec("desk");
        wants_image.image.format = "qcow2".into();
        let refused = order(&settings(), &wants_image, &around(0)).unwrap_err().to_string();
        assert!(refused.contains("qcow2") && refused.contains("format=none"), "{refused}");
        let mut long = settings();
        long.run_dir = Path::new("/").join("d".repeat(120));
        assert!(order(&long, &spec("desk"), &around(0)).is_ok(), "inside, the path is short");
        long.isolated = false;
        assert!(order(&long, &spec("desk"), &around(0)).is_err());
    }

    #[test]
    fn the_digest_names_the_specification() {
        let one = order(&settings(), &spec("desk"), &around(0)).unwrap();
        let same = order(&settings(), &spec("desk"), &around(0)).unwrap();
        let mut bigger = spec("desk");
        bigger.memory = qvd_core::units::Mebibytes(512);
        assert_eq!(one.spec_digest, same.spec_digest);
        assert_ne!(one.spec_digest, order(&settings(), &bigger, &around(0)).unwrap().spec_digest);
    }
}
