//! Detaching: the launcher's child stays as courier of one report, the holder is nobody's child.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use super::HOLDER_LOG;
use super::records::Report;
use crate::hostops::{Fork, close_inherited, fork};

/// Which process this is after [`detach`].
pub(super) enum Side {
    /// The launcher's child, with what the holder reported.
    Courier(Report),
    /// Stood between courier and holder and has nothing more to do.
    Between,
    /// The holder, with where to report.
    Holder(Reply),
}

/// The way to the courier; closed after the first report.
#[derive(Debug)]
pub(super) struct Reply(Option<File>);

impl Reply {
    /// Reports once; later reports go nowhere.
    pub(super) fn send(&mut self, report: &Report) {
        if let Some(mut courier) = self.0.take()
            && let Ok(text) = serde_json::to_vec(report)
        {
            // Without a courier the launcher learns it from `run.json`.
            let _ = courier.write_all(&text);
        }
    }

    /// The descriptor that no child may keep open.
    pub(super) fn raw_fd(&self) -> Option<RawFd> {
        self.0.as_ref().map(|file| file.as_raw_fd())
    }
}

/// Forks twice with a new session in between.
pub(super) fn detach(dir: &Path) -> Side {
    try_detach(dir).unwrap_or_else(|error| {
        Side::Courier(Report::Failed {
            operation: "detach from the launcher".into(),
            reason: error.to_string(),
        })
    })
}

/// Prints the report for the launcher.
pub(super) fn deliver(report: &Report) -> ExitCode {
    match serde_json::to_vec(report).map(|text| io::stdout().write_all(&text)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // The launcher is gone; what runs will be found.
        _ => ExitCode::FAILURE,
    }
}

fn try_detach(dir: &Path) -> io::Result<Side> {
    close_inherited()?;
    let (from_holder, to_courier) = pipe2(OFlag::O_CLOEXEC)?;
    match fork()? {
        Fork::Parent(child) => {
            drop(to_courier);
            let mut text = Vec::new();
            File::from(from_holder).read_to_end(&mut text)?;
            waitpid(child, None)?;
            Ok(Side::Courier(serde_json::from_slice(&text).unwrap_or_else(|_| Report::Failed {
                operation: "launch".into(),
                reason: format!("the holder ended without a word, see '{}'", dir.join(HOLDER_LOG).display()),
            })))
        }
        Fork::Child => {
            drop(from_holder);
            let mut reply = Reply(Some(File::from(to_courier)));
            Ok(match leave(dir) {
                Ok(Fork::Child) => Side::Holder(reply),
                Ok(Fork::Parent(_)) => Side::Between,
                Err(error) => {
                    reply.send(&Report::Failed {
                        operation: "detach from the launcher".into(),
                        reason: error.to_string(),
                    });
                    Side::Between
                }
            })
        }
    }
}

/// In the launcher's grandchild-to-be: own session, own log, a parent that ends at once.
fn leave(dir: &Path) -> io::Result<Fork> {
    setsid()?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(HOLDER_LOG))?;
    let nothing = File::open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    std::env::set_current_dir("/")?;
    fork()
}
