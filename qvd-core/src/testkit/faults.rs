//! A wrapper around a plugin in which the n-th call fails, hangs or is late.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::auth::{Access, Attempt, AuthError, Authenticator, Identity, Login, Verdict};
use crate::hook::{Hook, HookError, HookEvent, HookKind};
use crate::hypervisor::{
    Capabilities, Check, Found, Hypervisor, HypervisorError, Prepared, RunningVm, VmSpec,
};
use crate::id::VmId;
use crate::secret::Secret;
use crate::state::XState;
use crate::testkit::script::lock;
use crate::vma::{Params, Vma, VmaError};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails and nothing was done.
    Fail,
    /// It is done, but the answer is a failure: what a lost reply looks like.
    LoseAnswer,
    /// It never comes back.
    Hang,
    /// It begins that much later.
    Delay(Duration),
}

/// A plugin with faults. Asynchronous calls are counted from 1, in order of arrival, whatever the method; the others pass.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::sync::Arc;
/// use qvd_core::testkit::fakes::FakeVma;
/// use qvd_core::testkit::faults::{Fault, Faulty};
/// use qvd_core::vma::Vma;
///
/// let vma = Faulty::new(Arc::new(FakeVma::new())).on_call(2, Fault::Fail);
/// assert!(vma.ping().await.is_ok());
/// assert!(vma.ping().await.is_err());
/// assert!(vma.ping().await.is_ok());
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    plan: Mutex<BTreeMap<usize, Fault>>,
    calls: AtomicUsize,
}

/// What is left to do once a call's fault has had its first effect.
enum Course {
    Normal,
    FailNow,
    FailAfterwards,
}

impl<T: ?Sized> Faulty<T> {
    /// Wraps a plugin; without a plan every call passes.
    pub fn new(inner: Arc<T>) -> Self {
        Self { inner, plan: Mutex::default(), calls: AtomicUsize::new(0) }
    }

    /// Plans a fault for a call, from 1.
    #[must_use]
    pub fn on_call(self, nth: usize, fault: Fault) -> Self {
        lock(&self.plan).insert(nth, fault);
        self
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn course(&self) -> Course {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = lock(&self.plan).get(&nth).copied();
        match fault {
            None => Course::Normal,
            Some(Fault::Fail) => Course::FailNow,
            Some(Fault::LoseAnswer) => Course::FailAfterwards,
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Course::Normal
            }
        }
    }

    /// Runs a call along its course.
    async fn run<V, E>(
        &self,
        call: impl Future<Output = Result<V, E>>,
        failure: impl FnOnce() -> E,
    ) -> Result<V, E> {
        match self.course().await {
            Course::Normal => call.await,
            Course::FailNow => Err(failure()),
            Course::FailAfterwards => {
                // The answer is what gets lost.
                let _ = call.await;
                Err(failure())
            }
        }
    }
}

const REASON: &str = "planned by the test";

fn vma_failure(method: &'static str) -> impl FnOnce() -> VmaError {
    move || VmaError::Unreachable { method, endpoint: "faulty".to_owned(), source: REASON.into() }
}

#[async_trait]
impl<T: Vma + ?Sized> Vma for Faulty<T> {
    async fn ping(&self) -> Result<(), VmaError> {
        self.run(self.inner.ping(), vma_failure("ping")).await
    }

    async fn x_state(&self) -> Result<XState, VmaError> {
        self.run(self.inner.x_state(), vma_failure("x_state")).await
    }

    async fn x_start(&self, params: &Params) -> Result<(), VmaError> {
        self.run(self.inner.x_start(params), vma_failure("x_start")).await
    }

    async fn x_suspend(&self) -> Result<XState, VmaError> {
        self.run(self.inner.x_suspend(), vma_failure("x_suspend")).await
    }

    async fn x_stop(&self) -> Result<XState, VmaError> {
        self.run(self.inner.x_stop(), vma_failure("x_stop")).await
    }

    async fn poweroff(&self) -> Result<(), VmaError> {
        self.run(self.inner.poweroff(), vma_failure("poweroff")).await
    }

    async fn expire(&self, limits: &Params) -> Result<(), VmaError> {
        self.run(self.inner.expire(limits), vma_failure("expire")).await
    }

    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        self.run(self.inner.x_failure(), vma_failure("x_failure")).await
    }
}

fn driver_failure(vm: VmId, operation: &'static str) -> impl FnOnce() -> HypervisorError {
    move || HypervisorError::host(vm, operation, REASON)
}

#[async_trait]
impl<T: Hypervisor + ?Sized> Hypervisor for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    /// A report cannot fail: only hanging and delay have an effect here.
    async fn check(&self) -> Vec<Check> {
        let _ = self.course().await;
        self.inner.check().await
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        self.run(self.inner.prepare(spec), driver_failure(spec.vm_id, "prepare")).await
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        self.run(self.inner.launch(spec), driver_failure(spec.vm_id, "launch")).await
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        self.run(self.inner.find(), driver_failure(VmId::new(0), "find")).await
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run(self.inner.cleanup(vm), driver_failure(vm, "cleanup")).await
    }
}

#[async_trait]
impl<T: Hook + ?Sized> Hook for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn wants(&self, kind: HookKind) -> bool {
        self.inner.wants(kind)
    }

    async fn run(&self, event: &HookEvent) -> Result<(), HookError> {
        let hook = self.inner.name().to_owned();
        let failure = || HookError::new(hook, REASON);
        Faulty::run(self, self.inner.run(event), failure).await
    }
}

impl<T: Authenticator + ?Sized> Faulty<T> {
    fn undecided(&self, operation: &'static str) -> impl FnOnce() -> AuthError {
        let plugin = self.inner.name().to_owned();
        move || AuthError::new(plugin, operation, REASON)
    }
}

#[async_trait]
impl<T: Authenticator + ?Sized> Authenticator for Faulty<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        self.run(self.inner.authenticate(attempt), self.undecided("check a password")).await
    }

    async fn authenticate_token(
        &self,
        attempt: &Attempt,
        token: &Secret<String>,
    ) -> Result<Verdict, AuthError> {
        self.run(self.inner.authenticate_token(attempt, token), self.undecided("check a token")).await
    }

    fn normalize_login(&self, login: &str) -> Option<String> {
        self.inner.normalize_login(login)
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        self.inner.split_second_factor(password)
    }

    async fn verify_second_factor(&self, login: &str, token: &Secret<String>) -> Result<bool, AuthError> {
        self.run(self.inner.verify_second_factor(login, token), self.undecided("check a second factor")).await
    }

    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        self.run(self.inner.after_login(attempt, login), self.undecided("complete a login")).await
    }

    async fn before_list(&self, identity: &Identity) -> Result<(), AuthError> {
        self.run(self.inner.before_list(identity), self.undecided("prepare a list")).await
    }

    async fn before_connect(&self, identity: &Identity, vm: VmId) -> Result<(), AuthError> {
        self.run(self.inner.before_connect(identity, vm), self.undecided("prepare a connect")).await
    }

    async fn access(&self, identity: &Identity, vm: VmId) -> Result<Access, AuthError> {
        self.run(self.inner.access(identity, vm), self.undecided("decide on access")).await
    }

    async fn list(&self, identity: &Identity) -> Result<Option<Vec<VmId>>, AuthError> {
        self.run(self.inner.list(identity), self.undecided("list machines")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use crate::testkit::fakes::{FakeHypervisor, FakeVma, ScriptedAuthenticator};

    fn spec() -> VmSpec {
        VmSpec::new(VmId::new(1), RunId::new(1), "a", "a")
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_it_says() {
        let fake = FakeHypervisor::new();
        let driver = Faulty::new(Arc::new(fake.clone()))
            .on_call(1, Fault::Fail)
            .on_call(2, Fault::LoseAnswer)
            .on_call(3, Fault::Delay(Duration::from_secs(60)))
            .on_call(4, Fault::Hang);
        assert!(driver.prepare(&spec()).await.is_err());
        assert!(fake.leftovers().is_empty(), "a failed call did something");
        assert!(driver.prepare(&spec()).await.is_err());
        assert_eq!(fake.leftovers(), [VmId::new(1)], "a lost answer undid the call");
        let before = tokio::time::Instant::now();
        driver.launch(&spec()).await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(60));
        let hanging = tokio::time::timeout(Duration::from_secs(1000), driver.find());
        assert!(hanging.await.is_err());
        assert_eq!(driver.calls(), 4);
    }

    #[tokio::test]
    async fn every_call_of_an_agent_passes_and_can_fail() {
        let fake = FakeVma::new();
        fake.set_failure("the desktop died");
        let vma = Faulty::new(Arc::new(fake)).on_call(2, Fault::Fail);
        assert_eq!(vma.x_failure().await.unwrap().as_deref(), Some("the desktop died"));
        let error = vma.x_failure().await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("x_failure"), "{error}");
    }

    #[tokio::test]
    async fn an_authenticator_that_fails_is_undecided() {
        let inner = ScriptedAuthenticator::named("a").with_user("alice", "x", None);
        let auth = Faulty::new(Arc::new(inner)).on_call(1, Fault::Fail);
        let attempt = Attempt::new("alice", "x");
        assert!(auth.authenticate(&attempt).await.is_err());
        assert!(matches!(auth.authenticate(&attempt).await, Ok(Verdict::Accepted(_))));
    }
}
