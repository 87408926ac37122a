//! The program `qvd-l7r`, at an address of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::wire::eventually;
use crate::process::{Process, program};

/// A running router.
#[derive(Debug)]
pub struct Router {
    /// Where it listens.
    pub address: SocketAddr,
    file: PathBuf,
    process: Mutex<Process>,
}

impl Router {
    /// Starts one with the files of a world; `config` lacks its address alone.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub async fn start(dir: &Path, number: u16, config: &str) -> Result<Self> {
        // An address of its own: no port can be taken by somebody else between a look and the router's.
        let address = own_address();
        let file = dir.join(format!("node-{number}.conf"));
        fs::write(&file, format!("{config}l7r.address = {address}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let process = started(&file, &[], dir, number)?;
        let router = Self { address: (address, PORT).into(), file, process: Mutex::new(process) };
        eventually("the router's port", async || {
            ensure!(router.is_running(), "the router ended: {}", router.log());
            Ok(tokio::net::TcpStream::connect(router.address).await.ok())
        })
        .await?;
        Ok(router)
    }

    /// Starts another one with the same files that takes over from this one, and waits until it has.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn successor(&self, dir: &Path, number: u16) -> Result<Self> {
        let process = started(&self.file, &["--succeed"], dir, number)?;
        let next = Self { address: self.address, file: self.file.clone(), process: Mutex::new(process) };
        eventually("the next router", async || {
            ensure!(next.is_running(), "it ended: {}", next.log());
            Ok(next.log().contains("router serves").then_some(()))
        })
        .await?;
        Ok(next)
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.process().is_running()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub async fn ended(&self) -> Result<()> {
        eventually("the end of the router", async || Ok((!self.is_running()).then_some(()))).await
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process().lines().join("\n")
    }

    /// Waits until its log holds this.
    ///
    /// # Errors
    ///
    /// When it never does.
    pub async fn until_logged(&self, text: &str) -> Result<()> {
        eventually(&format!("'{text}' in the log"), async || Ok(self.log().contains(text).then_some(())))
            .await
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of memory that it holds now.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn memory(&self) -> Result<usize> {
        let id = self.process().id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).context("no router")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no size")?;
        let kib = line.trim().trim_end_matches(" kB").trim().parse::<usize>().context("no size")?;
        Ok(kib * 1024)
    }

    /// Descriptors that it holds now.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn descriptors(&self) -> Result<usize> {
        let id = self.process().id();
        Ok(fs::read_dir(format!("/proc/{id}/fd")).context("no router")?.count())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // Asked to end it would wait for its sessions.
        let _ = self.signal(Signal::SIGKILL);
    }
}

fn started(file: &Path, more: &[&str], dir: &Path, number: u16) -> Result<Process> {
    let mut command = Command::new(program("qvd-l7r")?);
    command.arg("-f").arg(file).arg("-X").args(more);
    command.env_remove("QVD_CONFIG").env_remove("QVD_SET").env_remove("QVD_LOG");
    Process::start("qvd-l7r", command, &dir.join(format!("qvd-l7r-{number}.log")))
}

/// An address of the loopback network that no other router of this machine has.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let id = std::process::id();
    let (a, b) = (64 + (id / 250 % 128) as u8, (id % 250) as u8 + 1);
    Ipv4Addr::new(127, a, b, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The port of every router: each has an address of its own.
pub const PORT: u16 = 28443;
