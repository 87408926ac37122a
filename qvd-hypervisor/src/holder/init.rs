//! The first process of a machine: makes the view, starts the agent, collects orphans, ends with the agent.
//!
//! It is neither the agent nor nxagent: the agent would have to collect foreign orphans, and nxagent as pid 1
//! takes its missing parent for a dead one and ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, sethostname};
use serde::{Deserialize, Serialize};

use super::records::{Account, Isolation, Order};
use super::view::{self, StepFailed, View};
use super::{AGENT_LOGS, GUEST_BIN, GUEST_RUN};
use crate::hostops::{
    adopt_orphans, descendants, die_with_parent, forbid_new_privileges, unblock_signals_in,
};
use crate::net;

/// What init tells the holder, one JSON document per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The agent was started.
    Started,
    /// It could not be.
    Failed {
        /// What was tried.
        operation: String,
        /// The system's answer.
        reason: String,
    },
    /// The agent ended, and the machine with it.
    Ended {
        /// Its exit status.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// What init is given by the holder.
#[derive(Debug)]
pub(super) struct Birth<'a> {
    pub(super) order: &'a Order,
    pub(super) guest: &'a Path,
    /// Limit memory by rlimit because no control group does.
    pub(super) limit_memory: bool,
    /// Limit processes by rlimit because no control group does. It counts all processes of an account, so the account
    /// must be the machine's alone.
    pub(super) limit_processes: bool,
    /// Where the agent prints.
    pub(super) printer: File,
    /// The socket that the agent answers on, as its standard input; none where it has a network of its own.
    pub(super) calls: Option<UnixListener>,
    /// Gives one byte once the holder has written down who we are.
    pub(super) go: OwnedFd,
    /// Takes [`Word`]s.
    pub(super) words: OwnedFd,
    /// The holder's number, to see that it is still there.
    pub(super) holder: Pid,
}

/// The signals that the holder and init wait for instead of being interrupted by them.
pub(super) fn awaited_signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Runs as the first process of a machine; returns its exit status.
pub(super) fn run(birth: &Birth<'_>) -> u8 {
    let mut words = match birth.words.try_clone() {
        Ok(words) => File::from(words),
        Err(_) => return 1,
    };
    match begin(birth) {
        Ok(Some(agent)) => {
            say(&mut words, &Word::Started);
            let (code, signal) = watch(agent, birth);
            say(&mut words, &Word::Ended { code, signal });
            0
        }
        // The holder is gone; nobody wants this machine any more.
        Ok(None) => 1,
        Err(failed) => {
            say(&mut words, &Word::Failed { operation: failed.operation, reason: failed.source.to_string() });
            1
        }
    }
}

fn begin(birth: &Birth<'_>) -> Result<Option<Pid>, StepFailed> {
    let order = birth.order;
    let own_namespaces = order.isolation == Isolation::Namespaces;
    // Without namespaces there is more to do at the holder's death than to die: see `watch`.
    let last_signal = if own_namespaces { Signal::SIGKILL } else { Signal::SIGTERM };
    step("tie the machine to its holder", die_with_parent(last_signal))?;
    if !told_to_go(birth) {
        return Ok(None);
    }
    // The agent and the session are as good a victim of a full memory as any other process.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    if let Some(network) = &order.network {
        step("set up the network inside", net::apply::set_up_inside(network))?;
    }
    if own_namespaces {
        let programs = order.agent.parent().unwrap_or(Path::new("/"));
        let view = View {
            home: &order.home,
            guest: birth.guest,
            programs,
            exposed: &order.exposed,
            hidden: &order.hidden,
            memory: order.memory,
            account: &order.account,
        };
        if let Err(error) = scatter_process_numbers() {
            eprintln!("process numbers are those of every machine: {error}");
        }
        let short = view::enter(&view)?;
        if let Some(reason) = short.writable_host {
            eprintln!("the host's files are not read-only inside: {reason}");
        }
        step("set the host name", sethostname(&order.hostname).map_err(Into::into))?;
    } else {
        step("adopt orphans", adopt_orphans())?;
        // The agent opens its log before it makes a directory.
        view::make_own_dir(&order.home.join(AGENT_LOGS), &order.account)?;
    }
    if let Err(error) = forbid_new_privileges() {
        eprintln!("set-user-id programs keep their rights inside: {error}");
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if birth.limit_memory {
        step(
            "limit memory",
            setrlimit(Resource::RLIMIT_DATA, order.memory, order.memory).map_err(Into::into),
        )?;
    }
    if birth.limit_processes {
        let most = order.processes.into();
        step("limit processes", setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(Into::into))?;
    }
    start_agent(birth, own_namespaces).map(Some)
}

/// Lets the numbers of this machine's processes begin somewhere else than in its neighbours. They share the host's
/// network, and with it the abstract sockets that programs name by their process number: a session manager's
/// (`@/tmp/.ICE-unix/NUMBER`) is refused, and its desktop ends, when another machine's has the same.
fn scatter_process_numbers() -> io::Result<()> {
    /// Init and a few that are started before it matters.
    const LOWEST: u32 = 100;
    let most = fs::read_to_string("/proc/sys/kernel/pid_max")?;
    let most: u32 = most.trim().parse().map_err(io::Error::other)?;
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    // The upper half stays for what the machine will start.
    let first = LOWEST + u32::from_ne_bytes(bytes) % (most / 2).max(LOWEST);
    fs::write("/proc/sys/kernel/ns_last_pid", first.to_string())
}

/// Waits until the holder has recorded this process; false when the holder died first.
fn told_to_go(birth: &Birth<'_>) -> bool {
    let Ok(go) = birth.go.try_clone() else { return false };
    matches!(File::from(go).read(&mut [0]), Ok(1))
}

fn start_agent(birth: &Birth<'_>, own_namespaces: bool) -> Result<Pid, StepFailed> {
    let order = birth.order;
    let (program, run_dir) = if own_namespaces {
        let name = order.agent.file_name().unwrap_or_default();
        (Path::new(GUEST_BIN).join(name), PathBuf::from(GUEST_RUN))
    } else {
        (order.agent.clone(), birth.guest.to_owned())
    };
    let operation = || format!("start the agent '{}' (command.qvd-vma)", order.agent.display());
    let calls = match &birth.calls {
        Some(calls) => OwnedFd::from(step(operation(), calls.try_clone())?).into(),
        None => Stdio::null(),
    };
    let stdout = step(operation(), birth.printer.try_clone())?;
    let stderr = step(operation(), birth.printer.try_clone())?;
    let mut command = Command::new(&program);
    command
        .arg("--config")
        .arg(run_dir.join("vma.conf"))
        .env_clear()
        .envs(environment(&order.account, own_namespaces))
        .current_dir("/")
        .process_group(0)
        .stdin(calls)
        .stdout(stdout)
        .stderr(stderr);
    if order.account.switch {
        // Groups go too: the standard library drops them all when root changes the user.
        command.gid(order.account.gid).uid(order.account.uid);
    }
    let child = step(operation(), unblock_signals_in(&mut command).spawn())?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// Few words of the launcher's environment are the machine's business: where programs are and what language is spoken.
fn environment(account: &Account, own_namespaces: bool) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> =
        ["PATH", "LANG", "LC_ALL", "TZ", "RUST_LOG", "RUST_BACKTRACE"]
            .iter()
            .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
            .collect();
    if std::env::var_os("PATH").is_none() {
        environment.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    environment.extend([
        ("USER".into(), OsString::from(&account.login)),
        ("LOGNAME".into(), OsString::from(&account.login)),
        ("HOME".into(), OsString::from(&account.home)),
    ]);
    if own_namespaces {
        environment.push(("XDG_RUNTIME_DIR".into(), format!("/run/user/{}", account.uid).into()));
    }
    environment
}

/// Collects whatever ends until the agent has ended; hands SIGTERM on to it and to what it left in its group.
fn watch(agent: Pid, birth: &Birth<'_>) -> (Option<i32>, Option<i32>) {
    let signals = awaited_signals();
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM) => {
                let _ = killpg(agent, Signal::SIGTERM);
            }
            Ok(_) => {}
            Err(_) => continue,
        }
        if birth.order.isolation == Isolation::None && getppid() != birth.holder {
            // Nobody holds the lock any more: end at once, and everything with us.
            end_descendants();
            return (None, Some(Signal::SIGKILL as i32));
        }
        if let Some(ended) = collect(agent) {
            if birth.order.isolation == Isolation::None {
                end_descendants();
            }
            return ended;
        }
    }
}

/// Reaps all that has ended; how the agent did, if it was among them.
fn collect(agent: Pid) -> Option<(Option<i32>, Option<i32>)> {
    let mut ended = None;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => ended = Some((Some(code), None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                ended = Some((None, Some(signal as i32)))
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}

/// Kills and reaps all descendants of the calling process, which adopts orphans, until there are none.
pub(super) fn end_descendants() {
    loop {
        let Ok(all) = descendants(nix::unistd::getpid().as_raw()) else { return };
        for process in &all {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        // Each death either empties the list or hands us the children of the dead.
        match waitpid(None::<Pid>, None) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn say(words: &mut File, word: &Word) {
    if let Ok(mut line) = serde_json::to_vec(word) {
        line.push(b'\n');
        // A dead holder cannot be told anything; it takes us along anyway.
        let _ = words.write_all(&line);
    }
}

fn step<T>(operation: impl Into<String>, outcome: io::Result<T>) -> Result<T, StepFailed> {
    outcome.map_err(|source| StepFailed { operation: operation.into(), source })
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games";
