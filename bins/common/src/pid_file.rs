//! The file that names a daemon's process.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file with the process id, there as long as this value lives.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Kept open: who became another account since may no longer remove it, but empty it.
    file: File,
}

impl PidFile {
    /// Writes the file that `key` names; a daemon can do without, so a failure is only told.
    pub fn write(path: &Path, key: &str) -> Option<Self> {
        let new = path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            writeln!(file, "{}", std::process::id())?;
            fs::rename(&new, path)?;
            Ok(file)
        });
        match written {
            Ok(file) => Some(Self { path: path.to_owned(), file }),
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
}
