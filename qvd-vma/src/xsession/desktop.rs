//! The desktop's own program: which one it is, and its life in its own process group.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::user_command::UserCommand;
use crate::log_file;
use crate::process_group::{GroupChild, signal_group};
use crate::session_keeper;

/// No program was found that could be a desktop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDesktop {
    /// The configured program is not there.
    #[error("the desktop program '{0}' (command.x-session) does not exist")]
    Missing(String),
    /// Neither the default nor anything that could stand in for it is there.
    #[error("no desktop is installed: install a session or window manager, or set command.x-session")]
    NothingInstalled,
}

/// What runs on the screen: the first command is the desktop, its end is the end of the session. Further ones
/// keep it company.
///
/// `find` resolves a program name or path to an executable file. The configured program must exist; only when
/// it is the shipped default, and missing, the first of the usual sessions stands in for it.
///
/// # Errors
///
/// [`NoDesktop`].
pub fn choose(
    configured: &[String],
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Vec<Vec<String>>, NoDesktop> {
    if let Some(program) = configured.first() {
        if let Some(found) = find(program) {
            let mut words = vec![found.display().to_string()];
            words.extend_from_slice(&configured[1..]);
            return Ok(vec![words]);
        }
        if program != DEFAULT {
            return Err(NoDesktop::Missing(program.clone()));
        }
    }
    let whole = ["x-session-manager", "startxfce4", "icewm-session"].into_iter().find_map(&find);
    if let Some(session) = whole {
        return Ok(vec![vec![session.display().to_string()]]);
    }
    let managers = ["x-window-manager", "icewm", "openbox", "jwm"];
    let manager = managers.into_iter().find_map(&find);
    let terminal = ["x-terminal-emulator", "xterm"].into_iter().find_map(&find);
    let both: Vec<_> =
        [manager, terminal].into_iter().flatten().map(|path| vec![path.display().to_string()]).collect();
    if both.is_empty() { Err(NoDesktop::NothingInstalled) } else { Ok(both) }
}

/// Resolves a program name along a search path, as `find` of [`choose`].
pub fn find_in(search_path: &str, program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let is_program = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_program(path));
    }
    search_path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| is_program(path))
}

/// A desktop that runs. Dropping it ends it.
#[derive(Debug)]
pub struct RunningDesktop {
    leader: GroupChild,
    companions: Vec<GroupChild>,
}

impl RunningDesktop {
    /// Starts `commands`, the first as the leader; their output goes to the file `log`. It must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// Those of starting the first; a companion that cannot start is only logged.
    pub fn start(commands: &[UserCommand], log: &Path) -> io::Result<Self> {
        let output = log_file::bounded(log)?;
        let spawn = |user: &UserCommand| -> io::Result<GroupChild> {
            let mut command = user.command().ok_or(io::ErrorKind::InvalidInput)?;
            GroupChild::spawn_user(user, command.stdout(output.try_clone()?).stderr(output.try_clone()?))
        };
        let (first, rest) = commands.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let leader = spawn(first)?;
        let companions = rest
            .iter()
            .filter_map(|user| {
                spawn(user)
                    .inspect_err(
                        |error| tracing::warn!(words = ?user.words, %error, "cannot start beside the desktop"),
                    )
                    .ok()
            })
            .collect();
        Ok(Self { leader, companions })
    }

    /// Waits for the desktop's end. Cancellation safe.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.leader.wait().await
    }

    /// Ends it with all that is in its process groups, or all that it ever started when it is
    /// [kept](UserCommand::kept): politely, then not.
    pub async fn end(self) {
        let until = Instant::now() + GRACE + session_keeper::GRACE;
        let mut ending: Vec<_> = [self.leader].into_iter().chain(self.companions).collect();
        ending.retain_mut(|program| {
            let waits = program.ask_to_end();
            if !waits {
                program.release();
            }
            waits
        });
        for mut program in ending {
            // Without their display most have ended already.
            let ended = async { drop(program.wait().await) };
            if tokio::time::timeout_at(until, ended).await.is_err() {
                tracing::info!("the desktop ignores SIGTERM and is killed");
            }
            signal_group(program.pid(), Signal::SIGKILL);
            program.release();
        }
    }
}

/// Beyond the time that a keeper gives: the longest wait for the end of a program that was asked to end.
const GRACE: Duration = Duration::from_secs(1);

/// What `command.x-session` is when nobody sets it.
const DEFAULT: &str = "/etc/X11/Xsession";

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(configured: &[&str], installed: &[&str]) -> Result<Vec<Vec<String>>, NoDesktop> {
        let configured: Vec<_> = configured.iter().map(|w| (*w).to_owned()).collect();
        choose(&configured, |name| installed.contains(&name).then(|| PathBuf::from(name)))
    }

    #[test]
    fn the_configured_program_with_its_words_comes_first() {
        assert_eq!(chosen(&["/my/desk", "-x"], &["/my/desk", "icewm"]).unwrap(), [["/my/desk", "-x"]]);
        assert_eq!(chosen(&["/my/desk"], &["icewm"]), Err(NoDesktop::Missing("/my/desk".into())));
    }

    #[test]
    fn a_missing_default_is_replaced() {
        assert_eq!(
            chosen(&[DEFAULT], &["x-window-manager", "x-session-manager"]).unwrap(),
            [["x-session-manager"]]
        );
        assert_eq!(chosen(&[DEFAULT], &["openbox", "xterm"]).unwrap(), [["openbox"], ["xterm"]]);
        assert_eq!(chosen(&[DEFAULT], &[]), Err(NoDesktop::NothingInstalled));
    }

    #[test]
    fn programs_are_found_along_the_path() {
        assert_eq!(find_in("/nonexistent:/bin", "sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_in("/bin", "/bin/sh").unwrap(), Path::new("/bin/sh"));
        assert!(find_in("/bin", "no-such-program").is_none());
        assert!(find_in("/", "etc").is_none());
    }
}
