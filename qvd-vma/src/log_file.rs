//! Log files of the programs that the agent runs: appended to, bounded, a dated line at each opening.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Opens a log file for appending, for one short-lived program. One that has grown large is put aside first,
/// replacing what was aside.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    LogFile::open(path).map(|log| log.file)
}

/// A log file whose bound holds while it is written too.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes in it, as far as they are known to us.
    size: u64,
    most: u64,
    /// A failure has been told: the next ones are the same.
    complained: bool,
}

impl LogFile {
    /// Opens it for appending, with a dated line.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LARGE)
    }

    fn with_limit(path: &Path, most: u64) -> io::Result<Self> {
        // Only a plain file can be put aside.
        let before = fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        if before > most {
            put_aside(path)?;
        }
        let (file, size) = begin(path)?;
        Ok(Self { path: path.to_owned(), file, size, most, complained: false })
    }

    /// Appends; begins anew when it has grown large. A failure is no reason to stop the program that writes: the
    /// first is told, and the file that is open is kept.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if self.size > self.most {
            // Where that fails it is tried again when as much has been written.
            self.size = bytes.len() as u64;
            let begun = self.begin_anew();
            self.complain("cannot begin a new log, the old one grows", begun);
        }
        let written = self.file.write_all(bytes);
        self.complain("cannot write a log", written);
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        if self.file.metadata()?.is_file() {
            put_aside(&self.path)?;
            let (file, size) = begin(&self.path)?;
            (self.file, self.size) = (file, self.size + size);
        }
        Ok(())
    }

    fn complain(&mut self, what: &str, done: io::Result<()>) {
        if let Err(error) = done
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(path = %self.path.display(), %error, "{what}");
        }
    }
}

/// The end of a pipe for a program that writes as long and as much as it likes; the other end is read until the
/// last writer is gone. It must be called on a tokio runtime.
pub(crate) fn bounded(path: &Path) -> io::Result<PipeWriter> {
    let mut log = LogFile::open(path)?;
    let (reader, writer) = io::pipe()?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    tokio::spawn(async move {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count @ 1..) = output.read(&mut chunk).await {
            log.write(&chunk[..count]);
        }
    });
    Ok(writer)
}

/// Bytes that a log may have before it is put aside.
const LARGE: u64 = 8 << 20;

fn begin(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    writeln!(file, "--- {}", date(now))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn put_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    match fs::rename(path, aside) {
        // Somebody else has moved or removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Seconds since 1970 as `YYYY-MM-DD hh:mm:ss UTC`.
fn date(seconds: u64) -> String {
    // Days are counted from 1 March of the year 0, so that the day of a leap year comes last.
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_out_right_around_leap_days() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_709_251_200), "2024-03-01 00:00:00 UTC");
        assert_eq!(date(4_107_542_399), "2100-02-28 23:59:59 UTC");
    }

    #[test]
    fn a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.log");
        drop(open(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(LARGE + 1).unwrap();
        drop(open(&path).unwrap());
        assert!(fs::metadata(&path).unwrap().len() < 100);
        assert!(dir.path().join("deep/x.log.1").exists());
    }

    #[test]
    fn a_log_that_never_ends_takes_the_room_of_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::with_limit(&path, 1000).unwrap();
        for _ in 0..100 {
            log.write(&[b'x'; 99]);
        }
        log.write(b"last");
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("x.log") <= 1000 && size("x.log.1") <= 1000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(fs::read(&path).unwrap().ends_with(b"xlast"));
        let mut null = LogFile::with_limit(Path::new("/dev/null"), 0).unwrap();
        null.write(b"not a file");
        assert!(!log.complained && !null.complained);
    }

    #[test]
    fn a_log_that_somebody_took_away_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/x.log");
        let mut log = LogFile::with_limit(&path, 100).unwrap();
        fs::rename(&path, dir.path().join("taken")).unwrap();
        log.write(&[b'x'; 101]);
        assert!(fs::read(&path).unwrap().ends_with(b"xx"), "moved");
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        log.write(&[b'y'; 101]);
        assert!(fs::read(&path).unwrap().ends_with(b"yy"), "removed with its directory");
        assert!(!log.complained);
    }

    #[test]
    fn a_log_that_cannot_be_put_aside_is_written_on_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::create_dir_all(dir.path().join("x.log.1/in the way")).unwrap();
        let mut log = LogFile::with_limit(&path, 200).unwrap();
        for word in ["first", "second"] {
            log.write(&[b'x'; 150]);
            log.write(&[b'x'; 150]);
            log.write(word.as_bytes());
            assert!(fs::read(&path).unwrap().ends_with(word.as_bytes()));
            assert!(log.complained);
        }
        fs::remove_dir_all(dir.path().join("x.log.1")).unwrap();
        log.write(&[b'x'; 150]);
        log.write(b"last");
        assert!(fs::read(&path).unwrap().ends_with(b"xlast"));
        assert!(fs::read(dir.path().join("x.log.1")).unwrap().ends_with(b"second"));
    }

    #[tokio::test]
    async fn a_program_writes_until_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let writer = bounded(&path).unwrap();
        let mut program =
            std::process::Command::new("/bin/echo").arg("words").stdout(writer).spawn().unwrap();
        program.wait().unwrap();
        let written = async {
            while !fs::read_to_string(&path).unwrap().ends_with("words\n") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), written).await.unwrap();
    }
}
