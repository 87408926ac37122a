//! One user's desk: a screen, an account, a relay, and the desktop that shows there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::plan::Kind;
use super::trace::{Heard, Source, Tail};
use crate::desktop::{TERMINAL, drawn, nx_window};
use crate::process::{Process, wait_until};
use crate::relay::{Count, Relay};
use crate::screen::Screen;
use crate::site::{Account, Site, Visit};
use crate::window::Display;

/// A desk at a site.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) kind: Kind,
    pub(super) relay: Relay,
    /// What counts for the relay's bytes.
    pub(super) count: Count,
    /// Shows the desktop past the relay, when there is one.
    viewer: Option<Process>,
    /// The desktop that was seen last.
    pub(super) seen: Option<Marker>,
    display: Display,
    screen: Screen,
    site: &'a Site,
    account: Account,
    dir: PathBuf,
    clients: u32,
}

/// What tells one desktop from all others: the random title of its terminal, the window it is, and the agent's
/// process. A desktop that was started anew has none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    title: String,
    window: u32,
    agent: String,
}

/// A client whose lines are listened to, with all others that speak about this desk.
#[derive(Debug)]
pub(super) struct Watch {
    tails: Vec<Tail>,
    pub(super) heard: Vec<Heard>,
}

impl<'a> Desk<'a> {
    /// Furnishes desk number so-and-so for this kind of cuts.
    pub(super) fn furnish(site: &'a Site, kind: Kind, number: usize) -> Result<Self> {
        let account = site.add_account(&format!("{kind}{number}"))?;
        let dir = site.dir().join(format!("desk-{kind}-{number}"));
        let screen = Screen::start(&dir, 1024, 768)?;
        let count = if site.is_encrypted() { Count::Wire } else { Count::Desktop };
        Ok(Self {
            kind,
            relay: Relay::start(site.port())?,
            count,
            viewer: None,
            seen: None,
            display: screen.open()?,
            screen,
            site,
            account,
            dir,
            clients: 0,
        })
    }

    /// Puts the desktop into the state that this kind of hand-over begins with.
    pub(super) fn prepare(&mut self) -> Result<()> {
        match self.kind {
            Kind::Connect => self.stop_machine(),
            Kind::Resume => {
                self.ensure_shown()?;
                self.close_viewer();
                wait_until("the suspended desktop", LIMIT, || {
                    (self.x_state().as_deref() == Some("suspended")).then_some(())
                })
            }
            Kind::Takeover => self.ensure_shown(),
        }
    }

    /// Ends the virtual machine, and with it every desktop.
    pub(super) fn stop_machine(&mut self) -> Result<()> {
        self.close_viewer();
        self.seen = None;
        self.site.qa(&["vm", "stop", "-f", &format!("id={}", self.account.vm), "--wait"])?;
        Ok(())
    }

    /// Starts a client; through the relay or past it.
    pub(super) fn start_client(&mut self, through_relay: bool) -> Result<Process> {
        let port = through_relay.then(|| self.relay.port());
        let visit = Visit { geometry: (800, 600), port, ..Visit::default() };
        let command = self.site.client_command(&self.screen, &self.account, &visit)?;
        self.clients += 1;
        let log = self.dir.join(format!("client-{}.log", self.clients));
        let line = format!("{}\n", self.account.password);
        Process::start_with_input("qvdclient", command, &log, Some(&line))
    }

    /// Listens to everything that is said about this desk from now on.
    pub(super) fn watch(&self) -> Watch {
        let logs = self.site.guest_dir(self.account.vm).join("log");
        let own = Some(format!("vm={}", self.account.vm));
        Watch {
            tails: vec![
                Tail::new(Source::Agent, logs.join("qvd.log"), None),
                Tail::new(Source::Nxagent, logs.join("qvd-nxagent.log"), None),
                Tail::new(Source::Node, self.site.log().to_owned(), own),
            ],
            heard: Vec::new(),
        }
    }

    /// Connects past the relay until the desktop shows, once `old`, a client that was cut, has ended. The answer
    /// says how many clients that took.
    pub(super) fn reconnect(&mut self, mut old: Option<Process>, watch: &mut Watch) -> Result<u32> {
        let mut complaints = Vec::new();
        let mut before = self.viewer.take();
        for attempt in 1..=ATTEMPTS {
            let mut client = self.start_client(false)?;
            // A cut client, or one whose desktop was taken over, ends by itself, and its window with it.
            for left in [&mut old, &mut before] {
                if let Some(mut process) = left.take() {
                    let who = format!("a client that lost its desktop ({})", process.log().display());
                    let ended = process.wait_exit(LIMIT);
                    ended.with_context(|| format!("{who} does not end"))?;
                }
            }
            match self.wait_shown(&mut client, watch) {
                Ok(marker) => {
                    self.viewer = Some(client);
                    self.seen = Some(marker);
                    return Ok(attempt);
                }
                Err(e) => complaints.push(format!("{e:#}")),
            }
        }
        bail!("no desktop after {ATTEMPTS} clients: {}", complaints.join("; "))
    }

    /// Waits until the desktop that this client shows is drawn.
    pub(super) fn wait_shown(&self, client: &mut Process, watch: &mut Watch) -> Result<Marker> {
        let mut last = String::new();
        let mut started = false;
        let shown = wait_until("the desktop", LIMIT, || {
            watch.poll();
            if !client.is_running() {
                return Some(None);
            }
            started = started || client.lines().iter().any(|line| line == STARTED);
            if !started {
                return None;
            }
            match self.see() {
                Ok(marker) => Some(Some(marker)),
                Err(e) => {
                    last = format!("{e:#}");
                    None
                }
            }
        });
        match shown {
            Ok(Some(marker)) => Ok(marker),
            Ok(None) => bail!("the client ended: {}", client.lines().join(" | ")),
            Err(e) => Err(e.context(format!("desktop started: {started}; last seen: {last}"))),
        }
    }

    /// Keeps what could explain what came of a cut, in a directory of its own.
    pub(super) fn keep_evidence(&self, number: usize) -> Result<PathBuf> {
        let to = self.dir.join(format!("cut-{number}"));
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
        let guest = self.site.guest_dir(self.account.vm);
        let logs = ["qvd.log", "qvd-nxagent.log", "qvd-session.log"];
        for (from, name) in logs.iter().map(|name| (guest.join("log").join(name), *name)) {
            // What is not there explains something too.
            let _ = fs::copy(from, to.join(name));
        }
        let _ = fs::copy(self.site.log(), to.join("node.log"));
        if let Ok(picture) = self.display.screen() {
            picture.save(&to.join("screen.png"))?;
        }
        Ok(to)
    }

    /// The desktop as the user sees it now.
    fn see(&self) -> Result<Marker> {
        let inside = self.site.inside(self.account.vm)?;
        drawn(&self.display, &nx_window(&self.display)?, &inside, &[TERMINAL])?;
        let mut windows = inside.windows()?;
        windows.retain(|window| window.title.starts_with(TITLE));
        let terminal = windows.pop().context("the desktop has no marked terminal")?;
        let agent = self.site.guest_dir(self.account.vm).join("nxagent.pid");
        let agent = fs::read_to_string(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
        Ok(Marker { title: terminal.title, window: terminal.id, agent })
    }

    fn ensure_shown(&mut self) -> Result<()> {
        if self.seen.is_some() && self.viewer.as_mut().is_some_and(Process::is_running) {
            return Ok(());
        }
        let mut watch = self.watch();
        self.reconnect(None, &mut watch).map(drop)
    }

    fn close_viewer(&mut self) {
        if let Some(mut viewer) = self.viewer.take() {
            viewer.stop(Duration::from_secs(10));
        }
    }

    /// What the agent says its X session is.
    fn x_state(&self) -> Option<String> {
        let state = fs::read_to_string(self.site.guest_dir(self.account.vm).join("nxagent.state")).ok()?;
        Some(state.split(':').next().unwrap_or_default().trim().to_owned())
    }
}

impl Watch {
    /// Listens to one more client.
    pub(super) fn add(&mut self, client: &Process) {
        self.tails.push(Tail::from_start(Source::Client, client.log().to_owned()));
    }

    /// Takes in what was said since the last call.
    pub(super) fn poll(&mut self) {
        for tail in &mut self.tails {
            tail.poll(&mut self.heard);
        }
    }

    /// When a client of this watch says that its desktop started, measured from now on.
    pub(super) fn has_started(&self) -> bool {
        self.heard.iter().any(|h| h.step.source == Source::Client && h.line == STARTED)
    }
}

/// The desktop: one terminal, marked by a random title and filled with it, so that another one looks different.
pub(super) const SESSION: &str = r#"#!/bin/sh
mark=$(cat /proc/sys/kernel/random/uuid)
exec xterm -T "desktop $mark" -geometry 60x20+20+20 -bg white -fg black +bc +sb -e sh -c '
    for line in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do
        printf "\033[3%dm%s %s\n" $((line % 6 + 1)) "$line" "$1"
    done
    exec sleep infinity' sh "$mark"
"#;

const TITLE: &str = "desktop ";

/// The client's last step.
const STARTED: &str = "Desktop started";

/// Clients that may be needed for one desktop; more than one is told, but no desktop is lost by it.
const ATTEMPTS: u32 = 3;

/// End of every wait; machines are shared.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Asks every 2 ms, for moments that matter to the millisecond.
pub(super) fn poll_quickly<T>(limit: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let (_silent, bell) = std::sync::mpsc::channel::<()>();
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= deadline || crate::process::is_cancelled() {
            return None;
        }
        let _ = bell.recv_timeout(Duration::from_millis(2));
    }
}
