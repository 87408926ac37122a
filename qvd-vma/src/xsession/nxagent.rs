//! nxagent as a child process: its launch up to the moment when it waits for its client, its words, its end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::output::{self, Line, Report};
use super::session_files;
use super::user_command::UserCommand;
use crate::log_file::LogFile;
use crate::process_group::{GroupChild, Identity, describe};
use crate::process_tree;

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
    /// The agent itself: with a launcher in between it is not our child, nor in its group.
    agent: Identity,
    output: pipe::Receiver,
    open: bool,
    log: LogFile,
    cutter: output::Lines,
    ready: VecDeque<Line>,
    last_words: String,
    ended: Option<(ExitStatus, Instant)>,
}

/// Starts an agent that runs as `user`, and waits until it waits for its client. `pid_file` names it from the moment
/// when it is known.
///
/// # Cancellation
///
/// A dropped call kills the agent.
///
/// # Errors
///
/// [`LaunchError`]; nothing runs then.
pub async fn launch(
    command: &UserCommand,
    user: Uid,
    log: &Path,
    pid_file: &Path,
) -> Result<RunningAgent, LaunchError> {
    let log_error = |source| LaunchError::Log { path: log.to_owned(), source };
    let log = LogFile::open(log).map_err(log_error)?;
    let program = command.words.first().map_or_else(String::new, |word| word.to_string_lossy().into_owned());
    let mut agent = spawn(command, user, log).map_err(|source| LaunchError::Spawn { program, source })?;
    let mut taken = false;
    loop {
        match agent.next().await {
            // Said before any other program runs.
            AgentEvent::Line(Line::Pid(pid)) => match agent.named(Pid::from_raw(pid.cast_signed())) {
                Some(identity) => {
                    agent.agent = identity;
                    write_pid(pid_file, agent.pid());
                }
                None => tracing::warn!(pid, "the output names an agent that is none of ours"),
            },
            AgentEvent::Line(Line::DisplayTaken) => taken = true,
            AgentEvent::Line(Line::Report(Report::Waiting)) => {
                write_pid(pid_file, agent.pid());
                return Ok(agent);
            }
            AgentEvent::Line(_) => {}
            AgentEvent::Gone(_) if taken => return Err(LaunchError::DisplayTaken),
            AgentEvent::Gone(status) => {
                return Err(LaunchError::Ended {
                    how: describe(status),
                    last_words: agent.last_words.clone(),
                });
            }
        }
    }
}

impl RunningAgent {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.agent.pid()
    }

    /// Which process it is.
    pub(super) fn identity(&self) -> Identity {
        self.agent
    }

    /// The process that the output calls the agent. Code of the user's runs in there too and writes what it likes:
    /// only what we started, and what descends from it, is signalled for its words, and only as the user's.
    fn named(&self, pid: Pid) -> Option<Identity> {
        let child = self.child.pid();
        let ours = pid == child || process_tree::descendants(child.as_raw()).contains(&pid.as_raw());
        let identity = Identity::of(pid, self.agent.user());
        (ours && identity.holds()).then_some(identity)
    }

    /// Whether its end is that of a launcher, which does not tell how the agent itself ended.
    pub(super) fn is_launched(&self) -> bool {
        self.agent.pid() != self.child.pid()
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
        self.log.write(bytes);
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

impl Drop for RunningAgent {
    fn drop(&mut self) {
        // The child ends with its group; what a launcher put elsewhere does not.
        if self.is_launched() {
            self.agent.signal(Signal::SIGKILL);
        }
    }
}

fn spawn(command: &UserCommand, user: Uid, log: LogFile) -> io::Result<RunningAgent> {
    let (reader, writer) = io::pipe()?;
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut process = command.command().ok_or(io::ErrorKind::InvalidInput)?;
    let child = GroupChild::spawn_user(command, process.stdout(writer.try_clone()?).stderr(writer))?;
    Ok(RunningAgent {
        agent: Identity::of(child.pid(), user),
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

/// For people, and for the next life of this program.
fn write_pid(path: &Path, pid: Pid) {
    if let Err(error) = session_files::write(path, format!("{pid}\n").as_bytes(), 0o644, None) {
        tracing::warn!(path = %path.display(), %error, "cannot write the agent's pid file");
    }
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

    fn script(text: &str) -> UserCommand {
        UserCommand {
            words: ["/bin/sh", "-c", text].map(Into::into).into(),
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            dir: None,
            kept: false,
        }
    }

    async fn launched(text: &str) -> Result<RunningAgent, LaunchError> {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(20);
        let (log, pid) = (dir.path().join("log"), dir.path().join("pid"));
        tokio::time::timeout(limit, launch(&script(text), Uid::effective(), &log, &pid)).await.unwrap()
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
        let missing = UserCommand { words: vec!["/nonexistent/nxagent".into()], ..script("") };
        let null = Path::new("/dev/null");
        let error = launch(&missing, Uid::effective(), null, null).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot start '/nonexistent/nxagent'");
    }

    fn says(pid: impl std::fmt::Display) -> String {
        format!("echo \"Info: Agent running with pid '{pid}'.\"")
    }

    #[tokio::test]
    async fn a_process_that_was_not_started_here_is_never_taken_for_the_agent() {
        let mut other = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let own = std::process::id();
        for foreign in [other.id(), own, 1, 0, u32::MAX] {
            let agent = launched(&format!("{}; {WAITS}; sleep 600", says(foreign))).await.unwrap();
            assert_eq!(agent.pid(), agent.child.pid(), "{foreign}");
            assert!(!agent.is_launched());
        }
        // Dropping them has killed none of those.
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        let text = format!("{}; {WAITS}; exec sleep 600", says("$$"));
        let agent = launched(&text).await.unwrap();
        assert_eq!(agent.pid(), agent.child.pid());
        let text = format!("sleep 600 & {}; {WAITS}; exec sleep 600", says("$!"));
        let agent = launched(&text).await.unwrap();
        assert!(agent.is_launched(), "a launcher's child is the agent");
    }

    #[tokio::test]
    async fn a_process_of_another_user_is_never_taken_for_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (log, pid) = (dir.path().join("log"), dir.path().join("pid"));
        let command = script(&format!("sleep 600 & {}; {WAITS}; exec sleep 600", says("$!")));
        let other = Uid::from_raw(Uid::effective().as_raw() + 1);
        let launching = launch(&command, other, &log, &pid);
        let agent = tokio::time::timeout(Duration::from_secs(20), launching).await.unwrap().unwrap();
        assert!(!agent.is_launched());
    }

    /// As a launcher does: the agent is in a group of its own, and its parent outlives it.
    const LAUNCHED: &str =
        "set -m; sh -c 'echo \"Info: Agent running with pid '\\''$$'\\''.\"; sleep 600' & wait";

    #[tokio::test]
    async fn a_launched_agent_is_named_at_once_and_ends_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (log, pid_file) = (dir.path().join("log"), dir.path().join("pid"));
        let command = script(LAUNCHED);
        let launching = launch(&command, Uid::effective(), &log, &pid_file);
        let named = async {
            loop {
                if let Ok(text) = std::fs::read_to_string(&pid_file) {
                    return text.trim().parse::<i32>().unwrap();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let agent = tokio::select! {
            launched = launching => panic!("{launched:?}"),
            pid = tokio::time::timeout(Duration::from_secs(20), named) => pid.unwrap(),
        };
        // The select has dropped the launch.
        let ended = async {
            let stat = format!("/proc/{agent}/stat");
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    }
}
