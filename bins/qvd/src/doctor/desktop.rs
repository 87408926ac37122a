//! The desktop's way: an X display that is free, and an nxagent that really waits for its client.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Stdio;
use std::time::Duration;

use qvd_core::config::Config;
use qvd_core::hypervisor::Check;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::programs::find;
use super::{failed, fine};

/// How many display numbers are tried, as the agent does.
const DISPLAYS: u32 = 100;

/// A free X display, by binding its socket.
pub(super) fn x_socket(config: &Config) -> Check {
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
pub(super) async fn nx_session(config: &Config) -> Check {
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
    let _ = child.start_kill();
    let _ = child.wait().await;
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

fn free_display(config: &Config) -> Option<u32> {
    let first = u32::try_from(config.integer("internal.nxagent.display")).ok()?;
    (first..first + DISPLAYS).find(|number| {
        let name = format!("/tmp/.X11-unix/X{number}");
        SocketAddr::from_abstract_name(name.as_bytes())
            .and_then(|address| UnixListener::bind_addr(&address))
            .is_ok()
    })
}
