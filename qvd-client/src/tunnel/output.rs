//! What `nxproxy` prints, of which a little is worth knowing.

use std::collections::VecDeque;

/// A line of its output that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The desktop is on the screen.
    Started,
    /// Nothing of interest.
    Nothing,
}

/// Its output, read line by line; keeps the last complaints.
#[derive(Debug, Default)]
pub(super) struct Output {
    complaints: VecDeque<String>,
    last: String,
    started: bool,
}

impl Output {
    const KEPT: usize = 3;
    const LONGEST: usize = 300;

    pub(super) fn line(&mut self, line: &str) -> Said {
        let line = line.trim();
        if line.is_empty() {
            return Said::Nothing;
        }
        let text: String = crate::list::printable(line).chars().take(Self::LONGEST).collect();
        if let Some(complaint) = text.strip_prefix("Error: ") {
            if self.complaints.len() == Self::KEPT {
                self.complaints.pop_front();
            }
            self.complaints.push_back(complaint.trim_end_matches('.').to_owned());
        }
        self.last = text;
        if !self.started && line.starts_with("Session: Session started at") {
            self.started = true;
            return Said::Started;
        }
        Said::Nothing
    }

    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Its last complaints, if it had any.
    pub(super) fn complaint(&self) -> Option<String> {
        let complaints: Vec<&str> = self.complaints.iter().map(String::as_str).collect();
        (!complaints.is_empty()).then(|| complaints.join("; "))
    }

    /// Its complaints, or else its last line.
    pub(super) fn last_words(&self) -> String {
        let last_line =
            || if self.last.is_empty() { "it said nothing".to_owned() } else { self.last.clone() };
        self.complaint().unwrap_or_else(last_line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_said_once_and_complaints_are_kept() {
        let mut output = Output::default();
        assert_eq!(output.last_words(), "it said nothing");
        assert_eq!(output.line("Info: Proxy running in server mode with pid '1'."), Said::Nothing);
        assert_eq!(output.last_words(), "Info: Proxy running in server mode with pid '1'.");
        assert_eq!(output.line("Session: Session started at 'Sat'."), Said::Started);
        assert_eq!(output.line("Session: Session started at 'Sat'."), Said::Nothing);
        for line in ["Error: a.", "Loop: PANIC! x", "Error: b.", "Error: c.", "Error: d\u{1b}[2J."] {
            output.line(line);
        }
        assert!(output.started());
        assert_eq!(Output::default().complaint(), None);
        assert_eq!(output.last_words(), "b; c; d?[2J");
    }
}
