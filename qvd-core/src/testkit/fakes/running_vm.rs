//! A virtual machine of the fake driver, and the journal that driver and machines write together.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::hypervisor::{Endpoint, ExitInfo, HypervisorError, RunningVm, VmSpec};
use crate::id::{RunId, VmId};
use crate::testkit::script::{Script, lock};

/// A method of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverStep {
    /// `check`.
    Check,
    /// `prepare`.
    Prepare,
    /// `launch`.
    Launch,
    /// `find`.
    Find,
    /// `cleanup`.
    Cleanup,
    /// `terminate` of any machine.
    Terminate,
    /// `kill` of any machine.
    Kill,
}

/// One call that the fake received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverCall {
    /// `check`.
    Check,
    /// `prepare` with this specification.
    Prepare(Box<VmSpec>),
    /// `launch` of this run.
    Launch(VmId, RunId),
    /// `find`.
    Find,
    /// `cleanup`.
    Cleanup(VmId),
    /// `terminate`.
    Terminate(VmId),
    /// `kill`.
    Kill(VmId),
}

pub(super) type Failure = Box<dyn FnOnce(VmId) -> HypervisorError + Send>;

/// What was called on a driver and on its machines, and what the test planned for it.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) script: Script<DriverStep, Failure>,
    calls: Mutex<Vec<DriverCall>>,
}

impl Journal {
    pub(super) async fn enter(
        &self,
        step: DriverStep,
        call: DriverCall,
        vm: VmId,
    ) -> Result<(), HypervisorError> {
        lock(&self.calls).push(call);
        match self.script.enter(step).await {
            Some(failure) => Err(failure(vm)),
            None => Ok(()),
        }
    }

    pub(super) fn calls(&self) -> Vec<DriverCall> {
        lock(&self.calls).clone()
    }
}

/// A machine of [`FakeHypervisor`](super::FakeHypervisor): ends when asked, killed, or told by the test.
#[derive(Clone)]
pub struct FakeVm {
    inner: Arc<Inner>,
}

struct Inner {
    vm_id: VmId,
    endpoint: Endpoint,
    exit: watch::Sender<Option<ExitInfo>>,
    ignores_terminate: AtomicBool,
    resists_kill: AtomicBool,
    journal: Arc<Journal>,
}

impl fmt::Debug for FakeVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeVm").field("vm_id", &self.inner.vm_id).field("lives", &self.lives()).finish()
    }
}

impl FakeVm {
    pub(super) fn new(vm_id: VmId, endpoint: Endpoint, journal: Arc<Journal>) -> Self {
        Self {
            inner: Arc::new(Inner {
                vm_id,
                endpoint,
                exit: watch::Sender::new(None),
                ignores_terminate: AtomicBool::new(false),
                resists_kill: AtomicBool::new(false),
                journal,
            }),
        }
    }

    /// Ends it, as if by itself. The first end counts.
    pub fn end(&self, exit: ExitInfo) {
        self.inner.exit.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(exit);
            }
            first
        });
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<ExitInfo> {
        self.inner.exit.borrow().clone()
    }

    /// Whether it has not ended.
    pub fn lives(&self) -> bool {
        self.inner.exit.borrow().is_none()
    }

    /// How it ended, if it has.
    pub fn exit_info(&self) -> Option<ExitInfo> {
        self.inner.exit.borrow().clone()
    }

    /// Whether `terminate` is answered but not obeyed.
    pub fn set_ignores_terminate(&self, yes: bool) {
        self.inner.ignores_terminate.store(yes, Ordering::Relaxed);
    }

    /// Whether `kill` runs into its limit, as on a process that hangs in the kernel.
    pub fn set_resists_kill(&self, yes: bool) {
        self.inner.resists_kill.store(yes, Ordering::Relaxed);
    }
}

#[async_trait]
impl RunningVm for FakeVm {
    fn endpoint(&self) -> Endpoint {
        self.inner.endpoint.clone()
    }

    async fn exited(&self) -> ExitInfo {
        let mut exit = self.inner.exit.subscribe();
        // The sender lives in `self`; were it gone, so were the machine.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone()).unwrap_or_default()
    }

    async fn terminate(&self) -> Result<(), HypervisorError> {
        let vm = self.inner.vm_id;
        self.inner.journal.enter(DriverStep::Terminate, DriverCall::Terminate(vm), vm).await?;
        if !self.inner.ignores_terminate.load(Ordering::Relaxed) {
            self.end(ExitInfo::status(0));
        }
        Ok(())
    }

    async fn kill(&self, limit: Duration) -> Result<(), HypervisorError> {
        let vm = self.inner.vm_id;
        self.inner.journal.enter(DriverStep::Kill, DriverCall::Kill(vm), vm).await?;
        if !self.inner.resists_kill.load(Ordering::Relaxed) {
            self.end(ExitInfo::signal(9));
        }
        match tokio::time::timeout(limit, self.exited()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(HypervisorError::StillAlive { vm, what: "the fake machine resists".to_owned() }),
        }
    }
}
