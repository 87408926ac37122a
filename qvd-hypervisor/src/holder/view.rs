//! What a machine sees of the file system; made by its init, inside its namespaces, before the agent starts.
//!
//! Whatever will be covered (homes, run directories and programs may all lie under `/tmp`) is taken out of the
//! name space first and put back at a place of its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use super::records::Account;
use super::{AGENT_LOGS, GUEST_BIN, GUEST_HOME, GUEST_HOST, GUEST_RUN, accounts};
use crate::hostops::{
    DetachedMount, cover, make_private, mount_proc, mount_terminals, mount_tmpfs, set_tree_read_only,
};

/// What is needed to make a view.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// The home, on the host.
    pub(crate) home: &'a Path,
    /// The machine's run directory, on the host.
    pub(crate) guest: &'a Path,
    /// The directory of the agent's program, on the host.
    pub(crate) programs: &'a Path,
    /// More directories of the host to keep visible.
    pub(crate) exposed: &'a [PathBuf],
    /// Directories of the site that no machine may see: the other machines are in them, and of an ordinary user's site
    /// all are one account.
    pub(crate) hidden: &'a [PathBuf],
    /// Most that each private file system may hold, in bytes.
    pub(crate) memory: u64,
    /// Who the session is.
    pub(crate) account: &'a Account,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub(crate) struct StepFailed {
    pub(crate) operation: String,
    #[source]
    pub(crate) source: io::Error,
}

/// Things that a machine can do without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortcomings {
    /// Why the host's files are writable as far as the account's rights go.
    pub(crate) writable_host: Option<String>,
}

/// Makes the view; the caller is alone in a new mount and pid namespace.
pub(crate) fn enter(view: &View<'_>) -> Result<Shortcomings, StepFailed> {
    step("cut the mounts off from the host", make_private())?;
    let home = take(view.home)?;
    let guest = take(view.guest)?;
    let programs = take(view.programs)?;
    let exposed: Vec<(&Path, DetachedMount)> =
        view.exposed.iter().map(|path| Ok((path.as_path(), take(path)?))).collect::<Result<_, _>>()?;
    let resolver = covered_resolver_dir();
    let resolver = match &resolver {
        Some(dir) => Some((dir.as_path(), take(dir)?)),
        None => None,
    };

    let writable_host = set_tree_read_only().err().map(|error| error.to_string());
    step("mount /proc", mount_proc())?;
    let terminals = Path::new("/dev/pts");
    if terminals.is_dir() {
        step("mount terminals of its own on /dev/pts", mount_terminals(terminals))?;
    }
    // Before the private file systems, which have places of the same name: the usual path.run is GUEST_RUN.
    for path in view.hidden.iter().filter(|path| can_be_hidden(path)) {
        step(format!("hide '{}'", path.display()), cover(path))?;
    }
    for (path, mode) in [("/tmp", 0o1777), ("/dev/shm", 0o1777), ("/run", 0o755)] {
        // Without /dev/shm there is nothing to cover.
        if Path::new(path).is_dir() {
            step(format!("mount a private {path}"), mount_tmpfs(Path::new(path), mode, view.memory))?;
        }
    }
    for path in ["/tmp/.X11-unix", "/tmp/.ICE-unix", "/run/lock"] {
        make_dir(Path::new(path), 0o1777)?;
    }
    let runtime_dir = format!("/run/user/{}", view.account.uid);
    make_dir(Path::new(&runtime_dir), 0o700)?;
    give(Path::new(&runtime_dir), view.account)?;

    attach(guest, Path::new(GUEST_RUN))?;
    attach_read_only(programs, Path::new(GUEST_BIN))?;
    for (path, mount) in exposed {
        let below = path.strip_prefix("/").unwrap_or(path);
        attach_read_only(mount, &Path::new(GUEST_HOST).join(below))?;
    }
    if let Some((dir, mount)) = resolver {
        attach_read_only(mount, dir)?;
    }
    step(
        format!("mount the home on {GUEST_HOME} (that directory must exist)"),
        home.attach(Path::new(GUEST_HOME)),
    )?;
    make_own_dir(Path::new(&view.account.home), view.account)?;
    make_own_dir(&Path::new(GUEST_HOME).join(AGENT_LOGS), view.account)?;
    replace_account_files(view.account)?;
    Ok(Shortcomings { writable_host })
}

/// Whether a machine works without this directory. What it has no way to, it need not be hidden from.
fn can_be_hidden(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    real.is_dir() && !NEEDED.iter().any(|needed| Path::new(needed).starts_with(&real))
}

fn take(path: &Path) -> Result<DetachedMount, StepFailed> {
    step(format!("open '{}' for the machine", path.display()), DetachedMount::of(path))
}

fn attach(mount: DetachedMount, target: &Path) -> Result<(), StepFailed> {
    make_dir(target, 0o755)?;
    step(format!("mount {}", target.display()), mount.attach(target))
}

fn attach_read_only(mount: DetachedMount, target: &Path) -> Result<(), StepFailed> {
    // Where the kernel cannot, the rights of the files still stand.
    let _ = mount.set_read_only();
    attach(mount, target)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), StepFailed> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        // The umask does not apply to what is set.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    step(format!("make {}", path.display()), made)
}

fn give(path: &Path, account: &Account) -> Result<(), StepFailed> {
    if !account.switch {
        return Ok(());
    }
    step(format!("give {} away", path.display()), lchown(path, Some(account.uid), Some(account.gid)))
}

/// A directory of the account in its home; the home belongs to the session, so an entry that is there is left alone.
pub(super) fn make_own_dir(path: &Path, account: &Account) -> Result<(), StepFailed> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => give(path, account),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(StepFailed { operation: format!("make {}", path.display()), source }),
    }
}

fn replace_account_files(account: &Account) -> Result<(), StepFailed> {
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let private = Path::new("/run/qvd-accounts");
    make_dir(private, 0o755)?;
    for (file, text) in [
        ("passwd", accounts::passwd(&read_or_empty("/etc/passwd"), account, shell)),
        ("group", accounts::group(&read_or_empty("/etc/group"), account)),
    ] {
        let source = private.join(file);
        let target = Path::new("/etc").join(file);
        let placed = fs::write(&source, text)
            .and_then(|()| fs::set_permissions(&source, fs::Permissions::from_mode(0o644)))
            .and_then(|()| DetachedMount::of(&source))
            .and_then(|mount| mount.attach(&target));
        step(format!("put the session's account into {}", target.display()), placed)?;
    }
    Ok(())
}

fn read_or_empty(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Where systemd-resolved is used, `/etc/resolv.conf` points into `/run`, which a machine does not see.
fn covered_resolver_dir() -> Option<PathBuf> {
    let file = fs::canonicalize("/etc/resolv.conf").ok()?;
    let dir = file.parent()?;
    (dir.starts_with("/run") && dir != Path::new("/run")).then(|| dir.to_owned())
}

fn step<T>(operation: impl Into<String>, outcome: io::Result<T>) -> Result<T, StepFailed> {
    outcome.map_err(|source| StepFailed { operation: operation.into(), source })
}

/// A directory of the site that is, or contains, one of these stays visible.
const NEEDED: [&str; 14] = [
    "/bin", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys", "/tmp",
    "/usr", "/var",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_needs_is_never_hidden() {
        for path in ["/", "/etc", "/usr", "/home", "/dev", "/no/such/directory", "/etc/passwd"] {
            assert!(!can_be_hidden(Path::new(path)), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(can_be_hidden(dir.path()));
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        assert!(!can_be_hidden(&dir.path().join("link")), "whatever its name");
    }
}
