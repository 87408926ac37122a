//! A node: a database, a router that serves from it, and the house-keeping that the rows decide on.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use qvd_core::hypervisor::Endpoint;
use qvd_core::model::VmRuntime;
use qvd_core::proto::basic::encode_basic;
use qvd_core::state::{UserState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, OsfId, RunId, TenantId, UserId, VmId};
use qvd_db::testkit::TemporaryPostgres;
use qvd_db::{Backend, Claimant, Db, HostCounts, NewOsf, NewVm, SslMaterial};

use super::host::running_host;
use super::router::{PORT, Router};
use super::wire::{UPGRADE, Wire, eventually, request};

/// Every user's password.
pub const PASSWORD: &str = "s3cr:ét";

/// What a world is started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    keys: Vec<(&'static str, String)>,
    unregistered: bool,
    postgres: bool,
    ssl: Option<SslMaterial>,
}

impl Setup {
    /// Sets a key of the router's configuration.
    pub fn set(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.keys.push((key, value.into()));
        self
    }

    /// The node's name is not in the database.
    pub fn unregistered(mut self) -> Self {
        self.unregistered = true;
        self
    }

    /// The database is a PostgreSQL of its own.
    pub fn postgres(mut self) -> Self {
        self.postgres = true;
        self
    }

    /// Certificates that are stored before the router starts.
    pub fn ssl(mut self, material: SslMaterial) -> Self {
        self.ssl = Some(material);
        self
    }
}

/// A running world.
#[derive(Debug)]
pub struct World {
    // Ends before its database.
    router: Router,
    /// The database.
    pub db: Db,
    /// The node.
    pub host: HostId,
    /// The life of its house-keeping.
    pub incarnation: i64,
    /// A flavour.
    pub osf: OsfId,
    postgres: Mutex<Option<TemporaryPostgres>>,
    dir: PathBuf,
    scratch: Mutex<Option<tempfile::TempDir>>,
    config: String,
    people: AtomicU16,
    routers: AtomicU16,
}

/// A user with a virtual machine, who has an address of their own: delays behind failed logins are nobody else's.
#[derive(Clone, Debug)]
pub struct Person {
    /// Login.
    pub login: String,
    /// Row.
    pub id: UserId,
    /// Their virtual machine.
    pub vm: VmId,
    /// Where they come from.
    pub from: Ipv4Addr,
}

impl Person {
    /// The line with their credentials.
    pub fn auth(&self) -> String {
        basic(&self.login, PASSWORD)
    }

    /// A request for their desktop; `more` follows the id.
    pub fn connect_request(&self, more: &str) -> String {
        let target = format!("/qvd/connect_to_vm?id={}{more}", self.vm);
        request(&target, &[&self.auth(), UPGRADE[0], UPGRADE[1]])
    }
}

/// An `Authorization` line.
pub fn basic(login: &str, password: &str) -> String {
    format!("Authorization: {}\r\n", encode_basic(login, password.as_bytes()))
}

impl World {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When a part does not come up.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("qvd-conformance-").tempdir();
        let scratch = scratch.context("cannot make a temporary directory")?;
        let dir = scratch.path().to_owned();
        let mut postgres = None;
        let backend = if setup.postgres {
            let server = TemporaryPostgres::start().await.context("PostgreSQL is not installed")?;
            let backend = server.database().await;
            postgres = Some(server);
            backend
        } else {
            Backend::Sqlite { path: dir.join("qvd.db") }
        };
        let db = Db::open(&backend).await.context("no database")?;
        if let Some(material) = &setup.ssl {
            db.config().set_ssl(material).await.context("certificates not stored")?;
        }
        let (host, incarnation) = running_host(&db, "node", "process").await?;
        let osf = NewOsf {
            tenant: TenantId::DEFAULT,
            name: "flavour".into(),
            memory: Mebibytes(256),
            use_overlay: false,
            home: None,
            hypervisor: Some("process".into()),
        };
        let osf = db.osfs().add(osf).await.context("no flavour")?;
        let here = dir.display();
        let user = own_name()?;
        let mut config = format!(
            "nodename = {}\n{}path.run = {here}/run\npath.log = {here}\nl7r.port = {PORT}\nl7r.as_user = {user}\n\
             internal.l7r.poll_time.x = 0.1\ninternal.l7r.poll_time.vm = 0.2\nlog.level = TRACE\n",
            if setup.unregistered { "nobody" } else { "node" },
            database_lines(&backend)?,
        );
        for (key, value) in &setup.keys {
            config.push_str(&format!("{key} = {value}\n"));
        }
        let router = Router::start(&dir, 0, &config).await?;
        Ok(Self {
            router,
            db,
            host,
            incarnation,
            osf,
            postgres: Mutex::new(postgres),
            dir,
            scratch: Mutex::new(Some(scratch)),
            config,
            people: AtomicU16::new(0),
            routers: AtomicU16::new(1),
        })
    }

    /// Another router of the same node, with further lines of configuration.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub async fn another_router(&self, more: &str) -> Result<Router> {
        let number = self.routers.fetch_add(1, Ordering::Relaxed);
        Router::start(&self.dir, number, &format!("{}{more}", self.config)).await
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Where everything of this world lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the directory behind, for whoever looks into a failure.
    pub fn keep(&self) {
        if let Some(scratch) = lock(&self.scratch).take() {
            let _ = scratch.keep();
        }
    }

    /// Ends the database server as a power cut would.
    ///
    /// # Errors
    ///
    /// When the database is none.
    pub fn crash_database(&self) -> Result<()> {
        lock(&self.postgres).as_mut().context("the database is a file")?.crash();
        Ok(())
    }

    /// Adds a user with a virtual machine.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub async fn person(&self, login: &str) -> Result<Person> {
        // The digest of old installations is quick to check, and the router replaces it at the first login.
        let hash = qvd_db::password::legacy_digest(b"qvd1234", PASSWORD.as_bytes());
        let id = self.db.users().add(TenantId::DEFAULT, login, Some(&hash)).await.context("no user")?;
        self.person_of(login, id, format!("{login}-desk")).await
    }

    /// The person that runs this, with one more virtual machine: a real agent makes an account for anybody else.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn myself(&self) -> Result<Person> {
        let login = own_name()?;
        match self.db.users().by_login(TenantId::DEFAULT, &login).await? {
            Some(user) => {
                let number = self.people.load(Ordering::Relaxed);
                self.person_of(&login, user.id, format!("{login}-desk-{number}")).await
            }
            None => self.person(&login).await,
        }
    }

    async fn person_of(&self, login: &str, id: UserId, machine: String) -> Result<Person> {
        let vm = self.machine(&machine, id).await?;
        let number = self.people.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        Ok(Person { login: login.to_owned(), id, vm, from: Ipv4Addr::new(127, 1, high, low + 1) })
    }

    /// Adds a virtual machine.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub async fn machine(&self, name: &str, user_id: UserId) -> Result<VmId> {
        let vm = NewVm { name: name.into(), user_id, osf_id: self.osf, di_tag: "default".into(), ip: None };
        self.db.vms().add(vm).await.context("no virtual machine")
    }

    /// A connection of this person.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn wire(&self, person: &Person) -> Result<Wire> {
        Wire::connect(person.from, self.router.address).await
    }

    /// A connection that asked for this person's desktop.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn connecting(&self, person: &Person) -> Result<Wire> {
        self.connecting_with(person, "").await
    }

    /// The same with further parameters.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn connecting_with(&self, person: &Person, more: &str) -> Result<Wire> {
        let mut wire = self.wire(person).await?;
        wire.send(person.connect_request(more)).await?;
        Ok(wire)
    }

    /// What the host's daemon would do with an order to start: waits for it and obeys.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub async fn accept_start(&self, vm: VmId) -> Result<RunId> {
        eventually("an order to start", async || {
            let pending = self.db.vms().pending(self.host, self.incarnation).await?;
            Ok(pending.iter().any(|order| order.vm_id == vm).then_some(()))
        })
        .await?;
        match self.db.vms().accept_start(vm, self.host, self.incarnation).await? {
            qvd_db::Guard::Updated(row) => Ok(row.run_id),
            other => anyhow::bail!("the order to start went: {other:?}"),
        }
    }

    /// The virtual machine runs, with an agent there.
    ///
    /// # Errors
    ///
    /// When its row is not as it should be.
    pub async fn now_running(&self, vm: VmId, run: RunId, agent: &Endpoint) -> Result<()> {
        let placed = self.db.vms().set_endpoint(vm, self.host, run, agent, None).await?;
        ensure!(placed.is_updated(), "the machine has no place");
        self.now(vm, run, VmState::Running).await
    }

    /// The virtual machine goes to another state.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn now(&self, vm: VmId, run: RunId, state: VmState) -> Result<()> {
        let moved = self.db.vms().set_state(vm, self.host, run, state, None).await?;
        ensure!(moved.is_updated(), "no move to {state}");
        Ok(())
    }

    /// The virtual machine has ended.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn now_stopped(&self, vm: VmId, run: RunId) -> Result<()> {
        ensure!(self.db.vms().clear(vm, self.host, run).await?.is_updated(), "not cleared");
        Ok(())
    }

    /// Brings a virtual machine up, with an agent there.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn run(&self, vm: VmId, agent: &Endpoint) -> Result<RunId> {
        ensure!(self.db.vms().claim(vm, self.host, Claimant::Admin).await?.is_updated(), "not claimed");
        let run = self.accept_start(vm).await?;
        self.now_running(vm, run, agent).await?;
        Ok(run)
    }

    /// A virtual machine's row.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn row(&self, vm: VmId) -> Result<VmRuntime> {
        self.db.vms().runtime(vm).await?.context("no row")
    }

    /// Waits until a session's state is this.
    ///
    /// # Errors
    ///
    /// When it does not become so.
    pub async fn until_user_state(&self, vm: VmId, state: UserState) -> Result<VmRuntime> {
        eventually(&format!("user state {state}"), async || {
            Ok(Some(self.row(vm).await?).filter(|row| row.user_state == state))
        })
        .await
    }

    /// The node's counters.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn counts(&self) -> Result<HostCounts> {
        let counts = self.db.counters().hosts().await?;
        counts.into_iter().find(|c| c.host_id == self.host).context("no counters")
    }

    /// Waits until the counters went up by this since `before`: requests, attempts, logins.
    ///
    /// # Errors
    ///
    /// When they do not.
    pub async fn until_counted(&self, before: &HostCounts, wanted: (u64, u64, u64)) -> Result<()> {
        let mut seen = (0, 0, 0);
        let more = |now: &HostCounts| {
            let since = |a: u64, b: u64| a.saturating_sub(b);
            (
                since(now.http_requests, before.http_requests),
                since(now.auth_attempts, before.auth_attempts),
                since(now.auth_ok, before.auth_ok),
            )
        };
        eventually("the counters", async || {
            seen = more(&self.counts().await?);
            Ok((seen == wanted).then_some(()))
        })
        .await
        .with_context(|| format!("requests, attempts, logins: {seen:?} instead of {wanted:?}"))
    }

    /// Waits until a health check answers so.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn until_ping(&self, body: &str) -> Result<super::wire::Answer> {
        eventually(body, async || {
            let mut wire = Wire::connect(Ipv4Addr::LOCALHOST, self.router.address).await?;
            Ok(Some(wire.ask("/qvd/ping", &[]).await?).filter(|answer| answer.body == body))
        })
        .await
    }
}

/// The account that this runs as.
///
/// # Errors
///
/// When it has no name.
pub fn own_name() -> Result<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    Ok(user.context("this account has no name")?.name)
}

fn database_lines(backend: &Backend) -> Result<String> {
    match backend {
        Backend::Sqlite { path } => {
            Ok(format!("database.driver = sqlite\ndatabase.path = {}\n", path.display()))
        }
        Backend::Postgres { host, port, name, user, password, .. } => Ok(format!(
            "database.driver = postgresql\ndatabase.host = {host}\ndatabase.port = {port}\n\
             database.name = {name}\ndatabase.user = {user}\ndatabase.password = {}\n",
            password.expose()
        )),
        other => anyhow::bail!("no router can use {other:?}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
