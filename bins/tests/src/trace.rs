//! What can be observed of a connect: the lines of client, agent, nxagent and node, as they come.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::process::Process;
use crate::site::Site;

/// Who says a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `qvdclient`, with the router's 102 answers.
    Client,
    /// `qvd-vma`, of a call that it gets.
    Call,
    /// `qvd-vma`, of everything else.
    Agent,
    /// `nxagent`.
    Nxagent,
    /// The node: house-keeping daemon and router.
    Node,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Call => "call",
            Self::Agent => "agent",
            Self::Nxagent => "nxagent",
            Self::Node => "node",
        })
    }
}

/// An observable step: a line without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Who says it.
    pub source: Source,
    /// The line, with `#` for numbers.
    pub text: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.source, self.text)
    }
}

/// A line that was said.
#[derive(Clone, Debug)]
pub struct Heard {
    /// As a step.
    pub step: Step,
    /// As it was.
    pub line: String,
}

/// Listens to all that speak about one virtual machine.
#[derive(Debug)]
pub struct Watch {
    tails: Vec<Tail>,
    /// What was said, in the order in which it was heard.
    pub heard: Vec<Heard>,
}

impl Watch {
    /// Listens, from now on, to what a site and the agent say about a machine. `daemons` are logs of the node besides
    /// the site's own.
    pub fn new(site: &Site, vm: i64, daemons: &[&Path]) -> Self {
        let logs = site.guest_logs(vm);
        let mut tails = vec![
            Tail::new(Source::Agent, logs.join("qvd.log"), None),
            Tail::new(Source::Nxagent, logs.join("qvd-nxagent.log"), None),
        ];
        for log in [site.log()].iter().chain(daemons) {
            tails.push(Tail::new(Source::Node, log.to_path_buf(), Some(format!("vm={vm}"))));
        }
        Self { tails, heard: Vec::new() }
    }

    /// Listens to a client, from its beginning.
    pub fn add(&mut self, client: &Process) {
        self.tails.push(Tail::from_start(Source::Client, client.log().to_owned()));
    }

    /// Takes in what was said since the last call.
    pub fn poll(&mut self) {
        for tail in &mut self.tails {
            tail.poll(&mut self.heard);
        }
    }

    /// Whether a line that marks this step was heard.
    pub fn has_heard(&self, step: &Step) -> bool {
        self.heard.iter().any(|heard| heard.step == *step)
    }

    /// The steps that were heard, each once, in order.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for heard in &self.heard {
            if !steps.contains(&heard.step) {
                steps.push(heard.step.clone());
            }
        }
        steps
    }

    /// Whether a client says that its desktop started.
    pub fn has_started(&self) -> bool {
        self.heard.iter().any(|h| h.step.source == Source::Client && h.line == STARTED)
    }
}

/// The client's last step.
pub const STARTED: &str = "Desktop started";

/// Listens to one source's file, also when the file is replaced.
#[derive(Debug)]
struct Tail {
    source: Source,
    path: PathBuf,
    /// Only lines with this word count.
    only: Option<String>,
    file: Option<(File, u64)>,
    rest: Vec<u8>,
}

impl Tail {
    /// Listens from what is the end of the file now.
    fn new(source: Source, path: PathBuf, only: Option<String>) -> Self {
        let mut tail = Self { source, path, only, file: None, rest: Vec::new() };
        tail.open(SeekFrom::End(0));
        tail
    }

    /// Listens from the file's beginning.
    fn from_start(source: Source, path: PathBuf) -> Self {
        Self { source, path, only: None, file: None, rest: Vec::new() }
    }

    /// The lines that came since the last call.
    fn poll(&mut self, heard: &mut Vec<Heard>) {
        self.read(heard);
        let replaced = match (&self.file, std::fs::metadata(&self.path)) {
            (Some((_, inode)), Ok(meta)) => meta.ino() != *inode,
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        if replaced {
            self.rest.clear();
            self.open(SeekFrom::Start(0));
            self.read(heard);
        }
    }

    fn open(&mut self, from: SeekFrom) {
        let open = || -> std::io::Result<_> {
            let mut file = File::open(&self.path)?;
            file.seek(from)?;
            let inode = file.metadata()?.ino();
            Ok((file, inode))
        };
        self.file = open().ok();
    }

    fn read(&mut self, heard: &mut Vec<Heard>) {
        let Some((file, _)) = &mut self.file else { return };
        // A read that fails now is tried again with the next call.
        let _ = file.read_to_end(&mut self.rest);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { return };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        for line in String::from_utf8_lossy(&complete).lines() {
            let counts = self.only.as_deref().is_none_or(|word| line.split(' ').any(|w| w == word));
            if let Some(text) = counts.then(|| essence(self.source, line)).flatten() {
                let is_call = self.source == Source::Agent && text.contains(" method=\"");
                let source = if is_call { Source::Call } else { self.source };
                heard.push(Heard { step: Step { source, text }, line: line.to_owned() });
            }
        }
    }
}

/// What of a line is the same in every run; `None` for lines that mark no step.
fn essence(source: Source, line: &str) -> Option<String> {
    let text = match source {
        Source::Client => line,
        Source::Nxagent => {
            let said = ["Info: ", "Session: ", "Warning: ", "Error: "].iter().any(|s| line.starts_with(s));
            if !said {
                return None;
            }
            line.split(" at '").next().unwrap_or_default()
        }
        // What the router tells the client is the client's line already.
        Source::Node if line.contains("qvd_l7r::connect: ") => return None,
        // A wake-up of the database and a look at the agent's health come when they come.
        Source::Agent | Source::Call if line.contains("method=\"ping\"") => return None,
        Source::Agent | Source::Call | Source::Node => {
            // Time and level come first.
            let mut words = line.split_whitespace().skip(1);
            match words.next() {
                Some("INFO" | "DEBUG" | "WARN" | "ERROR") => {}
                Some(_) | None => return None,
            }
            let words: Vec<_> = words.filter(|word| !varies(word)).collect();
            return Some(without_numbers(&words.join(" ")));
        }
    };
    Some(without_numbers(text.trim()))
}

fn varies(word: &str) -> bool {
    const NAMES: [&str; 10] =
        ["session", "client", "seconds", "up", "down", "run", "pid", "vm", "agents", "display"];
    word.split_once('=').is_some_and(|(name, _)| NAMES.contains(&name))
}

fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        let agent =
            "2026-11-21T03:21:40.103020Z  INFO qvd_vma::xsession::task::shell: agent waits pid=6 display=101";
        assert_eq!(
            essence(Source::Agent, agent).as_deref(),
            Some("qvd_vma::xsession::task::shell: agent waits")
        );
        let nxagent = "Session: Session started at 'Sat Nov 21 03:21:40 2026'.";
        assert_eq!(essence(Source::Nxagent, nxagent).as_deref(), Some("Session: Session started"));
        assert_eq!(essence(Source::Nxagent, "  minimize : Ctrl+Alt+m"), None);
        assert_eq!(
            essence(Source::Client, "Connecting to 127.0.0.1:8443").as_deref(),
            Some("Connecting to #.#.#.#:#")
        );
        assert_eq!(essence(Source::Node, "ready: https://127.0.0.1:1/"), None);
    }

    #[test]
    fn a_file_that_is_replaced_is_read_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").expect("written");
        let mut tail = Tail::new(Source::Client, path.clone(), None);
        let mut heard = Vec::new();
        let mut file = File::options().append(true).open(&path).expect("opened");
        file.write_all(b"one\ntw").expect("written");
        tail.poll(&mut heard);
        file.write_all(b"o\n").expect("written");
        tail.poll(&mut heard);
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, "three\n").expect("written");
        std::fs::rename(&fresh, &path).expect("replaced");
        tail.poll(&mut heard);
        let lines: Vec<_> = heard.iter().map(|h| h.line.as_str()).collect();
        assert_eq!(lines, ["one", "two", "three"]);
    }
}
