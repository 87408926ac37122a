//! Copying an image file into the storage: under a temporary name first, complete and on disk before it gets its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::image_file;
use crate::error::{Error, Result, reason};

/// A complete copy under a temporary name, removed when it is dropped before it got its final one.
#[derive(Debug)]
pub(super) struct StagedFile {
    temporary: PathBuf,
    /// What the file is, by content.
    pub(super) format: &'static str,
    pub(super) size: u64,
    /// In hexadecimal.
    pub(super) sha256: String,
}

/// What a file is, by content.
pub(super) fn look_at(source: &Path) -> Result<&'static str> {
    let unreadable = |error| Error::file(source, &error);
    let file = File::open(source).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::invalid("path", format!("{}: not a regular file", source.display())));
    }
    let mut head = Vec::new();
    file.take(image_file::HEAD as u64).read_to_end(&mut head).map_err(unreadable)?;
    Ok(image_file::format(&head))
}

impl StagedFile {
    /// Copies `source` into `directory`, which is made when only it is missing.
    pub(super) fn copy(source: &Path, format: &'static str, directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            fs::DirBuilder::new().mode(0o755).create(directory).map_err(|error| Error::File {
                what: format!("Directory {} does not exist", directory.display()),
                reason: error.kind(),
            })?;
        }
        let temporary = directory.join(format!("{}.tmp-{:016x}", base_name(source)?, random()?));
        let mut staged = Self { temporary, format, size: 0, sha256: String::new() };
        staged.fill(source).map_err(|error| Error::File {
            what: format!(
                "Unable to copy {} to {}: {}",
                source.display(),
                staged.temporary.display(),
                reason(&error)
            ),
            reason: error.kind(),
        })?;
        Ok(staged)
    }

    fn fill(&mut self, source: &Path) -> io::Result<()> {
        let mut input = File::open(source)?;
        let mut output = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&self.temporary)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            digest.update(&buffer[..count]);
            output.write_all(&buffer[..count])?;
            self.size += count as u64;
        }
        output.sync_all()?;
        self.sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(())
    }

    /// Gives the copy its final name in the same directory, for good.
    pub(super) fn settle(self, name: &str) -> Result<()> {
        let directory = self.temporary.parent().unwrap_or(Path::new("."));
        let target = directory.join(name);
        let failed = |error: io::Error| Error::file(&target, &error);
        fs::rename(&self.temporary, &target).map_err(failed)?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After `settle` there is nothing under the temporary name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The name of the source file within its directory.
pub(super) fn base_name(source: &Path) -> Result<&str> {
    let name = source.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| Error::invalid("path", format!("{}: not a usable file name", source.display())))
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(|_| Error::File {
        what: "cannot make a temporary file name: no randomness".to_owned(),
        reason: io::ErrorKind::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_complete_measured_and_gone_when_it_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a.img");
        fs::write(&source, b"abc").unwrap();
        let images = dir.path().join("images");
        assert_eq!(look_at(&source).unwrap(), "raw");
        let staged = StagedFile::copy(&source, "raw", &images).unwrap();
        assert_eq!(staged.size, 3);
        assert!(staged.sha256.starts_with("ba7816bf8f01cfea"), "{}", staged.sha256);
        drop(staged);
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);

        StagedFile::copy(&source, "raw", &images).unwrap().settle("7-a.img").unwrap();
        assert_eq!(fs::read(images.join("7-a.img")).unwrap(), b"abc");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 1, "no temporary name is left");
        assert!(source.exists(), "the source stays");
    }

    #[test]
    fn what_cannot_be_copied_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let said = look_at(&absent).unwrap_err().to_string();
        assert_eq!(said, format!("{}: No such file or directory", absent.display()));
        assert!(look_at(dir.path()).unwrap_err().to_string().ends_with("not a regular file"));
        let source = dir.path().join("a.img");
        fs::write(&source, b"abc").unwrap();
        let said = StagedFile::copy(&source, "raw", &dir.path().join("no/such")).unwrap_err().to_string();
        assert_eq!(said, format!("Directory {} does not exist", dir.path().join("no/such").display()));
    }
}
