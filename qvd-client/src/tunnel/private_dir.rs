//! A directory that only this user can enter, for one session.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Bytes of a unix socket's path that the kernel takes, less the end mark.
const LONGEST_SOCKET_PATH: usize = 107;

/// The directory; removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateDir {
    dir: TempDir,
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
        let only_owner = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("qvd-").permissions(only_owner).tempdir_in(parent)?;
        let owner = std::fs::metadata(dir.path())?.uid();
        std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("nx"))?;
        let made = Self { dir, owner };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_short_enough_and_goes() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(90));
        let odd = parent.path().join("a:b");
        std::fs::create_dir(&long).unwrap();
        std::fs::create_dir(&odd).unwrap();
        assert!(PrivateDir::create(&[long.clone(), odd.clone(), "/nonexistent".into()]).is_err());
        let made = PrivateDir::create(&[long, odd, parent.path().to_owned()]).unwrap();
        let path = made.socket().parent().unwrap().to_owned();
        assert_eq!(path.parent().unwrap(), parent.path());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(made);
        assert!(!path.exists());
    }
}
