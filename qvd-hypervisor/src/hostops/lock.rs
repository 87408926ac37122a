//! The lock of a virtual machine: at most one run of it, on whatever host shares the storage.
//!
//! It is a lock of an open file description: it belongs to whoever holds the descriptor, survives fork and exec
//! of the holder, and NFSv4 carries it. Where the file system has no such locks, flock takes its place. The file
//! is never deleted: a second one could be locked beside it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// What the lock file says of its holder; for people, never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockContent {
    /// Name of the host.
    pub node: String,
    /// Incarnation of that host.
    pub incarnation: i64,
    /// The run.
    pub run_id: i64,
    /// When it was taken (RFC 3339, UTC).
    pub time: String,
}

/// A lock that is held until the value is dropped.
///
/// Released by name, not by closing the last descriptor: between fork and exec of some unrelated child there is
/// a moment in which that child has a copy of every descriptor. A process that ends without dropping it
/// releases it too, once no other process has a copy.
#[derive(Debug)]
pub struct VmLock {
    file: File,
}

impl Drop for VmLock {
    fn drop(&mut self) {
        let unlock = libc::flock { l_type: libc::F_UNLCK as libc::c_short, ..whole_file() };
        // Should it fail, closing the file right after does the same a little later.
        if fcntl(&self.file, FcntlArg::F_OFD_SETLK(&unlock)).is_err() {
            // SAFETY: two integers, the first a descriptor that `self.file` keeps open.
            unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
        }
    }
}

/// Outcome of trying to take a lock.
#[derive(Debug)]
pub enum LockOutcome {
    /// Ours now.
    Taken(VmLock),
    /// Somebody else's.
    Held(LockContent),
}

impl VmLock {
    /// Takes the lock without waiting and writes who holds it.
    ///
    /// # Errors
    ///
    /// The kernel's, such as `ENOLCK` of a network file system; not for a held lock.
    pub fn take(path: &Path, content: &LockContent) -> io::Result<LockOutcome> {
        loop {
            let mut file = open(path, true)?;
            if !try_lock(&file)? {
                return Ok(LockOutcome::Held(LockContent::read(&mut file)?));
            }
            // Somebody may have put another file in place between opening and locking.
            if !std::fs::metadata(path).is_ok_and(|now| is_same_file(&now, &file)) {
                continue;
            }
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(content.to_text().as_bytes())?;
            return Ok(LockOutcome::Taken(Self { file }));
        }
    }

    /// Who holds it, without taking it; none when nobody does.
    ///
    /// # Errors
    ///
    /// The kernel's; `NotFound` when there is no such file.
    pub fn holder(path: &Path) -> io::Result<Option<LockContent>> {
        let mut file = open(path, false)?;
        if is_locked(&file)? { LockContent::read(&mut file).map(Some) } else { Ok(None) }
    }
}

impl LockContent {
    fn to_text(&self) -> String {
        format!(
            "node={}\nincarnation={}\nrun_id={}\ntime={}\n",
            self.node.replace('\n', " "),
            self.incarnation,
            self.run_id,
            self.time
        )
    }

    fn from_text(text: &str) -> Self {
        let mut content = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "node" => content.node = value.to_owned(),
                "incarnation" => content.incarnation = value.parse().unwrap_or_default(),
                "run_id" => content.run_id = value.parse().unwrap_or_default(),
                "time" => content.time = value.to_owned(),
                _ => {}
            }
        }
        content
    }

    fn read(file: &mut File) -> io::Result<Self> {
        file.rewind()?;
        let mut text = Vec::new();
        file.take(4096).read_to_end(&mut text)?;
        Ok(Self::from_text(&String::from_utf8_lossy(&text)))
    }
}

impl fmt::Display for LockContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node.is_empty() {
            return f.write_str("a holder that has not signed yet");
        }
        write!(f, "run {} on host '{}' since {}", self.run_id, self.node, self.time)
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    // A write lock needs a descriptor that could write, also just to ask for it.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn is_same_file(path: &std::fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|open| open.ino() == path.ino() && open.dev() == path.dev())
}

fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) if lacks_record_locks(error) => try_flock(file),
        Err(error) => Err(error.into()),
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        // flock cannot be asked, only tried; the descriptor is closed right after.
        Err(error) if lacks_record_locks(error) => try_flock(file).map(|taken| !taken),
        Err(error) => Err(error.into()),
    }
}

/// `ENOLCK` is not among them: it may pass, and two hosts must not end up with two kinds of lock.
fn lacks_record_locks(error: Errno) -> bool {
    matches!(error, Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP)
}

fn try_flock(file: &File) -> io::Result<bool> {
    // SAFETY: two integers, the first a descriptor that `file` keeps open.
    let raw = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(raw) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(run_id: i64) -> LockContent {
        LockContent { node: "n1".into(), incarnation: 2, run_id, time: "2026-01-01T00:00:00Z".into() }
    }

    #[test]
    fn a_second_taker_is_told_who_holds_it_even_in_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".qvd-vm-7.lock");
        assert_eq!(VmLock::holder(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let LockOutcome::Taken(lock) = VmLock::take(&path, &content(1)).unwrap() else { panic!("held") };
        let LockOutcome::Held(holder) = VmLock::take(&path, &content(2)).unwrap() else {
            panic!("taken twice")
        };
        assert_eq!(holder, content(1));
        assert_eq!(VmLock::holder(&path).unwrap(), Some(content(1)));
        drop(lock);
        assert_eq!(VmLock::holder(&path).unwrap(), None, "asking must not take it");
        assert!(matches!(VmLock::take(&path, &content(2)).unwrap(), LockOutcome::Taken(_)));
        assert!(path.exists(), "a lock file is never deleted");
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_a_dropped_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let LockOutcome::Taken(lock) = VmLock::take(&path, &content(1)).unwrap() else { panic!("held") };
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        assert_eq!(VmLock::holder(&path).unwrap(), None);
        drop(copy);
    }

    #[test]
    fn flock_excludes_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let (one, two) = (open(&path, true).unwrap(), open(&path, true).unwrap());
        assert!(try_flock(&one).unwrap());
        assert!(!try_flock(&two).unwrap());
    }

    #[test]
    fn a_forged_node_name_adds_no_lines() {
        let forged = LockContent { node: "a\nrun_id=9".into(), ..content(1) };
        assert_eq!(LockContent::from_text(&forged.to_text()).run_id, 1);
    }
}
