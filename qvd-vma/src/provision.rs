//! Makes the account and the home directory of a session when they are missing.
//!
//! Only with root rights accounts are made; without them every session is that of the agent's own account, and
//! only its home directory may have to be made.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Uid;
use qvd_core::hook::{HookError, HookKind};
use tokio::process::Command;

use crate::account::{Account, WantedAccount};
use crate::home_drive::{HomeDrive, HomeDriveError};
use crate::hooks::Hooks;
use crate::process_group::describe;

/// Programs and defaults for new accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvisionSettings {
    /// groupadd with fixed arguments.
    pub groupadd: Vec<String>,
    /// groupdel with fixed arguments.
    pub groupdel: Vec<String>,
    /// useradd with fixed arguments.
    pub useradd: Vec<String>,
    /// userdel with fixed arguments.
    pub userdel: Vec<String>,
    /// Login shell.
    pub shell: String,
    /// The disk for the homes.
    pub home_drive: HomeDrive,
}

/// Why there is no account to start a session for.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The account database cannot be read, or refuses.
    #[error("cannot look up user '{name}'")]
    LookUp {
        /// Login name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hook refused.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A program failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// The program.
        program: String,
        /// How it ended.
        reason: String,
    },
    /// All went well, and still there is no account.
    #[error("user '{name}' does not exist although it was added")]
    NotAdded {
        /// Login name.
        name: String,
    },
    /// The homes have a disk of their own that cannot be used.
    #[error(transparent)]
    HomeDrive(#[from] HomeDriveError),
    /// The home directory cannot be made.
    #[error("cannot make the home directory '{home}'")]
    Home {
        /// The directory.
        home: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Ensures account and home directory; `began` is called once when something of them is missing.
///
/// # Cancellation
///
/// The running program is killed; what was made stays and is found by the next call.
///
/// # Errors
///
/// [`ProvisionError`].
pub async fn ensure(
    wanted: &WantedAccount,
    properties: &[(String, String)],
    settings: &ProvisionSettings,
    hooks: &Hooks,
    mut began: impl FnMut(),
) -> Result<Account, ProvisionError> {
    let look_up = || {
        Account::find(wanted).map_err(|source| ProvisionError::LookUp { name: wanted.name.clone(), source })
    };
    let home_missing = !wanted.home.is_dir();
    let mut account = look_up()?;
    if home_missing || account.is_none() {
        began();
    }
    if home_missing {
        mount_home(wanted, properties, settings, hooks).await?;
    }
    if account.is_none() {
        if hooks.is_configured(HookKind::AddUser) {
            hooks.run(HookKind::AddUser, &told(properties, "add_user")).await?;
            hooks.run(HookKind::AfterAddUser, &told(properties, "after_add_user")).await?;
        } else {
            add_account(wanted, settings).await?;
            let after = hooks.run(HookKind::AfterAddUser, &told(properties, "after_add_user")).await;
            if let Err(error) = after {
                remove_account(wanted, settings).await;
                return Err(error.into());
            }
        }
        account = look_up()?;
    }
    let account = account.ok_or_else(|| ProvisionError::NotAdded { name: wanted.name.clone() })?;
    if !wanted.home.is_dir() {
        make_home(&account)
            .map_err(|source| ProvisionError::Home { home: wanted.home.display().to_string(), source })?;
    }
    Ok(account)
}

/// By the administrator's program, else from the disk that there may be for it.
async fn mount_home(
    wanted: &WantedAccount,
    properties: &[(String, String)],
    settings: &ProvisionSettings,
    hooks: &Hooks,
) -> Result<(), ProvisionError> {
    if hooks.is_configured(HookKind::MountHome) {
        return Ok(hooks.run(HookKind::MountHome, &told(properties, "mount_home")).await?);
    }
    let drive = &settings.home_drive;
    if Uid::effective().is_root() && wanted.home.starts_with(&drive.homes) {
        drive.ensure(Path::new("/")).await?;
    }
    Ok(())
}

/// Longest time that a program for accounts may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn told(properties: &[(String, String)], name: &str) -> Vec<(String, String)> {
    let mut pairs = properties.to_vec();
    pairs.push(("qvd.hook.on_provisioning".to_owned(), name.to_owned()));
    pairs
}

async fn add_account(wanted: &WantedAccount, settings: &ProvisionSettings) -> Result<(), ProvisionError> {
    let mut arguments: Vec<String> = Vec::new();
    if let Some(gid) = wanted.gid {
        arguments.extend(["-g".to_owned(), gid.to_string()]);
    }
    arguments.push(wanted.group.clone());
    // It may be there already.
    if let Err(error) = run(&settings.groupadd, &arguments).await {
        tracing::warn!(group = wanted.group, %error, "group not added");
    }
    let added = run(&settings.useradd, &useradd_arguments(wanted, &settings.shell)).await;
    if added.is_err() {
        remove_account(wanted, settings).await;
    }
    added
}

fn useradd_arguments(wanted: &WantedAccount, shell: &str) -> Vec<String> {
    let home = wanted.home.display().to_string();
    let mut arguments: Vec<String> =
        ["-m", "-d", &home, "-g", &wanted.group, "-s", shell].map(str::to_owned).into();
    if !wanted.groups.is_empty() {
        arguments.extend(["-G".to_owned(), wanted.groups.join(",")]);
    }
    if let Some(uid) = wanted.uid {
        arguments.extend(["-u".to_owned(), uid.to_string()]);
    }
    arguments.push(wanted.name.clone());
    arguments
}

/// Undoes a half-made account. The home directory stays: it may hold somebody's work.
async fn remove_account(wanted: &WantedAccount, settings: &ProvisionSettings) {
    for (program, name) in [(&settings.userdel, &wanted.name), (&settings.groupdel, &wanted.group)] {
        if let Err(error) = run(program, std::slice::from_ref(name)).await {
            tracing::debug!(%error, "nothing to undo");
        }
    }
}

async fn run(program: &[String], arguments: &[String]) -> Result<(), ProvisionError> {
    let name = program.first().cloned().unwrap_or_default();
    let failed = |reason: String| ProvisionError::Program { program: name.clone(), reason };
    if name.is_empty() {
        return Err(failed("no program is configured".to_owned()));
    }
    let output = Command::new(&name)
        .args(&program[1..])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .map_err(|_| failed(format!("no end after {} s", PATIENCE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next_back().unwrap_or_default();
    Err(failed(format!("{}: {said}", describe(output.status))))
}

/// An account that exists without its directory: made and filled as a new account's would be.
fn make_home(account: &Account) -> io::Result<()> {
    if let Some(parent) = account.home.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(&account.home)?;
    copy_tree(Path::new("/etc/skel"), &account.home, account);
    own(&account.home, account)?;
    fs::set_permissions(&account.home, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

/// Copies plain files and directories. What cannot be copied is left out: no session fails for a sample file.
fn copy_tree(from: &Path, to: &Path, account: &Account) {
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let copied = match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                fs::create_dir(&target).inspect(|()| copy_tree(&source, &target, account))
            }
            Ok(kind) if kind.is_file() => fs::copy(&source, &target).map(drop),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        if let Err(error) = copied.and_then(|()| own(&target, account)) {
            tracing::debug!(path = %source.display(), %error, "not copied into a new home directory");
        }
    }
}

fn own(path: &Path, account: &Account) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    nix::unistd::chown(path, Some(account.uid), Some(account.gid))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountDefaults;
    use crate::hooks::HookSettings;

    fn wanted(home: &Path, pairs: &[(&str, &str)]) -> WantedAccount {
        let me = nix::unistd::User::from_uid(Uid::effective()).unwrap().map_or("me".into(), |user| user.name);
        let defaults = AccountDefaults { name: me, groups: String::new(), homes: home.to_owned() };
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        WantedAccount::from_properties(&pairs, &defaults).unwrap()
    }

    fn no_hooks() -> Hooks {
        Hooks::new(HookSettings { log: "/dev/null".into(), timeout: PATIENCE, ..HookSettings::default() })
    }

    #[test]
    fn new_accounts_get_what_was_asked_for() {
        let mut account = wanted(Path::new("/home"), &[("qvd.vm.user.uid", "1234")]);
        (account.name, account.group) = ("ana".into(), "staff".into());
        account.home = "/home/ana".into();
        account.groups = vec!["audio".into(), "video".into()];
        assert_eq!(
            useradd_arguments(&account, "/bin/sh").join(" "),
            "-m -d /home/ana -g staff -s /bin/sh -G audio,video -u 1234 ana"
        );
    }

    #[tokio::test]
    async fn a_missing_home_of_an_existing_account_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = wanted(dir.path(), &[]);
        let (settings, hooks) = (ProvisionSettings::default(), no_hooks());
        let mut began = 0;
        let account = ensure(&wanted, &[], &settings, &hooks, || began += 1).await.unwrap();
        assert!(account.home.is_dir() && account.is_own());
        ensure(&wanted, &[], &settings, &hooks, || began += 1).await.unwrap();
        assert_eq!(began, 1);
    }

    #[tokio::test]
    async fn a_refusing_hook_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = wanted(dir.path(), &[]);
        let hooks = Hooks::new(HookSettings {
            commands: [(HookKind::MountHome, vec!["/bin/false".to_owned()])].into(),
            log: "/dev/null".into(),
            timeout: PATIENCE,
            ..HookSettings::default()
        });
        let result = ensure(&wanted, &[], &ProvisionSettings::default(), &hooks, || ()).await;
        assert!(matches!(result, Err(ProvisionError::Hook(_))), "{result:?}");
        assert!(!wanted.home.exists());
    }

    #[tokio::test]
    async fn a_failing_useradd_is_named_and_undone() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: accounts are made by root only");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = wanted(dir.path(), &[]);
        wanted.name = "no-such-account-here".into();
        let log = dir.path().join("ran");
        let script = |name: &str, status: u8| {
            let text = format!("echo {name} \"$@\" >> {}; exit {status}", log.display());
            vec!["/bin/sh".to_owned(), "-c".to_owned(), text, name.to_owned()]
        };
        let settings = ProvisionSettings {
            groupadd: script("groupadd", 0),
            useradd: script("useradd", 9),
            userdel: script("userdel", 0),
            groupdel: script("groupdel", 0),
            shell: "/bin/sh".into(),
            home_drive: HomeDrive::default(),
        };
        let error = ensure(&wanted, &[], &settings, &no_hooks(), || ()).await.unwrap_err();
        assert!(error.to_string().contains("exit status 9"), "{error}");
        let ran = std::fs::read_to_string(log).unwrap();
        let order: Vec<_> = ran.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(order, ["groupadd", "useradd", "userdel", "groupdel"]);
    }
}
