//! A node as on a real site: house-keeping daemon and router as two processes over one database, so that each can be
//! killed and started again without the other.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use qvd_db::Backend;

use crate::process::{Process, program, run, wait_until};
use crate::site::Site;

/// How long a daemon may take to come up; generous, since machines are shared.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running node. What a visitor does with a site works here too; the site's server is the router.
#[derive(Debug)]
pub struct Node {
    // Ends first: nobody asks for a machine then that is on its way down.
    site: Site,
    hkd: Process,
    dir: PathBuf,
    port: u16,
}

impl Node {
    /// Starts a node below `dir`. `database` holds the lines `database.*` of its configuration, for a database with
    /// tables; without them it is an SQLite file. `more` are further lines.
    ///
    /// # Errors
    ///
    /// When a daemon does not come up.
    pub fn start(dir: &Path, database: Option<&str>, more: &str) -> Result<Self> {
        let data = dir.join("data");
        let own = data.display();
        let sqlite = format!("database.driver = sqlite\ndatabase.path = {own}/qvd.db\n");
        let config = format!(
            "nodename = node\npath.run = {own}/run\npath.log = {own}/log\npath.tmp = {own}/tmp\n\
             path.storage.root = {own}/storage\nvm.hypervisor = process\nvm.network.use_dhcp = 0\n\
             internal.vm.network.firewall.enable = 0\nl7r.address = 127.0.0.1\nl7r.use_ssl = 0\nl7r.as_user =\n{}{more}",
            database.unwrap_or(&sqlite)
        );
        for part in ["run", "log", "tmp", "storage"] {
            let part = data.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let file = data.join("node.conf");
        write_config(&file, &config, free_port()?)?;
        run(Command::new(program("qa")?).env("QVD_CONFIG", &file).args([
            "host",
            "add",
            "name=node",
            "address=127.0.0.1",
        ]))?;
        let hkd = daemon(dir, "qvd-hkd")?;
        let (mut router, port) = loop {
            // Another program may take a port between the look and the router's.
            let port = free_port()?;
            write_config(&file, &config, port)?;
            if let Some(router) = try_router(dir)? {
                break (router, port);
            }
        };
        wait_serving(&mut router, port)?;
        Ok(Self { site: Site::of_router(router, dir, port, None), hkd, dir: dir.to_owned(), port })
    }

    /// Log of the house-keeping daemon.
    pub fn hkd_log(&self) -> PathBuf {
        self.hkd.log().to_owned()
    }

    /// The house-keeping daemon.
    pub fn hkd(&mut self) -> &mut Process {
        &mut self.hkd
    }

    /// Kills the house-keeping daemon.
    ///
    /// # Errors
    ///
    /// When it is gone already.
    pub fn kill_hkd(&self) -> Result<()> {
        self.hkd.signal(Signal::SIGKILL)
    }

    /// Starts the house-keeping daemon again, and waits until it has found its machines and keeps house.
    ///
    /// # Errors
    ///
    /// When it does not come back.
    pub fn restart_hkd(&mut self) -> Result<()> {
        self.hkd.wait_exit(READY_LIMIT)?;
        self.hkd = daemon(&self.dir, "qvd-hkd")?;
        self.hkd.wait_line(" to=Running", READY_LIMIT).map(drop)
    }

    /// Kills the router.
    ///
    /// # Errors
    ///
    /// When it is gone already.
    pub fn kill_router(&mut self) -> Result<()> {
        self.site.server().signal(Signal::SIGKILL)
    }

    /// Starts the router again, and waits until it serves.
    ///
    /// # Errors
    ///
    /// When it does not come back.
    pub fn restart_router(&mut self) -> Result<()> {
        let router = self.site.server();
        router.wait_exit(READY_LIMIT)?;
        *router = wait_until("the router's port", READY_LIMIT, || try_router(&self.dir).transpose())??;
        wait_serving(router, self.port)
    }
}

impl Deref for Node {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Site {
        &mut self.site
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.site.server().stop(Duration::from_secs(20));
        // It stops its virtual machines first.
        self.hkd.stop(Duration::from_secs(90));
    }
}

/// The keys `database.*` for this database server.
///
/// # Panics
///
/// For a database that is none.
pub fn database_lines(backend: &Backend) -> String {
    let Backend::Postgres { host, port, name, user, password, .. } = backend else {
        panic!("not a server: {backend:?}")
    };
    format!(
        "database.driver = postgresql\ndatabase.host = {host}\ndatabase.port = {port}\ndatabase.name = {name}\n\
         database.user = {user}\ndatabase.password = {}\n",
        password.expose()
    )
}

fn daemon(dir: &Path, name: &str) -> Result<Process> {
    let mut command = Command::new(program(name)?);
    command.arg("-f").arg(dir.join("data/node.conf")).arg("-X");
    Process::start(name, command, &dir.join(format!("{name}.log")))
}

/// Starts the router; `None` when another program has its port.
fn try_router(dir: &Path) -> Result<Option<Process>> {
    let mut router = daemon(dir, "qvd-l7r")?;
    match router.wait_line("listening", READY_LIMIT) {
        Ok(_) => Ok(Some(router)),
        Err(_) if router.lines().iter().any(|line| line.contains("cannot listen on")) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The router serves once the house-keeping daemon has put the node into service.
fn wait_serving(router: &mut Process, port: u16) -> Result<()> {
    let served = wait_until("a router that serves", READY_LIMIT, || {
        (!router.is_running() || crate::ask::ping(port).ok()? == 200).then_some(())
    });
    served.with_context(|| format!("the router says:\n  {}", router.lines().join("\n  ")))?;
    anyhow::ensure!(router.is_running(), "the router ended: {}", router.lines().join("\n  "));
    Ok(())
}

fn write_config(file: &Path, config: &str, port: u16) -> Result<()> {
    let text = format!("{config}l7r.port = {port}\n");
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn free_port() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("loopback has no free port")?;
    Ok(probe.local_addr().context("the socket has no address")?.port())
}
