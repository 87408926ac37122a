//! The program itself: its configuration check, its refusals, and a life over signals with a database file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qvd_core::state::{HostState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, TenantId, VmId};
use qvd_db::{Backend, Claimant, Db, NewHost, NewOsf, NewVm};

const LIMIT: Duration = Duration::from_secs(30);

struct Node {
    dir: tempfile::TempDir,
    db: Db,
    host: HostId,
    vm: VmId,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Backend::Sqlite { path: dir.path().join("qvd.db") }).await.unwrap();
        let host = NewHost { name: "n1".into(), address: "10.0.0.1".into(), frontend: true, backend: true };
        let host = db.hosts().add(host).await.unwrap();
        let user = db.users().add(TenantId::DEFAULT, "ann", None).await.unwrap();
        let osf = NewOsf {
            tenant: TenantId::DEFAULT,
            name: "desk".into(),
            memory: Mebibytes(256),
            use_overlay: false,
            home: None,
            hypervisor: Some("nothing".into()),
        };
        let osf_id = db.osfs().add(osf).await.unwrap();
        let vm = NewVm { name: "ann-1".into(), user_id: user, osf_id, di_tag: "default".into(), ip: None };
        let vm = db.vms().add(vm).await.unwrap();
        let node = Self { dir, db, host, vm };
        node.configure("");
        node
    }

    fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "nodename = n1\ndatabase.driver = sqlite\ndatabase.path = {dir}/qvd.db\npath.run = {dir}/run\n\
             path.storage.root = {dir}/storage\nvm.hypervisor = nothing\n\
             internal.hkd.nothing.timeout.on_state.starting = 0\n\
             internal.hkd.nothing.timeout.on_state.stopping = 0\n{more}"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("node.conf")
    }

    fn start(&self) -> Daemon {
        Daemon(command(&self.file()).arg("-X").stderr(Stdio::null()).spawn().unwrap())
    }

    async fn host_is(&self, state: HostState) {
        until(&format!("the host is {state}"), async || {
            self.db.hosts().load(self.host).await.unwrap().unwrap().runtime.state == state
        })
        .await;
    }

    async fn vm_is(&self, state: VmState) {
        until(&format!("the VM is {state}"), async || {
            let row = self.db.vms().runtime(self.vm).await.unwrap().unwrap();
            row.vm_state == state && row.vm_cmd.is_none()
        })
        .await;
    }
}

/// Killed when a test fails before its end.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    async fn ended(mut self) -> Option<i32> {
        let code = std::cell::Cell::new(None);
        let child = std::cell::RefCell::new(&mut self.0);
        until("the daemon has ended", async || match child.borrow_mut().try_wait().unwrap() {
            Some(status) => {
                code.set(status.code());
                true
            }
            None => false,
        })
        .await;
        code.get()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvd-hkd"));
    command.arg("-f").arg(file).env_remove("QVD_SET").env_remove("QVD_CONFIG").stdin(Stdio::null());
    command
}

fn check(node: &Node) -> Output {
    command(&node.file()).arg("--check-config").output().unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[tokio::test]
async fn every_bad_setting_is_named_before_anything_is_done() {
    let node = Node::new().await;
    assert!(check(&node).status.success());
    node.configure("internal.hkd.max_heavy = many\nlog.level = LOUD\n");
    let refused = check(&node);
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("internal.hkd.max_heavy") && text.contains("log.level"), "{text}");
    assert!(!node.dir.path().join("run").exists());
}

#[tokio::test]
async fn a_node_without_a_name_or_a_row_is_refused_with_the_remedy() {
    let node = Node::new().await;
    node.configure("nodename = \n");
    let refused = command(&node.file()).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("'nodename' is not set"), "{refused:?}");
    node.configure("nodename = stranger\n");
    let refused = command(&node.file()).arg("-X").output().unwrap();
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("qa host add name=stranger"), "{refused:?}");
}

#[tokio::test]
async fn a_life_over_signals() {
    let node = Node::new().await;
    let first = node.start();
    node.host_is(HostState::Running).await;
    // Ordered by another process, as routers and administrators do.
    assert!(node.db.vms().claim(node.vm, node.host, Claimant::Admin).await.unwrap().is_updated());
    node.vm_is(VmState::Running).await;
    let pid_file = node.dir.path().join("run/qvd-hkd.pid");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", first.0.id()));

    let second = command(&node.file()).arg("-X").output().unwrap();
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("another qvd-hkd of this node is running"), "{words}");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", first.0.id()));

    // Neither of these ends it.
    first.signal(Signal::SIGHUP);
    first.signal(Signal::SIGUSR1);
    first.signal(Signal::SIGUSR2);
    assert_eq!(first.ended().await, Some(0));
    assert!(!pid_file.exists());
    node.host_is(HostState::Starting).await;

    let next = node.start();
    node.host_is(HostState::Running).await;
    // The nothing driver remembers nothing, so the row is cleared and the machine can be started anew.
    node.vm_is(VmState::Stopped).await;
    assert!(node.db.vms().claim(node.vm, node.host, Claimant::Admin).await.unwrap().is_updated());
    node.vm_is(VmState::Running).await;
    next.signal(Signal::SIGTERM);
    assert_eq!(next.ended().await, Some(0));
    node.host_is(HostState::Stopped).await;
    node.vm_is(VmState::Stopped).await;
}

#[tokio::test]
async fn a_second_signal_to_stop_kills_at_once() {
    let node = Node::new().await;
    node.configure(
        "internal.hkd.nothing.timeout.on_state.stopping = 600\n\
                    internal.hkd.nothing.timeout.on_state.zombie = 0\n",
    );
    let daemon = node.start();
    node.host_is(HostState::Running).await;
    assert!(node.db.vms().claim(node.vm, node.host, Claimant::Admin).await.unwrap().is_updated());
    node.vm_is(VmState::Running).await;
    let asked = std::time::Instant::now();
    daemon.signal(Signal::SIGTERM);
    node.vm_is(VmState::Stopping).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().await, Some(0));
    // Left to itself it would have been asked politely for thirty seconds.
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    node.host_is(HostState::Stopped).await;
    node.vm_is(VmState::Stopped).await;
}

#[tokio::test]
async fn the_process_has_the_limits_of_the_configuration() {
    let node = Node::new().await;
    node.configure(
        "hkd.process.limit.nofile = 512\nhkd.process.limit.hard.nofile = 600\nhkd.user.umask = 0027\n",
    );
    let daemon = node.start();
    node.host_is(HostState::Running).await;
    let told = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", daemon.0.id())).unwrap();
    let limits = told("limits");
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = open_files.split_whitespace().collect();
    assert_eq!(words[3..5], ["512", "600"]);
    assert!(told("status").lines().any(|line| line == "Umask:\t0027"));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().await, Some(0));
}

#[tokio::test]
async fn another_account_and_desktops_without_walls_are_refused() {
    let node = Node::new().await;
    node.configure("hkd.as_user = nobody-of-this-name\n");
    let words = check(&node).stderr;
    assert!(String::from_utf8_lossy(&words).contains("'hkd.as_user' is 'nobody-of-this-name'"), "{words:?}");
    node.configure("vm.process.isolation = none\n");
    let refused = check(&node);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("only 'qvd standalone'"), "{refused:?}");

    // What the database says counts as well.
    node.configure("");
    let none = ("vm.process.isolation".to_owned(), "none".to_owned());
    node.db.config().set_all(&[none]).await.unwrap();
    let refused = command(&node.file()).output().unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("'vm.process.isolation' is 'none'"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_holder_is_no_command_for_people() {
    let told = Command::new(env!("CARGO_BIN_EXE_qvd-hkd")).arg("holder").output().unwrap();
    assert_eq!(told.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&told.stderr).contains("holder run"), "{told:?}");
}
