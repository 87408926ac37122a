//! The hand-over sweep: connect, resume and takeover are cut wherever something can be observed, and no desktop that
//! somebody was connected to may be lost by it.
//!
//! A real site, clients, nxproxies and nxagents. For each cut: bring the desktop into its state, start a client
//! through a [relay](crate::relay), cut the link or kill the client at the moment, connect again past the relay,
//! and compare what shows with what was there. The kinds are swept side by side, each at desks of its own.
//!
//! Moments are steps (every line that client, agent, nxagent and node say during an undisturbed hand-over, the
//! router's 102 answers and the agent's calls among them), times, and bytes of the link. Bytes of the desktop's own
//! stream are counted at a second site whose links are not encrypted.

mod cut;
mod desk;
mod plan;
mod totals;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use cut::{Crash, Fate, Outcome, Reached};
pub use plan::{Cut, Extent, Kind, Means, Measured, Moment, OFFSETS};
pub use totals::{Timing, Totals};

use crate::site::Site;
use desk::Desk;
use plan::{Random, Series};

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

impl Sweep {
    /// Makes all cuts with sites below `dir`, and tells of each.
    ///
    /// # Errors
    ///
    /// When a part of the lab fails; a desktop that is lost is a result, no error.
    pub fn run(&self, dir: &Path, tell: &(dyn Fn(&str) + Sync)) -> Result<Totals> {
        let series = self.extent.series();
        let sweep_site = |encrypted| {
            let own: Vec<_> = series.iter().copied().filter(|own| own.encrypted == encrypted).collect();
            let dir = dir.join(if encrypted { "encrypted" } else { "plain" });
            move || {
                if own.is_empty() {
                    Ok(Totals::default())
                } else {
                    self.sweep_site(&dir, encrypted, &own, tell)
                }
            }
        };
        side_by_side([true, false].map(sweep_site))
    }

    fn sweep_site(
        &self,
        dir: &Path,
        encrypted: bool,
        series: &[Series],
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Totals> {
        let site = self.start_site(dir, encrypted)?;
        let sweep = |series: Series| {
            let site = &site;
            move || self.sweep_series(site, series, tell).with_context(|| format!("sweep of {series}"))
        };
        side_by_side(series.iter().copied().map(sweep))
    }

    /// Several desks take the cuts of one series from one list: most of the time each waits for something.
    fn sweep_series(&self, site: &Site, series: Series, tell: &(dyn Fn(&str) + Sync)) -> Result<Totals> {
        let mut first = Desk::furnish(site, series.kind, series.link, 1)?;
        let measured = cut::measure(&mut first)?;
        let mut totals = Totals::default();
        totals.count_agent(first.is_guarded()?);
        let mut random = Random::new(self.seed ^ (series.kind as u64 + 1));
        let cuts = plan::cuts(self.extent, series, &measured, &mut random);
        tell(&format!(
            "{series}: undisturbed {} ms, {} steps, {} bytes up, {} down{}; {} cuts",
            measured.lasted.as_millis(),
            measured.steps.len(),
            measured.up,
            measured.down,
            if series.encrypted { "" } else { " of the desktop's stream" },
            cuts.len()
        ));
        let left = Mutex::new(cuts.iter().enumerate());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut work: Vec<Box<dyn FnOnce() -> Result<Totals> + Send + '_>> = Vec::new();
        work.push(Box::new(|| sweep_desk(&mut first, next, tell)));
        for number in 2..=desks(series.kind).min(cuts.len()) {
            work.push(Box::new(move || {
                sweep_desk(&mut Desk::furnish(site, series.kind, series.link, number)?, next, tell)
            }));
        }
        totals.merge(side_by_side(work)?);
        Ok(totals)
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
        let mut cut = cut.clone();
        for attempt in 1..=ATTEMPTS {
            let outcome = cut::make(desk, &cut)?;
            let again = attempt < ATTEMPTS && cut.moment.is_byte() && outcome.reached != Reached::InTime;
            totals.add(&cut, &outcome, again);
            tell(&format!("{:8} {} {}: {outcome}", desk.kind, cut.means, cut.moment));
            let lost = matches!(outcome.desktop, Fate::Lost(_));
            if lost || outcome.clients > 1 || outcome.recovery > SLOW {
                tell(&format!("         logs: {}", desk.keep_evidence(number)?.display()));
            }
            if lost {
                desk.stop_machine()?;
            }
            if !again {
                break;
            }
            cut.moment.bring_nearer(outcome.passed);
        }
    }
    Ok(totals)
}

/// Runs parts of a sweep at the same time and adds up what came of them; a panic in one is a bug and goes on as one.
fn side_by_side<F>(parts: impl IntoIterator<Item = F>) -> Result<Totals>
where
    F: FnOnce() -> Result<Totals> + Send,
{
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(part)).collect();
        let mut totals = Totals::default();
        for thread in threads {
            totals.merge(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(totals)
    })
}

/// Desks of a series. A connect has the most steps, and its machine is stopped each time.
fn desks(kind: Kind) -> usize {
    match kind {
        Kind::Connect => 6,
        Kind::Resume | Kind::Takeover => 3,
    }
}

/// Hand-overs that a byte is waited for.
const ATTEMPTS: u32 = 5;

/// A desktop that takes so long to come back is looked into.
const SLOW: Duration = Duration::from_secs(8);
