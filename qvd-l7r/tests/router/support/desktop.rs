//! An agent and a desktop on the unix sockets of one virtual machine, both doing as the test says.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use qvd_core::hypervisor::{Endpoint, VMA_SOCKET, X_SOCKET};
use qvd_core::proto::http1::{self, Limits};
use qvd_core::proto::{query, vma_rpc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::soon;

/// What the agent says to one call.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A result.
    Says(&'static str),
    /// No result.
    Nothing,
    /// An error text.
    Refuses(&'static str),
}

/// A method with its parameters.
pub(crate) type Call = (String, BTreeMap<String, String>);

#[derive(Debug, Default)]
struct Script {
    /// Answers to come, by method; the last one is repeated.
    answers: BTreeMap<&'static str, VecDeque<Answer>>,
    calls: Vec<Call>,
}

#[derive(Debug)]
pub(crate) struct Desktop {
    dir: PathBuf,
    script: Arc<Mutex<Script>>,
    sessions: Option<mpsc::UnboundedReceiver<UnixStream>>,
    agent: tokio::task::JoinHandle<()>,
}

impl Desktop {
    /// An agent whose desktop is suspended, and listens at once when it is started.
    pub(crate) fn start(dir: &Path) -> Self {
        let mut desktop = Self::deaf(dir);
        desktop.open();
        desktop
    }

    /// The same with nobody behind the desktop's socket.
    pub(crate) fn deaf(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = bind(dir, VMA_SOCKET);
        let agent = tokio::spawn(serve_calls(listener, script.clone()));
        let desktop = Self { dir: dir.to_owned(), script, sessions: None, agent };
        desktop.says("x_start", [Answer::Says("starting")]);
        // What a router says that gives a desktop up before its client came.
        desktop.says("x_suspend", [Answer::Says("suspending")]);
        desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("listening")]);
        desktop.says("x_failure", [Answer::Nothing]);
        desktop
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix { dir: self.dir.clone() }
    }

    /// Sets the answers to come of a method; the last one is repeated.
    pub(crate) fn says(&self, method: &'static str, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().answers.insert(method, answers.into_iter().collect());
    }

    /// Begins to listen for the session.
    pub(crate) fn open(&mut self) {
        self.sessions = Some(listen(&self.dir));
    }

    /// The next connection to the desktop.
    pub(crate) async fn session(&mut self) -> UnixStream {
        soon(self.sessions.as_mut().expect("listening").recv()).await.expect("a session")
    }

    /// Whether anybody dialled that was not taken yet.
    pub(crate) fn was_dialled(&mut self) -> bool {
        self.sessions.as_mut().expect("listening").try_recv().is_ok()
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.script.lock().unwrap().calls.clone()
    }

    /// The parameters of the last `x_start`.
    pub(crate) fn x_start(&self) -> BTreeMap<String, String> {
        self.calls().into_iter().rfind(|(method, _)| method == "x_start").expect("x_start was called").1
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.calls().iter().filter(|(called, _)| called == method).count()
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

fn listen(dir: &Path) -> mpsc::UnboundedReceiver<UnixStream> {
    let (sender, sessions) = mpsc::unbounded_channel();
    let listener = bind(dir, X_SOCKET);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(stream).is_err() {
                break;
            }
        }
    });
    sessions
}

/// Through the open directory, since a socket address holds a short path only.
fn bind(dir: &Path, name: &str) -> UnixListener {
    let path = dir.join(name);
    let dir = path.parent().unwrap();
    std::fs::create_dir_all(dir).unwrap();
    let (open, name) = (std::fs::File::open(dir).unwrap(), path.file_name().unwrap().to_str().unwrap());
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", open.as_raw_fd())).unwrap()
}

async fn serve_calls(listener: UnixListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = script.clone();
        tokio::spawn(async move {
            let _ = serve_call(stream, &script).await;
        });
    }
}

async fn serve_call(mut stream: UnixStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut buf = Vec::new();
    let head = loop {
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
        if let Some((head, _)) = http1::parse_request(&buf, &Limits::default()).expect("a request") {
            break head;
        }
    };
    let method = vma_rpc::method(head.path()).expect("a method").to_owned();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let params = query::decode(head.query())
        .iter()
        .map(|p| (text(&p.name), text(p.value.as_deref().unwrap_or_default())))
        .collect();
    let answer = {
        let mut script = script.lock().unwrap();
        script.calls.push((method.clone(), params));
        let answers = script.answers.get_mut(method.as_str()).expect("a scripted method");
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
    };
    let body = match answer.expect("an answer") {
        Answer::Says(text) => vma_rpc::encode_result(&text.into()),
        Answer::Nothing => vma_rpc::encode_result(&Default::default()),
        Answer::Refuses(text) => vma_rpc::encode_error(text),
    };
    let length = body.len().to_string();
    let head = http1::encode_head("HTTP/1.1 200 OK", &[("Content-Length", &length)]);
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}
