//! Unix sockets below directories whose path is longer than a socket address may be (108 bytes).
//!
//! The directory is opened and the socket addressed through it: `/proc/self/fd/N/NAME`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// A socket path that is short enough, and what must stay open while it is used.
#[derive(Debug)]
pub(crate) struct ShortPath {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl ShortPath {
    /// The path of `name` in `dir` in a form that fits into a socket address.
    pub(crate) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        if path.as_os_str().len() <= LONGEST {
            return Ok(Self { path, _dir: None });
        }
        let fd = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(name);
        Ok(Self { path, _dir: Some(fd) })
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Longest path that fits into `sun_path` with its terminating zero.
const LONGEST: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_paths_stay_as_they_are() {
        let short = ShortPath::new(Path::new("/run/qvd"), "vma.sock").unwrap();
        assert_eq!(short.as_path(), Path::new("/run/qvd/vma.sock"));
    }

    #[test]
    fn a_socket_deep_down_can_be_bound_and_reached() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&dir).unwrap();
        let bound = ShortPath::new(&dir, "s").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(bound.as_path()).unwrap();
        let dialled = ShortPath::new(&dir, "s").unwrap();
        std::os::unix::net::UnixStream::connect(dialled.as_path()).unwrap();
    }
}
