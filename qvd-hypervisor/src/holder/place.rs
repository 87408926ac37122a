//! The files and directories of one run, made by the holder once the lock is its own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use qvd_core::hypervisor::VMA_SOCKET;

use super::console::Console;
use super::records::Order;
use super::{CONSOLE_LOG, EXIT_RECORD, GUEST_DIR};

/// What [`make`] made.
#[derive(Debug)]
pub(super) struct Place {
    /// The machine's run directory.
    pub(super) guest: PathBuf,
    /// Where the agent prints.
    pub(super) printer: File,
    /// What takes that up.
    pub(super) console: Console,
    /// Where calls of the agent come in, unless it has a network of its own and listens there.
    pub(super) calls: Option<UnixListener>,
}

/// Makes a fresh run directory with the agent's configuration in it.
///
/// It is made anew each time: what a machine left in its old one could lead a holder that is root astray.
pub(super) fn make(dir: &Path, order: &Order) -> io::Result<Place> {
    remove_if_there(fs::remove_file(dir.join(EXIT_RECORD)))?;
    let guest = dir.join(GUEST_DIR);
    remove_if_there(fs::remove_dir_all(&guest))?;
    DirBuilder::new().mode(0o700).create(&guest)?;
    let conf = guest.join("vma.conf");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&conf)?;
    file.write_all(order.agent_config.as_bytes())?;

    let account = &order.account;
    if account.switch {
        chown(&conf, Some(account.uid), Some(account.gid))?;
        chown(&guest, Some(account.uid), Some(order.socket_group.unwrap_or(account.gid)))?;
    }
    if account.switch && order.socket_group.is_some() {
        // The router's group may pass through to the sockets, which inherit the group, but not look around.
        fs::set_permissions(&guest, Permissions::from_mode(0o2710))?;
    }
    let (console, printer) = Console::open(dir)?;
    let calls = match order.network {
        Some(_) => None,
        None => Some(listen(dir, order.socket_group.filter(|_| account.switch))?),
    };
    Ok(Place { guest, printer, console, calls })
}

/// Binds the agent's socket where the machine cannot put another in its place.
fn listen(dir: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let path = dir.join(VMA_SOCKET);
    remove_if_there(fs::remove_file(&path))?;
    // A socket's address holds a short path only: go through the open directory.
    let open = File::open(dir)?;
    // Nobody may call between the binding and the giving away.
    let usual = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(format!("/proc/self/fd/{}/{VMA_SOCKET}", open.as_raw_fd()));
    umask(usual);
    let listener = bound?;
    if let Some(group) = group {
        lchown(&path, None, Some(group))?;
        fs::set_permissions(&path, Permissions::from_mode(0o660))?;
    }
    Ok(listener)
}

/// The end of what the agent printed; bounded.
pub(super) fn last_words(dir: &Path) -> String {
    tail(&dir.join(CONSOLE_LOG)).unwrap_or_default()
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

fn remove_if_there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

const TAIL: u64 = 4096;
const TAIL_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_in_however_deep_the_directory_and_from_the_owner_alone() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d".repeat(120));
        fs::create_dir(&dir).unwrap();
        drop(listen(&dir, None).unwrap());
        let listener = listen(&dir, None).unwrap();
        let mode = fs::metadata(dir.join(VMA_SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
    }

    #[test]
    fn last_words_are_few() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_words(dir.path()), "");
        let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        fs::write(dir.path().join(CONSOLE_LOG), lines.join("\n")).unwrap();
        let words = last_words(dir.path());
        assert_eq!(words.lines().count(), TAIL_LINES);
        assert!(words.ends_with("line 999"));
    }
}
