//! A program under test: its own process group, its output kept and waited for, ended when dropped.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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
    lines: Arc<Lines>,
    status: Option<ExitStatus>,
}

#[derive(Debug, Default)]
struct Lines {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    lines: Vec<String>,
    open_pipes: usize,
}

impl Process {
    /// Starts `command` in a process group of its own, its output copied to `log`.
    ///
    /// # Errors
    ///
    /// When the program or the log cannot be opened; the text names both.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open log {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().to_string_lossy()))?;
        let lines = Arc::new(Lines::default());
        lines.seen.lock().unwrap_or_else(PoisonError::into_inner).open_pipes = 2;
        let log_file = Arc::new(Mutex::new(file));
        // Both were asked for above.
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            copy_lines(out, Arc::clone(&log_file), Arc::clone(&lines));
            copy_lines(err, log_file, Arc::clone(&lines));
        }
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), lines, status: None })
    }

    /// Process id.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All lines printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.seen.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Waits until a line contains `text`, also one printed before the call; answers that line.
    ///
    /// # Errors
    ///
    /// When the time is over or the output ended without it; the text holds the last lines.
    pub fn wait_line(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_line_after(0, text, limit).map(|(_, line)| line)
    }

    /// As [`wait_line`](Self::wait_line), looking at line `from` and later; answers its number as well.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn wait_line_after(&self, from: usize, text: &str, limit: Duration) -> Result<(usize, String)> {
        let deadline = Instant::now() + limit;
        let mut seen = self.lines.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((at, line)) = seen.lines.iter().enumerate().skip(from).find(|(_, l)| l.contains(text))
            {
                return Ok((at, line.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seen.open_pipes == 0 {
                let why = if left.is_zero() { "not printed in time" } else { "output ended" };
                let tail = seen.lines.iter().rev().take(15).rev().cloned().collect::<Vec<_>>().join("\n  ");
                bail!("{}: waiting for '{text}': {why} (log {}):\n  {tail}", self.name, self.log.display());
            }
            seen = self
                .lines
                .changed
                .wait_timeout(seen, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs at the limit.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_until(&format!("the end of {name}"), limit, || {
            if self.status.is_none() {
                self.status = self.child.try_wait().ok().flatten();
            }
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
            let _ = self.wait_exit(grace);
        }
        let _ = killpg(group, Signal::SIGKILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(10));
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
    let deadline = Instant::now() + limit;
    let bell = (Mutex::new(()), Condvar::new());
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}");
        }
        let guard = bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = bell.1.wait_timeout(guard, Duration::from_millis(20));
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

fn copy_lines(pipe: impl std::io::Read + Send + 'static, log: Arc<Mutex<File>>, lines: Arc<Lines>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut raw = Vec::new();
        while reader.read_until(b'\n', &mut raw).is_ok_and(|n| n > 0) {
            let _ = log.lock().unwrap_or_else(PoisonError::into_inner).write_all(&raw);
            let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
            lines.seen.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
            lines.changed.notify_all();
            raw.clear();
        }
        lines.seen.lock().unwrap_or_else(PoisonError::into_inner).open_pipes -= 1;
        lines.changed.notify_all();
    });
}
