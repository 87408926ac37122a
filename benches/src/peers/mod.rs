//! The proxies that are measured: HAProxy, nginx, a plain copy, buffered TLS, our router, and nothing at all.

mod copies;
mod servers;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

pub use copies::{buffered_tls, plain_copy, run_buffered_tls, run_plain_copy};
pub use servers::{HaProxy, haproxy, nginx};

use crate::client::{
    Answers, Stream, Tls, authorization, connect_request, full_handshakes, send, shake_hands,
};

/// How a session is begun.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Bytes at once.
    Plain,
    /// TLS, then bytes.
    Tls,
    /// Login, upgrade, then bytes. Every session takes the next virtual machine.
    Qvd {
        /// Whether TLS comes first.
        tls: bool,
        /// Whose the machines are.
        owners: Owners,
    },
}

/// Users with the same password, each with as many machines; ids of machines begin with 1.
#[derive(Clone, Debug)]
pub struct Owners {
    /// Everybody's.
    pub password: String,
    /// Machines of all of them.
    pub machines: usize,
    /// Machines of each.
    pub each: usize,
}

impl Owners {
    /// Who owns a machine.
    pub fn login(&self, machine: usize) -> String {
        format!("bench{}", (machine - 1) / self.each + 1)
    }
}

/// A measured proxy.
#[derive(Debug)]
pub struct Peer {
    /// For the table.
    pub name: &'static str,
    /// Processes whose processor time counts; empty for the direct way.
    pub pids: Vec<i32>,
    address: SocketAddr,
    entry: Entry,
    next: AtomicUsize,
    _child: Option<Running>,
}

/// A program that ends with this value.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a program; its output goes to `log`.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let twin = file.try_clone().context("cannot share a log")?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self(child))
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Peer {
    /// A peer that already listens.
    pub fn new(
        name: &'static str,
        address: SocketAddr,
        entry: Entry,
        pids: Vec<i32>,
        child: Option<Running>,
    ) -> Self {
        Self { name, pids, address, entry, next: AtomicUsize::new(0), _child: child }
    }

    /// The same under another name.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// What TLS agreed upon, and how many tickets came with the first answer; `None` without TLS.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn encryption(&self) -> Result<Option<String>> {
        if matches!(self.entry, Entry::Plain | Entry::Qvd { tls: false, .. }) {
            return Ok(None);
        }
        let mut tls = shake_hands(self.dial().await?, full_handshakes()).await?;
        // Tickets come with, or before, the first answer.
        match self.entry {
            Entry::Qvd { .. } => drop(ask_from_memory(&mut tls).await?),
            _ => crate::desktop::pull(&mut tls, 1).await.context("no byte of the desktop")?,
        }
        let (_, connection) = tls.get_ref();
        let version = connection.protocol_version().and_then(|v| v.as_str()).unwrap_or("?");
        let suite = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("?");
        let group = connection.negotiated_key_exchange_group().and_then(|g| g.name().as_str()).unwrap_or("?");
        let tickets = connection.tls13_tickets_received();
        Ok(Some(format!("{version} {suite} {group}, {tickets} tickets")))
    }

    /// Begins a session, up to the point where bytes of the desktop flow.
    ///
    /// # Errors
    ///
    /// When the proxy refuses.
    pub async fn session(&self) -> Result<Box<dyn Stream>> {
        self.session_over(full_handshakes()).await.map(|(stream, _)| stream)
    }

    /// As [`session`](Self::session) with a client of one's own; tells whether the handshake was a resumed one.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn session_over(&self, client: Arc<ClientConfig>) -> Result<(Box<dyn Stream>, bool)> {
        let mut tcp = self.dial().await?;
        match &self.entry {
            Entry::Plain => Ok((Box::new(tcp), false)),
            Entry::Tls => {
                let tls = shake_hands(tcp, client).await?;
                let resumed = is_resumed(&tls);
                Ok((Box::new(tls), resumed))
            }
            Entry::Qvd { tls, owners } => {
                let machine = self.next.fetch_add(1, Ordering::Relaxed) % owners.machines + 1;
                if *tls {
                    let mut tls = shake_hands(tcp, client).await?;
                    upgrade(&mut tls, machine, owners).await?;
                    let resumed = is_resumed(&tls);
                    Ok((Box::new(tls), resumed))
                } else {
                    upgrade(&mut tcp, machine, owners).await?;
                    Ok((Box::new(tcp), false))
                }
            }
        }
    }

    /// Shakes hands and asks what the server answers from memory; tells whether the handshake was a resumed one.
    ///
    /// # Errors
    ///
    /// When the server has no such answer.
    pub async fn ping(&self, client: Arc<ClientConfig>) -> Result<bool> {
        let mut tls = shake_hands(self.dial().await?, client).await?;
        ask_from_memory(&mut tls).await?;
        Ok(is_resumed(&tls))
    }

    /// A new connection to it.
    ///
    /// # Errors
    ///
    /// When it does not accept.
    pub async fn dial(&self) -> Result<TcpStream> {
        let tcp = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("{} does not accept", self.name))?;
        tcp.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(tcp)
    }
}

fn is_resumed(tls: &Tls) -> bool {
    tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

async fn ask_from_memory(tls: &mut Tls) -> Result<()> {
    send(tls, "GET /qvd/ping HTTP/1.1\r\nConnection: close\r\n").await?;
    let mut answer = Vec::new();
    // Up to the end: not every server says how long its answer is.
    let _ = tls.read_to_end(&mut answer).await;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    ensure!(line.windows(5).any(|w| w == b" 200 "), "no 200 but '{}'", String::from_utf8_lossy(line));
    Ok(())
}

async fn upgrade(stream: &mut (impl Stream + ?Sized), machine: usize, owners: &Owners) -> Result<()> {
    let shown = authorization(&owners.login(machine), &owners.password);
    send(stream, &connect_request(machine, &shown)).await?;
    Answers::default().switched(stream, |_| ()).await
}

/// A certificate with its key, made for the run.
#[derive(Debug)]
pub struct Certificate {
    /// Kind of its key.
    pub kind: &'static str,
    /// The certificate, PEM.
    pub cert: String,
    /// The key, PEM.
    pub key: String,
}

impl Certificate {
    /// Makes one for `localhost`.
    ///
    /// # Errors
    ///
    /// When the generator fails.
    pub fn ecdsa() -> Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("no key")?;
        Self::with_key("ECDSA P-256", &key)
    }

    /// As [`ecdsa`](Self::ecdsa), with the other usual kind of key.
    ///
    /// # Errors
    ///
    /// When the generator fails.
    pub fn rsa() -> Result<Self> {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            .context("no key")?;
        Self::with_key("RSA-2048", &key)
    }

    fn with_key(kind: &'static str, key: &rcgen::KeyPair) -> Result<Self> {
        let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).context("a legal name")?;
        let cert = names.self_signed(key).context("cannot make a certificate")?;
        Ok(Self { kind, cert: cert.pem(), key: key.serialize_pem() })
    }

    /// Both in one file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, format!("{}{}", self.cert, self.key))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

/// A server's program; those of administrators are not in everybody's path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}
