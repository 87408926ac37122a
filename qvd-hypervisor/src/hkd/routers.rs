//! Rows of routers of this node that are dead. A router holds a lock on `path.run/l7r/<instance>.lock` while it lives;
//! a lock that can be taken is that of a dead one, and its sessions have nobody any more.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use qvd_core::{HostId, VmId};
use qvd_db::Db;
use uuid::Uuid;

/// Lock files of dead routers, each held by us until it is dealt with.
pub(crate) fn dead_locks(dir: &Path) -> Vec<(Uuid, PathBuf, File)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let locks = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let instance = path.file_name()?.to_str()?.strip_suffix(".lock")?.parse().ok()?;
        let file = File::open(&path).ok()?;
        match file.try_lock() {
            Ok(()) => Some((instance, path, file)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
        }
    });
    locks.collect()
}

/// Whether this router instance lives: its lock file is there and somebody holds it.
fn lives(dir: &Path, instance: Uuid) -> bool {
    match File::open(dir.join(format!("{instance}.lock"))) {
        Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        // What cannot be looked at is not known to be dead.
        Err(_) => true,
    }
}

/// Disconnects the sessions of routers whose locks are free, and removes those files. Cheap when nobody died.
pub(crate) async fn bury_dead(db: &Db, host: HostId, dir: &Path) -> Result<Vec<VmId>, qvd_db::Error> {
    let mut freed = Vec::new();
    for (instance, path, lock) in dead_locks(dir) {
        freed.extend(db.sessions().release_instance(host, instance).await?);
        // Its name is never used again; we hold the lock, so nobody can be starting on it.
        let _ = fs::remove_file(&path);
        drop(lock);
    }
    Ok(freed)
}

/// Disconnects the sessions of every router that the rows of this host name and that does not live: also of those whose
/// lock files went with a reboot.
pub(crate) async fn bury_forgotten(db: &Db, host: HostId, dir: &Path) -> Result<Vec<VmId>, qvd_db::Error> {
    let mut freed = Vec::new();
    for instance in db.sessions().instances(host).await? {
        if !lives(dir, instance) {
            freed.extend(db.sessions().release_instance(host, instance).await?);
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_free_locks_with_a_routers_name_are_dead() {
        let dir = tempfile::tempdir().unwrap();
        let (alive, dead) = (Uuid::new_v4(), Uuid::new_v4());
        let held = File::create(dir.path().join(format!("{alive}.lock"))).unwrap();
        held.lock().unwrap();
        File::create(dir.path().join(format!("{dead}.lock"))).unwrap();
        File::create(dir.path().join("readme.lock")).unwrap();
        let found: Vec<_> = dead_locks(dir.path()).into_iter().map(|(instance, ..)| instance).collect();
        assert_eq!(found, [dead]);
        assert!(lives(dir.path(), alive));
        assert!(!lives(dir.path(), dead));
        assert!(!lives(dir.path(), Uuid::new_v4()));
        drop(held);
        assert!(!lives(dir.path(), alive));
    }
}
