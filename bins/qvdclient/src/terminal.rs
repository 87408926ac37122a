//! The terminal while something secret is typed: nothing is shown, and however the question ends the terminal is as it
//! was. Keys that end a program still do so, by signals, which the caller listens to.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};

use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

/// Asks on the terminal that the program was started from, whatever its standard input is.
///
/// # Cancellation
///
/// Dropping the future leaves the terminal as it was; what was typed so far is thrown away, so that no shell reads it.
pub(crate) async fn ask_secret(prompt: &str) -> io::Result<String> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let reader = terminal.try_clone()?;
    let mut resumed = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    let mut hidden = Hidden::begin(terminal)?;
    hidden.say(prompt)?;
    let mut reading = spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).map(|length| (length > 0).then_some(line))
    });
    let line = loop {
        tokio::select! {
            line = &mut reading => break line.map_err(io::Error::other)??,
            // The shell made the terminal its own meanwhile.
            _ = resumed.recv() => {
                hidden.hide()?;
                hidden.say(prompt)?;
            }
        }
    };
    hidden.is_answered = line.is_some();
    let line = line.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until dropped.
struct Hidden {
    terminal: File,
    before: Termios,
    is_answered: bool,
}

impl Hidden {
    fn begin(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let hidden = Self { terminal, before, is_answered: false };
        hidden.hide()?;
        Ok(hidden)
    }

    fn hide(&self) -> io::Result<()> {
        let mut during = self.before.clone();
        during.local_flags.remove(LocalFlags::ECHO);
        during.local_flags.insert(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::ECHONL);
        Ok(tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &during)?)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.terminal.write_all(text.as_bytes())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
        if !self.is_answered {
            let _ = self.say("\n");
        }
    }
}
