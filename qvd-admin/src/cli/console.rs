//! Where a command reads and writes; a test brings strings, the program the real thing.

use std::io::{self, BufRead, Write};
use std::path::Path;

/// The streams of a command, and what else of its surroundings it may touch.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Shows (`true`) or hides (`false`) what is typed; none when standard input is no terminal.
    pub echo: Option<&'a mut dyn FnMut(bool) -> io::Result<()>>,
    /// Puts another program in the place of this one; comes back only with the reason why it cannot.
    pub exec: &'a mut dyn FnMut(&[String]) -> io::Error,
    /// Reads a file that the user named.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("terminal", &self.echo.is_some()).finish_non_exhaustive()
    }
}

impl Console<'_> {
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Diagnostics that cannot be written have nowhere else to go.
    pub(super) fn complain(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Asks; none at the end of the input.
    pub(super) fn ask(&mut self, prompt: &str) -> io::Result<Option<String>> {
        self.print(prompt)?;
        self.line()
    }

    /// Asks for something that must not be seen. Without a terminal the next line of the input is the answer.
    pub(super) fn ask_hidden(&mut self, prompt: &str) -> io::Result<Option<String>> {
        self.print(prompt)?;
        self.show(false)?;
        let answer = self.line();
        self.show(true)?;
        self.print("\n")?;
        answer
    }

    fn show(&mut self, visible: bool) -> io::Result<()> {
        self.echo.as_mut().map_or(Ok(()), |echo| echo(visible))
    }

    /// The next line of the input, without its end; none at the end of the input.
    pub(super) fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let kept = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(kept);
        Ok(Some(line))
    }
}
