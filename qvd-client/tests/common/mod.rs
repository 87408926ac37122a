//! A router that says what a test tells it, over real sockets and real TLS.

#![allow(dead_code, reason = "each test file uses another part")]

pub(crate) mod x;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use qvd_client::list::Choice;
use qvd_client::options::SessionOptions;
use qvd_client::trust::{Decision, Judge, Question};
use qvd_client::{Client, ClientBuilder, Credentials, Error, Session};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(crate) const LIST: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 54\r\n\r\n\
                        [{\"id\":7,\"name\":\"desk\",\"state\":\"running\",\"blocked\":0}]";
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: k3y\r\n\r\n";

/// Nothing in a test takes longer than this, unless it is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A connection that became a desktop's stream.
pub(crate) type Desktop = Box<dyn Duplex>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type OnSwitch = Arc<dyn Fn(Desktop) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A router with a script: each request that comes gets the next answer.
pub(crate) struct Router {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Router {
    /// Requests so far, heads as sent.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// What a server certificate needs.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

pub(crate) fn self_signed() -> Identity {
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

pub(crate) fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// A router with TLS and a fresh self-signed certificate.
pub(crate) async fn router(answers: &[&str]) -> Router {
    router_with(answers, Some(server_config(self_signed())), 0, closing()).await
}

pub(crate) fn server_config(identity: Identity) -> ServerConfig {
    install_provider();
    ServerConfig::builder().with_no_client_auth().with_single_cert(identity.chain, identity.key).unwrap()
}

/// Ends the desktop at once.
pub(crate) fn closing() -> OnSwitch {
    on_switch(|mut desktop| async move {
        let _ = desktop.shutdown().await;
    })
}

/// Does something with the desktop's stream.
pub(crate) fn on_switch<F>(act: impl Fn(Desktop) -> F + Send + Sync + 'static) -> OnSwitch
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |desktop| Box::pin(act(desktop)))
}

/// A router on `port` (0: any), with TLS or without.
pub(crate) async fn router_with(
    answers: &[&str],
    tls: Option<ServerConfig>,
    port: u16,
    switch: OnSwitch,
) -> Router {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let script: Arc<Mutex<VecDeque<String>>> =
        Arc::new(Mutex::new(answers.iter().map(|a| (*a).to_owned()).collect()));
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let router = Router { port, seen: Arc::clone(&seen) };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, seen, script, switch) =
                (acceptor.clone(), Arc::clone(&seen), Arc::clone(&script), Arc::clone(&switch));
            tokio::spawn(async move {
                match acceptor {
                    None => serve(tcp, &seen, &script, switch).await,
                    Some(acceptor) => {
                        // A client that refuses the certificate is part of the tests.
                        if let Ok(stream) = acceptor.accept(tcp).await {
                            serve(stream, &seen, &script, switch).await;
                        }
                    }
                }
            });
        }
    });
    router
}

async fn serve(
    mut stream: impl Duplex + 'static,
    seen: &Mutex<Vec<String>>,
    script: &Mutex<VecDeque<String>>,
    switch: OnSwitch,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        seen.lock().unwrap().push(String::from_utf8(head).unwrap());
        let Some(answer) = script.lock().unwrap().pop_front() else { return };
        // Head and body as separate records, as the real router writes them.
        for part in answer.split_inclusive("\r\n\r\n") {
            if stream.write_all(part.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        if answer.contains(" 101 ") {
            switch(Box::new(stream)).await;
            return;
        }
    }
}

/// Accepts everything and remembers the questions.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    pub(crate) decision: Decision,
    pub(crate) questions: Arc<Mutex<Vec<Question>>>,
}

impl Witness {
    pub(crate) fn new(decision: Decision) -> Self {
        Self { decision, questions: Arc::default() }
    }

    pub(crate) fn questions(&self) -> Vec<Question> {
        self.questions.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Judge for Witness {
    async fn decide(&self, question: &Question) -> Decision {
        self.questions.lock().unwrap().push(question.clone());
        self.decision
    }
}

pub(crate) fn builder(port: u16) -> ClientBuilder {
    install_provider();
    Client::builder("127.0.0.1", port, Credentials::basic("alice", "s3cret"))
}

/// A client that accepts any certificate.
pub(crate) fn trusting(port: u16) -> Client {
    builder(port).judge(Witness::new(Decision::Once)).build().unwrap()
}

pub(crate) async fn connect(client: &Client) -> Result<Session, Error> {
    tokio::time::timeout(LIMIT, client.connect(&Choice::Only, &SessionOptions::default())).await.unwrap()
}

pub(crate) async fn list(client: &Client) -> Result<usize, Error> {
    tokio::time::timeout(LIMIT, client.list()).await.unwrap().map(|entries| entries.len())
}

pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

/// Says why a test is not run; panics where everything is meant to be there.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("QVD_TEST_REQUIRE").is_none_or(|v| v != "1"), "cannot run: {why}");
    eprintln!("skipped: {why}");
}
