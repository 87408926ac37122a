//! What an agent that was killed left behind: its nxagent, which holds the display, and files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::settings::Settings;
use crate::xsession::task::{PID_FILE, STATE_FILE};

/// Ends an nxagent of an earlier life, if the pid file names one that still runs, and removes the files.
pub(super) async fn clear(settings: &Settings) {
    let pid_file = settings.run_dir.join(PID_FILE);
    let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(pid) = pid.filter(|pid| is_ours(*pid, &settings.options_file)) {
        tracing::warn!(pid, "an nxagent of an earlier life still runs and is ended");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if kill(Pid::from_raw(pid), signal).is_err() || gone(pid, &settings.options_file).await {
                break;
            }
        }
    }
    for path in [pid_file, settings.run_dir.join(STATE_FILE)] {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file of an earlier life");
        }
    }
}

/// Whether the process is an agent that was started with our options file: a process id alone may be anybody's.
fn is_ours(pid: i32, options_file: &Path) -> bool {
    let wanted = format!("options={}:", options_file.display());
    pid > 1
        && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| {
            words.split(|b| *b == 0).any(|word| String::from_utf8_lossy(word).contains(&wanted))
        })
}

async fn gone(pid: i32, options_file: &Path) -> bool {
    let ended = async {
        while is_ours(pid, options_file) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), ended).await.is_ok()
}
