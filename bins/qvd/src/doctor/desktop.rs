//! The desktop's way: an X display that is free, and an nxagent that really waits for its client.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use qvd_core::config::Config;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::finding::{Finding, failed, fine};
use super::programs::find;

/// How many display numbers are tried, as the agent does.
const DISPLAYS: u32 = 100;

/// A free X display, by binding its socket.
pub(super) fn x_socket(config: &Config) -> Finding {
    match free_display(config) {
        Some(number) => fine("X socket", format!("display :{number} is free")),
        None => failed(
            "X socket",
            &format!("no free display from :{} on", config.integer("internal.nxagent.display")),
            "end X servers that are not needed, or set internal.nxagent.display to another start",
        ),
    }
}

/// Starts nxagent on a private socket and waits until it listens for its client.
pub(super) async fn nx_session(config: &Config) -> Finding {
    const WHAT: &str = "NX session";
    let program = config.command("command.nxagent").into_iter().next().unwrap_or_default();
    let (Some(program), Some(display)) = (find(&program), free_display(config)) else {
        return failed(WHAT, "not tried", "see nxagent and X socket above");
    };
    let Ok(scratch) = tempfile::tempdir() else {
        return failed(WHAT, "no temporary directory", "make space below /tmp");
    };
    let options = scratch.path().join("options");
    let socket = scratch.path().join("nx.sock");
    let text =
        format!("nx/nx,link=lan,client=linux,keyboard=pc105/us,listen=unix:{}:{display}\n", socket.display());
    if let Err(e) = std::fs::write(&options, text) {
        return failed(WHAT, &e.to_string(), "make space below /tmp");
    }
    let child = Command::new(program)
        .arg(format!(":{display}"))
        .args(["-nolisten", "tcp", "-noreset", "-name", "QVD", "-D", "-display"])
        .arg(format!("nx/nx,options={}:{display}", options.display()))
        .env("HOME", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            return failed(
                WHAT,
                &format!("nxagent does not start: {e}"),
                "apt-get install --reinstall nxagent",
            );
        }
    };
    let Some(output) = child.stderr.take() else {
        return failed(WHAT, "nxagent's output cannot be read", "try again");
    };
    let mut lines = BufReader::new(output).lines();
    let mut last = String::new();
    let waits = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("Waiting for connection") {
                return true;
            }
            if line.contains("rror") || last.is_empty() {
                last = line;
            }
        }
        false
    };
    let listening = tokio::time::timeout(Duration::from_secs(15), waits).await;
    end(child).await;
    match listening {
        Ok(true) => fine(WHAT, "nxagent waits for a client on a private socket".to_owned()),
        Ok(false) => failed(
            WHAT,
            &format!("nxagent ended: {last}"),
            "run `nxagent -version`; reinstall nxagent and libnx-x11-6",
        ),
        Err(_) => {
            failed(WHAT, "nxagent did not begin to wait within 15 s", "is the machine overloaded? try again")
        }
    }
}

/// Asks it to end, so that it takes its display's files along; kills it when it does not. While it waits it has a
/// child of its own, and neither ends without the other: the signals go to both.
async fn end(mut child: Child) {
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let tell = |signal| group.map(|group| killpg(group, signal));
    tell(Signal::SIGTERM);
    if tokio::time::timeout(Duration::from_secs(5), child.wait()).await.is_err() {
        tell(Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// An X server wants three names of its display for itself: an abstract socket, a socket and a lock file. The files
/// may be those of another user's server, or be left from one that was killed.
fn free_display(config: &Config) -> Option<u32> {
    let first = u32::try_from(config.integer("internal.nxagent.display")).ok()?;
    (first..first + DISPLAYS).find(|number| {
        let socket = format!("/tmp/.X11-unix/X{number}");
        let files = [socket.clone(), format!("/tmp/.X{number}-lock")];
        files.iter().all(|file| !Path::new(file).exists())
            && SocketAddr::from_abstract_name(socket.as_bytes())
                .and_then(|address| UnixListener::bind_addr(&address))
                .is_ok()
    })
}
