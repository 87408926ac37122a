//! The proxies that are measured: HAProxy, nginx, a plain copy, buffered TLS, our router, and nothing at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qvd_core::proto::basic::encode_basic;
use qvd_core::proto::http1::{Limits, parse_response};
use qvd_system_tests::believer::Believer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Both directions of a session.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a session is begun.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Bytes at once.
    Plain,
    /// TLS, then bytes.
    Tls,
    /// TLS, login, upgrade, then bytes. Every session takes the next virtual machine.
    Qvd {
        /// Login of the owner.
        login: String,
        /// Password.
        password: String,
        /// Number of machines, ids from 1.
        machines: usize,
    },
}

/// A measured proxy.
#[derive(Debug)]
pub struct Peer {
    /// For the table.
    pub name: &'static str,
    /// Processes whose processor time counts; empty for the direct way.
    pub pids: Vec<i32>,
    port: u16,
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
    pub fn new(name: &'static str, port: u16, entry: Entry, pids: Vec<i32>, child: Option<Running>) -> Self {
        Self { name, pids, port, entry, next: AtomicUsize::new(0), _child: child }
    }

    /// What TLS agreed upon; `None` without TLS.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn encryption(&self) -> Result<Option<String>> {
        if matches!(self.entry, Entry::Plain) {
            return Ok(None);
        }
        let tls = handshake(self.dial().await?).await?;
        let (_, connection) = tls.get_ref();
        let version = connection.protocol_version().and_then(|v| v.as_str()).unwrap_or("?");
        let suite = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("?");
        let group = connection.negotiated_key_exchange_group().and_then(|g| g.name().as_str()).unwrap_or("?");
        Ok(Some(format!("{version} {suite} {group}")))
    }

    /// Begins a session, up to the point where bytes of the desktop flow.
    ///
    /// # Errors
    ///
    /// When the proxy refuses.
    pub async fn session(&self) -> Result<Box<dyn Stream>> {
        let tcp = self.dial().await?;
        match &self.entry {
            Entry::Plain => Ok(Box::new(tcp)),
            Entry::Tls => Ok(Box::new(handshake(tcp).await?)),
            Entry::Qvd { login, password, machines } => {
                let machine = self.next.fetch_add(1, Ordering::Relaxed) % machines + 1;
                let mut tls = handshake(tcp).await?;
                upgrade(&mut tls, machine, login, password).await?;
                Ok(Box::new(tls))
            }
        }
    }

    async fn dial(&self) -> Result<TcpStream> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .with_context(|| format!("{} does not accept", self.name))?;
        tcp.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(tcp)
    }
}

async fn handshake(tcp: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").context("a legal name")?;
    TlsConnector::from(tls_client()).connect(name, tcp).await.context("TLS handshake failed")
}

async fn upgrade(
    tls: &mut (impl Stream + ?Sized),
    machine: usize,
    login: &str,
    password: &str,
) -> Result<()> {
    let request = format!(
        "GET /qvd/connect_to_vm?id={machine}&qvd.client.link=lan HTTP/1.1\r\nAuthorization: {}\r\n\
         Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n\r\n",
        encode_basic(login, password.as_bytes())
    );
    tls.write_all(request.as_bytes()).await.context("cannot send the request")?;
    tls.flush().await.context("cannot send the request")?;
    let mut heads = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some((head, used)) = parse_response(&heads, &Limits::default())? {
            heads.drain(..used);
            match head.code {
                102 => {}
                101 => return Ok(()),
                code => bail!("the router answered {code}: {}", String::from_utf8_lossy(&heads)),
            }
        }
        let n = tls.read(&mut chunk).await.context("cannot read the answer")?;
        if n == 0 {
            bail!("the router closed the connection");
        }
        heads.extend_from_slice(&chunk[..n]);
    }
}

/// TLS 1.3 with AES-256-GCM and full handshakes; certificates are made for the run, so there is nothing to verify.
fn tls_client() -> Arc<ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<ClientConfig>> = std::sync::OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        // One suite, so that no server's preference decides what is compared.
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("aws-lc-rs has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Believer::new(provider))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }))
}

/// A certificate with its key, made for the run: ECDSA P-256.
#[derive(Debug)]
pub struct Certificate {
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
    pub fn make() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .context("cannot make a certificate")?;
        Ok(Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }
}

/// Starts HAProxy with one thread: a TLS entry and a plain one. `None` when it is not installed.
///
/// # Errors
///
/// When it is there and does not start.
pub async fn haproxy(dir: &Path, desktop: u16, certificate: &Certificate) -> Result<Option<(Peer, u16)>> {
    let Some(program) = find(&["haproxy", "/usr/sbin/haproxy"]) else { return Ok(None) };
    let (tls, plain) = (free_port()?, free_port()?);
    let pem = dir.join("haproxy.pem");
    fs::write(&pem, format!("{}{}", certificate.cert, certificate.key))
        .context("cannot write a certificate")?;
    let settings = dir.join("haproxy.cfg");
    let text = format!(
        "global\n  nbthread 1\n  maxconn 9400\n  tune.bufsize 16384\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\nfrontend tls\n  bind 127.0.0.1:{tls} ssl crt {}\n  \
         default_backend desktop\nfrontend plain\n  bind 127.0.0.1:{plain}\n  default_backend desktop\n\
         backend desktop\n  server vm 127.0.0.1:{desktop}\n",
        pem.display()
    );
    fs::write(&settings, text).context("cannot write HAProxy's settings")?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&settings);
    let log = dir.join("haproxy.log");
    let child = Running::start(command, &log)?;
    listening(tls, "HAProxy", &log).await?;
    let pid = child.id();
    Ok(Some((Peer::new("HAProxy", tls, Entry::Tls, vec![pid], Some(child)), plain)))
}

/// Starts nginx with one worker. `None` when it or its stream module is not installed.
///
/// # Errors
///
/// When it is there and does not start.
pub async fn nginx(dir: &Path, desktop: u16, certificate: &Certificate) -> Result<Option<Peer>> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let Some(program) = find(&["nginx", "/usr/sbin/nginx"]) else { return Ok(None) };
    if !Path::new(module).exists() {
        return Ok(None);
    }
    let port = free_port()?;
    let (cert, key) = (dir.join("nginx.crt"), dir.join("nginx.key"));
    fs::write(&cert, &certificate.cert).context("cannot write a certificate")?;
    fs::write(&key, &certificate.key).context("cannot write a key")?;
    let run = dir.display();
    let text = format!(
        "load_module {module};\nworker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\npid {run}/nginx.pid;\n\
         error_log {run}/nginx.err;\nevents {{ worker_connections 19000; }}\nstream {{\n  server {{\n    \
         listen 127.0.0.1:{port} ssl;\n    ssl_certificate {};\n    ssl_certificate_key {};\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n    proxy_pass 127.0.0.1:{desktop};\n    proxy_timeout 1h;\n  }}\n}}\n",
        cert.display(),
        key.display()
    );
    let settings = dir.join("nginx.conf");
    fs::write(&settings, text).context("cannot write nginx's settings")?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&settings).arg("-p").arg(dir);
    let log = dir.join("nginx.log");
    let child = Running::start(command, &log)?;
    listening(port, "nginx", &log).await?;
    let workers = children(child.id());
    Ok(Some(Peer::new("nginx stream", port, Entry::Tls, workers, Some(child))))
}

/// Starts the plain copy, which is this program again.
///
/// # Errors
///
/// When it does not start.
pub async fn plain_copy(dir: &Path, desktop: u16) -> Result<Peer> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe().context("cannot find the running program")?);
    command.args(["plain-copy", &port.to_string(), &desktop.to_string()]);
    let log = dir.join("plain-copy.log");
    let child = Running::start(command, &log)?;
    listening(port, "the plain copy", &log).await?;
    let pid = child.id();
    Ok(Peer::new("plain copy", port, Entry::Plain, vec![pid], Some(child)))
}

/// What the plain copy does: one thread, a buffer of 128 KiB per direction, no TLS.
///
/// # Errors
///
/// When the port is taken.
pub async fn run_plain_copy(port: u16, desktop: u16) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .context("cannot listen for the plain copy")?;
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", desktop)).await else { return };
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let _ = tokio::io::copy_bidirectional_with_sizes(
                        &mut client,
                        &mut server,
                        128 << 10,
                        128 << 10,
                    )
                    .await;
                });
            }
        })
        .await;
    Ok(())
}

/// Starts the yardstick of TLS with a library's own buffers, which is this program again.
///
/// # Errors
///
/// When it does not start.
pub async fn buffered_tls(dir: &Path, desktop: u16, certificate: &Certificate) -> Result<Peer> {
    let port = free_port()?;
    let pem = dir.join("buffered-tls.pem");
    fs::write(&pem, format!("{}{}", certificate.cert, certificate.key))
        .context("cannot write a certificate")?;
    let mut command = Command::new(std::env::current_exe().context("cannot find the running program")?);
    command.args(["buffered-tls", &port.to_string(), &desktop.to_string()]).arg(&pem);
    let log = dir.join("buffered-tls.log");
    let child = Running::start(command, &log)?;
    listening(port, "buffered TLS", &log).await?;
    let pid = child.id();
    Ok(Peer::new("buffered rustls", port, Entry::Tls, vec![pid], Some(child)))
}

/// What that does: one thread, tokio-rustls, a buffer of 64 KiB per direction, no HTTP.
///
/// # Errors
///
/// When the port is taken, or the certificate is of no use.
pub async fn run_buffered_tls(port: u16, desktop: u16, pem: &Path) -> Result<()> {
    let certificate = CertificateDer::from_pem_file(pem).context("no certificate")?;
    let key = PrivateKeyDer::from_pem_file(pem).context("no key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener =
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await.context("cannot listen for buffered TLS")?;
    let tasks = tokio::task::LocalSet::new();
    let accept = async {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let _ = client.set_nodelay(true);
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(("127.0.0.1", desktop)).await else { return };
                let _ = server.set_nodelay(true);
                let size = 64 << 10;
                // A client that goes away is the end of a measurement.
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await;
            });
        }
    };
    tasks.run_until(accept).await;
    Ok(())
}

/// A port of loopback that was free a moment ago.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr().context("a listener has an address")?.port())
}

/// Waits until somebody accepts on a port.
///
/// # Errors
///
/// After thirty seconds; the text ends with what the program printed into `log`.
pub async fn listening(port: u16, who: &str, log: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if Instant::now() > deadline {
            let printed = fs::read_to_string(log).unwrap_or_default();
            bail!("{who} does not listen on port {port}: {}", printed.trim());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)).chain([PathBuf::from(name)]))
        .find(|file| file.is_absolute() && file.is_file())
}

fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}
