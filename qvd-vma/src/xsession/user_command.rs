//! A program that runs as the session's user: how it is started, whoever the agent itself is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::environment::Environment;
use crate::account::Account;
use crate::session_exec::{self, SessionExec};

/// A program with all that its start needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCommand {
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// The whole environment of the process that is started, which is not the program's own one when it has to
    /// take on the account first.
    pub environment: Environment,
    /// Directory to start in; `None` when the program goes there itself.
    pub dir: Option<PathBuf>,
    /// It ends, with all that it started, when its standard input is closed.
    pub kept: bool,
}

impl UserCommand {
    /// `words` as `account`, in its home directory, with `environment`, and with a library when there is one.
    pub fn new(
        account: &Account,
        words: Vec<String>,
        environment: &Environment,
        preload: Option<&Path>,
        own_program: &Path,
    ) -> Self {
        if account.is_own() {
            let mut environment = environment.clone();
            if let Some(library) = preload {
                environment.insert("LD_PRELOAD".to_owned(), library.display().to_string());
            }
            let words = words.into_iter().map(OsString::from).collect();
            return Self { words, environment, dir: Some(account.home.clone()), kept: false };
        }
        let exec = SessionExec::in_home_of(account, words);
        Self::through(&SessionExec { preload: preload.map(Path::to_owned), ..exec }, environment, own_program)
    }

    /// As [`new`](Self::new), without a library, and with a parent of its own that leaves nothing of it behind.
    /// Only the agent's program can be that parent; in others' the program has none.
    pub fn kept(
        account: &Account,
        words: Vec<String>,
        environment: &Environment,
        own_program: &Path,
    ) -> Self {
        if !session_exec::is_known_to(own_program) {
            return Self::new(account, words, environment, None, own_program);
        }
        let exec = SessionExec { keep: true, ..SessionExec::in_home_of(account, words) };
        Self::through(&exec, environment, own_program)
    }

    /// As `exec` says, by the agent's own program.
    pub(super) fn through(exec: &SessionExec, environment: &Environment, own_program: &Path) -> Self {
        Self {
            words: exec.command_line(own_program),
            environment: exec.environment(environment),
            dir: None,
            kept: exec.keep,
        }
    }

    /// The process to start; nothing when there are no words.
    pub fn command(&self) -> Option<Command> {
        let (program, arguments) = self.words.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.environment);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, Uid};

    fn account(uid: u32) -> Account {
        Account {
            name: "ana".into(),
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            home: "/home/ana".into(),
        }
    }

    fn hostile() -> Environment {
        [("PATH", "/usr/bin"), ("LD_PRELOAD", "/home/ana/evil.so"), ("GCONV_PATH", "/home/ana")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn no_variable_of_the_user_reaches_a_process_that_still_has_the_agents_rights() {
        let other = account(Uid::effective().as_raw() + 1);
        let agent = Path::new("/usr/bin/qvd-vma");
        let words = || vec!["xterm".to_owned()];
        for command in [
            UserCommand::new(&other, words(), &hostile(), None, agent),
            UserCommand::new(&other, words(), &hostile(), Some(Path::new("/g.so")), agent),
            UserCommand::kept(&other, words(), &hostile(), agent),
        ] {
            assert_eq!(command.words[0], *agent);
            for name in hostile().keys() {
                assert!(!command.environment.contains_key(name), "{name}");
            }
            assert!(command.environment.keys().all(|name| name.starts_with(session_exec::PREFIX)));
        }
    }

    #[test]
    fn the_own_account_needs_nobody_in_between() {
        let own = account(Uid::effective().as_raw());
        let command = UserCommand::new(
            &own,
            vec!["xterm".to_owned()],
            &hostile(),
            Some(Path::new("/g.so")),
            Path::new("/usr/bin/qvd-vma"),
        );
        assert_eq!(command.words, ["xterm"]);
        assert_eq!(command.environment["LD_PRELOAD"], "/g.so");
        assert_eq!(command.dir.as_deref(), Some(Path::new("/home/ana")));
    }

    #[test]
    fn only_the_agents_own_program_can_keep() {
        let own = account(Uid::effective().as_raw());
        let kept =
            |program| UserCommand::kept(&own, vec!["icewm".to_owned()], &hostile(), Path::new(program));
        assert!(kept("/usr/bin/qvd-vma").kept);
        assert!(!kept("/some/test").kept);
    }
}
