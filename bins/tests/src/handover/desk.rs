//! One user's desk: a screen, an account, a relay, and the desktop that shows there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::plan::Kind;
use crate::desktop::{TERMINAL, drawn, nx_window};
use crate::machine::Machine;
use crate::process::{Process, wait_until};
use crate::relay::{Count, Relay};
use crate::screen::Screen;
use crate::site::{Account, Site, Visit};
use crate::trace::{STARTED, Watch};
use crate::window::Display;

/// A desk at a site.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) kind: Kind,
    link: &'static str,
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

impl<'a> Desk<'a> {
    /// Furnishes desk number so-and-so for this kind of cuts, its clients on such a link.
    pub(super) fn furnish(site: &'a Site, kind: Kind, link: &'static str, number: usize) -> Result<Self> {
        let account = site.add_account(&format!("{kind}{link}{number}"))?;
        let dir = site.dir().join(format!("desk-{kind}-{link}-{number}"));
        let screen = Screen::start(&dir, 1024, 768)?;
        let count = if site.is_encrypted() { Count::Wire } else { Count::Desktop };
        Ok(Self {
            kind,
            link,
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
                    (self.site.x_state(self.account.vm).as_deref() == Some("suspended")).then_some(())
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
        let visit = Visit { geometry: (800, 600), port, link: self.link };
        let command = self.site.client_command(&self.screen, &self.account, &visit)?;
        self.clients += 1;
        let log = self.dir.join(format!("client-{}.log", self.clients));
        let line = format!("{}\n", self.account.password);
        Process::start_with_input("qvdclient", command, &log, Some(&line))
    }

    /// Listens to everything that is said about this desk from now on.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(self.site, self.account.vm, &[])
    }

    /// Whether the agent that shows or keeps the desktop runs with the library that keeps it alive.
    pub(super) fn is_guarded(&self) -> Result<bool> {
        let machine = Machine::of(self.site, self.account.vm)?;
        let agent = machine.find("nxagent").context("no nxagent runs in the machine")?;
        let maps = fs::read_to_string(format!("/proc/{agent}/maps")).context("cannot read nxagent's maps")?;
        Ok(maps.contains("nxagent-guard.so"))
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
        let kept = self.site.guest_logs(self.account.vm);
        let logs = ["qvd.log", "qvd-nxagent.log", "qvd-session.log"];
        for (from, name) in logs.iter().map(|name| (kept.join(name), *name)) {
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

/// Clients that may be needed for one desktop; more than one is told, but no desktop is lost by it.
const ATTEMPTS: u32 = 3;

/// End of every wait; machines are shared.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
