//! Drives the handshake over real sockets.

mod dial;
mod stream;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::Secret;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::list::{Chooser, Entry};
use crate::login::{Credentials, environment_headers};
use crate::machine::{Action, Event, Goal, Machine, Outcome, Patience, Plan};
use crate::options::SessionOptions;
use crate::progress::Progress;
use crate::trust::{Fixed, Judge, Policy, TrustAnchors};
use dial::{Dialler, Tls};
pub use stream::Stream;

/// Who is told about progress.
pub(crate) type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// A user's way to one server.
///
/// It holds no connection: each [`list`](Client::list) and [`connect`](Client::connect) opens its own.
#[derive(Clone)]
pub struct Client {
    dialler: Dialler,
    authorization: Secret<String>,
    user_agent: String,
    headers: Vec<(String, String)>,
    patience: Patience,
    listener: Listener,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.dialler.server()).finish_non_exhaustive()
    }
}

/// Collects the settings of a [`Client`].
pub struct ClientBuilder {
    host: String,
    port: u16,
    credentials: Credentials,
    encrypted: bool,
    tls: Tls,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    environment: Vec<(String, Vec<u8>)>,
    user_agent: String,
    patience: Patience,
    listener: Listener,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts with TLS, no authority trusted, and certificates rejected unless [`judge`](ClientBuilder::judge) says
    /// otherwise. A port in the host's text (`vdi.example:9443`, `[::1]:9443`) wins over `port`.
    pub fn builder(host: &str, port: u16, credentials: Credentials) -> ClientBuilder {
        ClientBuilder {
            host: host.to_owned(),
            port,
            credentials,
            encrypted: true,
            tls: Tls {
                anchors: TrustAnchors::default(),
                policy: Policy::default(),
                memory: None,
                judge: Arc::new(Fixed::RejectAll),
                identity: None,
            },
            identity: None,
            environment: Vec::new(),
            user_agent: concat!("qvdclient/", env!("CARGO_PKG_VERSION")).to_owned(),
            patience: Patience::default(),
            listener: Arc::new(|_| ()),
        }
    }

    /// The user's virtual machines.
    ///
    /// # Errors
    ///
    /// No way to the server, its certificate, or its refusal.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the connection.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        match self.drive(Goal::List, &crate::list::Choice::Only).await? {
            Reached::List(entries) => Ok(entries),
            Reached::Session(_) => Err(Error::Protocol {
                request: "list_of_vm",
                problem: "a session nobody asked for".to_owned(),
            }),
        }
    }

    /// Connects to the virtual machine that `chooser` picks, and returns when the desktop's stream stands.
    ///
    /// # Errors
    ///
    /// As [`list`](Client::list), what `chooser` answers, and the refusals of a connect.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the connection; the server notices and gives the session up.
    pub async fn connect(&self, chooser: &dyn Chooser, options: &SessionOptions) -> Result<Session> {
        self.open(chooser, options, false).await
    }

    /// As [`connect`](Client::connect), but stops the virtual machine first, so that it starts afresh.
    ///
    /// # Errors
    ///
    /// As [`connect`](Client::connect), and the refusals of a stop.
    ///
    /// # Cancellation
    ///
    /// As [`connect`](Client::connect); a stop that was asked for goes on.
    pub async fn restart_and_connect(
        &self,
        chooser: &dyn Chooser,
        options: &SessionOptions,
    ) -> Result<Session> {
        self.open(chooser, options, true).await
    }

    async fn open(
        &self,
        chooser: &dyn Chooser,
        options: &SessionOptions,
        restart_first: bool,
    ) -> Result<Session> {
        let goal = Goal::Connect { parameters: options.parameters(), restart_first };
        match self.drive(goal, chooser).await? {
            Reached::Session(session) => Ok(session),
            Reached::List(_) => Err(Error::Protocol {
                request: "connect_to_vm",
                problem: "a list nobody asked for".to_owned(),
            }),
        }
    }

    async fn drive(&self, goal: Goal, chooser: &dyn Chooser) -> Result<Reached> {
        let mut machine = Machine::new(self.plan(goal));
        let mut connection: Option<Box<dyn Stream>> = None;
        let mut events = VecDeque::from([Event::Begin]);
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => next_event(connection.as_deref_mut(), machine.deadline()).await,
            };
            for action in machine.step(event, Instant::now().into_std()) {
                match action {
                    Action::Tell(progress) => (self.listener)(progress),
                    Action::Dial => {
                        connection = None;
                        events.push_back(match self.dialler.dial().await {
                            Ok(stream) => {
                                connection = Some(stream);
                                Event::Dialled
                            }
                            Err(error) => Event::DialFailed(error),
                        });
                    }
                    Action::Send(bytes) => {
                        if let Err(error) = send(connection.as_deref_mut(), bytes.expose()).await {
                            events.push_back(Event::Closed(Some(error)));
                        }
                    }
                    Action::Choose(entries) => events.push_back(match chooser.choose(&entries).await {
                        Ok(vm) => Event::Chosen(vm),
                        Err(error) => Event::NotChosen(error),
                    }),
                    Action::Finish(outcome) => return finish(outcome, connection),
                }
            }
        }
    }

    fn plan(&self, goal: Goal) -> Plan {
        Plan {
            server: self.dialler.server(),
            authorization: self.authorization.clone(),
            user_agent: self.user_agent.clone(),
            headers: self.headers.clone(),
            goal,
            patience: self.patience,
        }
    }
}

impl ClientBuilder {
    /// Speaks without TLS, for a router that was told to (`l7r.use_ssl` 0). Everything is readable on the way then.
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.encrypted = false;
        self
    }

    /// Trusts these authorities.
    #[must_use]
    pub fn trust_anchors(mut self, anchors: TrustAnchors) -> Self {
        self.tls.anchors = anchors;
        self
    }

    /// Which flaws of a certificate may be accepted at all.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.tls.policy = policy;
        self
    }

    /// File in which accepted certificates are remembered; without it nothing is.
    #[must_use]
    pub fn remember_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.memory = Some(file.into());
        self
    }

    /// Who decides on certificates that nothing vouches for.
    #[must_use]
    pub fn judge(mut self, judge: impl Judge) -> Self {
        self.tls.judge = Arc::new(judge);
        self
    }

    /// Certificate chain and key to show to servers that ask for one.
    #[must_use]
    pub fn identity(mut self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        self.identity = Some((chain, key));
        self
    }

    /// Environment variables to share with the server's authenticators.
    #[must_use]
    pub fn share_environment(mut self, variables: Vec<(String, Vec<u8>)>) -> Self {
        self.environment = variables;
        self
    }

    /// Name and version of the program, for the server's log.
    #[must_use]
    pub fn user_agent(mut self, text: &str) -> Self {
        self.user_agent = crate::list::printable(text);
        self
    }

    /// How long the server may take.
    #[must_use]
    pub fn patience(mut self, list: Duration, connect: Duration) -> Self {
        self.patience = Patience { list, connect };
        self
    }

    /// Who is told what goes on.
    #[must_use]
    pub fn on_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for an unusable host, port or credential; [`Error::NoTlsProvider`] when TLS is wanted and
    /// the program installed no provider.
    pub fn build(mut self) -> Result<Client> {
        let (host, port) = dial::split_port(&self.host, self.port)?;
        self.tls.identity = self.identity.map(Arc::new);
        Ok(Client {
            dialler: Dialler::new(host, port, self.encrypted.then_some(self.tls))?,
            authorization: self.credentials.authorization()?,
            user_agent: self.user_agent,
            headers: environment_headers(&self.environment),
            patience: self.patience,
            listener: self.listener,
        })
    }
}

/// A connection that became the desktop's stream.
pub struct Session {
    vm: i64,
    slave_key: Option<Secret<String>>,
    stream: Box<dyn Stream>,
    early: Vec<u8>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("vm", &self.vm)
            .field("early", &self.early.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Virtual machine that it belongs to.
    pub fn vm(&self) -> i64 {
        self.vm
    }

    /// Key of the slave channel; early servers send none.
    pub fn slave_key(&self) -> Option<&Secret<String>> {
        self.slave_key.as_ref()
    }

    /// The stream, and the bytes of it that were read already and come first.
    pub fn into_stream(self) -> (Box<dyn Stream>, Vec<u8>) {
        (self.stream, self.early)
    }
}

enum Reached {
    List(Vec<Entry>),
    Session(Session),
}

fn finish(outcome: Outcome, connection: Option<Box<dyn Stream>>) -> Result<Reached> {
    match (outcome, connection) {
        (Outcome::Failed(error), _) => Err(error),
        (Outcome::Listed(entries), _) => Ok(Reached::List(entries)),
        (Outcome::Switched { vm, slave_key, early }, Some(stream)) => {
            Ok(Reached::Session(Session { vm, slave_key, stream, early }))
        }
        (Outcome::Switched { .. }, None) => Err(Error::Closed { during: "connecting" }),
    }
}

async fn send(connection: Option<&mut (dyn Stream + 'static)>, bytes: &[u8]) -> io::Result<()> {
    let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
    connection.write_all(bytes).await?;
    connection.flush().await
}

/// What the connection or the clock says next.
async fn next_event(
    connection: Option<&mut (dyn Stream + 'static)>,
    deadline: Option<std::time::Instant>,
) -> Event {
    let Some(connection) = connection else { return Event::Closed(None) };
    let mut buffer = vec![0; 16 << 10];
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        read = connection.read(&mut buffer) => match read {
            Ok(0) => Event::Closed(None),
            Ok(length) => {
                buffer.truncate(length);
                Event::Received(buffer)
            }
            // A server that ends without TLS's good-bye has ended all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Event::Closed(None),
            Err(error) => Event::Closed(Some(error)),
        },
        () = late => Event::Deadline,
    }
}
