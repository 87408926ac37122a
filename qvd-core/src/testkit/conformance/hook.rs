//! Laws of [`Hook`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Law, Report, ensure};
use crate::hook::{Hook, HookEvent};
use crate::testkit::cancel::at_every_await;

const STABLE: Law = Law::new("stable-wishes", "`wants` gives the same answer every time.");
const RUNS: Law =
    Law::new("runs", "An event that it wants and that suits it runs without a failure, more than once.");
const CONCURRENT: Law = Law::new("concurrent", "Events may come while others run.");
const CANCEL: Law =
    Law::new("cancel", "A run that was dropped at any await does not keep the next one from its work.");

/// A hook and an event that it ought to like.
#[derive(Clone)]
pub struct HookSubject {
    hook: Arc<dyn Hook>,
    event: HookEvent,
    limit: Duration,
}

impl fmt::Debug for HookSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookSubject").field("hook", &self.hook).finish_non_exhaustive()
    }
}

impl HookSubject {
    /// `event` is one that the hook wants and runs without a failure.
    pub fn new(hook: Arc<dyn Hook>, event: HookEvent) -> Self {
        Self { hook, event, limit: Duration::from_secs(30) }
    }

    /// Limit for each law.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// Runs the suite.
///
/// # Panics
///
/// When a law is broken; the message is the report.
pub async fn hook(subject: HookSubject) -> Report {
    let report = hook_report(subject).await;
    report.assert_kept();
    report
}

/// Runs the suite and reports.
pub async fn hook_report(subject: HookSubject) -> Report {
    let mut report = Report::new(format!("hook {}", subject.hook.name()));
    let limit = subject.limit;
    report.check(STABLE, true, limit, stable(subject.clone())).await;
    report.check(RUNS, true, limit, runs(subject.clone())).await;
    report.check(CONCURRENT, true, limit, concurrent(subject.clone())).await;
    report.check(CANCEL, true, limit, cancel(subject)).await;
    report
}

async fn stable(subject: HookSubject) -> Result<(), String> {
    let wants: Vec<bool> = (0..10).map(|_| subject.hook.wants(subject.event.kind)).collect();
    ensure(wants.iter().all(|w| *w), || format!("wants {:?}: {wants:?}", subject.event.kind))
}

async fn runs(subject: HookSubject) -> Result<(), String> {
    for _ in 0..2 {
        subject.hook.run(&subject.event).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

async fn concurrent(subject: HookSubject) -> Result<(), String> {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let subject = subject.clone();
        running.spawn(async move { subject.hook.run(&subject.event).await });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    Ok(())
}

async fn cancel(subject: HookSubject) -> Result<(), String> {
    let run = || subject.hook.run(&subject.event);
    at_every_await(run, || async { run().await.map_err(|e| e.to_string()) }).await.map(|_| ())
}
