//! One cut, and what came of the desktop.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::desk::{Desk, LIMIT};
use super::plan::{Cut, Kind, Means, Measured, Moment};
use crate::process::{Process, is_cancelled, poll_quickly};
use crate::relay::Passed;
use crate::trace::{Heard, Source, Watch};

/// What a cut did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What became of the desktop.
    pub desktop: Fate,
    /// Whether the moment came, or why not.
    pub reached: Reached,
    /// Agents that died or span, with the phase.
    pub crashes: Vec<Crash>,
    /// Clients that the clean reconnect took.
    pub clients: u32,
    /// From the cut to the drawn desktop.
    pub recovery: Duration,
    /// What the link had carried before the cut.
    pub passed: Passed,
}

/// What became of the desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The same one shows again.
    Kept,
    /// Nobody had been connected to it; a new one shows.
    Fresh,
    /// It is gone, or does not show.
    Lost(String),
}

/// Whether the moment of a cut came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It did.
    InTime,
    /// The desktop was up for a while without it; the cut was made then.
    Late,
    /// The client had ended before.
    ClientEnded,
}

/// An agent that died by a signal, or no longer reacted, without having been told to end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crash {
    /// Signal, or that it did not react.
    pub how: String,
    /// Phase of the X session.
    pub phase: String,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nxagent {} in phase {}", self.how, self.phase)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.desktop {
            Fate::Kept => f.write_str("kept")?,
            Fate::Fresh => f.write_str("kept (new: nobody had been connected)")?,
            Fate::Lost(why) => write!(f, "LOST: {why}")?,
        }
        write!(f, ", shown again after {:.1} s", self.recovery.as_secs_f64())?;
        if self.clients != 1 {
            write!(f, " by client {}", self.clients)?;
        }
        match self.reached {
            Reached::InTime => {}
            Reached::Late => f.write_str(", moment did not come, cut later")?,
            Reached::ClientEnded => f.write_str(", client had ended before")?,
        }
        for crash in &self.crashes {
            write!(f, ", {crash}")?;
        }
        Ok(())
    }
}

/// Hands the desktop over undisturbed and notes what can be observed on the way.
pub(super) fn measure(desk: &mut Desk<'_>) -> Result<Measured> {
    desk.prepare()?;
    let mut watch = desk.watch();
    desk.relay.arm(None, desk.count);
    let mut client = desk.start_client(true)?;
    watch.add(&client);
    let marker = desk.wait_shown(&mut client, &mut watch)?;
    let passed = desk.relay.passed();
    let lasted = passed.begun.map(|begun| begun.elapsed()).unwrap_or_default();
    ensure!(
        desk.kind == Kind::Connect || desk.seen.as_ref() == Some(&marker),
        "the desktop was lost without any cut"
    );
    let steps = watch.steps();
    // The relay is needed for the next one.
    desk.reconnect(Some(client), &mut watch)?;
    Ok(Measured { steps, lasted, up: passed.up, down: passed.down })
}

/// Makes a cut, connects again, and looks whether the desktop is the same.
pub(super) fn make(desk: &mut Desk<'_>, cut: &Cut) -> Result<Outcome> {
    desk.prepare()?;
    let before = desk.seen.clone();
    let mut watch = desk.watch();
    let breaks = match (&cut.moment, cut.means) {
        (Moment::Offset(at), Means::Link) => Some(*at),
        (Moment::Offset(_) | Moment::Step(_), _) => None,
    };
    desk.relay.arm(breaks, desk.count);
    let mut client = desk.start_client(true)?;
    watch.add(&client);
    let reached = wait_moment(desk, cut, &mut client, &mut watch);
    let passed = desk.relay.passed();
    match cut.means {
        Means::Link => desk.relay.cut(),
        // It may have ended by itself.
        Means::Kill => drop(client.signal(Signal::SIGKILL)),
    }
    ensure!(!is_cancelled(), "interrupted");
    let begun = Instant::now();
    let shown = desk.reconnect(Some(client), &mut watch);
    let recovery = begun.elapsed();
    ensure!(!is_cancelled(), "interrupted");
    watch.poll();
    let desktop = match &shown {
        Err(e) => Fate::Lost(format!("{e:#}")),
        Ok(_) => match before {
            Some(before) if desk.seen.as_ref() == Some(&before) => Fate::Kept,
            Some(_) => Fate::Lost("another desktop came up".to_owned()),
            None => first_fate(&watch.heard),
        },
    };
    let crashes = watch.heard.iter().filter_map(crash).collect();
    Ok(Outcome { desktop, reached, crashes, clients: shown.unwrap_or(0), recovery, passed })
}

fn wait_moment(desk: &Desk<'_>, cut: &Cut, client: &mut Process, watch: &mut Watch) -> Reached {
    let mut up_since = None;
    let reached = poll_quickly(LIMIT, || {
        watch.poll();
        let passed = desk.relay.passed();
        let came = match (&cut.moment, cut.means) {
            (Moment::Step(step), _) => watch.has_heard(step),
            (Moment::Offset(_), Means::Link) => passed.broken,
            (Moment::Offset(crate::relay::Break::After(time)), Means::Kill) => {
                passed.begun.is_some_and(|begun| begun.elapsed() >= *time)
            }
            (Moment::Offset(crate::relay::Break::Up(bytes)), Means::Kill) => passed.up >= *bytes,
            (Moment::Offset(crate::relay::Break::Down(bytes)), Means::Kill) => passed.down >= *bytes,
        };
        if came {
            return Some(Reached::InTime);
        }
        if !client.is_running() {
            return Some(Reached::ClientEnded);
        }
        if up_since.is_none() && watch.has_started() {
            up_since = Some(Instant::now());
        }
        up_since
            .is_some_and(|since: Instant| since.elapsed() >= patience(&cut.moment))
            .then_some(Reached::Late)
    });
    reached.unwrap_or(Reached::Late)
}

/// Whether the first desktop that somebody was connected to is the one that shows: no agent may follow one that had
/// been connected.
fn first_fate(heard: &[Heard]) -> Fate {
    let (mut agents, mut connected) = (0, false);
    for line in heard.iter().filter(|h| h.step.source == Source::Agent).map(|h| &h.line) {
        if line.contains(": agent waits ") {
            if connected {
                return Fate::Lost("an agent that had been connected was replaced".to_owned());
            }
            agents += 1;
        }
        connected |= line.contains("X session from=") && line.contains(" to=connected ");
    }
    if agents > 1 { Fate::Fresh } else { Fate::Kept }
}

/// Reads a death, or a hang, out of the agent's log. An agent that ends with an exit status, because the first
/// client that it waited for left, is none.
fn crash(heard: &Heard) -> Option<Crash> {
    if heard.step.source != Source::Agent {
        return None;
    }
    let field = |name: &str| {
        let rest = heard.line.split_once(&format!(" {name}="))?.1;
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split(' ').next(),
        }
    };
    if heard.line.contains(": agent died ") {
        let how = field("how")?;
        return how
            .starts_with("killed by")
            .then(|| Crash { how: how.to_owned(), phase: field("phase").unwrap_or("?").to_owned() });
    }
    (heard.line.contains(": X session failed ") && field("failure") == Some("TimedOut"))
        .then(|| Crash { how: "did not react".to_owned(), phase: field("phase").unwrap_or("?").to_owned() })
}

/// How long a desktop is up before a moment that does not come is given up. A step may be missing in one run or the
/// other; a time comes, and so does a byte, only later on a busy machine.
fn patience(moment: &Moment) -> Duration {
    match moment {
        Moment::Step(_) => Duration::from_secs(1),
        Moment::Offset(_) => Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Step;

    fn agent(line: &str) -> Heard {
        Heard { step: Step { source: Source::Agent, text: String::new() }, line: line.to_owned() }
    }

    const WAITS: &str = "t  INFO shell: agent waits pid=6 display=101 agents=1";
    const CONNECTED: &str = "t  INFO shell: X session from=listening to=connected event=Output(Started)";

    #[test]
    fn only_an_agent_that_was_connected_can_be_lost() {
        let fate = |lines: &[&str]| first_fate(&lines.iter().map(|line| agent(line)).collect::<Vec<_>>());
        assert_eq!(fate(&[WAITS, CONNECTED]), Fate::Kept);
        assert_eq!(fate(&[WAITS, WAITS, CONNECTED]), Fate::Fresh);
        assert!(matches!(fate(&[WAITS, CONNECTED, WAITS, CONNECTED]), Fate::Lost(_)));
    }

    #[test]
    fn crashes_are_told_by_signal_and_phase() {
        let died = "t ERROR shell: agent died phase=listening-again how=\"killed by SIGSEGV\" last_words=\"\" deaths=1";
        let segv = Crash { how: "killed by SIGSEGV".to_owned(), phase: "listening-again".to_owned() };
        assert_eq!(crash(&agent(died)), Some(segv));
        let left =
            "t ERROR shell: agent died phase=listening how=\"exit status 1\" last_words=\"PANIC!\" deaths=1";
        assert_eq!(crash(&agent(left)), None);
        let spun = "t  WARN shell: X session failed phase=suspending failure=TimedOut text=\"x\"";
        assert_eq!(crash(&agent(spun)).map(|c| c.how), Some("did not react".to_owned()));
        assert_eq!(
            crash(&agent("t  WARN shell: X session failed phase=listening failure=Died text=\"x\"")),
            None
        );
    }
}
