//! Tries what this system allows, with a real machine view over empty directories.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{getegid, geteuid, getpid, pipe2, sethostname};
use serde::{Deserialize, Serialize};

use super::launch::map_own_account;
use super::records::Account;
use super::view::{self, View};
use crate::hostops::{Namespaces, close_inherited, spawn_init};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStep {
    /// What.
    pub what: String,
    /// None when it worked; else the system's answer.
    pub problem: Option<String>,
}

/// What [`main`](super::main) prints for `probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether namespaces of its own, a user namespace when needed, can be made.
    pub namespaces: Option<ProbeStep>,
    /// Whether a machine's view can be made inside.
    pub view: Option<ProbeStep>,
    /// Whether the host's files can be made read-only inside.
    pub read_only_host: Option<ProbeStep>,
}

/// `holder probe DIR`: prints a [`ProbeReport`].
pub(super) fn main(dir: PathBuf) -> ExitCode {
    let report = match close_inherited().and_then(|()| prepare(&dir)) {
        Ok(()) => probe(&dir),
        Err(error) => {
            ProbeReport { namespaces: Some(step("scratch directory", Err(error))), ..Default::default() }
        }
    };
    match serde_json::to_vec(&report).map(|text| io::stdout().write_all(&text)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    ["home", "guest", "programs"]
        .iter()
        .try_for_each(|name| DirBuilder::new().mode(0o700).create(dir.join(name)))
}

fn probe(dir: &Path) -> ProbeReport {
    let mut report = ProbeReport::default();
    match try_view(dir) {
        Ok(inside) => {
            report.namespaces = Some(step("own pid, mount, ipc and uts namespaces", Ok(())));
            report.view = inside.view;
            report.read_only_host = inside.read_only_host;
        }
        Err(error) => report.namespaces = Some(step("own pid, mount, ipc and uts namespaces", Err(error))),
    }
    report
}

/// Makes the namespaces; what was found inside comes back through a pipe.
fn try_view(dir: &Path) -> io::Result<ProbeReport> {
    let root = geteuid().is_root();
    let account = Account {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        login: "probe".into(),
        home: "/home/probe".into(),
        switch: false,
    };
    let (from_init, to_us) = pipe2(OFlag::O_CLOEXEC)?;
    let (go_read, go_write) = pipe2(OFlag::O_CLOEXEC)?;
    let go_write_raw = go_write.as_raw_fd();
    let init = spawn_init(Namespaces { own: true, net: false, user: !root }, || {
        let _ = nix::unistd::close(go_write_raw);
        // Also ends the wait when the parent is gone.
        let _ = nix::unistd::read(&go_read, &mut [0]);
        let inside = look_from_inside(dir, &account);
        let told = serde_json::to_vec(&inside).map(|text| nix::unistd::write(&to_us, &text).is_ok());
        u8::from(!told.unwrap_or(false))
    })?;
    let mapped = if root { Ok(()) } else { map_own_account(init) };
    drop((to_us, go_write));
    let text = io::read_to_string(fs::File::from(from_init))?;
    waitpid(init, None)?;
    mapped?;
    Ok(serde_json::from_str(&text)?)
}

fn look_from_inside(dir: &Path, account: &Account) -> ProbeReport {
    let (home, guest, programs) = (dir.join("home"), dir.join("guest"), dir.join("programs"));
    let view = View {
        home: &home,
        guest: &guest,
        programs: &programs,
        exposed: &[],
        hidden: &[dir.to_owned()],
        memory: 1 << 20,
        account,
    };
    let mut report = ProbeReport::default();
    let entered = if getpid().as_raw() == 1 {
        view::enter(&view).map_err(|failed| io::Error::other(qvd_core::error::chain(&failed).to_string()))
    } else {
        Err(io::Error::other("not the first process of its namespace"))
    };
    match entered {
        Ok(short) => {
            report.view = Some(step("private mounts", sethostname("probe").map_err(Into::into)));
            report.read_only_host = Some(ProbeStep {
                what: "host's files read-only inside".into(),
                problem: short.writable_host,
            });
        }
        Err(error) => report.view = Some(step("private mounts", Err(error))),
    }
    report
}

fn step(what: &str, outcome: io::Result<()>) -> ProbeStep {
    ProbeStep { what: what.to_owned(), problem: outcome.err().map(|error| error.to_string()) }
}
