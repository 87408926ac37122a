//! A site in memory: database with one host, users and virtual machines; driver and agents that are fakes.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qvd_core::config::Config;
use qvd_core::hypervisor::{Endpoint, Hypervisor};
use qvd_core::model::VmRuntime;
use qvd_core::state::{HostState, VmState};
use qvd_core::testkit::fakes::{FakeHypervisor, FakeVma};
use qvd_core::units::Mebibytes;
use qvd_core::vma::Vma;
use qvd_core::{HostId, SessionId, TenantId, UserId, VmId};
use qvd_db::{Backend, Claimant, Db, NewHost, NewOsf, NewSession, NewVm};
use qvd_hypervisor::hkd::{self, Error, HkdSettings, Shutdown};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const NODE: &str = "node1";

/// Everything of a site but the daemon.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) db: Db,
    pub(crate) host: HostId,
    pub(crate) user: UserId,
    pub(crate) driver: FakeHypervisor,
    agents: Arc<Mutex<HashMap<String, FakeVma>>>,
    agents_answer: Arc<Mutex<bool>>,
    run_dir: Arc<tempfile::TempDir>,
    settings: Arc<Vec<(String, String)>>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A site whose configuration has these settings besides the short limits that every test needs.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let db = Db::open(&Backend::SqliteMemory).await.unwrap();
        let host = NewHost { name: NODE.into(), address: "10.0.0.1".into(), frontend: true, backend: true };
        let host = db.hosts().add(host).await.unwrap();
        let user = db.users().add(TenantId::DEFAULT, "alice", None).await.unwrap();
        let short = [
            ("database.driver", "sqlite"),
            ("internal.hkd.lxc.timeout.on_state.stopping.shutdown.waiting_for_lxc", "0.3"),
            ("internal.hkd.lxc.timeout.on_state.stopping.stop.waiting_for_lxc", "0.4"),
            ("internal.hkd.lxc.timeout.on_state.zombie.reap.delaying", "0.1"),
            ("internal.hkd.lxc.timeout.on_state.zombie.reap.waiting_for_lxc", "1"),
            ("internal.hkd.vmhandler.vma.failed.max_count.on.starting", "3"),
            ("internal.hkd.vmhandler.vma.failed.max_time.on.starting", "0.2"),
            ("internal.hkd.vmhandler.vma_monitor.delay.after.error", "0.05"),
            ("internal.hkd.vmhandler.vma_monitor.delay.after.ok", "0.1"),
            ("internal.hkd.vmhandler.vma.failed.max_count.on.running", "3"),
            ("internal.hkd.vmhandler.vma.failed.max_time.on.running", "0.2"),
            ("internal.hkd.agent.rpc.retry.count", "0"),
            ("internal.hkd.agent.ticker.delay", "0.2"),
        ];
        let settings =
            short.iter().chain(settings).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            db,
            host,
            user,
            driver: FakeHypervisor::new(),
            agents: Arc::default(),
            agents_answer: Arc::new(Mutex::new(true)),
            run_dir: Arc::new(tempfile::tempdir().unwrap()),
            settings: Arc::new(settings),
        }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    pub(crate) fn config(&self) -> Config {
        let run_dir = self.run_dir.path().display().to_string();
        let settings = self.settings.iter().map(|(key, value)| format!("{key} = {value}\n"));
        let text = settings.chain([format!("path.run = {run_dir}\n")]).collect::<String>();
        Config::builder().file("node.conf", text).build().unwrap()
    }

    /// A virtual machine of alice's, of a flavour of its own.
    pub(crate) async fn vm(&self, name: &str) -> VmId {
        let osf = NewOsf {
            tenant: TenantId::DEFAULT,
            name: format!("{name}-osf"),
            memory: Mebibytes(256),
            use_overlay: false,
            home: Some(Mebibytes(100)),
            hypervisor: None,
        };
        let osf_id = self.db.osfs().add(osf).await.unwrap();
        // `head`: what an image that is added with limits is about.
        let vm = NewVm { name: name.into(), user_id: self.user, osf_id, di_tag: "head".into(), ip: None };
        self.db.vms().add(vm).await.unwrap()
    }

    /// The agent of a virtual machine; made on first sight, answering unless told otherwise before.
    pub(crate) fn agent(&self, vm: VmId) -> FakeVma {
        agent_at(&self.agents, &self.agents_answer, &format!("unix:/nonexistent/qvd-fake/{vm}"))
    }

    /// Whether agents of virtual machines still to be started answer.
    pub(crate) fn set_new_agents_answer(&self, yes: bool) {
        *self.agents_answer.lock().unwrap() = yes;
    }

    pub(crate) fn settings(&self) -> HkdSettings {
        self.settings_with(Arc::new(self.driver.clone()))
    }

    /// Settings with another driver; agents stay fakes.
    pub(crate) fn settings_with(&self, driver: Arc<dyn Hypervisor>) -> HkdSettings {
        let (agents, answer) = (Arc::clone(&self.agents), Arc::clone(&self.agents_answer));
        HkdSettings::new(self.db.clone(), self.config(), NODE).hypervisor(driver).vma(
            move |endpoint: &Endpoint| -> Arc<dyn Vma> {
                Arc::new(agent_at(&agents, &answer, &endpoint.address_text()))
            },
        )
    }

    /// Starts a daemon and waits until it serves.
    pub(crate) async fn daemon(&self) -> Daemon {
        Daemon::start(self.settings()).await
    }

    pub(crate) async fn claim(&self, vm: VmId) {
        let outcome = self.db.vms().claim(vm, self.host, Claimant::Router).await.unwrap();
        assert!(outcome.is_updated(), "not claimed: {outcome:?}");
    }

    pub(crate) async fn stop(&self, vm: VmId) {
        let outcome = self.db.vms().order_stop(vm).await.unwrap();
        assert!(outcome.is_updated(), "not ordered: {outcome:?}");
    }

    /// A router's session to this virtual machine.
    pub(crate) async fn connect(&self, vm: VmId) -> SessionId {
        let session_id = SessionId::from_u128(vm.get() as u128 + 1);
        let session = NewSession {
            session_id,
            l7r_host: self.host,
            l7r_pid: 1,
            l7r_instance: self.router_lock(vm),
            real_user: self.user,
            user_ip: None,
        };
        assert!(self.db.sessions().acquire(vm, session).await.unwrap().is_updated());
        assert!(self.db.sessions().commit(vm, session_id).await.unwrap().is_updated());
        session_id
    }

    fn router_lock(&self, vm: VmId) -> uuid::Uuid {
        uuid::Uuid::from_u128(vm.get() as u128)
    }

    pub(crate) fn router_lock_file(&self, vm: VmId) -> std::path::PathBuf {
        let dir = self.run_dir().join("l7r");
        std::fs::create_dir_all(&dir).unwrap();
        dir.join(format!("{}.lock", self.router_lock(vm)))
    }

    pub(crate) async fn row(&self, vm: VmId) -> VmRuntime {
        self.db.vms().runtime(vm).await.unwrap().unwrap()
    }

    pub(crate) async fn vm_is(&self, vm: VmId, state: VmState) -> VmRuntime {
        let what = format!("VM {vm} to be {state}");
        self.until(&what, || async {
            let row = self.row(vm).await;
            (row.vm_state == state && row.vm_cmd.is_none()).then_some(row)
        })
        .await
    }

    pub(crate) async fn host_is(&self, state: HostState) {
        self.until(&format!("the host to be {state}"), || async {
            (self.host_state().await == state).then_some(())
        })
        .await;
    }

    pub(crate) async fn host_state(&self) -> HostState {
        self.db.hosts().load(self.host).await.unwrap().unwrap().runtime.state
    }

    /// Looks again and again until the condition holds; a test that waits too long fails.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        condition: impl Fn() -> F,
    ) -> T {
        let look = async {
            loop {
                if let Some(found) = condition().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look)
            .await
            .unwrap_or_else(|_| panic!("waited too long for {what}"))
    }
}

fn agent_at(agents: &Mutex<HashMap<String, FakeVma>>, answer: &Mutex<bool>, address: &str) -> FakeVma {
    let mut agents = agents.lock().unwrap();
    let new = || {
        let agent = FakeVma::new();
        agent.set_reachable(*answer.lock().unwrap());
        agent
    };
    agents.entry(address.to_owned()).or_insert_with(new).clone()
}

/// A daemon that runs beside the test.
pub(crate) struct Daemon {
    task: JoinHandle<Result<(), Error>>,
    end: Option<oneshot::Sender<Shutdown>>,
}

impl Daemon {
    pub(crate) async fn start(settings: HkdSettings) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let mut daemon = Self::launch(settings.ready(ready));
        let waited = tokio::time::timeout(Duration::from_secs(20), is_ready).await;
        if !matches!(waited, Ok(Ok(()))) {
            let outcome = tokio::time::timeout(Duration::from_secs(1), &mut daemon.task).await;
            panic!("the daemon does not serve: {outcome:?}");
        }
        daemon
    }

    /// Starts without waiting.
    pub(crate) fn launch(settings: HkdSettings) -> Self {
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(hkd::run(settings, async move {
            match ended.await {
                Ok(how) => how,
                Err(_) => std::future::pending().await,
            }
        }));
        Self { task, end: Some(end) }
    }

    /// Ends it in order.
    pub(crate) async fn end(mut self, how: Shutdown) -> Result<(), Error> {
        self.end.take().unwrap().send(how).unwrap();
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the daemon never ends")
            .unwrap()
    }

    /// As a SIGKILL would: nothing more is done.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
