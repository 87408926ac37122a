//! Our router with a real database, real rows, an agent that answers, and a real 101 for every session.
//!
//! The rows say that the machines run already, so a session costs what a reconnecting user costs: login with argon2id,
//! list-free connect, acquire, agent, commit, 101. Host daemon and agent are played by this process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qvd_core::hypervisor::Endpoint;
use qvd_core::proto::http1::{Limits, encode_head, parse_request, status_line};
use qvd_core::proto::vma_rpc::{CONTENT_TYPE, encode_result, method};
use qvd_core::state::{HostState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, Secret, TenantId};
use qvd_db::{Backend, Claimant, Db, HostLoad, NewHost, NewOsf, NewVm, SslMaterial, TakeOver, password};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::peers::{Certificate, Entry, Peer, Running, free_port, listening};

const LOGIN: &str = "bench";
const PASSWORD: &str = "the quick brown fox";
const NODE: &str = "bench";

/// How long the host lives without a tick, and how often it ticks.
const LEASE: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_secs(10);

/// A site of one router.
#[derive(Debug)]
pub struct RouterSite;

impl RouterSite {
    /// Prepares `machines` running machines whose desktop is at `desktop`, and starts the router over them.
    ///
    /// # Errors
    ///
    /// When the router is not built beside the running program, or does not come up.
    pub async fn start(dir: &Path, desktop: u16, certificate: &Certificate, machines: usize) -> Result<Peer> {
        let program = router_program()?;
        let dir = dir.join("site");
        fs::create_dir_all(&dir).context("cannot make a directory for the site")?;
        let agent = Agent::start().await?;
        let file = dir.join("qvd.db");
        let db = Db::open(&Backend::Sqlite { path: file.clone() }).await?;
        populate(&db, certificate, Endpoints { agent, desktop }, machines).await?;

        let port = free_port()?;
        let root = dir.display();
        let text = format!(
            "nodename = {NODE}\ndatabase.driver = sqlite\ndatabase.path = {}\npath.run = {root}/run\n\
             path.log = {root}/log\npath.storage.root = {root}/storage\nl7r.address = 127.0.0.1\nl7r.port = {port}\nl7r.as_user =\n\
             l7r.limit.connections = 20000\nl7r.limit.connections.per.address = 0\nl7r.workers = 1\n",
            file.display()
        );
        let settings = dir.join("node.conf");
        fs::write(&settings, text).context("cannot write the router's settings")?;
        fs::create_dir_all(dir.join("log")).context("cannot make a directory for logs")?;
        let mut command = Command::new(program);
        command.arg("-f").arg(&settings).env_remove("QVD_SET").env_remove("QVD_CONFIG");
        let log = dir.join("router.log");
        let child = Running::start(command, &log)?;
        listening(port, "the router", &log).await?;
        let pid = child.id();
        let entry = Entry::Qvd { login: LOGIN.to_owned(), password: PASSWORD.to_owned(), machines };
        Ok(Peer::new("ours", port, entry, vec![pid], Some(child)))
    }
}

/// Processor milliseconds of one password check, which is part of every new session of ours.
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

/// Built by the same cargo call, hence beside this program.
fn router_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let router = own.with_file_name("qvd-l7r");
    if !router.is_file() {
        bail!("{} is not there; `make bench` builds it", router.display());
    }
    Ok(router)
}

#[derive(Clone, Copy)]
struct Endpoints {
    agent: u16,
    desktop: u16,
}

async fn populate(db: &Db, certificate: &Certificate, at: Endpoints, machines: usize) -> Result<()> {
    let ssl = SslMaterial {
        cert: Some(certificate.cert.clone()),
        key: Some(Secret::new(certificate.key.clone())),
        ..SslMaterial::default()
    };
    db.config().set_ssl(&ssl).await?;
    let (host, incarnation) = take_host(db).await?;
    let tenant = TenantId::DEFAULT;
    let hash = password::hash(PASSWORD.as_bytes())?;
    let user_id = db.users().add(tenant, LOGIN, Some(hash.expose())).await?;
    let osf = NewOsf {
        tenant,
        name: "bench".to_owned(),
        memory: Mebibytes(16),
        use_overlay: true,
        home: None,
        hypervisor: Some("nothing".to_owned()),
    };
    let osf_id = db.osfs().add(osf).await?;
    let endpoint =
        Endpoint::Ip { address: IpAddr::V4(Ipv4Addr::LOCALHOST), vma_port: at.agent, x_port: at.desktop };
    for number in 1..=machines {
        let name = format!("bench-{number}");
        let vm = NewVm { name, user_id, osf_id, di_tag: "default".to_owned(), ip: None };
        let vm = db.vms().add(vm).await?;
        ensure!(vm.get() == number as i64, "the generator counts machines from 1, this one is {vm}");
        ensure!(db.vms().claim(vm, host, Claimant::Admin).await?.is_updated(), "no claim of machine {vm}");
        let accepted = db.vms().accept_start(vm, host, incarnation).await?;
        let run = accepted.updated().with_context(|| format!("machine {vm} does not start"))?.run_id;
        let placed = db.vms().set_endpoint(vm, host, run, &endpoint, None).await?;
        let running = db.vms().set_state(vm, host, run, VmState::Running, None).await?;
        ensure!(placed.is_updated() && running.is_updated(), "machine {vm} does not run");
    }
    Ok(())
}

/// Takes the host over as its daemon would, and keeps it alive.
async fn take_host(db: &Db) -> Result<(HostId, i64)> {
    let host = NewHost {
        name: NODE.to_owned(),
        address: Ipv4Addr::LOCALHOST.to_string(),
        frontend: true,
        backend: true,
    };
    let host = db.hosts().add(host).await?;
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

/// One stand-in agent for all machines. Sessions are begun one after another, so one memory is enough: a desktop that
/// was asked for is `listening` once, any other question finds it `suspended`.
#[derive(Debug, Default)]
struct Agent {
    asked_for: AtomicUsize,
}

impl Agent {
    async fn start() -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let port = listener.local_addr().context("a listener has an address")?.port();
        let agent = Arc::new(Self::default());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let agent = Arc::clone(&agent);
                // A caller that goes away got its answer or wants none.
                tokio::spawn(async move { agent.answer(stream).await.ok() });
            }
        });
        Ok(port)
    }

    async fn answer(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut received = Vec::new();
        let head = loop {
            if let Some((head, _)) = parse_request(&received, &Limits::default())? {
                break head;
            }
            ensure!(stream.read_buf(&mut received).await? > 0, "the caller left");
        };
        let (code, body) = match self.result(method(head.path())) {
            Some(value) => (200, encode_result(&value.into())),
            None => (404, "no such method\n".to_owned()),
        };
        let length = body.len().to_string();
        let head =
            encode_head(&status_line(code), &[("Content-Type", CONTENT_TYPE), ("Content-Length", &length)]);
        stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?;
        Ok(())
    }

    fn result(&self, method: Option<&str>) -> Option<&'static str> {
        match method? {
            "ping" => Some("1"),
            "x_start" => {
                self.asked_for.fetch_add(1, Ordering::Relaxed);
                Some("starting")
            }
            "x_state" => {
                let one_less = |n: usize| n.checked_sub(1);
                let wanted = self.asked_for.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
                Some(if wanted.is_ok() { "listening" } else { "suspended" })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desktop_listens_once_after_it_was_asked_for() {
        let agent = Agent::default();
        let ask = |method| agent.result(Some(method));
        assert_eq!(ask("x_state"), Some("suspended"));
        assert_eq!(ask("x_start"), Some("starting"));
        assert_eq!(ask("x_state"), Some("listening"));
        assert_eq!(ask("x_state"), Some("suspended"));
        assert_eq!(ask("x_dance"), None);
    }
}
