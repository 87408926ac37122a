//! An agent and a desktop on TCP ports of one virtual machine, both doing as the row says.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use qvd_core::hypervisor::Endpoint;
use qvd_core::proto::http1::{self, Limits};
use qvd_core::proto::{query, vma_rpc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::wire::{Wire, soon};

/// What the agent says to one call.
#[derive(Clone, Copy, Debug)]
pub enum Says {
    /// A result.
    Result(&'static str),
    /// The error form.
    Refusal(&'static str),
}

/// Parameters of a call.
pub type Params = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Script {
    /// Answers to come, by method; the last one is repeated.
    answers: BTreeMap<&'static str, VecDeque<Says>>,
    calls: Vec<(String, Params)>,
}

/// The two of them. Their ports are taken from the beginning; connections are refused until they are opened.
#[derive(Debug)]
pub struct Desktop {
    script: Arc<Mutex<Script>>,
    ports: [u16; 2],
    closed: [Option<TcpSocket>; 2],
    sessions: Option<mpsc::UnboundedReceiver<TcpStream>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Desktop {
    /// A desktop that is suspended, and listens at once when it is started.
    ///
    /// # Errors
    ///
    /// When the machine has no port left.
    pub fn start() -> Result<Self> {
        let mut desktop = Self::closed()?;
        desktop.open_agent()?;
        desktop.open_desktop()?;
        Ok(desktop)
    }

    /// Both refuse connections.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn closed() -> Result<Self> {
        let (agent, agent_port) = closed_port()?;
        let (x, x_port) = closed_port()?;
        let desktop = Self {
            script: Arc::default(),
            ports: [agent_port, x_port],
            closed: [Some(agent), Some(x)],
            sessions: None,
            tasks: Vec::new(),
        };
        desktop.says("x_start", [Says::Result("starting")]);
        desktop.says("x_suspend", [Says::Result("suspending")]);
        desktop.says("x_state", [Says::Result("suspended"), Says::Result("listening")]);
        Ok(desktop)
    }

    /// Where they are.
    pub fn endpoint(&self) -> Endpoint {
        let [vma_port, x_port] = self.ports;
        Endpoint::Ip { address: Ipv4Addr::LOCALHOST.into(), vma_port, x_port }
    }

    /// Sets the answers to come of a method; the last one is repeated.
    pub fn says(&self, method: &'static str, answers: impl IntoIterator<Item = Says>) {
        self.script().answers.insert(method, answers.into_iter().collect());
    }

    /// The agent answers from now on.
    ///
    /// # Errors
    ///
    /// When it answers already.
    pub fn open_agent(&mut self) -> Result<()> {
        let listener = listen(&mut self.closed[0])?;
        let script = self.script.clone();
        self.tasks.push(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                tokio::spawn(async move { drop(serve_call(stream, &script).await) });
            }
        }));
        Ok(())
    }

    /// The desktop takes connections from now on.
    ///
    /// # Errors
    ///
    /// When it takes them already.
    pub fn open_desktop(&mut self) -> Result<()> {
        let listener = listen(&mut self.closed[1])?;
        let (sender, sessions) = mpsc::unbounded_channel();
        self.sessions = Some(sessions);
        self.tasks.push(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(stream).is_err() {
                    break;
                }
            }
        }));
        Ok(())
    }

    /// The next connection to the desktop.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub async fn session(&mut self) -> Result<TcpStream> {
        let sessions = self.sessions.as_mut().context("the desktop is not open")?;
        soon("a connection to the desktop", sessions.recv()).await?.context("the desktop is gone")
    }

    /// Whether anybody dialled that was not taken yet.
    pub fn was_dialled(&mut self) -> bool {
        self.sessions.as_mut().is_some_and(|sessions| sessions.try_recv().is_ok())
    }

    /// How often a method was called.
    pub fn count(&self, method: &str) -> usize {
        self.script().calls.iter().filter(|(called, _)| called == method).count()
    }

    /// All calls so far.
    pub fn calls(&self) -> usize {
        self.script().calls.len()
    }

    /// The parameters of the last `x_start`.
    ///
    /// # Errors
    ///
    /// When it was not called.
    pub fn x_start(&self) -> Result<Params> {
        let calls = &self.script().calls;
        let last = calls.iter().rfind(|(method, _)| method == "x_start");
        last.map(|(_, params)| params.clone()).context("x_start was not called")
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A few bytes each way, so that the session is under way and not about to be.
///
/// # Errors
///
/// When they do not arrive.
pub async fn greet(wire: &mut Wire, session: &mut TcpStream) -> Result<()> {
    wire.send("NXPROXY").await?;
    let mut heard = [0; 7];
    soon("the client's bytes", session.read_exact(&mut heard)).await?.context("the session broke")?;
    ensure!(&heard == b"NXPROXY", "{heard:?}");
    session.write_all(b"NXAGENT").await.context("the session broke")?;
    let record = wire.record().await?;
    ensure!(record.as_deref() == Some(b"NXAGENT"), "{record:?}");
    Ok(())
}

/// A port that is ours and refuses connections.
fn closed_port() -> Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4().context("no socket")?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no port")?;
    let port = socket.local_addr().context("no port")?.port();
    Ok((socket, port))
}

fn listen(closed: &mut Option<TcpSocket>) -> Result<TcpListener> {
    closed.take().context("it is open")?.listen(64).context("cannot listen")
}

async fn serve_call(mut stream: TcpStream, script: &Mutex<Script>) -> Result<()> {
    let mut buf = Vec::new();
    let head = loop {
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
        if let Some((head, _)) = http1::parse_request(&buf, &Limits::default())? {
            break head;
        }
    };
    let method = vma_rpc::method(head.path()).context("no method")?.to_owned();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let params = query::decode(head.query())
        .iter()
        .map(|p| (text(&p.name), text(p.value.as_deref().unwrap_or_default())))
        .collect();
    let answer = {
        let mut script = lock(script);
        script.calls.push((method.clone(), params));
        let answers = script.answers.get_mut(method.as_str());
        answers.and_then(|left| if left.len() > 1 { left.pop_front() } else { left.front().copied() })
    };
    let (status, body) = match answer {
        Some(Says::Result(text)) => ("HTTP/1.1 200 OK", vma_rpc::encode_result(&text.into())),
        Some(Says::Refusal(text)) => ("HTTP/1.1 200 OK", vma_rpc::encode_error(text)),
        // As an agent does that has no such method.
        None => ("HTTP/1.1 404 Not Found", "404 Not Found\r\n".to_owned()),
    };
    let length = body.len().to_string();
    let head = http1::encode_head(status, &[("Content-Length", &length)]);
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}
