//! The node: rows of the database, and a router that serves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use qvd_core::auth::Chain;
use qvd_core::config::Config;
use qvd_core::model::VmRuntime;
use qvd_core::state::{HostState, UserState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, OsfId, RunId, TenantId, UserId, VmId};
use qvd_db::{Backend, Claimant, Db, Guard, HostCounts, NewHost, NewOsf, NewVm, SslMaterial, TakeOver};
use qvd_l7r::{BoundRouter, Fingerprint, Router, RouterBuilder, RouterHandle, Succession};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Client, Desktop, Worker, basic, eventually, request, soon};

/// Every user's password.
pub(crate) const PASSWORD: &str = "s3cr:ét";

/// What a test changes of the usual world.
#[derive(Default)]
pub(crate) struct Options {
    /// Keys.
    pub(crate) set: Vec<(&'static str, String)>,
    /// The node's name is not in the database.
    pub(crate) unregistered: bool,
    /// A database that others can open, with its tables, instead of one in memory.
    pub(crate) database: Option<Backend>,
    /// Other authenticators.
    pub(crate) chain: Option<Chain>,
    /// Certificates that are stored before the router starts.
    pub(crate) ssl: Option<SslMaterial>,
    /// Another router can take over from it.
    pub(crate) offers: bool,
    /// The delay behind a first failed login, instead of next to none.
    pub(crate) failed_login_delay: Option<Duration>,
    /// Who carries desktops, instead of a thread of the world's own; none means the router's own runtime.
    pub(crate) workers: Option<Vec<Handle>>,
}

impl Options {
    pub(crate) fn set(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.set.push((key, value.into()));
        self
    }
}

pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) host: HostId,
    pub(crate) incarnation: i64,
    pub(crate) alice: UserId,
    pub(crate) osf: OsfId,
    /// Alice's.
    pub(crate) vm: VmId,
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) handle: RouterHandle,
    dir: tempfile::TempDir,
    config: Config,
    worker: Worker,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<qvd_l7r::Result<()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        super::log::listen();
        let db = Db::open(options.database.as_ref().unwrap_or(&Backend::SqliteMemory)).await.unwrap();
        if let Some(material) = &options.ssl {
            db.config().set_ssl(material).await.unwrap();
        }
        let (host, incarnation) = running_host(&db, "node1").await;
        let alice = user(&db, "alice").await;
        let osf = NewOsf {
            tenant: TenantId::DEFAULT,
            name: "flavour".into(),
            memory: Mebibytes(256),
            use_overlay: false,
            home: None,
            hypervisor: Some("process".into()),
        };
        let osf = db.osfs().add(osf).await.unwrap();
        let vm = machine(&db, "desk", alice, osf).await;
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, &options);
        let name = if options.unregistered { "nobody" } else { "node1" };
        let delay = options.failed_login_delay.unwrap_or(NEXT_TO_NONE);
        let worker = Worker::running();
        let workers = options.workers.unwrap_or_else(|| vec![worker.handle()]);
        let builder = builder(&db, name, &config, options.chain, delay, workers);
        let mut bound = builder.build().unwrap().bind().await.unwrap();
        if options.offers {
            bound.offer(&Succession::of(&config).unwrap()).unwrap();
        }
        let router = serve(bound);
        if options.offers {
            let succession = Succession::of(&config).unwrap();
            eventually("the router's place", async || succession.is_held().unwrap()).await;
        }
        Self {
            db,
            host,
            incarnation,
            alice,
            osf,
            vm,
            address: router.address,
            fingerprint: router.fingerprint,
            handle: router.handle,
            dir,
            config,
            worker,
            stop: Some(router.stop),
            serving: router.serving,
        }
    }

    /// A second router of the same node.
    pub(crate) async fn second_router(&self) -> Serving {
        self.router_over(&self.db).await
    }

    /// The same over a database handle of its own.
    pub(crate) async fn router_over(&self, db: &Db) -> Serving {
        serve(self.builder(db).build().unwrap().bind().await.unwrap())
    }

    /// A router that has the sockets of the one that serves, and can hand them on; it does not serve yet.
    pub(crate) async fn heir(&self) -> qvd_l7r::Result<BoundRouter> {
        let succession = Succession::of(&self.config)?;
        let mut bound = self.builder(&self.db).build()?.ready().await?.succeed(&succession).await?;
        bound.offer(&succession)?;
        Ok(bound)
    }

    fn builder(&self, db: &Db) -> RouterBuilder {
        builder(db, "node1", &self.config, None, NEXT_TO_NONE, vec![self.worker.handle()])
    }

    /// Where routers keep what tells that they live.
    pub(crate) fn run_dir(&self) -> PathBuf {
        Router::run_dir(&self.config)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A connect request for Alice's machine; `more` follows the id.
    pub(crate) fn connect_request(&self, more: &str) -> String {
        connect_to(self.vm, more)
    }

    /// A client that asked to connect to Alice's machine.
    pub(crate) async fn connecting(&self) -> Client {
        let mut client = self.client().await;
        client.send(self.connect_request("")).await;
        client
    }

    /// The running machine with a desktop behind it.
    pub(crate) async fn running(&self) -> Desktop {
        let desktop = Desktop::start(&self.vm_dir());
        self.run_vm(&desktop).await;
        desktop
    }

    /// Where the machine's sockets are; the path is longer than a socket address.
    pub(crate) fn vm_dir(&self) -> PathBuf {
        self.dir.path().join("longer-than-a-socket-address/".repeat(5)).join("vm")
    }

    /// Brings the machine up to `running`, as the host's daemon would.
    pub(crate) async fn run_vm(&self, desktop: &Desktop) -> RunId {
        let claimed = self.db.vms().claim(self.vm, self.host, Claimant::Admin).await.unwrap();
        assert!(claimed.is_updated(), "{claimed:?}");
        let run = self.accept_start().await;
        self.now_running(run, desktop).await;
        run
    }

    /// Waits for a start command and accepts it.
    pub(crate) async fn accept_start(&self) -> RunId {
        eventually("a start command", async || {
            !self.db.vms().pending(self.host, self.incarnation).await.unwrap().is_empty()
        })
        .await;
        match self.db.vms().accept_start(self.vm, self.host, self.incarnation).await.unwrap() {
            Guard::Updated(row) => row.run_id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn now_running(&self, run: RunId, desktop: &Desktop) {
        let vms = self.db.vms();
        assert!(
            vms.set_endpoint(self.vm, self.host, run, &desktop.endpoint(), None).await.unwrap().is_updated()
        );
        self.now(run, VmState::Running).await;
    }

    pub(crate) async fn now(&self, run: RunId, state: VmState) {
        assert!(self.db.vms().set_state(self.vm, self.host, run, state, None).await.unwrap().is_updated());
    }

    pub(crate) async fn now_stopped(&self, run: RunId) {
        assert!(self.db.vms().clear(self.vm, self.host, run).await.unwrap().is_updated());
    }

    pub(crate) async fn row(&self) -> VmRuntime {
        self.db.vms().runtime(self.vm).await.unwrap().unwrap()
    }

    pub(crate) async fn until_user_state(&self, state: UserState) {
        eventually(&format!("user state {state}"), async || self.row().await.user_state == state).await;
    }

    pub(crate) async fn counts(&self) -> HostCounts {
        let counts = self.db.counters().hosts().await.unwrap();
        counts.into_iter().find(|c| c.host_id == self.host).unwrap()
    }

    /// Waits until the counters say so.
    pub(crate) async fn until_counted(&self, what: &str, told: impl Fn(&HostCounts) -> bool) {
        eventually(what, async || told(&self.counts().await)).await;
    }

    /// Waits until a health check answers so.
    pub(crate) async fn until_ping(&self, body: &str) {
        eventually(body, async || self.client().await.ask("/qvd/ping", &[]).await.body == body).await;
    }

    /// Asks the router to end.
    pub(crate) fn stop(&mut self) {
        self.stop.take().expect("not stopped yet").send(()).unwrap();
    }

    /// Waits for the router's end.
    pub(crate) async fn stopped(&mut self) {
        soon(&mut self.serving).await.unwrap().unwrap();
    }

    /// Ends the router as a signal that cannot be caught would.
    pub(crate) async fn kill(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

/// A router at work.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) handle: RouterHandle,
    stop: oneshot::Sender<()>,
    pub(crate) serving: JoinHandle<qvd_l7r::Result<()>>,
}

fn connect_to(vm: VmId, more: &str) -> String {
    let auth = basic("alice", PASSWORD);
    request(
        &format!("/qvd/connect_to_vm?id={vm}{more}"),
        &[&auth, "Connection: Upgrade\r\n", "Upgrade: QVD/1.0\r\n"],
    )
}

/// Adds a host whose daemon runs.
pub(crate) async fn running_host(db: &Db, name: &str) -> (HostId, i64) {
    let new = NewHost {
        name: name.into(),
        address: format!("10.0.0.{}", name.len()),
        frontend: true,
        backend: true,
    };
    let host = db.hosts().add(new).await.unwrap();
    let daemon = TakeOver {
        run_token: uuid::Uuid::new_v4(),
        machine_id: "machine".into(),
        boot_id: "boot".into(),
        pid: 1,
        lease: Duration::from_secs(600),
        fence_grace: Duration::from_secs(60),
        watch: Duration::ZERO,
    };
    let incarnation = db.hosts().take_over(host, daemon).await.unwrap().incarnation;
    publish_driver(db, host, incarnation, "process").await;
    assert!(db.hosts().set_state(host, incarnation, HostState::Running).await.unwrap().is_updated());
    (host, incarnation)
}

/// The host's one driver.
pub(crate) async fn publish_driver(db: &Db, host: HostId, incarnation: i64, driver: &str) {
    let drivers = [driver.to_owned()];
    let hosts = db.hosts();
    let published = hosts.publish_capacity(host, incarnation, Mebibytes(1000), 1.0, &drivers, Some(driver));
    assert!(published.await.unwrap().is_updated());
}

/// Adds a user. The digest of old installations is quick to check, and the router replaces it at the first login.
pub(crate) async fn user(db: &Db, login: &str) -> UserId {
    let hash = qvd_db::password::legacy_digest(b"qvd1234", PASSWORD.as_bytes());
    db.users().add(TenantId::DEFAULT, login, Some(&hash)).await.unwrap()
}

pub(crate) async fn machine(db: &Db, name: &str, user_id: UserId, osf_id: OsfId) -> VmId {
    let vm = NewVm { name: name.into(), user_id, osf_id, di_tag: "default".into(), ip: None };
    db.vms().add(vm).await.unwrap()
}

fn config(dir: &tempfile::TempDir, options: &Options) -> Config {
    let mut builder = Config::builder()
        .set("path.run", dir.path().join("run").display().to_string())
        .set("internal.l7r.poll_time.x", "0.1")
        .set("internal.l7r.poll_time.vm", "0.2");
    for (key, value) in &options.set {
        builder = builder.set(*key, value.clone());
    }
    builder.build().unwrap()
}

const NEXT_TO_NONE: Duration = Duration::from_millis(5);

fn builder(
    db: &Db,
    name: &str,
    config: &Config,
    chain: Option<Chain>,
    delay: Duration,
    workers: Vec<Handle>,
) -> RouterBuilder {
    let builder = Router::builder(db.clone(), name)
        .config(config.clone())
        .listen(([127, 0, 0, 1], 0).into())
        .workers(workers)
        .failed_login_delay(delay)
        .stop_notice(Duration::from_millis(300));
    match chain {
        Some(chain) => builder.authenticators(chain),
        None => builder,
    }
}

pub(crate) fn serve(router: BoundRouter) -> Serving {
    let (address, fingerprint, handle) = (router.local_addr(), router.fingerprint(), router.handle());
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(router.serve(async move {
        // A test that drops its world lets the router go on until the runtime ends.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    Serving { address, fingerprint, handle, stop, serving }
}
