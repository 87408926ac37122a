//! A directory for the length of a test; a failed test leaves it behind for whoever looks into it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A temporary directory that is kept when its test fails.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When the system's temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("qvd-lab-").tempdir();
        let dir = dir.context("cannot make a temporary directory")?;
        Ok(Self { path: dir.path().to_owned(), dir: Some(dir) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("logs and data of the failed test are kept in {}", dir.keep().display());
        }
    }
}
