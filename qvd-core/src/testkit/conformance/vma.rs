//! Laws of [`Vma`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Law, Report, ensure, words};
use crate::state::XState;
use crate::testkit::cancel::{MOST_AWAITS, drop_at_await};
use crate::vma::{Params, Vma, VmaError};

const PING: Law = Law::new("ping", "A ping is answered, also while a desktop starts.");
const FRESH: Law = Law::new("fresh", "Without a desktop the state is stopped.");
const START: Law =
    Law::new("start", "A started desktop comes to listen, by way of starting or provisioning.");
const START_TWICE: Law =
    Law::new("start-twice", "A start is refused in words while a desktop is up, which goes on as it was.");
const STOP: Law = Law::new("stop", "A stop tells what it found, and soon the state is stopped.");
const STOP_STOPPED: Law =
    Law::new("stop-stopped", "Stopping or suspending what is stopped succeeds and changes nothing.");
const AGAIN: Law = Law::new("again", "After a stop the next start comes up.");
const CONCURRENT: Law =
    Law::new("concurrent", "Of starts that come at once one succeeds; the others are refused.");
const CANCEL: Law =
    Law::new("cancel", "After a start that was dropped at any await the state is told, and a stop works.");

type Opening = Pin<Box<dyn Future<Output = Arc<dyn Vma>> + Send>>;

/// How an agent without a desktop is made, and what its desktops are started with.
#[derive(Clone)]
pub struct VmaSubject {
    open: Arc<dyn Fn() -> Opening + Send + Sync>,
    params: Params,
    step: Duration,
}

impl fmt::Debug for VmaSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmaSubject").field("step", &self.step).finish_non_exhaustive()
    }
}

impl VmaSubject {
    /// `open` makes a fresh agent; what it needs to live must live as long as the answer does.
    pub fn new<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Arc<dyn Vma>> + Send + 'static,
    {
        let open = move || Box::pin(open()) as Opening;
        Self { open: Arc::new(open), params: Params::new(), step: Duration::from_secs(20) }
    }

    /// Parameters of each start.
    #[must_use]
    pub fn params(mut self, params: Params) -> Self {
        self.params = params;
        self
    }

    /// Longest time for one step: a start, a stop.
    #[must_use]
    pub fn step_limit(mut self, limit: Duration) -> Self {
        self.step = limit;
        self
    }

    /// Waits for a state; every state on the way must be among `via`.
    async fn wait_for(&self, vma: &dyn Vma, wanted: XState, via: &[XState]) -> Result<(), String> {
        let deadline = Instant::now() + self.step;
        loop {
            let state = state(vma).await?;
            if state == wanted {
                return Ok(());
            }
            ensure(via.contains(&state), || format!("'{state}' on the way to '{wanted}'"))?;
            ensure(Instant::now() < deadline, || format!("still '{state}', not '{wanted}'"))?;
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start(&self, vma: &dyn Vma) -> Result<(), String> {
        vma.x_start(&self.params).await.map_err(|e| words(&e))?;
        self.wait_for(vma, XState::Listening, &ON_THE_WAY_UP).await
    }

    async fn stop(&self, vma: &dyn Vma) -> Result<(), String> {
        vma.x_stop().await.map_err(|e| words(&e))?;
        self.wait_for(vma, XState::Stopped, XState::ALL).await
    }
}

const ON_THE_WAY_UP: [XState; 2] = [XState::Starting, XState::Provisioning];

/// Runs the suite.
///
/// # Panics
///
/// When a law is broken; the message is the report.
pub async fn vma(subject: VmaSubject) -> Report {
    let report = vma_report(subject).await;
    report.assert_kept();
    report
}

/// Runs the suite and reports.
pub async fn vma_report(s: VmaSubject) -> Report {
    let mut report = Report::new("agent");
    let (few, many) = (s.step * 4, s.step * 60);
    report.check(PING, true, few, ping(s.clone())).await;
    report.check(FRESH, true, few, fresh(s.clone())).await;
    report.check(START, true, few, start(s.clone())).await;
    report.check(START_TWICE, true, few, start_twice(s.clone())).await;
    report.check(STOP, true, few, stop(s.clone())).await;
    report.check(STOP_STOPPED, true, few, stop_stopped(s.clone())).await;
    report.check(AGAIN, true, few, again(s.clone())).await;
    report.check(CONCURRENT, true, few, concurrent(s.clone())).await;
    report.check(CANCEL, true, many, cancel(s)).await;
    report
}

async fn state(vma: &dyn Vma) -> Result<XState, String> {
    vma.x_state().await.map_err(|e| words(&e))
}

async fn ping(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    vma.ping().await.map_err(|e| words(&e))?;
    let starting = {
        let (vma, params) = (Arc::clone(&vma), s.params.clone());
        tokio::spawn(async move { vma.x_start(&params).await })
    };
    for _ in 0..5 {
        let answered = timeout(Duration::from_secs(2), vma.ping()).await;
        answered.map_err(|_| "no answer while a desktop starts".to_owned())?.map_err(|e| words(&e))?;
    }
    starting.await.map_err(|e| e.to_string())?.map_err(|e| words(&e))?;
    s.stop(&*vma).await
}

async fn fresh(s: VmaSubject) -> Result<(), String> {
    let state = state(&*(s.open)().await).await?;
    ensure(state == XState::Stopped, || format!("'{state}'"))
}

async fn start(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    s.start(&*vma).await?;
    s.stop(&*vma).await
}

async fn start_twice(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    s.start(&*vma).await?;
    refused(vma.x_start(&s.params).await)?;
    let now = state(&*vma).await?;
    ensure(now == XState::Listening, || format!("'{now}' after the second start"))?;
    s.stop(&*vma).await
}

/// That a start was refused, with a text.
fn refused(outcome: Result<(), VmaError>) -> Result<(), String> {
    match outcome {
        Err(VmaError::Refused { message, .. }) if !message.trim().is_empty() => Ok(()),
        other => Err(format!("a start while a desktop is up: {other:?}")),
    }
}

async fn stop(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    s.start(&*vma).await?;
    let found = vma.x_stop().await.map_err(|e| words(&e))?;
    ensure(found == XState::Listening, || format!("it found '{found}' where 'listening' was"))?;
    s.wait_for(&*vma, XState::Stopped, &[XState::Stopping]).await
}

async fn stop_stopped(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    for found in [vma.x_stop().await, vma.x_suspend().await] {
        let found = found.map_err(|e| words(&e))?;
        ensure(found == XState::Stopped, || format!("it found '{found}' where nothing was"))?;
    }
    let now = state(&*vma).await?;
    ensure(now == XState::Stopped, || format!("'{now}' afterwards"))
}

async fn again(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    for _ in 0..2 {
        s.start(&*vma).await?;
        s.stop(&*vma).await?;
    }
    Ok(())
}

async fn concurrent(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (vma, params) = (Arc::clone(&vma), s.params.clone());
        starts.spawn(async move { vma.x_start(&params).await });
    }
    let mut succeeded = 0;
    while let Some(outcome) = starts.join_next().await {
        match outcome.map_err(|e| e.to_string())? {
            Ok(()) => succeeded += 1,
            other => refused(other)?,
        }
    }
    ensure(succeeded == 1, || format!("{succeeded} of 4 starts succeeded"))?;
    s.wait_for(&*vma, XState::Listening, &ON_THE_WAY_UP).await?;
    s.stop(&*vma).await
}

async fn cancel(s: VmaSubject) -> Result<(), String> {
    let vma = (s.open)().await;
    for nth in 0..MOST_AWAITS {
        let at = |problem: String| format!("dropped at await {nth}: {problem}");
        let done = drop_at_await(vma.x_start(&s.params), nth).await;
        if let Some(Err(error)) = &done {
            return Err(at(words(error)));
        }
        state(&*vma).await.map_err(at)?;
        // The start may go on after its caller: stop until it stays stopped.
        settle(&s, &*vma).await.map_err(at)?;
        if done.is_some() {
            break;
        }
    }
    s.start(&*vma).await?;
    s.stop(&*vma).await
}

async fn settle(s: &VmaSubject, vma: &dyn Vma) -> Result<(), String> {
    s.stop(vma).await?;
    sleep(Duration::from_millis(20)).await;
    if state(vma).await? == XState::Stopped { Ok(()) } else { s.stop(vma).await }
}
