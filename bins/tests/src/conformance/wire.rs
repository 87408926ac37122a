//! A connection that sees what comes in the pieces in which it was sent: with TLS record by record, as old clients do.
//!
//! Records are cut out of the ciphertext below the TLS library, so that what the router sent in one piece is seen in
//! one piece, whatever TCP made of it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::believer::Believer;

/// Ample for anything that is not broken.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits for something that will come.
///
/// # Errors
///
/// When it does not.
pub async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(LIMIT, coming).await.with_context(|| format!("waited {LIMIT:?} for {what}"))
}

/// Asks until there is an answer; for what sends no event.
///
/// # Errors
///
/// When there is none.
pub async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    loop {
        looks.tick().await;
        if let Some(answer) = question().await? {
            return Ok(answer);
        }
        ensure!(tokio::time::Instant::now() < deadline, "waited {LIMIT:?} for {what}");
    }
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Everything up to the empty line.
    pub head: String,
    /// What its length announces.
    pub body: String,
}

impl Answer {
    /// Status code; 0 when there is none.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// The status, and a body that holds this.
    ///
    /// # Errors
    ///
    /// When it is another answer.
    pub fn expect(&self, status: u16, body: &str) -> Result<()> {
        ensure!(self.status() == status && self.body.contains(body), "not {status} '{body}': {self:?}");
        Ok(())
    }
}

/// Connects from an address of this machine's loopback.
///
/// # Errors
///
/// When nobody listens.
pub async fn dial(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("no socket")?;
    socket.bind((IpAddr::V4(from), 0).into()).with_context(|| format!("cannot send from {from}"))?;
    let stream =
        soon("a connection", socket.connect(to)).await?.with_context(|| format!("no answer at {to}"))?;
    stream.set_nodelay(true).context("no TCP_NODELAY")?;
    Ok(stream)
}

/// Sends bytes without TLS and answers everything that comes until the peer closes.
///
/// # Errors
///
/// When it does not close.
pub async fn plain(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = dial(from, to).await?;
    // The peer may have heard enough before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await?;
    Ok(answer)
}

/// A TLS connection.
#[derive(Debug)]
pub struct Wire {
    tcp: TcpStream,
    tls: ClientConnection,
    raw: Vec<u8>,
    records: VecDeque<Vec<u8>>,
    notified: bool,
    ended: bool,
}

impl Wire {
    /// Connects, believing any certificate.
    ///
    /// # Errors
    ///
    /// When the handshake does not succeed.
    pub async fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<Self> {
        Self::connect_as(from, to, believing(None, &[])?).await
    }

    /// Connects with a configuration of the caller's own.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn connect_as(from: Ipv4Addr, to: SocketAddr, config: ClientConfig) -> Result<Self> {
        Self::over(dial(from, to).await?, config).await
    }

    /// Shakes hands on a connection that there is, believing any certificate.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn greet(tcp: TcpStream) -> Result<Self> {
        Self::over(tcp, believing(None, &[])?).await
    }

    async fn over(tcp: TcpStream, config: ClientConfig) -> Result<Self> {
        let name = ServerName::try_from("localhost").context("a name")?;
        let tls = ClientConnection::new(Arc::new(config), name).context("no TLS client")?;
        let (raw, records) = (Vec::new(), VecDeque::new());
        let mut wire = Self { tcp, tls, raw, records, notified: false, ended: false };
        while wire.tls.is_handshaking() {
            wire.flush().await;
            if wire.tls.is_handshaking() {
                soon("the handshake", wire.read_some()).await??;
                ensure!(!wire.ended, "closed during the handshake");
            }
        }
        wire.flush().await;
        Ok(wire)
    }

    /// What the handshake came to.
    pub fn tls(&self) -> &ClientConnection {
        &self.tls
    }

    /// Whether the peer said close_notify.
    pub fn is_notified(&self) -> bool {
        self.notified
    }

    /// Sends bytes in one record.
    ///
    /// # Errors
    ///
    /// When they are too many for one.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.tls.writer().write_all(bytes.as_ref()).context("not written")?;
        self.flush().await;
        Ok(())
    }

    /// The plain text of the next record; `None` at the end.
    ///
    /// # Errors
    ///
    /// When nothing comes.
    pub async fn record(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            if self.ended {
                return Ok(None);
            }
            // A connection that broke has ended, too.
            if soon("a record", self.read_some()).await?.is_err() {
                self.ended = true;
            }
        }
    }

    /// The next record as text.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn text(&mut self) -> Result<String> {
        let record = self.record().await?.context("the connection ended where a record was due")?;
        String::from_utf8(record).context("no text")
    }

    /// The next final answer, which must come as a whole head in one record and its body in others.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn answer(&mut self) -> Result<Answer> {
        let head = self.text().await?;
        self.body_of(head).await
    }

    async fn body_of(&mut self, head: String) -> Result<Answer> {
        ensure!(
            head.starts_with("HTTP/1.1 ")
                && head.ends_with("\r\n\r\n")
                && head.matches("\r\n\r\n").count() == 1,
            "no head in a record of its own: {head:?}"
        );
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let length: usize = length.with_context(|| format!("no length: {head:?}"))?;
        let mut body = self.text().await?;
        // A long one does not fit into one record.
        while body.len() < length {
            body.push_str(&self.text().await?);
        }
        ensure!(body.len() == length && length > 0, "head and body do not agree: {head:?} {body:?}");
        Ok(Answer { head, body })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub async fn ask(&mut self, target: &str, headers: &[&str]) -> Result<Answer> {
        self.send(request(target, headers)).await?;
        self.answer().await
    }

    /// The texts of all 102 records up to the first other record, and that one.
    ///
    /// # Errors
    ///
    /// When a 102 is not a whole head in a record of its own.
    pub async fn progress(&mut self) -> Result<(Vec<String>, String)> {
        let mut texts = Vec::new();
        loop {
            let record = self.text().await.with_context(|| format!("behind {texts:?}"))?;
            let Some(text) = record.strip_prefix("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: ") else {
                return Ok((texts, record));
            };
            let text = text.strip_suffix("\r\n\r\n").filter(|text| !text.contains("\r\n"));
            texts.push(text.with_context(|| format!("not one whole head: {record:?}"))?.to_owned());
        }
    }

    /// Reads until the desktop's stream begins; answers the 102 texts and the slave key.
    ///
    /// # Errors
    ///
    /// When something else comes than one 101 with a key and nothing else, in a record of its own.
    pub async fn switched(&mut self) -> Result<(Vec<String>, String)> {
        let (texts, head) = self.progress().await?;
        let key = head
            .strip_prefix("HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: ")
            .and_then(|rest| rest.strip_suffix("\r\n\r\n"))
            .filter(|key| key.len() == 64 && key.bytes().all(|b| b.is_ascii_alphanumeric()));
        match key {
            Some(key) => Ok((texts, key.to_owned())),
            None => bail!("no 101: {texts:?} {head:?} {:?}", self.record().await?.map(String::from_utf8)),
        }
    }

    /// Reads until the request is refused, and the end behind it; answers the 102 texts and the refusal.
    ///
    /// # Errors
    ///
    /// When it is not, or the connection goes on.
    pub async fn refused(&mut self) -> Result<(Vec<String>, Answer)> {
        let (texts, head) = self.progress().await?;
        let answer = self.body_of(head).await?;
        self.expect_end().await?;
        Ok((texts, answer))
    }

    /// The connection ends, in order, with nothing more said.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn expect_end(&mut self) -> Result<()> {
        let more = self.record().await?;
        ensure!(
            more.is_none(),
            "more was said: {:?}",
            more.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        );
        ensure!(self.notified, "closed without close_notify");
        Ok(())
    }

    /// Closes in order.
    pub async fn close(mut self) {
        self.tls.send_close_notify();
        self.flush().await;
        let _ = self.tcp.shutdown().await;
    }

    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut out).is_err() {
                break;
            }
        }
        // The peer may be gone; reading tells.
        let _ = self.tcp.write_all(&out).await;
    }

    /// Reads bytes and takes whole records out of them, one at a time.
    async fn read_some(&mut self) -> Result<()> {
        match self.tcp.read_buf(&mut self.raw).await {
            Ok(0) | Err(_) => self.ended = true,
            Ok(_) => {}
        }
        while let Some(length) = self.raw.get(3..5).map(|l| 5 + usize::from(u16::from_be_bytes([l[0], l[1]])))
        {
            if self.raw.len() < length {
                break;
            }
            let record: Vec<u8> = self.raw.drain(..length).collect();
            let mut rest = record.as_slice();
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest).context("record not taken")?;
            }
            let state = self.tls.process_new_packets().context("no TLS")?;
            self.notified |= state.peer_has_closed();
            self.ended |= state.peer_has_closed();
            if state.plaintext_bytes_to_read() > 0 {
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                self.tls.reader().read_exact(&mut plain).context("not read")?;
                self.records.push_back(plain);
            }
        }
        Ok(())
    }
}

/// A request head; `headers` are whole lines.
pub fn request(target: &str, headers: &[&str]) -> String {
    format!("GET {target} HTTP/1.1\r\n{}\r\n", headers.concat())
}

/// The headers that ask for a desktop.
pub const UPGRADE: [&str; 2] = ["Connection: Upgrade\r\n", "Upgrade: QVD/1.0\r\n"];

/// A client that believes any certificate, perhaps with one of its own.
///
/// # Errors
///
/// When that one is no good.
pub fn believing(
    own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    alpn: &[&str],
) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("no TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Believer::new(provider));
    let mut config = match own {
        Some((certificate, key)) => {
            builder.with_client_auth_cert(vec![certificate], key).context("the client's certificate")?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}
