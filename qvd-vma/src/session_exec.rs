//! Becoming the session's user: a small program of its own between the agent and what the user runs.
//!
//! The agent starts itself again as `session-exec [OPTION…] -- PROGRAM [ARGUMENT…]`. That process takes on the
//! account, goes to its directory and becomes PROGRAM. So no code ever runs between fork and exec, and the
//! preloaded library reaches exactly one program.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid};

use crate::account::Account;

/// Word that selects this mode of the agent's program.
pub const SUBCOMMAND: &str = "session-exec";

/// What happens before a program takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionExec {
    /// Account to become: login name, user id, group id.
    pub account: Option<(String, u32, u32)>,
    /// Directory to go to, as that account.
    pub dir: Option<PathBuf>,
    /// Library to preload into the program; without it none is.
    pub preload: Option<PathBuf>,
    /// The program with its arguments.
    pub command: Vec<String>,
}

/// Why the program was not reached.
#[derive(Debug, thiserror::Error)]
pub enum SessionExecError {
    /// Wrong arguments.
    #[error(
        "usage: {SUBCOMMAND} [--user NAME --uid N --gid N] [--dir DIR] [--preload FILE] -- PROGRAM…: {0}"
    )]
    Usage(String),
    /// The account could not be taken on.
    #[error("cannot become user '{name}'")]
    Become {
        /// Login name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be entered.
    #[error("cannot go to '{}'", dir.display())]
    Enter {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run '{program}'")]
    Exec {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SessionExec {
    /// For `command` as `account`, in its home directory.
    pub fn in_home_of(account: &Account, command: Vec<String>) -> Self {
        let other =
            (!account.is_own()).then(|| (account.name.clone(), account.uid.as_raw(), account.gid.as_raw()));
        Self { account: other, dir: Some(account.home.clone()), preload: None, command }
    }

    /// The command line that makes `program` (the agent's own) do this.
    pub fn command_line(&self, program: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![program.into(), SUBCOMMAND.into()];
        if let Some((name, uid, gid)) = &self.account {
            let (uid, gid) = (uid.to_string(), gid.to_string());
            words.extend(["--user", name, "--uid", &uid, "--gid", &gid].map(OsString::from));
        }
        if let Some(dir) = &self.dir {
            words.extend(["--dir".into(), dir.into()]);
        }
        if let Some(preload) = &self.preload {
            words.extend(["--preload".into(), preload.into()]);
        }
        words.push("--".into());
        words.extend(self.command.iter().map(OsString::from));
        words
    }

    /// The command line that makes `program` do this as the X server of a launcher, which wants the display named
    /// first.
    pub(crate) fn server_line(&self, program: &Path, display: &str) -> Vec<OsString> {
        let mut words = self.command_line(program);
        words.insert(1, display.into());
        words
    }

    /// The arguments behind [`SUBCOMMAND`] when a program that was called with `arguments` (without its own name)
    /// is to do this.
    pub fn asked_for(arguments: &[OsString]) -> Option<&[OsString]> {
        match arguments {
            [word, rest @ ..] if word == SUBCOMMAND => Some(rest),
            [display, word, rest @ ..]
                if word == SUBCOMMAND && display.to_str().is_some_and(|d| d.starts_with(':')) =>
            {
                Some(rest)
            }
            _ => None,
        }
    }

    /// Reads the arguments behind [`SUBCOMMAND`].
    ///
    /// # Errors
    ///
    /// [`SessionExecError::Usage`].
    pub fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, SessionExecError> {
        let usage = |text: &str| SessionExecError::Usage(text.to_owned());
        let mut arguments = arguments.into_iter();
        let (mut name, mut uid, mut gid) = (None, None, None);
        let mut read = Self::default();
        loop {
            let option = arguments.next().ok_or_else(|| usage("no program"))?;
            if option == "--" {
                break;
            }
            let value = arguments.next().ok_or_else(|| usage("an option lacks its value"))?;
            let text = || value.to_str().ok_or_else(|| usage("a value is not text"));
            let number = || text()?.parse::<u32>().map_err(|_| usage("an id is not a number"));
            match option.to_str() {
                Some("--user") => name = Some(text()?.to_owned()),
                Some("--uid") => uid = Some(number()?),
                Some("--gid") => gid = Some(number()?),
                Some("--dir") => read.dir = Some(value.into()),
                Some("--preload") => read.preload = Some(value.into()),
                _ => return Err(usage("unknown option")),
            }
        }
        read.account = match (name, uid, gid) {
            (None, None, None) => None,
            (Some(name), Some(uid), Some(gid)) => Some((name, uid, gid)),
            _ => return Err(usage("name, uid and gid go together")),
        };
        for word in arguments {
            read.command.push(word.into_string().map_err(|_| usage("a word is not text"))?);
        }
        if read.command.is_empty() { Err(usage("no program")) } else { Ok(read) }
    }

    /// Does it; comes back only with a failure.
    ///
    /// # Errors
    ///
    /// All but [`SessionExecError::Usage`].
    pub fn run(self) -> Result<Infallible, SessionExecError> {
        if let Some((name, uid, gid)) = self.account {
            become_user(&name, uid, gid).map_err(|source| SessionExecError::Become { name, source })?;
        }
        if let Some(dir) = self.dir {
            std::env::set_current_dir(&dir).map_err(|source| SessionExecError::Enter { dir, source })?;
        }
        let program = &self.command[0];
        let mut command = Command::new(program);
        command.args(&self.command[1..]);
        match &self.preload {
            Some(library) => command.env("LD_PRELOAD", library),
            None => command.env_remove("LD_PRELOAD"),
        };
        let source = command.exec();
        Err(SessionExecError::Exec { program: program.clone(), source })
    }
}

/// Groups first, the user last: afterwards there is no right to change any of them.
fn become_user(name: &str, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let name = CString::new(name)?;
    nix::unistd::initgroups(&name, gid)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    if !uid.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root rights were not given up"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_reads_back() {
        let meant = SessionExec {
            account: Some(("ana".into(), 1000, 1001)),
            dir: Some("/home/ana".into()),
            preload: Some("/run/guard.so".into()),
            command: vec!["/usr/bin/nxagent".into(), "--".into(), ":100".into()],
        };
        let words = meant.command_line(Path::new("/usr/bin/qvd-vma"));
        assert_eq!(words[0], "/usr/bin/qvd-vma");
        let read = |words: &[OsString]| {
            SessionExec::from_arguments(SessionExec::asked_for(&words[1..]).unwrap().to_vec()).unwrap()
        };
        assert_eq!(read(&words), meant);
        assert_eq!(read(&meant.server_line(Path::new("/usr/bin/qvd-vma"), ":100")), meant);
        assert_eq!(SessionExec::asked_for(&["--config".into(), SUBCOMMAND.into()]), None);
    }

    #[test]
    fn half_an_account_is_refused() {
        for words in [&["--user", "ana", "--", "sh"][..], &["--uid", "x", "--", "sh"], &["--"], &["sh"], &[]]
        {
            let words = words.iter().map(OsString::from);
            assert!(matches!(SessionExec::from_arguments(words), Err(SessionExecError::Usage(_))));
        }
    }
}
