//! An agent without a virtual machine.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::secret::Names;
use crate::state::XState;
use crate::testkit::script::{Script, lock};
use crate::vma::{Params, Vma, VmaError};

/// A method of the agent, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VmaMethod {
    /// `ping`.
    Ping,
    /// `x_state`.
    XState,
    /// `x_start`.
    XStart,
    /// `x_suspend`.
    XSuspend,
    /// `x_stop`.
    XStop,
    /// `poweroff`.
    Poweroff,
    /// `expire`.
    Expire,
    /// `x_failure`.
    XFailure,
}

impl VmaMethod {
    /// Name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::XState => "x_state",
            Self::XStart => "x_start",
            Self::XSuspend => "x_suspend",
            Self::XStop => "x_stop",
            Self::Poweroff => "poweroff",
            Self::Expire => "expire",
            Self::XFailure => "x_failure",
        }
    }
}

/// One call that the fake received. Its `Debug` shows the names of the parameters, not their values.
#[derive(Clone, PartialEq, Eq)]
pub struct VmaCall {
    /// Method.
    pub method: VmaMethod,
    /// Parameters of `x_start` and `expire`; empty otherwise.
    pub params: Params,
}

impl fmt::Debug for VmaCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = Names(self.params.iter().map(|(name, _)| name.as_str()));
        f.debug_struct("VmaCall").field("method", &self.method).field("params", &params).finish()
    }
}

/// An agent that keeps the contract of [`Vma`] over a state that the test sets.
///
/// It begins `stopped`; `x_start` makes it walk the states of [`with_start_path`](FakeVma::with_start_path), one per
/// `x_state`; nothing else happens by itself.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use qvd_core::state::XState;
/// use qvd_core::testkit::fakes::{FakeVma, VmaMethod};
/// use qvd_core::vma::Vma;
///
/// let vma = FakeVma::new().with_start_path([XState::Starting, XState::Listening]);
/// vma.x_start(&vec![("qvd.vm.user.name".into(), "alice".into())]).await.unwrap();
/// assert_eq!(vma.x_state().await.unwrap(), XState::Starting);
/// assert_eq!(vma.x_state().await.unwrap(), XState::Listening);
/// vma.refuse_next(VmaMethod::XStart, "not now");
/// assert!(vma.x_start(&Vec::new()).await.is_err());
/// assert_eq!(vma.times(VmaMethod::XStart), 2);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FakeVma {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    world: Mutex<World>,
    script: Script<VmaMethod, VmaError>,
    powered_off: watch::Sender<bool>,
}

#[derive(Debug)]
struct World {
    state: XState,
    upcoming: VecDeque<XState>,
    start_path: Vec<XState>,
    reachable: bool,
    failure: Option<String>,
    calls: Vec<VmaCall>,
}

impl World {
    fn start(&mut self) -> Result<(), VmaError> {
        if !matches!(self.state, XState::Stopped | XState::Suspended) {
            let message = format!("the X session is {}", self.state);
            if self.state == XState::Connected {
                self.suspend();
            }
            return Err(VmaError::Refused { method: "x_start", message });
        }
        self.upcoming = self.start_path.iter().copied().collect();
        self.state = XState::Starting;
        self.failure = None;
        Ok(())
    }

    /// What the agent answers.
    fn suspend(&mut self) -> XState {
        if !matches!(self.state, XState::Connected | XState::Listening) {
            return self.state;
        }
        self.upcoming.clear();
        self.state = XState::Suspended;
        XState::Starting
    }

    /// What was there.
    fn stop(&mut self) -> XState {
        self.upcoming.clear();
        std::mem::replace(&mut self.state, XState::Stopped)
    }
}

impl Default for FakeVma {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeVma {
    /// An agent whose desktop is stopped and comes up at once when started.
    pub fn new() -> Self {
        let world = World {
            state: XState::Stopped,
            upcoming: VecDeque::new(),
            start_path: vec![XState::Listening],
            reachable: true,
            failure: None,
            calls: Vec::new(),
        };
        Self {
            inner: Arc::new(Inner {
                world: Mutex::new(world),
                script: Script::default(),
                powered_off: watch::Sender::new(false),
            }),
        }
    }

    /// States that successive `x_state` calls report after an `x_start`; the last one stays.
    pub fn with_start_path(self, path: impl IntoIterator<Item = XState>) -> Self {
        lock(&self.inner.world).start_path = path.into_iter().collect();
        self
    }

    /// Sets the state; forgets states still to come.
    pub fn set_state(&self, state: XState) {
        let mut world = lock(&self.inner.world);
        world.upcoming.clear();
        world.state = state;
    }

    /// States that the next `x_state` calls report, one each; the last one stays.
    pub fn script_states(&self, states: impl IntoIterator<Item = XState>) {
        lock(&self.inner.world).upcoming = states.into_iter().collect();
    }

    /// State now, without a call.
    pub fn state(&self) -> XState {
        lock(&self.inner.world).state
    }

    /// While false every call fails with [`VmaError::Unreachable`].
    pub fn set_reachable(&self, reachable: bool) {
        lock(&self.inner.world).reachable = reachable;
    }

    /// What `x_failure` answers until the next accepted `x_start`.
    pub fn set_failure(&self, text: &str) {
        lock(&self.inner.world).failure = Some(text.to_owned());
    }

    /// Somebody looks at the desktop, which must be listening, until the answer is dropped: it sleeps then.
    pub fn look(&self) -> FakeViewer {
        let mut world = lock(&self.inner.world);
        if world.state == XState::Listening {
            world.upcoming.clear();
            world.state = XState::Connected;
        }
        FakeViewer(self.clone())
    }

    /// The next call of this method is refused with this text.
    pub fn refuse_next(&self, method: VmaMethod, message: &str) {
        let error = VmaError::Refused { method: method.as_str(), message: message.to_owned() };
        self.fail_next(method, error);
    }

    /// The next call of this method fails so; failures queue up.
    pub fn fail_next(&self, method: VmaMethod, error: VmaError) {
        self.inner.script.fail_next(method, error);
    }

    /// Calls of this method wait until [`release`](FakeVma::release).
    pub fn hold(&self, method: VmaMethod) {
        self.inner.script.hold(method);
    }

    /// Lets waiting calls of this method go on.
    pub fn release(&self, method: VmaMethod) {
        self.inner.script.release(method);
    }

    /// Every call so far, in order of arrival.
    pub fn calls(&self) -> Vec<VmaCall> {
        lock(&self.inner.world).calls.clone()
    }

    /// How often this method was called.
    pub fn times(&self, method: VmaMethod) -> usize {
        self.inner.script.times(method)
    }

    /// Parameters of the last `x_start`.
    pub fn last_start(&self) -> Option<Params> {
        self.calls().into_iter().rev().find(|c| c.method == VmaMethod::XStart).map(|c| c.params)
    }

    /// Waits until this method has been called at least `times` times.
    pub async fn called(&self, method: VmaMethod, times: usize) {
        self.inner.script.entered(method, times).await;
    }

    /// Waits for an accepted `poweroff`: what a test connects to the end of its fake machine.
    pub async fn powered_off(&self) {
        // The sender lives in `self`, so the wait cannot end by its loss.
        let _ = self.inner.powered_off.subscribe().wait_for(|off| *off).await;
    }

    async fn enter(&self, method: VmaMethod, params: &Params) -> Result<(), VmaError> {
        lock(&self.inner.world).calls.push(VmaCall { method, params: params.clone() });
        let failure = self.inner.script.enter(method).await;
        if !lock(&self.inner.world).reachable {
            return Err(VmaError::Unreachable {
                method: method.as_str(),
                endpoint: "fake".to_owned(),
                source: "set unreachable by the test".into(),
            });
        }
        failure.map_or(Ok(()), Err)
    }

    /// What a call has done is done, also when its answer is not waited for.
    async fn answer<T: Send>(&self, answer: T) -> T {
        tokio::task::yield_now().await;
        answer
    }
}

/// Somebody who looks at the desktop of a [`FakeVma`].
#[derive(Debug)]
pub struct FakeViewer(FakeVma);

impl Drop for FakeViewer {
    fn drop(&mut self) {
        let mut world = lock(&self.0.inner.world);
        if world.state == XState::Connected {
            world.upcoming.clear();
            world.state = XState::Suspended;
        }
    }
}

#[async_trait]
impl Vma for FakeVma {
    async fn ping(&self) -> Result<(), VmaError> {
        self.enter(VmaMethod::Ping, &Params::new()).await
    }

    async fn x_state(&self) -> Result<XState, VmaError> {
        self.enter(VmaMethod::XState, &Params::new()).await?;
        let mut world = lock(&self.inner.world);
        if let Some(next) = world.upcoming.pop_front() {
            world.state = next;
        }
        Ok(world.state)
    }

    async fn x_start(&self, params: &Params) -> Result<(), VmaError> {
        self.enter(VmaMethod::XStart, params).await?;
        let started = lock(&self.inner.world).start();
        self.answer(started).await
    }

    async fn x_suspend(&self) -> Result<XState, VmaError> {
        self.enter(VmaMethod::XSuspend, &Params::new()).await?;
        let answer = lock(&self.inner.world).suspend();
        Ok(self.answer(answer).await)
    }

    async fn x_stop(&self) -> Result<XState, VmaError> {
        self.enter(VmaMethod::XStop, &Params::new()).await?;
        let found = lock(&self.inner.world).stop();
        let gone = matches!(found, XState::Stopped | XState::Stopping);
        Ok(self.answer(if gone { found } else { XState::Stopping }).await)
    }

    async fn poweroff(&self) -> Result<(), VmaError> {
        self.enter(VmaMethod::Poweroff, &Params::new()).await?;
        self.set_state(XState::Stopped);
        self.inner.powered_off.send_replace(true);
        Ok(())
    }

    async fn expire(&self, limits: &Params) -> Result<(), VmaError> {
        self.enter(VmaMethod::Expire, limits).await
    }

    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        self.enter(VmaMethod::XFailure, &Params::new()).await?;
        Ok(lock(&self.inner.world).failure.clone())
    }
}
