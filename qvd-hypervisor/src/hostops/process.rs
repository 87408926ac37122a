//! Processes by identity, not by number: a number is reused, a number with a start time is not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// A process, as long as the machine does not reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs; the letter is the kernel's state (`R`, `S`, `D`, …).
    Alive(char),
    /// It ended (perhaps not yet collected by its parent), or the number belongs to somebody else.
    Gone,
}

impl ProcessId {
    /// The process that runs now under this number.
    ///
    /// # Errors
    ///
    /// The kernel's, `NotFound` when there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start: read_stat(pid)?.start })
    }

    /// The calling process.
    ///
    /// # Errors
    ///
    /// The kernel's, when `/proc` is not there.
    pub fn me() -> io::Result<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    /// Whether it lives.
    ///
    /// # Errors
    ///
    /// The kernel's, when it cannot be told; never to be taken for gone.
    pub fn life(self) -> io::Result<Life> {
        match read_stat(self.pid) {
            Ok(stat) if stat.start != self.start || matches!(stat.state, 'Z' | 'X') => Ok(Life::Gone),
            Ok(stat) => Ok(Life::Alive(stat.state)),
            Err(error) if is_absent(&error) => Ok(Life::Gone),
            Err(error) => Err(error),
        }
    }
}

/// A handle that stays with one process, whatever happens to its number.
///
/// It is readable once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a handle; none when the process is gone.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open(process: ProcessId) -> io::Result<Option<Self>> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, process.pid, 0) };
        let fd = match Errno::result(raw) {
            // SAFETY: the kernel just made this descriptor for us and nobody else owns it.
            Ok(raw) => unsafe { OwnedFd::from_raw_fd(raw as i32) },
            Err(Errno::ESRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The number may have changed hands before the handle was made; looked at afterwards, it cannot any more.
        Ok(match process.life()? {
            Life::Alive(_) => Some(Self(fd)),
            Life::Gone => None,
        })
    }

    /// Sends a signal; gone is not an error.
    ///
    /// # Errors
    ///
    /// The kernel's, such as a missing permission.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: integers and a null pointer, which the call allows for its third argument.
        let raw = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(raw) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// The kernel's name of this boot; process identities of another boot mean nothing.
///
/// # Errors
///
/// The kernel's.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A holder and its machine's first process, found without a record: by the words that the holder was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Custody {
    /// The holder.
    pub holder: ProcessId,
    /// The first process of the machine, which has the same words, when it was born already.
    pub init: Option<ProcessId>,
}

impl Custody {
    /// Looks for the holder that works in `dir`. Processes of other accounts do not count: anybody can say anything.
    ///
    /// # Errors
    ///
    /// The kernel's, when `/proc` cannot be listed.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        let own = nix::unistd::geteuid().as_raw();
        let ours = |pid: i32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let same_account = fs::metadata(&proc).is_ok_and(|found| found.uid() == own);
            same_account && fs::read(proc.join("cmdline")).is_ok_and(|words| holds(&words, dir))
        };
        let all: Vec<(i32, Stat)> = living()?.into_iter().filter(|(pid, _)| ours(*pid)).collect();
        let id = |(pid, stat): &(i32, Stat)| ProcessId { pid: *pid, start: stat.start };
        // Its launcher has the same words and leads a process group; the holder, detached, is nobody's child there.
        let orphan = |stat: &Stat| all.iter().all(|(pid, _)| *pid != stat.parent);
        let Some(holder) = all.iter().find(|(pid, stat)| stat.group != *pid && orphan(stat)) else {
            return Ok(None);
        };
        let init = all.iter().find(|(_, stat)| stat.parent == holder.0);
        Ok(Some(Self { holder: id(holder), init: init.map(id) }))
    }
}

/// All living descendants of a process, parents before children.
///
/// # Errors
///
/// The kernel's, when `/proc` cannot be listed.
pub fn descendants(ancestor: i32) -> io::Result<Vec<ProcessId>> {
    let all = living()?;
    let mut found: Vec<ProcessId> = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
            found.push(ProcessId { pid: *pid, start: stat.start });
            parents.push(*pid);
        }
    }
    Ok(found)
}

/// All processes that have not ended.
fn living() -> io::Result<Vec<(i32, Stat)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        match read_stat(pid) {
            Ok(stat) if !matches!(stat.state, 'Z' | 'X') => all.push((pid, stat)),
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Whether these are a holder's words, `PROGRAM holder run DIR NONCE`, for this directory.
fn holds(words: &[u8], dir: &Path) -> bool {
    let mut words = words.split(|byte| *byte == 0).skip(1);
    [b"holder".as_slice(), b"run", dir.as_os_str().as_encoded_bytes()]
        .iter()
        .all(|word| words.next() == Some(*word))
}

struct Stat {
    state: char,
    parent: i32,
    group: i32,
    start: u64,
}

fn read_stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&String::from_utf8_lossy(&text))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat makes no sense")))
}

/// The command is foreign text in parentheses and may hold spaces and parentheses itself.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, start })
}

/// No such process, before or while its file was read.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_cannot_forge_the_fields_behind_it() {
        let line =
            "42 (a) S 1 ) R 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 5 18446744073709551615";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.start), ('R', 7, 42, 12345));
        assert!(parse_stat("42 (x").is_none());
        assert!(parse_stat("42 (x) S 1 2").is_none());
    }

    #[test]
    fn a_holders_words_name_its_directory_and_no_other() {
        let dir = Path::new("/run/qvd/vms/7");
        assert!(holds(b"/usr/bin/qvd\0holder\0run\0/run/qvd/vms/7\0a-1\0", dir));
        assert!(!holds(b"/usr/bin/qvd\0holder\0run\0/run/qvd/vms/71\0a-1\0", dir));
        assert!(!holds(b"vi\0/run/qvd/vms/7\0holder\0run\0", dir));
        assert!(!holds(b"", dir));
    }

    #[test]
    fn a_reused_number_is_not_the_same_process() {
        let me = ProcessId::me().unwrap();
        assert!(matches!(me.life().unwrap(), Life::Alive(_)));
        let earlier = ProcessId { start: me.start - 1, ..me };
        assert_eq!(earlier.life().unwrap(), Life::Gone);
        assert!(PidFd::open(me).unwrap().is_some());
        assert!(PidFd::open(earlier).unwrap().is_none());
    }

    #[test]
    fn an_ended_but_uncollected_process_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        assert!(descendants(std::process::id() as i32).unwrap().contains(&id));
        let handle = PidFd::open(id).unwrap().unwrap();
        handle.signal(Signal::SIGKILL).unwrap();
        let mut poll = [nix::poll::PollFd::new(handle.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut poll, 10_000u16).unwrap(), 1);
        assert_eq!(id.life().unwrap(), Life::Gone);
        handle.signal(Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }
}
