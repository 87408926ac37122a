//! A program under test: its own process group, its output kept and waited for, ended when dropped.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A started program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: u64,
    status: Option<ExitStatus>,
    detached: bool,
}

/// Set once by [`cancel`]; every wait of this crate gives up then.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Makes every present and future wait fail, so that a program can clean up after Ctrl-C.
pub fn cancel() {
    CANCELLED.store(true, Ordering::Relaxed);
}

/// Whether [`cancel`] was called.
pub fn is_cancelled() -> bool {
    CANCELLED.load(Ordering::Relaxed)
}

impl Process {
    /// Starts `command` in a process group of its own, its output appended to `log`.
    ///
    /// # Errors
    ///
    /// When the program or the log cannot be opened; the text names both.
    pub fn start(name: &str, command: Command, log: &Path) -> Result<Self> {
        Self::start_with_input(name, command, log, None)
    }

    /// As [`start`](Self::start), with a text as standard input.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn start_with_input(
        name: &str,
        mut command: Command,
        log: &Path,
        input: Option<&str>,
    ) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().with_context(|| format!("cannot open log {}", log.display()))?;
        let twin = file.try_clone().with_context(|| format!("cannot open log {}", log.display()))?;
        let log_start = file.metadata().map_or(0, |meta| meta.len());
        let mut child = command
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(file)
            .stderr(twin)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().to_string_lossy()))?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).with_context(|| format!("cannot write to {name}"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            log_start,
            status: None,
            detached: false,
        })
    }

    /// Process id.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All complete lines printed so far.
    pub fn lines(&self) -> Vec<String> {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let own = bytes.get(self.log_start as usize..).unwrap_or_default();
        let complete = own.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        String::from_utf8_lossy(&own[..complete]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until a line contains `text`, also one printed before the call; answers that line.
    ///
    /// # Errors
    ///
    /// When the time is over or the program ended without it; the text holds the last lines.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_line_after(0, text, limit).map(|(_, line)| line)
    }

    /// As [`wait_line`](Self::wait_line), looking at line `from` and later; answers its number as well.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn wait_line_after(&mut self, from: usize, text: &str, limit: Duration) -> Result<(usize, String)> {
        let found = wait_until(&format!("'{text}'"), limit, || {
            // Asked before the look at the lines, so that the last ones are not missed.
            let ended = !self.is_running();
            let hit = self.lines().into_iter().enumerate().skip(from).find(|(_, line)| line.contains(text));
            hit.map(Some).or(ended.then_some(None))
        });
        let why = match found {
            Ok(Some(hit)) => return Ok(hit),
            Ok(None) => "it ended without".to_owned(),
            Err(e) => e.to_string(),
        };
        let lines = self.lines();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n  ");
        bail!("{}: waiting for '{text}': {why} (log {}):\n  {tail}", self.name, self.log.display())
    }

    /// Whether it is to live on.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// Lets it live on when this value is dropped.
    pub fn detach(&mut self) {
        self.detached = true;
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs at the limit.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_until(&format!("the end of {name}"), limit, || {
            self.is_running();
            self.status
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_none()
    }

    /// Sends a signal to the program alone.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(Pid::from_raw(self.id()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks its whole group to end, waits, and kills what is left.
    pub fn stop(&mut self, grace: Duration) {
        let group = Pid::from_raw(self.id());
        if self.is_running() {
            let _ = killpg(group, Signal::SIGTERM);
            // Not cut short by `cancel`: this is the cleaning up that it asks for.
            let _ = poll_until(grace, || (!self.is_running()).then_some(()));
        }
        let _ = killpg(group, Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached {
            self.stop(Duration::from_secs(10));
        }
    }
}

/// Runs a program to its end and answers its standard output.
///
/// # Errors
///
/// When it cannot be started or fails; the text holds what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        bail!(
            "{program} {}: {}: {}{}",
            args.join(" "),
            output.status,
            stdout,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}

/// Asks `question` until it has an answer. For things that send no event; asks every 20 ms.
///
/// # Errors
///
/// When there is none at the limit.
pub fn wait_until<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> Result<T> {
    let answer = poll_until(limit, || {
        let answer = question().map(Some);
        answer.or_else(|| CANCELLED.load(Ordering::Relaxed).then_some(None))
    });
    match answer {
        Some(Some(answer)) => Ok(answer),
        Some(None) => bail!("interrupted while waiting for {what}"),
        None => bail!("waited {limit:?} for {what}"),
    }
}

/// Asks every 2 ms, for moments that matter to the millisecond; `None` at the limit, or once all is cancelled.
pub fn poll_quickly<T>(limit: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let answer = poll_every(Duration::from_millis(2), limit, || {
        let answer = question().map(Some);
        answer.or_else(|| is_cancelled().then_some(None))
    });
    answer.flatten()
}

fn poll_until<T>(limit: Duration, question: impl FnMut() -> Option<T>) -> Option<T> {
    poll_every(Duration::from_millis(20), limit, question)
}

fn poll_every<T>(pause: Duration, limit: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let bell = (Mutex::new(()), Condvar::new());
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        let guard = bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = bell.1.wait_timeout(guard, pause);
    }
}

/// Path of a program of this project, built beside the running one.
///
/// # Errors
///
/// When it is not there; the text says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built; run: cargo build --workspace --bins"))
}

/// Whether a program is in `PATH`.
pub fn in_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}
