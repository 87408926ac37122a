//! The administrator's programs: run directly, with pairs of names and values as arguments.
//!
//! Hooks of actions and of provisioning are awaited and may refuse; hooks of states run beside the agent and
//! only their failure is logged. Their output goes to one log file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qvd_core::hook::{HookError, HookKind};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::log_file;
use crate::process_group::{GroupChild, describe};

/// Which program runs when, and under which terms.
#[derive(Clone, Debug, Default)]
pub struct HookSettings {
    /// Program and fixed arguments per kind; a missing or empty one means that nothing runs.
    pub commands: HashMap<HookKind, Vec<String>>,
    /// Printing programs of the states connected, suspended and stopped.
    pub printing: HashMap<HookKind, Vec<String>>,
    /// Longest time that an awaited hook may take.
    pub timeout: Duration,
    /// File that takes the output of all of them.
    pub log: PathBuf,
}

/// Runs hooks.
#[derive(Clone, Debug)]
pub struct Hooks {
    settings: Arc<HookSettings>,
    detached: Arc<Mutex<JoinSet<()>>>,
}

impl Hooks {
    /// A runner for these programs.
    pub fn new(settings: HookSettings) -> Self {
        Self { settings: Arc::new(settings), detached: Arc::default() }
    }

    /// Whether a program is configured for this kind.
    pub fn is_configured(&self, kind: HookKind) -> bool {
        command_of(&self.settings.commands, kind).is_some()
    }

    /// Runs the hook of this kind, if there is one, and waits for it.
    ///
    /// # Cancellation
    ///
    /// A dropped call kills the program and everything that it started in its process group.
    ///
    /// # Errors
    ///
    /// [`HookError`] when it cannot be started, fails, or takes too long.
    pub async fn run(&self, kind: HookKind, pairs: &[(String, String)]) -> Result<(), HookError> {
        let Some(words) = command_of(&self.settings.commands, kind) else { return Ok(()) };
        let failed = |message: String, status| HookError::new(name(kind), message).with_status(status);
        let mut child = self.spawn(words, pairs).map_err(|e| failed(format!("{}: {e}", words[0]), None))?;
        let limit = self.settings.timeout;
        let status = tokio::time::timeout(limit, child.wait())
            .await
            .map_err(|_| failed(format!("still running after {} s, killed", limit.as_secs_f32()), None))?
            .map_err(|e| failed(e.to_string(), None))?;
        child.release();
        match status.code() {
            Some(0) => Ok(()),
            Some(code) => Err(failed(format!("rc: {code}"), Some(code))),
            None => Err(failed(describe(status), None)),
        }
    }

    /// Starts the hook of a state, if there is one, and does not wait for it.
    pub fn start(&self, kind: HookKind, pairs: Vec<(String, String)>) {
        if let Some(words) = command_of(&self.settings.commands, kind) {
            self.detach(kind, words, &pairs);
        }
    }

    /// Starts the printing program of a state, if there is one, and does not wait for it.
    pub fn start_printing(&self, kind: HookKind, pairs: Vec<(String, String)>) {
        // The shipped default names a program that only machines with printing have.
        if let Some(words) = command_of(&self.settings.printing, kind).filter(|w| Path::new(&w[0]).exists()) {
            self.detach(kind, words, &pairs);
        }
    }

    /// Waits for hooks that were started and not awaited, at most this long; they are not ended.
    pub async fn settle(&self, limit: Duration) {
        let mut running = std::mem::take(&mut *self.detached.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("hooks still run, they are left alone");
        }
        running.detach_all();
    }

    fn detach(&self, kind: HookKind, words: &[String], pairs: &[(String, String)]) {
        match self.spawn(words, pairs) {
            Ok(mut child) => {
                child.release();
                let mut detached = self.detached.lock().unwrap_or_else(PoisonError::into_inner);
                while detached.try_join_next().is_some() {}
                detached.spawn(async move {
                    match child.wait().await {
                        Ok(status) if status.success() => {}
                        Ok(status) => {
                            tracing::warn!(hook = name(kind), how = describe(status), "hook failed");
                        }
                        Err(error) => tracing::warn!(hook = name(kind), %error, "hook lost"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(hook = name(kind), program = words[0], %error, "hook cannot be started");
            }
        }
    }

    fn spawn(&self, words: &[String], pairs: &[(String, String)]) -> io::Result<GroupChild> {
        let log: File = log_file::open(&self.settings.log)?;
        let arguments = pairs.iter().filter(|(name, _)| name != SLAVE_KEY).flat_map(|(n, v)| [n, v]);
        GroupChild::spawn(
            Command::new(&words[0])
                .args(&words[1..])
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )
    }
}

/// The key that opens the client's files: arguments can be read by every user of the machine.
pub(crate) const SLAVE_KEY: &str = "qvd.slave.key";

fn command_of(table: &HashMap<HookKind, Vec<String>>, kind: HookKind) -> Option<&[String]> {
    table.get(&kind).map(Vec::as_slice).filter(|words| words.first().is_some_and(|word| !word.is_empty()))
}

fn name(kind: HookKind) -> &'static str {
    match kind {
        HookKind::PreConnect => "pre-connect",
        HookKind::Connect => "connect",
        HookKind::Suspend => "suspend",
        HookKind::Stop => "stop",
        HookKind::PowerOff => "poweroff",
        HookKind::Expire => "expire",
        HookKind::Connected => "connected",
        HookKind::Suspended => "suspended",
        HookKind::Disconnected => "disconnected",
        HookKind::MountHome => "mount_home",
        HookKind::AddUser => "add_user",
        HookKind::AfterAddUser => "after_add_user",
        // Kinds of other programs.
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn hooks(script: &str, timeout: Duration) -> (tempfile::TempDir, Hooks) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook");
        // Not directly: a file that another test's child still holds open for writing cannot be run.
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let command = vec!["/bin/sh".to_owned(), program.display().to_string()];
        let settings = HookSettings {
            commands: [HookKind::PreConnect, HookKind::Connected].map(|k| (k, command.clone())).into(),
            timeout,
            log: dir.path().join("hooks.log"),
            ..HookSettings::default()
        };
        (dir, Hooks::new(settings))
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    const AMPLE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn arguments_alternate_and_the_key_is_not_among_them() {
        let (dir, hooks) = hooks("printf '[%s]' \"$@\"", AMPLE);
        let given = pairs(&[("a", "x y"), (SLAVE_KEY, "secret"), ("qvd.hook.on_action", "pre_connect")]);
        hooks.run(HookKind::PreConnect, &given).await.unwrap();
        let log = std::fs::read_to_string(dir.path().join("hooks.log")).unwrap();
        assert!(log.ends_with("[a][x y][qvd.hook.on_action][pre_connect]"), "{log}");
    }

    #[tokio::test]
    async fn a_failure_carries_its_status() {
        let (_dir, hooks) = hooks("exit 3", AMPLE);
        let error = hooks.run(HookKind::PreConnect, &[]).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.status), ("hook pre-connect failed: rc: 3", Some(3)));
    }

    #[tokio::test]
    async fn a_missing_program_is_a_failure_and_a_missing_setting_is_none() {
        let gone = HookSettings {
            commands: [(HookKind::Stop, vec!["/nonexistent/hook".to_owned()])].into(),
            log: "/dev/null".into(),
            timeout: AMPLE,
            ..HookSettings::default()
        };
        let hooks = Hooks::new(gone);
        assert!(hooks.run(HookKind::Stop, &[]).await.is_err());
        assert!(hooks.run(HookKind::Suspend, &[]).await.is_ok());
        assert!(!hooks.is_configured(HookKind::Suspend));
    }

    #[tokio::test]
    async fn too_slow_a_hook_ends_with_its_children() {
        let (dir, hooks) = hooks("sleep 600 & echo $! > \"$2\"; wait", Duration::from_millis(700));
        let child = dir.path().join("child");
        let given = pairs(&[("file", child.to_str().unwrap())]);
        let error = hooks.run(HookKind::PreConnect, &given).await.unwrap_err();
        assert!(error.message.contains("killed"), "{error}");
        let pid: i32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
        let ended = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(AMPLE, ended).await.unwrap();
    }

    #[tokio::test]
    async fn state_hooks_run_beside() {
        let (dir, hooks) = hooks("echo \"$@\" > \"$(dirname \"$0\")/ran\"", AMPLE);
        hooks.start(HookKind::Connected, pairs(&[("qvd.hook.on_state", "connected")]));
        hooks.settle(AMPLE).await;
        assert_eq!(std::fs::read_to_string(dir.path().join("ran")).unwrap(), "qvd.hook.on_state connected\n");
    }
}
