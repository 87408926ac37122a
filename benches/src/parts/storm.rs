//! Login storm: everybody comes within a minute, to one node of real daemons whose machines are nothing.
//!
//! `qvd-hkd` with the driver `nothing` and `qvd-l7r` are processes over one database; agents and desktops are stand-ins
//! at the sockets where those of a machine would be. Each user shakes hands, logs in (a password hashed for each), asks
//! for the list, connects to a machine that must be started first, and stays. Beside every twentieth somebody tries a
//! wrong password.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qvd_core::HostId;
use qvd_db::testkit::TemporaryPostgres;
use qvd_db::{Backend, Db, HostCounts};
use qvd_system_tests::node::database_lines;
use qvd_system_tests::process::Process;
use tokio::task::{JoinSet, block_in_place};

use crate::agent;
use crate::book::Book;
use crate::client::{Answers, Stream, authorization, connect_request, full_handshakes, send, shake_hands};
use crate::desktop::pull;
use crate::figures::{cpu_time, quantile};
use crate::machine;
use crate::peers::{Certificate, Entry, Peer};
use crate::place::{Place, free_port};
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::{PASSWORD, add_accounts, add_host, built, set_certificate};

/// One of so many users has somebody beside it who tries a wrong password.
const WRONG_BESIDE: usize = 20;

/// How long a daemon may take to come up, or to end.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a user waits for a desktop.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lets storms of each size come, over both databases.
///
/// # Errors
///
/// When a daemon does not start; what users meet is counted instead.
pub async fn run(plan: &Plan, book: &mut Book) -> Result<Section> {
    let mut text = machine::describe();
    text += &format!(
        "\nUsers come evenly within {:.0} s; machines are stopped before. Generator, router, daemon and database share the \
         machine.\n\n",
        plan.storm.as_secs_f64()
    );
    let postgres = TemporaryPostgres::start().await;
    if postgres.is_none() {
        text += "PostgreSQL is not installed: left out.\n\n";
    }
    let mut remarks = String::new();
    for users in &plan.users {
        for name in ["SQLite", "PostgreSQL"] {
            let database = match (name, &postgres) {
                ("SQLite", _) => None,
                (_, Some(postgres)) => Some(postgres.database().await),
                (_, None) => continue,
            };
            let dir = tempfile::tempdir().context("no temporary directory")?;
            let node = Node::start(dir.path(), database, *users).await?;
            remarks += &storm(plan, book, name, &node, *users).await?;
            node.end();
            eprintln!("measured: storm of {users}, {name}");
        }
    }
    text += &book.table(Part::Storm.name(), &["SQLite", "PostgreSQL"]);
    Ok(Section { title: "Login storm", text: format!("{text}\n{remarks}") })
}

/// What came of one user.
struct Visit {
    login: Duration,
    connect: Duration,
    stream: Box<dyn Stream>,
}

async fn storm(plan: &Plan, book: &mut Book, database: &str, node: &Node, users: usize) -> Result<String> {
    let before = node.cpu()?;
    let begun = Instant::now();
    let (mut visits, mut wrong) = (JoinSet::new(), JoinSet::new());
    for user in 1..=users {
        let comes = begun + plan.storm.mul_f64((user - 1) as f64 / users as f64);
        visits.spawn(visit(node.router.clone(), user, comes));
        if user % WRONG_BESIDE == 0 {
            wrong.spawn(refused(node.router.clone(), user, comes));
        }
    }
    let (mut logins, mut connects, mut streams, mut errors) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    while let Some(done) = visits.join_next().await {
        match done.context("a visit panicked")? {
            Ok(visit) => {
                logins.push(visit.login.as_secs_f64() * 1e3);
                connects.push(visit.connect.as_secs_f64() * 1e3);
                streams.push(visit.stream);
            }
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    let lasted = begun.elapsed();
    let mut waits = Vec::new();
    let attempts = users / WRONG_BESIDE;
    while let Some(done) = wrong.join_next().await {
        match done.context("an attempt panicked")? {
            Ok(wait) => waits.push(wait.as_secs_f64() * 1e3),
            Err(error) => errors.push(format!("wrong password: {error:#}")),
        }
    }
    let [router, daemon] = node.cpu()?;
    let counts = node.counts(users as u64 + attempts as u64).await?;
    let mut push = |figure: &str, unit: &str, value: f64| {
        book.push(Part::Storm.name(), &format!("{users} users, {figure}"), unit, database, value);
    };
    push("errors", "errors", errors.len() as f64);
    push("first to last", "s", lasted.as_secs_f64());
    for (figure, times) in [("login and list", &logins), ("connect", &connects), ("refusal", &waits)] {
        push(&format!("{figure}, p50"), "ms", quantile(times, 0.5));
        push(&format!("{figure}, p99"), "ms", quantile(times, 0.99));
    }
    push("`qvd-l7r`", "CPU s", (router - before[0]).as_secs_f64());
    push("`qvd-hkd`", "CPU s", (daemon - before[1]).as_secs_f64());
    push("logins tried, as the node counts", "", counts.auth_attempts as f64);
    push("logins refused, as the node counts", "", (counts.auth_attempts - counts.auth_ok) as f64);
    push("desktops connected, as the node counts", "", counts.nx_ok as f64);
    let mut text = String::new();
    for error in errors.iter().take(5) {
        text += &format!("- {users} users, {database}: {error}\n");
    }
    Ok(text)
}

async fn visit(router: Arc<Peer>, user: usize, comes: Instant) -> Result<Visit> {
    tokio::time::sleep_until(comes.into()).await;
    let one = async {
        let begun = Instant::now();
        let shown = authorization(&format!("bench{user}"), PASSWORD);
        let mut tls = shake_hands(router.dial().await?, full_handshakes()).await?;
        let mut answers = Answers::default();
        send(&mut tls, &format!("GET /qvd/list_of_vm HTTP/1.1\r\n{shown}")).await?;
        let (answer, _) = answers.next(&mut tls).await?;
        ensure!(answer.code == 200, "no list but {}: {}", answer.code, answer.body.trim());
        ensure!(answer.body.contains(&format!("\"id\":{user},")), "not in the list: {}", answer.body);
        let login = begun.elapsed();
        send(&mut tls, &connect_request(user, &shown)).await?;
        answers.switched(&mut tls, |_| ()).await?;
        let connect = begun.elapsed() - login;
        pull(&mut tls, 1).await.context("the session carries nothing")?;
        Ok(Visit { login, connect, stream: Box::new(tls) })
    };
    let visit = tokio::time::timeout(PATIENCE, one).await;
    visit
        .unwrap_or_else(|_| bail!("no desktop within {} s", PATIENCE.as_secs()))
        .context(format!("user {user}"))
}

/// Time until a wrong password was refused.
async fn refused(router: Arc<Peer>, user: usize, comes: Instant) -> Result<Duration> {
    tokio::time::sleep_until(comes.into()).await;
    let begun = Instant::now();
    let mut tls = shake_hands(router.dial().await?, full_handshakes()).await?;
    let shown = authorization(&format!("bench{user}"), "guessed");
    send(&mut tls, &format!("GET /qvd/list_of_vm HTTP/1.1\r\n{shown}")).await?;
    let (answer, _) = Answers::default().next(&mut tls).await?;
    ensure!(answer.code == 401, "{}: {}", answer.code, answer.body.trim());
    Ok(begun.elapsed())
}

/// A node of two daemons.
struct Node {
    router: Arc<Peer>,
    processes: [Process; 2],
    db: Db,
    host: HostId,
}

impl Node {
    async fn start(dir: &Path, database: Option<Backend>, users: usize) -> Result<Self> {
        let root = dir.display();
        let backend = database.unwrap_or(Backend::Sqlite { path: dir.join("qvd.db") });
        let db = Db::open(&backend).await?;
        set_certificate(&db, &Certificate::ecdsa()?).await?;
        let host = add_host(&db, "node").await?;
        add_accounts(&db, users, 1).await?;
        for vm in 1..=users {
            agent::in_directory(&dir.join("vms").join(vm.to_string()))?;
        }
        let port = free_port()?;
        let database = match &backend {
            Backend::Postgres { .. } => database_lines(&backend),
            _ => format!("database.driver = sqlite\ndatabase.path = {root}/qvd.db\n"),
        };
        let text = format!(
            "nodename = node\n{database}path.run = {root}/run\npath.log = {root}/log\npath.tmp = {root}/tmp\n\
             path.storage.root = {root}/storage\nvm.network.use_dhcp = 0\ninternal.vm.network.firewall.enable = 0\n\
             internal.hkd.nothing.endpoints = {root}/vms\ninternal.hkd.nothing.timeout.on_state.starting = 0\n\
             internal.hkd.nothing.timeout.on_state.stopping = 0\nl7r.address = 127.0.0.1\nl7r.port = {port}\nl7r.as_user =\n"
        );
        for part in ["run", "log", "tmp", "storage"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("cannot make the directory '{part}'"))?;
        }
        let settings = dir.join("node.conf");
        fs::write(&settings, text).context("cannot write the node's settings")?;
        let daemon = |name: &str, up: &str| -> Result<Process> {
            let mut command = std::process::Command::new(built(name)?);
            command.arg("-f").arg(&settings).arg("-X").env_remove("QVD_SET").env_remove("QVD_CONFIG");
            let mut process = Process::start(name, command, &dir.join(format!("{name}.log")))?;
            block_in_place(|| process.wait_line(up, LIMIT))?;
            Ok(process)
        };
        let hkd = daemon("qvd-hkd", " to=Running")?;
        let l7r = daemon("qvd-l7r", "listening")?;
        Place::loopback().listening(port, "the router", l7r.log()).await?;
        let router = Peer::new("ours", ([127, 0, 0, 1], port).into(), Entry::Tls, vec![l7r.id()], None);
        Ok(Self { router: Arc::new(router), processes: [l7r, hkd], db, host })
    }

    /// Processor time of router and daemon.
    fn cpu(&self) -> Result<[Duration; 2]> {
        let [router, daemon] = &self.processes;
        Ok([cpu_time(&[router.id()])?, cpu_time(&[daemon.id()])?])
    }

    /// The node's counters, once they hold so many logins; they are written a little after the event.
    async fn counts(&self, logins: u64) -> Result<HostCounts> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let counts = self.db.counters().hosts().await?;
            let own = counts.into_iter().find(|counts| counts.host_id == self.host);
            match own {
                Some(own) if own.auth_attempts >= logins => return Ok(own),
                Some(own) if Instant::now() > deadline => return Ok(own),
                None if Instant::now() > deadline => bail!("the node counts nothing"),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The router first, so that nobody asks for a machine that is on its way down.
    fn end(self) {
        let [mut router, mut daemon] = self.processes;
        block_in_place(|| router.stop(LIMIT));
        // In order it would ask each agent first; its machines are nothing and go with it.
        block_in_place(|| daemon.stop(Duration::ZERO));
    }
}
