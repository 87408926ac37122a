//! One daemon per run directory: a lock that ends with its process, and a token that names the directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use uuid::Uuid;

use super::error::{Error, Result};

/// The lock, held while this value lives.
#[derive(Debug)]
pub(crate) struct HkdLock {
    _file: File,
    run_token: Uuid,
}

impl HkdLock {
    /// Takes the lock. The file carries a random token, written once when it is new: who holds the lock of the same
    /// file knows that the daemon before is dead.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another daemon holds it, [`Error::Lock`] when the file cannot be used.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let failed = |source| Error::Lock { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let run_token = match text.trim().parse() {
            Ok(token) => token,
            // New, or cut short by a crash before anything was done under this token.
            Err(_) => {
                let token = Uuid::new_v4();
                file.set_len(0).map_err(failed)?;
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                writeln!(file, "{token}").map_err(failed)?;
                file.sync_all().map_err(failed)?;
                token
            }
        };
        Ok(Self { _file: file, run_token })
    }

    /// The directory's token.
    pub(crate) fn run_token(&self) -> Uuid {
        self.run_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_token_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/hkd.lock");
        let first = HkdLock::take(&path).unwrap();
        let refused = HkdLock::take(&path).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }));
        assert!(refused.to_string().contains("another qvd-hkd of this node is running"), "{refused}");
        let token = first.run_token();
        drop(first);
        assert_eq!(HkdLock::take(&path).unwrap().run_token(), token);
    }

    #[test]
    fn a_cut_token_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hkd.lock");
        fs::write(&path, "6f1c-").unwrap();
        let token = HkdLock::take(&path).unwrap().run_token();
        assert_eq!(HkdLock::take(&path).unwrap().run_token(), token);
    }
}
