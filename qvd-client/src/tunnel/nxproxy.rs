//! One run of `nxproxy` over one session.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::output::{Output, Said};
use super::private_dir::PrivateDir;
use super::relay::{Moment, relay};
use crate::connect::{Listener, Session};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// From its start to its connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// From the end of its connection, or from being asked to end, to its exit.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// What is left of the server's stream after its exit.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Number of its display; it names the state directory and nothing that others could collide with.
const DISPLAY_NUMBER: u16 = 40;

/// Secrets that our own environment may hold.
const SECRET_VARIABLES: [&str; 2] = ["QVDPASSWORD", "QVDBEARER"];

/// Shows a desktop: the program and its settings.
#[derive(Clone)]
pub struct NxProxy {
    program: PathBuf,
    words: Vec<String>,
    display: Option<String>,
    parents: Vec<PathBuf>,
    listener: Listener,
}

impl fmt::Debug for NxProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NxProxy")
            .field("program", &self.program)
            .field("words", &self.words)
            .finish_non_exhaustive()
    }
}

/// How a desktop's time on the screen ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Exit status of `nxproxy`, which says little: it is 0 for most failures.
    pub status: ExitStatus,
    /// What it complained about last: the link broke, or the server took the session away. Without a complaint the desktop
    /// ended in order.
    pub complaint: Option<String>,
}

impl NxProxy {
    /// Looks the program up: a path as it is, a name along `PATH`.
    ///
    /// # Errors
    ///
    /// [`Error::NxProxyMissing`], which names the package.
    pub fn find(program: &str) -> Result<Self> {
        let missing = || Error::NxProxyMissing { program: program.to_owned() };
        let found = if program.contains('/') {
            Some(PathBuf::from(program)).filter(|path| is_executable(path))
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| is_executable(path))
        };
        Ok(Self {
            program: found.ok_or_else(missing)?,
            words: Vec::new(),
            display: None,
            parents: vec![std::env::temp_dir()],
            listener: Arc::new(|_| ()),
        })
    }

    /// Where the program was found.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Adds words to its command line, `KEY=VALUE` mostly.
    #[must_use]
    pub fn words(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.words.extend(words);
        self
    }

    /// X display; without it that of our own environment.
    #[must_use]
    pub fn display(mut self, display: &str) -> Self {
        self.display = Some(display.to_owned());
        self
    }

    /// Directory to make the session's private directory in, if it will do; the system's temporary one else.
    #[must_use]
    pub fn runtime_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.parents.insert(0, dir.into());
        self
    }

    /// Who is told what goes on.
    #[must_use]
    pub fn on_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Makes everything that a session needs on this side, so that nothing of it can fail once the server has handed
    /// the session over.
    ///
    /// # Errors
    ///
    /// [`Error::Local`] when the system refuses something.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn prepare(&self) -> Result<LocalEnd> {
        let dir = PrivateDir::create(&self.parents)
            .map_err(|e| Error::local("make a private directory for the session", e))?;
        // It listens before nxproxy exists, so nxproxy never has to wait or guess.
        let socket = UnixListener::bind(dir.socket())
            .map_err(|e| Error::local(format!("listen on '{}'", dir.socket().display()), e))?;
        Ok(LocalEnd { proxy: self.clone(), dir, socket })
    }

    /// [Prepares](Self::prepare) and [runs](LocalEnd::run) in one, for sessions that can be had again.
    ///
    /// # Errors
    ///
    /// Those of both.
    ///
    /// # Cancellation
    ///
    /// As of [`LocalEnd::run`].
    pub async fn run(&self, session: Session, cancel: impl Future<Output = ()> + Send) -> Result<Ended> {
        self.prepare()?.run(session, cancel).await
    }

    fn command(&self, dir: &PrivateDir) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-S")
            // We listen already. One whose client was killed would try for ever, and ask nobody whether it should.
            .arg("retry=1")
            .args(&self.words)
            .arg(format!("connect=unix:{}:{DISPLAY_NUMBER}", dir.socket().display()))
            .env("NX_ROOT", dir.nx_root())
            .env("NX_SYSTEM", dir.nx_root())
            // What it would start to show a dialogue.
            .env("NX_CLIENT", "/bin/false")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for variable in SECRET_VARIABLES {
            command.env_remove(variable);
        }
        if let Some(display) = &self.display {
            command.env("DISPLAY", display);
        }
        command
    }
}

/// A socket that waits for `nxproxy`, and what goes with it; for one session.
#[derive(Debug)]
pub struct LocalEnd {
    proxy: NxProxy,
    dir: PrivateDir,
    socket: UnixListener,
}

impl LocalEnd {
    /// Shows a session until it ends: on either side, or when `cancel` completes. Nothing of it is left then.
    ///
    /// # Errors
    ///
    /// [`Error::NxProxyFailed`] when the desktop never came up, [`Error::Local`] when the system refuses something,
    /// [`Error::Cancelled`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future kills `nxproxy` and closes the session.
    pub async fn run(self, session: Session, cancel: impl Future<Output = ()> + Send) -> Result<Ended> {
        let Self { proxy, dir, socket } = self;
        let mut process = Process::spawn(&proxy, &dir)?;
        tokio::pin!(cancel);
        let local = tokio::select! {
            accepted = accept(&socket, dir.owner()) => accepted?,
            ended = process.exited() => {
                ended?;
                return Err(Error::NxProxyFailed { last_words: process.output().await.last_words() });
            }
            () = &mut cancel => {
                process.end().await?;
                return Err(Error::Cancelled);
            }
        };
        drop(socket);
        carry(&proxy.listener, session, local, process, cancel).await
    }
}

/// Words for the command line out of the options text of the C client: `nx/nx,media=4713,cups=631:0`.
///
/// # Errors
///
/// [`Error::Setting`] when a part is not `KEY=VALUE`, or says where to connect, which is decided here.
///
/// ```
/// let words = qvd_client::tunnel::nx_words("nx/nx,data=0,pack=nopack:0").unwrap();
/// assert_eq!(words, ["data=0", "pack=nopack"]);
/// ```
pub fn nx_words(text: &str) -> Result<Vec<String>> {
    let bad = |why: &str| Error::Setting { what: "NX options", value: text.to_owned(), why: why.to_owned() };
    let body = text.trim().strip_prefix("nx/nx").unwrap_or(text.trim());
    let body = match body.rsplit_once(':') {
        Some((body, display)) if display.bytes().all(|b| b.is_ascii_digit()) => body,
        Some(_) | None => body,
    };
    let mut words = Vec::new();
    for part in body.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("connect" | "listen" | "accept" | "options" | "port", _)) => {
                return Err(bad("connect, listen, accept, options and port are set by the client itself"));
            }
            Some((key, _)) if !key.is_empty() && !key.starts_with('-') => words.push(part.to_owned()),
            Some(_) | None => return Err(bad("write KEY=VALUE, separated by commas")),
        }
    }
    Ok(words)
}

/// The running session, to its end.
async fn carry(
    listener: &Listener,
    session: Session,
    local: UnixStream,
    mut process: Process,
    cancel: impl Future<Output = ()> + Unpin,
) -> Result<Ended> {
    let (server, early) = session.into_stream();
    let closed_by_server = AtomicBool::new(false);
    let over = Notify::new();
    let relaying = relay(server, &early, local, |moment| match moment {
        Moment::FirstBytes => listener(Progress::FirstBytes),
        Moment::Closed => closed_by_server.store(true, Ordering::Relaxed),
        Moment::Over => over.notify_one(),
    });
    tokio::pin!(relaying);
    let mut relayed = false;
    let (status, made_to_end) = tokio::select! {
        result = &mut relaying => {
            if let Err(error) = result {
                tracing::debug!(%error, "the session's stream broke");
            }
            relayed = true;
            process.end_soon().await?
        }
        () = over.notified() => {
            let ended;
            (ended, relayed) = beside(process.end_soon(), relaying.as_mut()).await;
            ended?
        }
        status = process.exited() => (status?, false),
        () = cancel => {
            // Asked to end while its link still stands, it says good-bye and the desktop is suspended in order.
            beside(process.end(), relaying.as_mut()).await.0?;
            return Err(Error::Cancelled);
        }
    };
    if !relayed {
        // What nxproxy said last still goes out; the server is not waited for.
        let _ = timeout(DRAIN_LIMIT, &mut relaying).await;
    }
    let output = process.output().await;
    if output.started() {
        // nxproxy cannot tell a server that took the session away from a broken network; the stream's end can.
        let taken =
            "the server closed it and does not say why; connect again to go on, or to be told the reason";
        let unnoticed = || "its connection broke, which nxproxy did not notice".to_owned();
        let complaint = output
            .complaint()
            .or_else(|| made_to_end.then(unnoticed))
            .map(|words| if closed_by_server.load(Ordering::Relaxed) { taken.to_owned() } else { words });
        Ok(Ended { status, complaint })
    } else {
        Err(Error::NxProxyFailed { last_words: output.last_words() })
    }
}

/// What comes of `ending` while bytes still pass, and whether `relaying` is done by then.
async fn beside<T>(
    ending: impl Future<Output = T>,
    relaying: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> (T, bool) {
    tokio::pin!(ending);
    tokio::select! {
        ended = &mut ending => (ended, false),
        _ = relaying => (ending.await, true),
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Takes the one connection, of the user who owns the directory.
async fn accept(listener: &UnixListener, owner: u32) -> Result<UnixStream> {
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == owner {
                return Ok(stream);
            }
            tracing::warn!(peer, "another user connected to the session's socket and was turned away");
        }
    };
    match timeout(CONNECT_LIMIT, accepting).await {
        Ok(accepted) => accepted.map_err(|e: io::Error| Error::local("accept nxproxy's connection", e)),
        Err(_) => Err(Error::NxProxyFailed { last_words: "it did not connect".to_owned() }),
    }
}

/// The running program; its whole process group dies with this value.
struct Process {
    child: Child,
    group: Option<Pid>,
    output: Arc<Mutex<Output>>,
    readers: JoinSet<()>,
}

impl Process {
    fn spawn(proxy: &NxProxy, dir: &PrivateDir) -> Result<Self> {
        let mut child = proxy.command(dir).spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NxProxyMissing { program: proxy.program.display().to_string() },
            _ => Error::local(format!("start '{}'", proxy.program.display()), source),
        })?;
        let output = Arc::new(Mutex::new(Output::default()));
        let mut readers = JoinSet::new();
        if let Some(out) = child.stdout.take() {
            readers.spawn(read_lines(out, Arc::clone(&output), Arc::clone(&proxy.listener)));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read_lines(err, Arc::clone(&output), Arc::clone(&proxy.listener)));
        }
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group, output, readers })
    }

    async fn exited(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().await.map_err(|e| Error::local("wait for nxproxy", e))?;
        // Reaped: the number may be somebody else's from here on.
        self.group = None;
        Ok(status)
    }

    /// Nothing more comes to it: it ends by itself, or is made to, so that no user sits before a dead picture; whether it
    /// was made to.
    async fn end_soon(&mut self) -> Result<(ExitStatus, bool)> {
        match timeout(EXIT_LIMIT, self.exited()).await {
            Ok(status) => Ok((status?, false)),
            Err(_) => Ok((self.end().await?, true)),
        }
    }

    /// Asks it to end, and kills it when it does not.
    async fn end(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        match timeout(EXIT_LIMIT, self.exited()).await {
            Ok(status) => status,
            Err(_) => {
                self.signal(Signal::SIGKILL);
                self.exited().await
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may have ended in this moment.
            let _ = killpg(group, signal);
        }
    }

    /// What it printed, read to the end.
    async fn output(&mut self) -> Output {
        let _ = timeout(DRAIN_LIMIT, async { while self.readers.join_next().await.is_some() {} }).await;
        std::mem::take(&mut lock(&self.output))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, output: Arc<Mutex<Output>>, listener: Listener) {
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        tracing::debug!(target: "qvd_client::nxproxy", "{}", crate::list::printable(line.trim_end()));
        let said = lock(&output).line(&line);
        if said == Said::Started {
            listener(Progress::Started);
        }
    }
}

fn lock(output: &Mutex<Output>) -> std::sync::MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_c_client_become_words() {
        assert_eq!(nx_words("nx/nx,media=4713,cups=631:0").unwrap(), ["media=4713", "cups=631"]);
        assert_eq!(nx_words("data=0, delta=0").unwrap(), ["data=0", "delta=0"]);
        assert_eq!(nx_words("").unwrap(), [] as [&str; 0]);
        for bad in ["nx/nx,connect=evil:0", "nx/nx,media", "nx/nx,=1", "nx/nx,-C=1", "nx/nx,listen=1:0"] {
            assert!(nx_words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        for program in ["/nonexistent/nxproxy", "nxproxy-that-nobody-has", "/tmp"] {
            let text = NxProxy::find(program).unwrap_err().to_string();
            assert!(text.contains(program) && text.contains("apt-get install nxproxy"), "{text}");
        }
        assert!(NxProxy::find("sh").unwrap().program().is_absolute());
    }
}
