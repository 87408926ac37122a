//! Laws of [`Vma`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Law, Report, ensure, words};
use crate::state::XState;
use crate::testkit::cancel::{NEVER_DONE, await_points, drop_at_await};
use crate::vma::{Params, Vma, VmaError};

const PING: Law = Law::new("ping", "A ping is answered, also while a desktop starts.");
const FRESH: Law = Law::new("fresh", "Without a desktop the state is stopped.");
const START: Law =
    Law::new("start", "A started desktop comes to listen, by way of starting or provisioning.");
const START_TWICE: Law =
    Law::new("start-twice", "A start is refused in words while a desktop is up, which goes on as it was.");
const STOP: Law = Law::new("stop", "A stop answers stopping, and soon the state is stopped.");
const STOP_STOPPED: Law =
    Law::new("stop-stopped", "Stopping or suspending what is stopped answers stopped and changes nothing.");
const AGAIN: Law = Law::new("again", "After a stop the next start comes up.");
const CONCURRENT: Law =
    Law::new("concurrent", "Of starts that come at once one succeeds; the others are refused.");
const SUSPEND: Law = Law::new(
    "suspend",
    "A listening desktop that is suspended sleeps, or ends if nobody ever looked at it; the next start comes up.",
);
const RESUME: Law =
    Law::new("resume", "A desktop that its viewer left sleeps, and the next start wakes it.").needs("viewer");
const SUSPEND_SEEN: Law =
    Law::new("suspend-seen", "A suspend takes a desktop from its viewer; it sleeps and can be woken.")
        .needs("viewer");
const START_SEEN: Law = Law::new(
    "start-seen",
    "A start while somebody looks is refused in words and puts the desktop to sleep; a later start wakes it.",
)
.needs("viewer");
const POWEROFF: Law =
    Law::new("poweroff", "Once a power-off is agreed to there is soon no desktop, or nobody who answers.");
const EXPIRE: Law = Law::new("expire", "Word of the machine's expiry is taken and changes nothing.");
const FAILURE: Law =
    Law::new("failure", "While nothing has failed there is no failure to tell of, also after a stop.");
const CANCEL: Law =
    Law::new("cancel", "After a start that was dropped at any await the state is told, and a stop works.");

type Opening = Pin<Box<dyn Future<Output = (Arc<dyn Vma>, Option<Look>)> + Send>>;
type Looking = Pin<Box<dyn Future<Output = Box<dyn Any + Send>> + Send>>;

/// How somebody connects to an agent's listening desktop.
#[derive(Clone)]
pub struct Look(Arc<dyn Fn() -> Looking + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

impl Look {
    /// `connect` makes a viewer, who leaves when the answer is dropped.
    pub fn new<F, V>(connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = V> + Send + 'static,
        V: Send + 'static,
    {
        Self(Arc::new(move || {
            let viewer = connect();
            Box::pin(async move { Box::new(viewer.await) as Box<dyn Any + Send> })
        }))
    }
}

/// How an agent without a desktop is made, and what its desktops are started with.
#[derive(Clone)]
pub struct VmaSubject {
    open: Arc<dyn Fn() -> Opening + Send + Sync>,
    has_viewer: bool,
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
        Self::make(false, move || {
            let opening = open();
            Box::pin(async move { (opening.await, None) })
        })
    }

    /// As [`new`](Self::new), with a way to look at the desktop, which the laws about connected desktops need.
    pub fn with_viewer<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = (Arc<dyn Vma>, Look)> + Send + 'static,
    {
        Self::make(true, move || {
            let opening = open();
            Box::pin(async move {
                let (vma, look) = opening.await;
                (vma, Some(look))
            })
        })
    }

    fn make(has_viewer: bool, open: impl Fn() -> Opening + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open), has_viewer, params: Params::new(), step: Duration::from_secs(20) }
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

    async fn open(&self) -> Arc<dyn Vma> {
        (self.open)().await.0
    }

    /// An agent whose desktop somebody looks at.
    async fn seen(&self) -> Result<(Arc<dyn Vma>, Box<dyn Any + Send>), String> {
        let (vma, look) = (self.open)().await;
        let look = look.ok_or("no way to look at the desktop")?;
        self.start(&*vma).await?;
        let viewer = (look.0)().await;
        self.wait_for(&*vma, XState::Connected, &[XState::Listening]).await?;
        Ok((vma, viewer))
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

    /// Waits until a desktop that somebody has looked at sleeps, and wakes it.
    async fn wake(&self, vma: &dyn Vma) -> Result<(), String> {
        self.wait_for(vma, XState::Suspended, &ON_THE_WAY_TO_SLEEP).await?;
        self.start(vma).await?;
        self.stop(vma).await
    }

    async fn stop(&self, vma: &dyn Vma) -> Result<(), String> {
        vma.x_stop().await.map_err(|e| words(&e))?;
        self.wait_for(vma, XState::Stopped, XState::ALL).await
    }
}

const ON_THE_WAY_UP: [XState; 2] = [XState::Starting, XState::Provisioning];
const ON_THE_WAY_TO_SLEEP: [XState; 2] = [XState::Connected, XState::Suspending];

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
    report.check(SUSPEND, true, few, suspend(s.clone())).await;
    report.check(RESUME, s.has_viewer, few, resume(s.clone())).await;
    report.check(SUSPEND_SEEN, s.has_viewer, few, suspend_seen(s.clone())).await;
    report.check(START_SEEN, s.has_viewer, few, start_seen(s.clone())).await;
    report.check(POWEROFF, true, few, poweroff(s.clone())).await;
    report.check(EXPIRE, true, few, expire(s.clone())).await;
    report.check(FAILURE, true, few, failure(s.clone())).await;
    report.check(CANCEL, true, many, cancel(s)).await;
    report
}

async fn state(vma: &dyn Vma) -> Result<XState, String> {
    vma.x_state().await.map_err(|e| words(&e))
}

async fn ping(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
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
    let state = state(&*s.open().await).await?;
    ensure(state == XState::Stopped, || format!("'{state}'"))
}

async fn start(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    s.start(&*vma).await?;
    s.stop(&*vma).await
}

async fn start_twice(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
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
    let vma = s.open().await;
    s.start(&*vma).await?;
    let answer = vma.x_stop().await.map_err(|e| words(&e))?;
    ensure(answer == XState::Stopping, || format!("'{answer}' for a desktop that was there"))?;
    s.wait_for(&*vma, XState::Stopped, &[XState::Stopping]).await
}

async fn stop_stopped(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    for answer in [vma.x_stop().await, vma.x_suspend().await] {
        let answer = answer.map_err(|e| words(&e))?;
        ensure(answer == XState::Stopped, || format!("'{answer}' where nothing was"))?;
    }
    let now = state(&*vma).await?;
    ensure(now == XState::Stopped, || format!("'{now}' afterwards"))
}

async fn again(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    for _ in 0..2 {
        s.start(&*vma).await?;
        s.stop(&*vma).await?;
    }
    Ok(())
}

async fn concurrent(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
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

async fn suspend(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    s.start(&*vma).await?;
    let answer = vma.x_suspend().await.map_err(|e| words(&e))?;
    ensure(answer == XState::Starting, || format!("'{answer}' for a desktop that listened"))?;
    let deadline = Instant::now() + s.step;
    loop {
        match state(&*vma).await? {
            XState::Stopped | XState::Suspended => break,
            XState::Listening | XState::Suspending | XState::Stopping => {}
            other => return Err(format!("'{other}' after a suspend")),
        }
        ensure(Instant::now() < deadline, || "it neither sleeps nor ends".to_owned())?;
        sleep(Duration::from_millis(10)).await;
    }
    s.start(&*vma).await?;
    s.stop(&*vma).await
}

async fn resume(s: VmaSubject) -> Result<(), String> {
    let (vma, viewer) = s.seen().await?;
    drop(viewer);
    s.wake(&*vma).await
}

async fn suspend_seen(s: VmaSubject) -> Result<(), String> {
    let (vma, _viewer) = s.seen().await?;
    let answer = vma.x_suspend().await.map_err(|e| words(&e))?;
    ensure(answer == XState::Starting, || format!("'{answer}' for a desktop that was connected"))?;
    s.wake(&*vma).await
}

async fn start_seen(s: VmaSubject) -> Result<(), String> {
    let (vma, _viewer) = s.seen().await?;
    refused(vma.x_start(&s.params).await)?;
    s.wake(&*vma).await
}

async fn poweroff(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    s.start(&*vma).await?;
    vma.poweroff().await.map_err(|e| words(&e))?;
    let deadline = Instant::now() + s.step;
    loop {
        match vma.x_state().await {
            Ok(XState::Stopped) | Err(VmaError::Unreachable { .. }) => return Ok(()),
            Ok(state) => ensure(Instant::now() < deadline, || format!("still '{state}'"))?,
            Err(error) => return Err(words(&error)),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn expire(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    let limits = [("vm.expiration.soft", "1893456000"), ("vm.expiration.hard", "1893459600")];
    let limits: Params = limits.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    vma.expire(&limits).await.map_err(|e| words(&e))?;
    s.start(&*vma).await?;
    vma.expire(&limits).await.map_err(|e| words(&e))?;
    let now = state(&*vma).await?;
    ensure(now == XState::Listening, || format!("'{now}' afterwards"))?;
    s.stop(&*vma).await
}

async fn failure(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    let nothing = async |when: &str| {
        let told = vma.x_failure().await.map_err(|e| words(&e))?;
        ensure(told.is_none(), || format!("{when}: {told:?}"))
    };
    nothing("before any desktop").await?;
    s.start(&*vma).await?;
    nothing("while it listens").await?;
    s.stop(&*vma).await?;
    nothing("after a stop").await
}

async fn cancel(s: VmaSubject) -> Result<(), String> {
    let vma = s.open().await;
    let mut at_its_end = false;
    for nth in await_points() {
        let at = |problem: String| format!("dropped at await {nth}: {problem}");
        let done = drop_at_await(vma.x_start(&s.params), nth).await;
        if let Some(Err(error)) = &done {
            return Err(at(words(error)));
        }
        state(&*vma).await.map_err(at)?;
        // The start may go on after its caller: stop until it stays stopped.
        settle(&s, &*vma).await.map_err(at)?;
        at_its_end = done.is_some();
        if at_its_end {
            break;
        }
    }
    ensure(at_its_end, || NEVER_DONE.to_owned())?;
    s.start(&*vma).await?;
    s.stop(&*vma).await
}

async fn settle(s: &VmaSubject, vma: &dyn Vma) -> Result<(), String> {
    s.stop(vma).await?;
    sleep(Duration::from_millis(20)).await;
    if state(vma).await? == XState::Stopped { Ok(()) } else { s.stop(vma).await }
}
