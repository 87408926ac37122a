//! The file that names a daemon's process.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Where a pid file will be written later, perhaps by a process that may do less then.
#[derive(Debug)]
pub struct PidPlace {
    path: PathBuf,
    key: &'static str,
    /// The file that is there. Who cannot put another one in its place writes into it.
    file: Option<File>,
}

/// A file with the process id, there as long as this value lives.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Kept open: who became another account since may no longer remove it, but empty it.
    file: File,
}

impl PidFile {
    /// Writes the file that `key` names; a daemon can do without, so a failure is only told.
    pub fn write(path: &Path, key: &'static str) -> Option<Self> {
        PidPlace { path: path.to_owned(), key, file: None }.write()
    }

    /// Begins with a file that names another process, or with none, and leaves it so.
    pub fn prepare(path: &Path, key: &'static str) -> PidPlace {
        // The directory may belong to the account that this process becomes: no other file is meant.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path);
        // A failure shows when it is written.
        PidPlace { path: path.to_owned(), key, file: file.ok() }
    }
}

impl PidPlace {
    /// Writes it; a daemon can do without, so a failure is only told.
    pub fn write(self) -> Option<PidFile> {
        let Self { path, key, file } = self;
        let text = format!("{}\n", std::process::id());
        let new = path.with_extension("new");
        let replaced = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)?;
            Ok(file)
        });
        let written = replaced.or_else(|error| {
            let _ = fs::remove_file(&new);
            // In a directory of others, or on a full disk.
            let file = file.ok_or(error)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            Ok::<_, io::Error>(file)
        });
        match written {
            Ok(file) => Some(PidFile { path, file }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot write the pid file ({key})");
                None
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // One that was started to take over may have put its own there.
        let named = fs::read_to_string(&self.path).unwrap_or_default();
        if named.trim() != std::process::id().to_string() {
            return;
        }
        let removed = fs::remove_file(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::PermissionDenied => self.file.set_len(0),
            _ => Err(error),
        });
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the pid file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_while_it_lives_and_another_process_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let file = PidFile::write(&path, "x.pid_file").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path, "x.pid_file");
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(PidFile::write(&dir.path().join("none/x.pid"), "x.pid_file").is_none());
    }

    #[test]
    fn a_place_says_nothing_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        fs::write(&path, "123456789\n").unwrap();
        let place = PidFile::prepare(&path, "x.pid_file");
        assert_eq!(fs::read_to_string(&path).unwrap(), "123456789\n", "still the one before");
        let file = place.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn where_no_other_file_can_be_made_the_one_that_is_there_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        fs::write(&path, "123456789\n").unwrap();
        let place = PidFile::prepare(&path, "x.pid_file");
        fs::create_dir(dir.path().join("x.new")).unwrap();
        let file = place.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }
}
