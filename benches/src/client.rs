//! The client's half of the wire: TLS handshakes, requests, the upgrade.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use qvd_core::proto::basic::encode_basic;
use qvd_core::proto::http1::{Limits, parse_response};
use qvd_system_tests::believer::Believer;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Both directions of a session.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A client's TLS over TCP.
pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Body.
    pub body: String,
}

/// TLS 1.3 with AES-256-GCM and full handshakes; certificates are made for the run, so there is nothing to verify.
pub fn full_handshakes() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| Arc::new(config(rustls::client::Resumption::disabled()))))
}

/// As [`full_handshakes`], but it offers the tickets that it was given; to be used with one server only.
pub fn resumed_handshakes() -> Arc<ClientConfig> {
    Arc::new(config(rustls::client::Resumption::in_memory_sessions(8)))
}

fn config(resumption: rustls::client::Resumption) -> ClientConfig {
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
    config.resumption = resumption;
    config
}

/// Shakes hands.
///
/// # Errors
///
/// When the server does not want to.
pub async fn shake_hands(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<Tls> {
    let name = ServerName::try_from("localhost").context("a legal name")?;
    TlsConnector::from(config).connect(name, tcp).await.context("TLS handshake failed")
}

/// Sends a request head, without its last line.
///
/// # Errors
///
/// When the connection is broken.
pub async fn send(stream: &mut (impl Stream + ?Sized), head: &str) -> Result<()> {
    stream.write_all(format!("{head}\r\n").as_bytes()).await.context("cannot send the request")?;
    stream.flush().await.context("cannot send the request")
}

/// The header that shows who asks.
pub fn authorization(login: &str, password: &str) -> String {
    format!("Authorization: {}\r\n", encode_basic(login, password.as_bytes()))
}

/// A request, without its last line, for a machine's desktop.
pub fn connect_request(machine: usize, authorization: &str) -> String {
    format!(
        "GET /qvd/connect_to_vm?id={machine}&qvd.client.link=lan HTTP/1.1\r\n{authorization}Connection: Upgrade\r\n\
         Upgrade: QVD/1.0\r\n"
    )
}

/// Reads answers of one connection.
#[derive(Debug, Default)]
pub struct Answers(Vec<u8>);

impl Answers {
    /// Reads the next head, and what belongs to it; 101 and 102 have no body.
    ///
    /// # Errors
    ///
    /// When the connection ends before.
    pub async fn next(&mut self, stream: &mut (impl Stream + ?Sized)) -> Result<(Answer, Vec<String>)> {
        let mut chunk = [0; 4096];
        loop {
            if let Some((head, used)) = parse_response(&self.0, &Limits::default())? {
                let length = head.content_length()?;
                if self.0.len() >= used + length {
                    let body = String::from_utf8_lossy(&self.0[used..used + length]).into_owned();
                    self.0.drain(..used + length);
                    let remarks =
                        head.headers.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned());
                    return Ok((Answer { code: head.code, body }, remarks.collect()));
                }
            }
            let n = stream.read(&mut chunk).await.context("cannot read the answer")?;
            if n == 0 {
                bail!("the connection ended within an answer: {}", String::from_utf8_lossy(&self.0));
            }
            self.0.extend_from_slice(&chunk[..n]);
        }
    }

    /// Reads up to the final answer to a request for a desktop, and tells of each step on the way.
    ///
    /// # Errors
    ///
    /// When it is not 101; the text holds what it is.
    pub async fn switched(
        &mut self,
        stream: &mut (impl Stream + ?Sized),
        mut told: impl FnMut(&[String]),
    ) -> Result<()> {
        loop {
            match self.next(stream).await? {
                (Answer { code: 102, .. }, remarks) => told(&remarks),
                (Answer { code: 101, .. }, _) => return Ok(()),
                (Answer { code, body }, _) => bail!("the router answered {code}: {}", body.trim()),
            }
        }
    }
}
