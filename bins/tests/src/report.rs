//! What a test wants people to read although it passed: a file below the target directory, printed at the end of
//! `make test`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// A report that is being written.
#[derive(Debug)]
pub struct Report {
    file: Mutex<File>,
}

impl Report {
    /// Begins `reports/NAME.txt` anew. `scratch` is what cargo tells integration tests as `CARGO_TARGET_TMPDIR`,
    /// which lies in the target directory.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn begin(scratch: &str, name: &str) -> Result<Self> {
        let target = Path::new(scratch).parent().context("the scratch directory lies nowhere")?;
        let dir = target.join("reports");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{name}.txt"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Adds a line; it is also told to whoever watches the test.
    pub fn line(&self, line: &str) {
        eprintln!("{line}");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The report tells people; what is true the test asserts.
        let _ = writeln!(file, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_the_lines_of_the_last_run_alone() {
        let target = tempfile::tempdir().expect("a directory");
        let scratch = target.path().join("tmp");
        let scratch = scratch.to_str().expect("a plain name");
        Report::begin(scratch, "sweep").expect("it can be written").line("old");
        let report = Report::begin(scratch, "sweep").expect("it can be written");
        report.line("one");
        report.line("two");
        let text = fs::read_to_string(target.path().join("reports/sweep.txt")).expect("it is there");
        assert_eq!(text, "one\ntwo\n");
    }
}
