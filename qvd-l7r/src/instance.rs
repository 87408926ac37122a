//! One life of a router process: an id in its session rows, and a locked file that says it lives.
//!
//! The kernel drops the lock with the process, however it ends. So whoever can take the lock of an instance knows
//! that its rows are nobody's, while an old router that drains beside a new one keeps its sessions.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use uuid::Uuid;

use crate::error::{Error, Result};

/// This life.
#[derive(Debug)]
pub(crate) struct Instance {
    id: Uuid,
    dir: PathBuf,
    // Held for its lock.
    _lock: File,
}

impl Instance {
    /// Begins a life: makes and locks its file.
    pub(crate) fn begin(run: &Path) -> Result<Self> {
        let id = Uuid::new_v4();
        let dir = dir(run);
        let path = lock_path(&dir, id);
        let unlocked = dir.join(format!("{id}.new"));
        let failed = |source| Error::Lock { path: path.clone(), source };
        make_dir(&dir).map_err(failed)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&unlocked).map_err(failed)?;
        // Under its name it is never seen without its lock: who looks for the dead would bury it alive.
        let locked =
            file.try_lock().map_err(io::Error::from).and_then(|()| std::fs::rename(&unlocked, &path));
        if let Err(error) = locked {
            let _ = std::fs::remove_file(&unlocked);
            return Err(failed(error));
        }
        Ok(Self { id, dir, _lock: file })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Whether another instance of this node has ended. An error means that this cannot be told now.
    pub(crate) fn has_ended(&self, other: Uuid) -> io::Result<bool> {
        if other == self.id {
            return Ok(false);
        }
        let file = match File::open(lock_path(&self.dir, other)) {
            Ok(file) => file,
            // Removed at a clean end, or gone with the machine's last run.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e),
        };
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Removes the file of an instance that has ended and owns nothing any more.
    pub(crate) fn bury(&self, other: Uuid) {
        let _ = std::fs::remove_file(lock_path(&self.dir, other));
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.bury(self.id);
    }
}

/// Makes the directory of a node's routers, which is nobody else's: whoever can write there can stand in for one.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    if let Some(run) = dir.parent() {
        std::fs::create_dir_all(run)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = std::fs::metadata(dir)?;
    // One that somebody else owns is theirs to close.
    if found.uid() == geteuid().as_raw() && found.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Where the files of a node's routers are.
pub(crate) fn dir(run: &Path) -> PathBuf {
    run.join("l7r")
}

fn lock_path(dir: &Path, id: Uuid) -> PathBuf {
    dir.join(format!("{id}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_a_life_that_has_no_lock() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("l7r");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As a daemon does that looks for dead routers: every file with the name of one whose lock is free.
            let watcher = scope.spawn(|| {
                let mut buried = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                        let path = entry.path();
                        let named = path.extension().is_some_and(|e| e == "lock");
                        let free = named && File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
                        // The lock of one that ended meanwhile is free, too.
                        if free && path.exists() {
                            buried += 1;
                        }
                    }
                }
                buried
            });
            // Kept until the end, so that none of them dies.
            let lives: Vec<_> = (0..300).map(|_| Instance::begin(run.path()).unwrap()).collect();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(watcher.join().unwrap(), 0);
            drop(lives);
        });
    }

    #[test]
    fn the_directory_is_closed_to_others_also_one_that_was_open() {
        let run = tempfile::tempdir().unwrap();
        let dir = dir(&run.path().join("qvd"));
        for _ in 0..2 {
            make_dir(&dir).unwrap();
            assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
            std::fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_life_shows_while_it_lasts() {
        let run = tempfile::tempdir().unwrap();
        let (me, other) = (Instance::begin(run.path()).unwrap(), Instance::begin(run.path()).unwrap());
        let other_id = other.id();
        assert!(!me.has_ended(other_id).unwrap());
        assert!(!me.has_ended(me.id()).unwrap());
        drop(other);
        assert!(me.has_ended(other_id).unwrap());
        // One that was killed leaves its file, without the lock.
        std::fs::write(lock_path(&run.path().join("l7r"), other_id), "").unwrap();
        assert!(me.has_ended(other_id).unwrap());
        me.bury(other_id);
        let files: Vec<_> = std::fs::read_dir(run.path().join("l7r")).unwrap().collect();
        assert_eq!(files.len(), 1, "mine: {files:?}");
    }
}
