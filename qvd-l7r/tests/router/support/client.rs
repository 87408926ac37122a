//! A client that sees TLS records one by one, as old clients do.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use qvd_core::proto::basic::encode_basic;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::soon;

/// An `Authorization` header line.
pub(crate) fn basic(login: &str, password: &str) -> String {
    format!("Authorization: {}\r\n", encode_basic(login, password.as_bytes()))
}

/// A request head; `headers` are whole lines.
pub(crate) fn request(target: &str, headers: &[&str]) -> String {
    format!("GET {target} HTTP/1.1\r\n{}\r\n", headers.concat())
}

/// What a plain TCP connection gets back until it is closed.
pub(crate) async fn plain(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    answer
}

/// A final answer, and how it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
    raw: Vec<u8>,
    records: VecDeque<Vec<u8>>,
    /// The server said close_notify.
    pub(crate) notified: bool,
    ended: bool,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address, config(&[])).await.expect("handshake")
    }

    /// Connects with a configuration of the test's own.
    pub(crate) async fn try_connect(address: SocketAddr, config: ClientConfig) -> Result<Self, String> {
        let tcp = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        Self::over(tcp, "localhost", config).await
    }

    /// Speaks over a connection that there is, to the server of this name.
    pub(crate) async fn over(tcp: TcpStream, name: &str, config: ClientConfig) -> Result<Self, String> {
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
        let mut client =
            Self { tcp, tls, raw: Vec::new(), records: VecDeque::new(), notified: false, ended: false };
        while client.tls.is_handshaking() {
            client.flush().await;
            if !client.tls.is_handshaking() {
                break;
            }
            soon(client.read_some()).await?;
            if client.ended {
                return Err("closed during the handshake".to_owned());
            }
        }
        client.flush().await;
        Ok(client)
    }

    pub(crate) fn tls(&self) -> &ClientConnection {
        &self.tls
    }

    /// Sends bytes in one record.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.tls.writer().write_all(bytes.as_ref()).unwrap();
        self.flush().await;
    }

    /// The plain text of the next record; `None` at the end.
    pub(crate) async fn record(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Some(record);
            }
            if self.ended || soon(self.read_some()).await.is_err() {
                return None;
            }
        }
    }

    /// A word to a desktop and one back.
    pub(crate) async fn talks_with(&mut self, session: &mut UnixStream) {
        self.send("hello").await;
        let mut heard = [0; 5];
        soon(session.read_exact(&mut heard)).await.unwrap();
        session.write_all(b"there").await.unwrap();
        assert_eq!((&heard, self.record().await.unwrap()), (b"hello", b"there".to_vec()));
    }

    /// The next record as text.
    pub(crate) async fn text(&mut self) -> String {
        String::from_utf8(self.record().await.expect("a record")).unwrap()
    }

    /// The next final answer, which must come as a head record and a body record.
    pub(crate) async fn response(&mut self) -> Response {
        let head = self.text().await;
        assert!(
            head.starts_with("HTTP/1.1 ") && head.ends_with("\r\n\r\n"),
            "a whole head in one record: {head:?}"
        );
        let body = self.text().await;
        let length = format!("\r\nContent-Length: {}\r\n", body.len());
        assert!(head.contains(&length) && !body.is_empty(), "{head:?} {body:?}");
        Response { head, body }
    }

    /// Asks and reads the final answer.
    pub(crate) async fn ask(&mut self, target: &str, headers: &[&str]) -> Response {
        self.send(request(target, headers)).await;
        self.response().await
    }

    /// The texts of all 102 records up to the first other record, and that one.
    pub(crate) async fn progress(&mut self) -> (Vec<String>, String) {
        let mut texts = Vec::new();
        loop {
            let record = self.text().await;
            match record.strip_prefix("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: ") {
                Some(text) => texts.push(text.strip_suffix("\r\n\r\n").expect("one head, whole").to_owned()),
                None => return (texts, record),
            }
        }
    }

    /// Reads until the desktop's stream begins; returns the 102 texts and the slave key.
    pub(crate) async fn switched(&mut self) -> (Vec<String>, String) {
        let (texts, head) = self.progress().await;
        let key = head
            .strip_prefix("HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: ")
            .and_then(|rest| rest.strip_suffix("\r\n\r\n"))
            .unwrap_or_else(|| panic!("no 101: {texts:?} {head:?}"));
        (texts, key.to_owned())
    }

    /// Reads until the connect is refused; returns the 102 texts and the answer.
    pub(crate) async fn refused(&mut self) -> (Vec<String>, Response) {
        let (texts, head) = self.progress().await;
        let body = self.text().await;
        (texts, Response { head, body })
    }

    /// The connection ends, in order, with nothing more said.
    pub(crate) async fn expect_end(&mut self) {
        assert_eq!(self.record().await, None);
        assert!(self.notified, "close_notify");
    }

    /// Closes in order.
    pub(crate) async fn close(mut self) {
        self.tls.send_close_notify();
        self.flush().await;
        let _ = self.tcp.shutdown().await;
    }

    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        // The peer may be gone; reading tells.
        let _ = self.tcp.write_all(&out).await;
    }

    /// Reads bytes and takes whole records out of them, one at a time.
    async fn read_some(&mut self) -> Result<(), String> {
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
                self.tls.read_tls(&mut rest).map_err(|e| e.to_string())?;
            }
            let state = self.tls.process_new_packets().map_err(|e| e.to_string())?;
            self.notified |= state.peer_has_closed();
            self.ended |= state.peer_has_closed();
            if state.plaintext_bytes_to_read() > 0 {
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                self.tls.reader().read_exact(&mut plain).unwrap();
                self.records.push_back(plain);
            }
        }
        Ok(())
    }
}

/// A client that believes any certificate.
pub(crate) fn config(alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

/// Believes any certificate.
pub(crate) fn believer() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Believer(Arc::new(aws_lc_rs::default_provider())))
}

#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
