//! nxagent as a child process: its launch up to the moment when it waits for its client, its words, its end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::Instant;

use super::environment::Environment;
use super::output::{self, Line, Report};
use crate::log_file;
use crate::process_group::{GroupChild, describe};

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct AgentCommand {
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// The whole environment.
    pub environment: Environment,
    /// Directory to start in; `None` when the program goes there itself.
    pub dir: Option<PathBuf>,
}

/// Why no agent waits for a client.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The display number is in use.
    #[error("the display number is in use")]
    DisplayTaken,
    /// The program could not be started.
    #[error("cannot start '{program}'")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("the X agent ended while starting ({how}){}", quoted(last_words))]
    Ended {
        /// Exit status or signal.
        how: String,
        /// Its last complaint, maybe empty.
        last_words: String,
    },
    /// Its log cannot be written.
    #[error("cannot write the log '{}'", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Something that the agent said or did.
#[derive(Debug)]
pub enum AgentEvent {
    /// A line that means something.
    Line(Line),
    /// Its process ended; nothing follows.
    Gone(ExitStatus),
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct RunningAgent {
    child: GroupChild,
    pid: Pid,
    output: pipe::Receiver,
    open: bool,
    log: File,
    cutter: output::Lines,
    ready: VecDeque<Line>,
    last_words: String,
    ended: Option<(ExitStatus, Instant)>,
}

/// Starts an agent and waits until it waits for its client.
///
/// # Cancellation
///
/// A dropped call kills the agent.
///
/// # Errors
///
/// [`LaunchError`]; nothing runs then.
pub async fn launch(command: &AgentCommand, log: &Path) -> Result<RunningAgent, LaunchError> {
    let log_error = |source| LaunchError::Log { path: log.to_owned(), source };
    let log = log_file::open(log).map_err(log_error)?;
    let program = command.words[0].to_string_lossy().into_owned();
    let mut agent = spawn(command, log).map_err(|source| LaunchError::Spawn { program, source })?;
    let mut taken = false;
    loop {
        match agent.next().await {
            // With a launcher in between the agent is not our child. Said before any other program runs.
            AgentEvent::Line(Line::Pid(pid)) => agent.pid = Pid::from_raw(pid.cast_signed()),
            AgentEvent::Line(Line::DisplayTaken) => taken = true,
            AgentEvent::Line(Line::Report(Report::Waiting)) => return Ok(agent),
            AgentEvent::Line(_) => {}
            AgentEvent::Gone(_) if taken => return Err(LaunchError::DisplayTaken),
            AgentEvent::Gone(status) => {
                return Err(LaunchError::Ended { how: describe(status), last_words: agent.last_words });
            }
        }
    }
}

impl RunningAgent {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its last complaint, maybe empty.
    pub fn last_words(&self) -> &str {
        &self.last_words
    }

    /// What happens next.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> AgentEvent {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.ready.pop_front() {
                return AgentEvent::Line(line);
            }
            if let Some((status, patience)) = self.ended
                && (!self.open || Instant::now() >= patience)
            {
                return AgentEvent::Gone(status);
            }
            // Children of the agent may keep the pipe open after its end: they are not waited for.
            let patience = self.ended.map(|(_, until)| until);
            tokio::select! {
                biased;
                read = self.output.read(&mut chunk), if self.open => match read {
                    Ok(0) | Err(_) => self.open = false,
                    Ok(count) => self.take(&chunk[..count]),
                },
                status = self.child.wait(), if self.ended.is_none() => {
                    // An error here means that somebody else reaped the child: it is gone all the same.
                    let status = status.unwrap_or_default();
                    self.ended = Some((status, Instant::now() + LAST_WORDS));
                }
                () = sleep_until(patience), if patience.is_some() => {}
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Err(error) = self.log.write_all(bytes) {
            tracing::warn!(%error, "cannot write the agent's log");
        }
        let (ready, last_words) = (&mut self.ready, &mut self.last_words);
        self.cutter.feed(bytes, |line| {
            let text = String::from_utf8_lossy(line);
            if text.starts_with("Error:") || text.contains("PANIC!") || text.starts_with("Fatal") {
                *last_words = text.chars().filter(|c| !c.is_control()).take(300).collect();
            }
            ready.extend(output::parse(line));
        });
    }
}

/// Sends a signal to an agent; one that is gone already is no failure.
pub(super) fn signal(pid: Pid, signal: Signal) {
    // Never a group, never everybody.
    if pid.as_raw() > 1
        && let Err(error) = kill(pid, signal)
    {
        tracing::debug!(%pid, %signal, %error, "the agent was not signalled");
    }
}

fn spawn(command: &AgentCommand, log: File) -> io::Result<RunningAgent> {
    let (reader, writer) = io::pipe()?;
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut words = command.words.iter();
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program);
    child
        .args(words)
        .env_clear()
        .envs(&command.environment)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    if let Some(dir) = &command.dir {
        child.current_dir(dir);
    }
    let child = GroupChild::spawn(&mut child)?;
    Ok(RunningAgent {
        pid: child.pid(),
        child,
        output,
        open: true,
        log,
        cutter: output::Lines::default(),
        ready: VecDeque::new(),
        last_words: String::new(),
        ended: None,
    })
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn quoted(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// How long the output of an agent that is gone is still read.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> AgentCommand {
        AgentCommand {
            words: ["/bin/sh", "-c", text].map(OsString::from).into(),
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            dir: None,
        }
    }

    async fn launched(text: &str) -> Result<RunningAgent, LaunchError> {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, launch(&script(text), &dir.path().join("log"))).await.unwrap()
    }

    const WAITS: &str = "echo \"Info: Waiting for connection from any host on socket 'tcp:*:4100'.\"";

    #[tokio::test]
    async fn words_behind_the_wait_are_kept_and_the_end_comes_last() {
        let text = format!(
            "{WAITS}; echo \"Session: Session started at 'x'.\"; sleep 0.1; \
             echo \"Session: Session suspended at 'x'.\" >&2; kill -9 $$"
        );
        let mut agent = launched(&text).await.unwrap();
        assert!(matches!(agent.next().await, AgentEvent::Line(Line::Report(Report::Started))));
        assert!(matches!(agent.next().await, AgentEvent::Line(Line::Report(Report::Suspended))));
        match agent.next().await {
            AgentEvent::Gone(status) => assert_eq!(describe(status), "killed by SIGKILL"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_open_pipe_does_not_hide_the_end() {
        let mut agent = launched(&format!("{WAITS}; sleep 600 & exit 3")).await.unwrap();
        match agent.next().await {
            AgentEvent::Gone(status) => assert_eq!(describe(status), "exit status 3"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_failed_launch_says_why() {
        let error = launched("echo 'Error: no fonts' >&2; exit 1").await.unwrap_err();
        assert_eq!(error.to_string(), "the X agent ended while starting (exit status 1): Error: no fonts");
        let error =
            launched("echo \"Error: Aborting session with 'Server is already active for display 7\"; exit 1")
                .await
                .unwrap_err();
        assert!(matches!(error, LaunchError::DisplayTaken));
        let missing = AgentCommand { words: vec!["/nonexistent/nxagent".into()], ..script("") };
        let error = launch(&missing, Path::new("/dev/null")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot start '/nonexistent/nxagent'");
    }
}
