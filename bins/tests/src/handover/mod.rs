//! The hand-over sweep: connect, resume and takeover are cut wherever something can be observed, and no desktop that
//! somebody was connected to may be lost by it.
//!
//! A real site, clients, nxproxies and nxagents. For each cut: bring the desktop into its state, start a client
//! through a [relay](crate::relay), cut the link or kill the client at the moment, connect again past the relay,
//! and compare what shows with what was there. The kinds are swept side by side, each at a desk of its own.
//!
//! Moments are steps (every line that client, agent, nxagent and node say during an undisturbed hand-over, the
//! router's 102 answers and the agent's calls among them), times, and bytes of the link. Bytes of the desktop's own
//! stream are counted at a second site whose links are not encrypted.

mod cut;
mod desk;
mod plan;
mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use cut::{Crash, Fate, Outcome, Reached};
pub use plan::{Cut, Extent, Kind, Means, Measured, Moment, OFFSETS};
pub use trace::{Source, Step};

use crate::site::Site;
use desk::Desk;
use plan::Random;

/// What to sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// How much.
    pub extent: Extent,
    /// Decides offsets and the ways of cutting.
    pub seed: u64,
    /// `vma.nxagent.guard` is `auto`, else `0`.
    pub guard: bool,
}

/// What came of all cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cuts made.
    pub cuts: usize,
    /// Desktops that were the same afterwards, or that nobody had been connected to.
    pub kept: usize,
    /// Desktops that were lost.
    pub lost: usize,
    /// Cuts after which it took more than one client to get the desktop back.
    pub repeated: usize,
    /// Agents that died or span, by signal and phase.
    pub crashes: BTreeMap<Crash, usize>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crashes: usize = self.crashes.values().sum();
        write!(f, "cuts={} kept={} lost={} agent_crashes={crashes}", self.cuts, self.kept, self.lost)
    }
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.cuts += 1;
        match outcome.desktop {
            Fate::Kept | Fate::Fresh => self.kept += 1,
            Fate::Lost(_) => self.lost += 1,
        }
        self.repeated += usize::from(outcome.clients > 1);
        for crash in &outcome.crashes {
            *self.crashes.entry(crash.clone()).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.kept += other.kept;
        self.lost += other.lost;
        self.repeated += other.repeated;
        for (crash, count) in other.crashes {
            *self.crashes.entry(crash).or_default() += count;
        }
    }
}

impl Sweep {
    /// Makes all cuts with sites below `dir`, and tells of each.
    ///
    /// # Errors
    ///
    /// When a part of the lab fails; a desktop that is lost is a result, no error.
    pub fn run(&self, dir: &Path, tell: &(dyn Fn(&str) + Sync)) -> Result<Totals> {
        let mut totals = Totals::default();
        if self.extent != Extent::Dangerous {
            totals.merge(self.sweep_site(&dir.join("encrypted"), true, &Kind::ALL, tell)?);
        }
        let kinds = if self.extent == Extent::Full { &Kind::ALL[..] } else { &[Kind::Resume] };
        totals.merge(self.sweep_site(&dir.join("plain"), false, kinds, tell)?);
        Ok(totals)
    }

    fn sweep_site(
        &self,
        dir: &Path,
        encrypted: bool,
        kinds: &[Kind],
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Totals> {
        let site = self.start_site(dir, encrypted)?;
        let sweep_kind =
            |kind| self.sweep_kind(&site, kind, encrypted, tell).with_context(|| format!("sweep of {kind}"));
        let mut totals = Totals::default();
        std::thread::scope(|scope| {
            let kinds: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| sweep_kind(*kind))).collect();
            for kind in kinds {
                totals.merge(joined(kind)?);
            }
            Ok(totals)
        })
    }

    /// Several desks take the cuts of one kind from one list: most of the time each waits for something.
    fn sweep_kind(
        &self,
        site: &Site,
        kind: Kind,
        encrypted: bool,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Totals> {
        let mut first = Desk::furnish(site, kind, 1)?;
        let measured = cut::measure(&mut first)?;
        let mut random = Random::new(self.seed ^ (kind as u64 + 1));
        let cuts = if encrypted {
            plan::cuts(self.extent, &measured, &mut random)
        } else {
            plan::byte_cuts(self.extent, kind, &measured, &mut random)
        };
        tell(&format!(
            "{kind}: undisturbed {} ms, {} steps, {} bytes up, {} down{}; {} cuts",
            measured.lasted.as_millis(),
            measured.steps.len(),
            measured.up,
            measured.down,
            if encrypted { "" } else { " of the desktop's stream" },
            cuts.len()
        ));
        let left = Mutex::new(cuts.iter().enumerate());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut totals = Totals::default();
        std::thread::scope(|scope| {
            let others: Vec<_> = (2..=DESKS)
                .map(|number| {
                    scope.spawn(move || sweep_desk(&mut Desk::furnish(site, kind, number)?, next, tell))
                })
                .collect();
            totals.merge(sweep_desk(&mut first, next, tell)?);
            for other in others {
                totals.merge(joined(other)?);
            }
            Ok(totals)
        })
    }

    fn start_site(&self, dir: &Path, encrypted: bool) -> Result<Site> {
        let skeleton = dir.join("skeleton");
        fs::create_dir_all(&skeleton).with_context(|| format!("cannot make {}", skeleton.display()))?;
        let session = skeleton.join(".xsession");
        fs::write(&session, desk::SESSION)
            .and_then(|()| fs::set_permissions(&session, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", session.display()))?;
        let agent = dir.join("vma.conf");
        let guard = if self.guard { "auto" } else { "0" };
        fs::write(&agent, format!("vma.nxagent.guard = {guard}\nlog.level = DEBUG\n"))
            .with_context(|| format!("cannot write {}", agent.display()))?;
        let text =
            |path: &Path| path.to_str().map(str::to_owned).context("the directory's name is not UTF-8");
        let site = Site::start(
            dir,
            &[
                ("vm.process.home.skel", &text(&skeleton)?),
                ("vm.process.vma.config", &text(&agent)?),
                ("l7r.use_ssl", if encrypted { "1" } else { "0" }),
                ("log.level", "DEBUG"),
            ],
        )?;
        site.add_flavour()?;
        Ok(site)
    }
}

/// Makes the cuts that are left, until none is.
fn sweep_desk<'c>(
    desk: &mut Desk<'_>,
    next: impl Fn() -> Option<(usize, &'c Cut)>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Totals> {
    let mut totals = Totals::default();
    while let Some((number, cut)) = next() {
        let outcome = cut::make(desk, cut)?;
        totals.add(&outcome);
        tell(&format!("{:8} {} {}: {outcome}", desk.kind, cut.means, cut.moment));
        let lost = matches!(outcome.desktop, Fate::Lost(_));
        if lost || outcome.clients > 1 || outcome.recovery > SLOW {
            tell(&format!("         logs: {}", desk.keep_evidence(number)?.display()));
        }
        if lost {
            desk.stop_machine()?;
        }
    }
    Ok(totals)
}

/// What a thread of the lab answered; a panic in there is a bug and goes on as one.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Desks of each kind.
const DESKS: usize = 2;

/// A desktop that takes so long to come back is looked into.
const SLOW: Duration = Duration::from_secs(8);
