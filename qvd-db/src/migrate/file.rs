//! A database file: who may read it, and one process at a time that migrates it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Directory beside a database file: sockets that wake other processes, and the lock of those that migrate.
pub(crate) fn wake_directory(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".wake");
    PathBuf::from(name)
}

/// Makes a database file that only its owner may read, and keeps other processes from migrating it as long as the
/// answer lives.
pub(crate) async fn claim_file(path: &Path) -> Result<File> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    let claimed = tokio::task::spawn_blocking(move || claim_file_now(&path)).await;
    let claimed = claimed.unwrap_or_else(|e| Err(io::Error::other(e)));
    claimed.map_err(|source| Error::Setting { what: format!("the database file '{shown}'"), source })
}

fn claim_file_now(path: &Path) -> io::Result<File> {
    // Only ever opened here while nobody has it open: closing a second descriptor of it would drop SQLite's locks.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => tighten(path, 0o600),
        Err(e) => return Err(e),
    }
    let directory = wake_directory(path);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => tighten(&directory, 0o700),
        Err(e) => return Err(e),
    }
    // SQLite gives its helper files the mode of the database, which may have been another when they were made.
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        tighten(Path::new(&name), 0o600);
    }
    let lock = File::open(&directory)?;
    lock.lock()?;
    Ok(lock)
}

/// Takes away what others may do with a file that holds password hashes and keys, and tells that they could.
fn tighten(path: &Path, mode: u32) {
    let Ok(found) = std::fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777) else {
        return;
    };
    if found & !mode == 0 {
        return;
    }
    let path_shown = path.display();
    match std::fs::set_permissions(path, Permissions::from_mode(found & mode)) {
        Ok(()) => tracing::warn!(path = %path_shown, mode = format!("{found:o}"),
            "others could use the database file; now only its owner can"),
        Err(error) => tracing::warn!(path = %path_shown, mode = format!("{found:o}"), %error,
            "others can use the database file, and its mode cannot be changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Db};

    #[tokio::test]
    async fn a_file_that_others_could_read_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qvd.db");
        Db::open(&Backend::Sqlite { path: path.clone() }).await.unwrap().close().await;
        let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&path, 0o664);
        set(&wake_directory(&path), 0o755);
        Db::open(&Backend::Sqlite { path: path.clone() }).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&wake_directory(&path))), (0o600, 0o700));
    }
}
