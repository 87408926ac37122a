//! The files and directories of one run, made by the holder once the lock is its own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::records::Order;
use super::{CONSOLE_LOG, EXIT_RECORD, GUEST_DIR};

/// What [`make`] made.
#[derive(Debug)]
pub(super) struct Place {
    /// The machine's run directory.
    pub(super) guest: PathBuf,
    /// Where the agent prints.
    pub(super) console: File,
}

/// Makes a fresh run directory with the agent's configuration in it.
///
/// It is made anew each time: what a machine left in its old one could lead a holder that is root astray.
pub(super) fn make(dir: &Path, order: &Order) -> io::Result<Place> {
    remove_if_there(fs::remove_file(dir.join(EXIT_RECORD)))?;
    let guest = dir.join(GUEST_DIR);
    remove_if_there(fs::remove_dir_all(&guest))?;
    DirBuilder::new().mode(0o700).create(&guest)?;
    let log = guest.join("log");
    DirBuilder::new().mode(0o700).create(&log)?;
    let conf = guest.join("vma.conf");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&conf)?;
    file.write_all(order.agent_config.as_bytes())?;

    let account = &order.account;
    if account.switch {
        for path in [&conf, &log] {
            chown(path, Some(account.uid), Some(account.gid))?;
        }
        chown(&guest, Some(account.uid), Some(order.socket_group.unwrap_or(account.gid)))?;
    }
    if account.switch && order.socket_group.is_some() {
        // The router's group may pass through to the sockets, which inherit the group, but not look around.
        fs::set_permissions(&guest, Permissions::from_mode(0o2710))?;
    }
    let console = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(CONSOLE_LOG))?;
    Ok(Place { guest, console })
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
