//! A directory that only this user can enter, for one session.
//!
//! A client that is killed leaves its own behind; the next one removes it. What is left behind is told by a lock in it
//! that nobody holds: numbers of processes mean little where containers share a directory.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Bytes of a unix socket's path that the kernel takes, less the end mark.
const LONGEST_SOCKET_PATH: usize = 107;

/// Begin of the directories' names.
const PREFIX: &str = "qvd-nx-";

/// The file in one that is locked as long as its client lives.
const LOCK: &str = "lock";

/// The directory; removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateDir {
    dir: TempDir,
    _lock: File,
    owner: u32,
}

impl PrivateDir {
    /// Makes one below the first of `parents` that will do.
    pub(super) fn create(parents: &[PathBuf]) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no directory to make it in");
        for parent in parents {
            match Self::below(parent) {
                Ok(made) => return Ok(made),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn below(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let only_owner = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix(PREFIX).permissions(only_owner).tempdir_in(parent)?;
        let lock = hold(dir.path())?;
        let owner = fs::metadata(dir.path())?.uid();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("nx"))?;
        let made = Self { dir, _lock: lock, owner };
        let socket = made.socket();
        let text = socket.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
        // NX cuts its options at these.
        if text.len() > LONGEST_SOCKET_PATH || text.contains([':', ',', ' ', '=']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("'{text}' cannot be told to nxproxy"),
            ));
        }
        Ok(made)
    }

    /// Path of the socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("nx.sock")
    }

    /// What `nxproxy` takes for its home of state.
    pub(super) fn nx_root(&self) -> PathBuf {
        self.dir.path().join("nx")
    }

    /// User who owns it: whoever made it.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }
}

/// Makes the lock. It takes its name when it is locked already, so that nobody ever finds it free.
fn hold(dir: &Path) -> io::Result<File> {
    let unnamed = dir.join("lock.new");
    let lock = File::create_new(&unnamed)?;
    lock.lock()?;
    fs::rename(unnamed, dir.join(LOCK))?;
    Ok(lock)
}

/// Removes what killed clients of this user left in `parent`. What cannot be removed is in nobody's way.
fn sweep(parent: &Path) {
    let user = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let is_ours = path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        let is_left = || File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_ours && is_left() {
            tracing::debug!(path = %path.display(), "what a killed client left is removed");
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_short_enough_and_goes() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(90));
        let odd = parent.path().join("a:b");
        fs::create_dir(&long).unwrap();
        fs::create_dir(&odd).unwrap();
        assert!(PrivateDir::create(&[long.clone(), odd.clone(), "/nonexistent".into()]).is_err());
        let made = PrivateDir::create(&[long, odd, parent.path().to_owned()]).unwrap();
        let path = made.socket().parent().unwrap().to_owned();
        assert_eq!(path.parent().unwrap(), parent.path());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_client_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let living = PrivateDir::below(parent.path()).unwrap();
        let named = |name: &str, lock: Option<&str>| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            if let Some(lock) = lock {
                fs::write(dir.join(lock), "").unwrap();
            }
            dir
        };
        let left = named("qvd-nx-left", Some(LOCK));
        let kept = [
            named("qvd-nx-young", Some("lock.new")),
            named("qvd-nx-empty", None),
            named("qvd-other", Some(LOCK)),
            living.dir.path().to_owned(),
        ];
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), parent.path().join("qvd-nx-link")).unwrap();
        sweep(parent.path());
        assert!(!left.exists());
        assert!(kept.iter().all(|dir| dir.exists()) && elsewhere.path().join(LOCK).exists());
    }
}
