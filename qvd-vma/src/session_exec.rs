//! Becoming the session's user: a small program of its own between the agent and what the user runs.
//!
//! The agent starts itself again as `session-exec [OPTION…] -- PROGRAM [ARGUMENT…]`. That process takes on the
//! account, goes to its directory and becomes PROGRAM, or its parent (`--keep`). So no code ever runs between fork
//! and exec, and the preloaded library reaches exactly one program.
//!
//! The session's environment is partly the user's own words. A process that has yet to take on the account must not
//! obey them, nor may the loader that starts it: they come under other names ([`PREFIX`]) until the rights are gone.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid};

use crate::account::Account;
use crate::session_keeper;
use crate::xsession::environment::Environment;

/// Word that selects this mode of the agent's program.
pub const SUBCOMMAND: &str = "session-exec";

/// What the names of the session's variables begin with until the account is taken on.
pub const PREFIX: &str = "QVD_SESSION_ENV_";

/// File name of the agent's program: only under it other modes than the agent's are known.
pub(crate) const PROGRAM: &str = "qvd-vma";

/// Whether this is the agent's program, which knows [`SUBCOMMAND`].
pub(crate) fn is_known_to(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == PROGRAM)
}

/// What happens before a program takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionExec {
    /// Account to become: login name, user id, group id.
    pub account: Option<(String, u32, u32)>,
    /// Directory to go to, as that account.
    pub dir: Option<PathBuf>,
    /// Library to preload into the program, whatever its environment says.
    pub preload: Option<PathBuf>,
    /// Stay as the program's parent, adopt what it starts, and end all of it when it ends or standard input is
    /// closed.
    pub keep: bool,
    /// The program with its arguments.
    pub command: Vec<String>,
}

/// Why the program was not reached.
#[derive(Debug, thiserror::Error)]
pub enum SessionExecError {
    /// Wrong arguments.
    #[error(
        "usage: {SUBCOMMAND} [--user NAME --uid N --gid N] [--dir DIR] [--preload FILE] [--keep] -- PROGRAM…: {0}"
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
        Self { account: other, dir: Some(account.home.clone()), command, ..Self::default() }
    }

    /// The environment to start [`command_line`](Self::command_line) with so that the program has `environment`.
    pub fn environment(&self, environment: &Environment) -> Environment {
        if self.account.is_none() {
            return environment.clone();
        }
        environment.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone())).collect()
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
        if self.keep {
            words.push("--keep".into());
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
            if option == "--keep" {
                read.keep = true;
                continue;
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

    /// Does it. Comes back with the program's exit status when it stayed as the parent, else only with a failure.
    ///
    /// # Errors
    ///
    /// All but [`SessionExecError::Usage`].
    pub fn run(self) -> Result<u8, SessionExecError> {
        let variables = std::env::vars_os();
        let environment: Vec<(OsString, OsString)> = match &self.account {
            None => variables.collect(),
            Some(_) => variables.filter_map(|(name, value)| Some((own_name(&name)?, value))).collect(),
        };
        if let Some((name, uid, gid)) = self.account {
            become_user(&name, uid, gid).map_err(|source| SessionExecError::Become { name, source })?;
        }
        if let Some(dir) = self.dir {
            std::env::set_current_dir(&dir).map_err(|source| SessionExecError::Enter { dir, source })?;
        }
        let program = &self.command[0];
        let mut command = Command::new(program);
        command.args(&self.command[1..]).env_clear().envs(environment);
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        let done = if self.keep { session_keeper::run(&mut command) } else { Err(command.exec()) };
        done.map_err(|source| SessionExecError::Exec { program: program.clone(), source })
    }
}

/// The name that a variable of the session has in the program; `None` for those of nobody's session.
fn own_name(name: &OsStr) -> Option<OsString> {
    let name = name.as_bytes().strip_prefix(PREFIX.as_bytes())?;
    Some(OsStr::from_bytes(name).to_owned())
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
            keep: true,
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
