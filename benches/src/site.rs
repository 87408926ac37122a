//! Our router with a real database, real rows, agents that answer, and a real 101 for every session.
//!
//! The rows say that the machines run already, so a session costs what a reconnecting user costs: login, list-free
//! connect, acquire, agent, commit, 101. Host daemon and agents are played by this process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qvd_core::hypervisor::Endpoint;
use qvd_core::state::{HostState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, Secret, TenantId, UserId};
use qvd_db::{Backend, Claimant, Db, HostLoad, NewHost, NewOsf, NewVm, SslMaterial, TakeOver, password};
use qvd_system_tests::node::database_lines;
use uuid::Uuid;

use crate::agent;
use crate::peers::{Certificate, Entry, Owners, Peer, Running};
use crate::place::{Place, free_port};

/// Everybody's password.
pub const PASSWORD: &str = "the quick brown fox";

const NODE: &str = "bench";

/// How long the host lives without a tick, and how often it ticks.
const LEASE: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_secs(10);

/// A site of one router, to be started.
#[derive(Clone, Debug)]
pub struct RouterSite {
    /// Name in the tables.
    pub name: &'static str,
    /// Whether the router encrypts.
    pub tls: bool,
    /// Threads that carry sessions.
    pub workers: usize,
    /// Users of the site.
    pub users: usize,
    /// Machines of each user.
    pub machines: usize,
    /// A database server's empty tables; without it an SQLite file is made.
    pub database: Option<Backend>,
}

impl Default for RouterSite {
    fn default() -> Self {
        Self { name: "ours", tls: true, workers: 1, users: 1, machines: 500, database: None }
    }
}

impl RouterSite {
    /// Prepares the rows, with all desktops at the port `desktop`, and starts the router over them.
    ///
    /// # Errors
    ///
    /// When the router is not built beside the running program, or does not come up.
    pub async fn start(
        self,
        place: &Place,
        dir: &Path,
        desktop: u16,
        certificate: &Certificate,
    ) -> Result<Peer> {
        let port = free_port()?;
        let dir = dir.join(format!("site-{port}"));
        fs::create_dir_all(dir.join("log")).context("cannot make a directory for the site")?;
        let agent = agent::on_tcp().await?;
        let backend = self.database.clone().unwrap_or(Backend::Sqlite { path: dir.join("qvd.db") });
        let db = Db::open(&backend).await?;
        let at = Endpoints { place, agent, desktop };
        populate(&db, certificate, at, self.users, self.machines).await?;

        let root = dir.display();
        let database = match &backend {
            Backend::Postgres { .. } => database_lines(&backend),
            _ => format!("database.driver = sqlite\ndatabase.path = {root}/qvd.db\n"),
        };
        let text = format!(
            "nodename = {NODE}\n{database}path.run = {root}/run\npath.log = {root}/log\npath.storage.root = {root}/storage\n\
             l7r.address = {}\nl7r.port = {port}\nl7r.use_ssl = {}\nl7r.as_user =\nl7r.limit.connections = 20000\n\
             l7r.limit.connections.per.address = 0\nl7r.workers = {}\n",
            place.proxy(),
            u8::from(self.tls),
            self.workers
        );
        let settings = dir.join("node.conf");
        fs::write(&settings, text).context("cannot write the router's settings")?;
        let mut command = place.command(built("qvd-l7r")?);
        command.arg("-f").arg(&settings).env_remove("QVD_SET").env_remove("QVD_CONFIG");
        let log = dir.join("router.log");
        let child = Running::start(command, &log)?;
        place.listening(port, "the router", &log).await?;
        let pid = child.id();
        let owners = Owners {
            password: PASSWORD.to_owned(),
            machines: self.users * self.machines,
            each: self.machines,
        };
        let entry = Entry::Qvd { tls: self.tls, owners };
        Ok(Peer::new(self.name, SocketAddr::new(place.proxy(), port), entry, vec![pid], Some(child)))
    }
}

/// Processor milliseconds of one password check.
///
/// # Errors
///
/// When the clock or the hash fails.
pub fn password_check_ms() -> Result<f64> {
    use nix::time::{ClockId, clock_gettime};
    let stored = password::hash(PASSWORD.as_bytes())?;
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).context("no clock");
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let before = now()?;
        let right = password::verify(stored.expose(), PASSWORD.as_bytes(), b"") == password::Check::Right;
        ensure!(right, "the password's own hash does not fit");
        best = best.min((now()? - before).as_secs_f64() * 1e3);
    }
    Ok(best)
}

/// A program built by the same cargo call, hence beside this one.
///
/// # Errors
///
/// When it is not there.
pub fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let program = own.with_file_name(name);
    if !program.is_file() {
        bail!("{} is not there; `make bench` builds it", program.display());
    }
    Ok(program)
}

/// Lays the router's certificate into the database.
///
/// # Errors
///
/// The database's.
pub async fn set_certificate(db: &Db, certificate: &Certificate) -> Result<()> {
    let ssl = SslMaterial {
        cert: Some(certificate.cert.clone()),
        key: Some(Secret::new(certificate.key.clone())),
        ..SslMaterial::default()
    };
    Ok(db.config().set_ssl(&ssl).await?)
}

/// Makes the users `bench1` and up, each with as many machines, which the driver `nothing` is to run.
///
/// # Errors
///
/// The database's.
pub async fn add_accounts(db: &Db, users: usize, machines: usize) -> Result<()> {
    let tenant = TenantId::DEFAULT;
    // One for all: what a hash costs does not depend on its salt.
    let hash = password::hash(PASSWORD.as_bytes())?;
    let osf = NewOsf {
        tenant,
        name: "bench".to_owned(),
        memory: Mebibytes(16),
        use_overlay: true,
        home: None,
        hypervisor: Some("nothing".to_owned()),
    };
    let osf_id = db.osfs().add(osf).await?;
    for user in 1..=users {
        let user_id: UserId = db.users().add(tenant, &format!("bench{user}"), Some(hash.expose())).await?;
        for number in 1..=machines {
            let name = format!("bench{user}-{number}");
            let vm = db.vms().add(NewVm { name, user_id, osf_id, di_tag: "default".to_owned(), ip: None });
            let expected = (user - 1) * machines + number;
            ensure!(vm.await?.get() == expected as i64, "machines are counted from 1, as the generator does");
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Endpoints<'a> {
    place: &'a Place,
    agent: u16,
    desktop: u16,
}

async fn populate(
    db: &Db,
    certificate: &Certificate,
    at: Endpoints<'_>,
    users: usize,
    machines: usize,
) -> Result<()> {
    set_certificate(db, certificate).await?;
    let (host, incarnation) = take_host(db).await?;
    add_accounts(db, users, machines).await?;
    for number in 1..=users * machines {
        let address = at.place.machine(number);
        let endpoint = Endpoint::Ip { address, vma_port: at.agent, x_port: at.desktop };
        let vm = qvd_core::VmId::new(number as i64);
        ensure!(db.vms().claim(vm, host, Claimant::Admin).await?.is_updated(), "no claim of machine {vm}");
        let accepted = db.vms().accept_start(vm, host, incarnation).await?;
        let run = accepted.updated().with_context(|| format!("machine {vm} does not start"))?.run_id;
        let placed = db.vms().set_endpoint(vm, host, run, &endpoint, None).await?;
        let running = db.vms().set_state(vm, host, run, VmState::Running, None).await?;
        ensure!(placed.is_updated() && running.is_updated(), "machine {vm} does not run");
    }
    Ok(())
}

/// Registers the site's one host.
///
/// # Errors
///
/// The database's.
pub async fn add_host(db: &Db, name: &str) -> Result<HostId> {
    let address = Ipv4Addr::LOCALHOST.to_string();
    Ok(db.hosts().add(NewHost { name: name.to_owned(), address, frontend: true, backend: true }).await?)
}

/// Takes the host over as its daemon would, and keeps it alive.
async fn take_host(db: &Db) -> Result<(HostId, i64)> {
    let host = add_host(db, NODE).await?;
    let me = TakeOver {
        run_token: Uuid::new_v4(),
        machine_id: "bench".to_owned(),
        boot_id: "bench".to_owned(),
        pid: std::process::id(),
        lease: LEASE,
        fence_grace: LEASE,
        watch: TICK,
    };
    let incarnation = db.hosts().take_over(host, me).await?.incarnation;
    let running = db.hosts().set_state(host, incarnation, HostState::Running).await?;
    ensure!(running.is_updated(), "the host does not run");
    let db = db.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TICK).await;
            // A tick that fails is made good by the next one.
            let _ = db.hosts().tick(host, incarnation, LEASE, LEASE, HostLoad::default()).await;
        }
    });
    Ok((host, incarnation))
}
