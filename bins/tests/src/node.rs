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
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let port = free_port()?;
        let own = data.display();
        let sqlite = format!("database.driver = sqlite\ndatabase.path = {own}/qvd.db\n");
        let config = format!(
            "nodename = node\npath.run = {own}/run\npath.log = {own}/log\npath.tmp = {own}/tmp\n\
             path.storage.root = {own}/storage\nvm.hypervisor = process\nvm.network.use_dhcp = 0\n\
             internal.vm.network.firewall.enable = 0\nl7r.address = 127.0.0.1\nl7r.port = {port}\n\
             l7r.use_ssl = 0\n{}{more}",
            database.unwrap_or(&sqlite)
        );
        for part in ["run", "log", "tmp", "storage"] {
            let part = data.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let file = data.join("node.conf");
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        run(Command::new(program("qa")?).env("QVD_CONFIG", &file).args([
            "host",
            "add",
            "name=node",
            "address=127.0.0.1",
        ]))?;
        let hkd = daemon(dir, "qvd-hkd")?;
        let router = start_router(dir, port)?;
        Ok(Self { site: Site::of_router(router, dir, port, None), hkd, dir: dir.to_owned(), port })
    }

    /// The house-keeping daemon.
    pub fn hkd(&mut self) -> &mut Process {
        &mut self.hkd
    }

    /// Kills the house-keeping daemon and starts it again, without waiting until it has found its machines.
    ///
    /// # Errors
    ///
    /// When it cannot be killed or started.
    pub fn crash_hkd(&mut self) -> Result<()> {
        self.hkd.signal(Signal::SIGKILL)?;
        self.hkd.wait_exit(READY_LIMIT)?;
        self.hkd = daemon(&self.dir, "qvd-hkd")?;
        Ok(())
    }

    /// Kills the router and starts it again.
    ///
    /// # Errors
    ///
    /// When it does not come back.
    pub fn crash_router(&mut self) -> Result<()> {
        let router = self.site.server();
        router.signal(Signal::SIGKILL)?;
        router.wait_exit(READY_LIMIT)?;
        *router = start_router(&self.dir, self.port)?;
        Ok(())
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

fn daemon(dir: &Path, name: &str) -> Result<Process> {
    let mut command = Command::new(program(name)?);
    command.arg("-f").arg(dir.join("data/node.conf")).arg("-X");
    Process::start(name, command, &dir.join(format!("{name}.log")))
}

fn start_router(dir: &Path, port: u16) -> Result<Process> {
    let mut router = daemon(dir, "qvd-l7r")?;
    router.wait_line("listening", READY_LIMIT)?;
    // It serves once the house-keeping daemon has put the node into service.
    wait_until("a router that serves", READY_LIMIT, || (crate::ask::ping(port).ok()? == 200).then_some(()))?;
    Ok(router)
}

fn free_port() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("loopback has no free port")?;
    Ok(probe.local_addr().context("the socket has no address")?.port())
}
