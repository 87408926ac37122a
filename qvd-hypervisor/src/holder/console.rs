//! What the agent prints: a pipe into a file that never grows beyond a limit, however much a machine has to say.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::CONSOLE_LOG;

/// The holder's end of the pipe, with the file.
#[derive(Debug)]
pub(super) struct Console {
    pipe: Option<File>,
    file: File,
    length: u64,
}

impl Console {
    /// A fresh file in a machine's directory, and the end of the pipe that the agent prints into.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, File)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(dir.join(CONSOLE_LOG))?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // The holder has more to do than to wait for words. The agent's end stays an ordinary one.
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(File::from(read)), file, length: 0 }, File::from(write)))
    }

    /// What to wait for; none when nobody can print any more.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes what there is, without waiting for more. At most a pipe full: who prints without end must not keep the
    /// holder from its other work.
    pub(super) fn drain(&mut self) {
        let mut bytes = [0; 4096];
        for _ in 0..MOST_READS {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    // A full disk costs these words, not the machine.
                    let _ = self.keep(&bytes[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > MOST {
            let mut latest = Vec::new();
            self.file.seek(SeekFrom::Start(self.length.saturating_sub(KEPT)))?;
            self.file.read_to_end(&mut latest)?;
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.length = 0;
            self.append(&latest)?;
        }
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        self.length = self.file.stream_position()?;
        written
    }
}

/// The file's greatest length.
const MOST: u64 = 256 * 1024;

/// What stays of it when it would become longer.
const KEPT: u64 = 64 * 1024;

/// A pipe holds 64 KiB.
const MOST_READS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_last_words_of_a_long_speech_are_kept_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, mut agent) = Console::open(dir.path()).unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        let mut said = 0;
        while said < 3 * MOST {
            let line = format!("word at {said}\n");
            agent.write_all(line.as_bytes()).unwrap();
            said += line.len() as u64;
            console.drain();
            assert!(fs::metadata(&path).unwrap().len() <= MOST);
        }
        agent.write_all(b"goodbye\n").unwrap();
        drop(agent);
        console.drain();
        assert!(console.pipe().is_none(), "nobody can print any more");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("\ngoodbye\n") && text.len() as u64 >= KEPT, "{} bytes", text.len());
    }

    #[test]
    fn silence_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, agent) = Console::open(dir.path()).unwrap();
        console.drain();
        assert!(console.pipe().is_some());
        drop(agent);
    }
}
