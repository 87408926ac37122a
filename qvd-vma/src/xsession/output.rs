//! The agent's words: which lines of its output say that something happened. Pure.

/// A change of the agent that it announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// `Session: Starting session at`.
    Starting,
    /// `Info: Waiting for connection`: its NX socket is open now.
    Waiting,
    /// `Info: Accepted connection from`: a client is there; on a slow link its screen takes long to follow.
    Accepted,
    /// `Session: Session started at`.
    Started,
    /// `Session: Resuming session at`.
    Resuming,
    /// `Session: Session resumed at`.
    Resumed,
    /// `Session: Suspending session at`.
    Suspending,
    /// `Session: Session suspended at`.
    Suspended,
    /// `Session: Terminating session at`.
    Terminating,
    /// `Session: Session terminated at`.
    Terminated,
    /// `Session: Aborting session at`.
    Aborting,
    /// `Session: Session aborted at`.
    Aborted,
}

impl Report {
    /// Every report.
    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::Waiting,
        Self::Accepted,
        Self::Started,
        Self::Resuming,
        Self::Resumed,
        Self::Suspending,
        Self::Suspended,
        Self::Terminating,
        Self::Terminated,
        Self::Aborting,
        Self::Aborted,
    ];
}

/// A line that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Its process id.
    Pid(u32),
    /// It changed.
    Report(Report),
    /// The slave channel listens on this port.
    SlavePort(u16),
    /// The audio channel listens on this port.
    MediaPort(u16),
    /// The display number that it was given is in use.
    DisplayTaken,
}

/// Reads one line; `None` for everything that is only for people.
///
/// ```
/// use qvd_vma::xsession::output::{parse, Line, Report};
/// assert_eq!(parse(b"Session: Session started at 'Mon Jan  5 10:00:00 2015'."), Some(Line::Report(Report::Started)));
/// assert_eq!(parse(b"Session: Display failure detected at 'Mon Jan  5 10:00:00 2015'."), None);
/// ```
pub fn parse(line: &[u8]) -> Option<Line> {
    let line = String::from_utf8_lossy(line);
    if let Some((_, rest)) = line.split_once("Session: ") {
        return session_word(rest).map(Line::Report);
    }
    if let Some((_, rest)) = line.split_once("Info: Agent running with pid '") {
        return rest.split_once('\'').and_then(|(pid, _)| pid.parse().ok()).map(Line::Pid);
    }
    if line.contains("Info: Waiting for connection from") {
        return Some(Line::Report(Report::Waiting));
    }
    if line.contains("Info: Accepted connection from") {
        return Some(Line::Report(Report::Accepted));
    }
    if let Some((_, rest)) = line.split_once("Listening to slave connections on port '") {
        return port(rest).map(Line::SlavePort);
    }
    if let Some((_, rest)) = line.split_once("Listening to multimedia connections on port '") {
        return port(rest).map(Line::MediaPort);
    }
    if TAKEN.iter().any(|text| line.contains(text)) {
        return Some(Line::DisplayTaken);
    }
    None
}

/// Cuts a stream of bytes into lines that never hold more than [`LONGEST_LINE`] bytes; the rest of a longer one
/// is dropped.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Takes more bytes and calls `each` for every line that is complete now, without its line end.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, complete) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LONGEST_LINE - self.buffer.len();
            self.buffer.extend_from_slice(&text[..text.len().min(room)]);
            if complete {
                each(self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer));
                self.buffer.clear();
            }
        }
    }
}

/// Most bytes of a line that are looked at.
pub const LONGEST_LINE: usize = 4096;

fn session_word(rest: &str) -> Option<Report> {
    let mut words = rest.split(' ');
    let (first, second, third) = (words.next()?, words.next()?, words.next()?);
    if third != "at" {
        return None;
    }
    match (first, second) {
        ("Starting", "session") => Some(Report::Starting),
        ("Resuming", "session") => Some(Report::Resuming),
        ("Suspending", "session") => Some(Report::Suspending),
        ("Terminating", "session") => Some(Report::Terminating),
        ("Aborting", "session") => Some(Report::Aborting),
        ("Session", "started") => Some(Report::Started),
        ("Session", "resumed") => Some(Report::Resumed),
        ("Session", "suspended") => Some(Report::Suspended),
        ("Session", "terminated") => Some(Report::Terminated),
        ("Session", "aborted") => Some(Report::Aborted),
        _ => None,
    }
}

/// The digits before the closing quote, whatever stands before them (`tcp:HOST:N`).
fn port(rest: &str) -> Option<u16> {
    let (inside, _) = rest.split_once('\'')?;
    inside.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// How X servers say that their display number is in use.
const TAKEN: [&str; 3] = [
    "Server is already active for display",
    "Cannot establish any listening sockets",
    "server already running",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Line> {
        parse(text.as_bytes())
    }

    #[test]
    fn the_words_of_a_real_agent_are_known() {
        let spoken = [
            ("Info: Agent running with pid '14200'.", Line::Pid(14200)),
            ("Session: Starting session at 'Sat Nov 21 02:10:01 2026'.", Line::Report(Report::Starting)),
            (
                "Info: Waiting for connection from any host on socket 'tcp:*:4100'.",
                Line::Report(Report::Waiting),
            ),
            (
                "Info: Waiting for connection from this host on socket 'unix:/run/qvd/nx.sock'.",
                Line::Report(Report::Waiting),
            ),
            ("Info: Accepted connection from '127.0.0.1'.", Line::Report(Report::Accepted)),
            (
                "Info: Accepted connection from this host on socket 'unix:/run/qvd/nx.sock'.",
                Line::Report(Report::Accepted),
            ),
            ("Session: Session started at 'Sat Nov 21 02:10:03 2026'.", Line::Report(Report::Started)),
            ("Session: Suspending session at 'x'.", Line::Report(Report::Suspending)),
            ("Session: Session suspended at 'x'.", Line::Report(Report::Suspended)),
            ("Session: Resuming session at 'x'.", Line::Report(Report::Resuming)),
            ("Session: Session resumed at 'x'.", Line::Report(Report::Resumed)),
            ("Session: Terminating session at 'x'.", Line::Report(Report::Terminating)),
            ("Session: Session terminated at 'x'.", Line::Report(Report::Terminated)),
            ("Session: Aborting session at 'x'.", Line::Report(Report::Aborting)),
            ("Session: Session aborted at 'x'.", Line::Report(Report::Aborted)),
            ("Info: Listening to slave connections on port '11100'.", Line::SlavePort(11100)),
            ("Info: Listening to slave connections on port 'tcp:localhost:11100'.", Line::SlavePort(11100)),
            ("Info: Listening to multimedia connections on port '7100'.", Line::MediaPort(7100)),
            ("Error: Aborting session with 'Server is already active for display 171", Line::DisplayTaken),
        ];
        for (text, line) in spoken {
            assert_eq!(read(text), Some(line), "{text}");
        }
    }

    #[test]
    fn other_lines_mean_nothing() {
        for text in [
            "Session: Display failure detected at 'Sat Nov 21 02:10:05 2026'.",
            "Session: Session paused at 'x'.",
            "Session: Starting",
            "Session: ",
            "Info: Agent running with pid 'many'.",
            "Info: Listening to slave connections on port '99999'.",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let mut lines = Vec::new();
        let mut cutter = Lines::default();
        cutter.feed(&vec![b'a'; LONGEST_LINE * 3], |_| panic!("no line yet"));
        cutter.feed(b"tail\r\nnext\nopen", |line| lines.push(line.to_vec()));
        assert_eq!(lines, [vec![b'a'; LONGEST_LINE], b"next".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }

        #[test]
        fn pieces_do_not_matter(text in "[ab\n]{0,60}", cut in 0usize..60) {
            let cut = cut.min(text.len());
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            Lines::default().feed(text.as_bytes(), |line| whole.push(line.to_vec()));
            let mut cutter = Lines::default();
            cutter.feed(&text.as_bytes()[..cut], |line| pieces.push(line.to_vec()));
            cutter.feed(&text.as_bytes()[cut..], |line| pieces.push(line.to_vec()));
            prop_assert_eq!(whole, pieces);
        }
    }
}
