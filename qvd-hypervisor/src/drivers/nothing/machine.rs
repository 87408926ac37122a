//! One machine that is nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use qvd_core::VmId;
use qvd_core::hypervisor::{Endpoint, ExitInfo, HypervisorError, RunningVm};

use super::faults::{Effect, Step};
use super::storage::OpenHome;

/// How one way to end it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) delay: Duration,
    pub(super) fault: Option<Effect>,
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) terminate: Ending,
    pub(super) kill: Ending,
}

/// A machine until its clean-up.
#[derive(Debug)]
pub(super) struct NothingVm {
    vm: VmId,
    endpoint: Endpoint,
    pace: Pace,
    life: Arc<LifeLine>,
}

#[derive(Debug)]
struct LifeLine {
    exit: watch::Sender<Option<ExitInfo>>,
    /// Closed at the end.
    home: Mutex<Option<OpenHome>>,
}

impl LifeLine {
    fn end(&self, exit: ExitInfo) {
        // The home first: who sees the end may open it at once.
        drop(self.home.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.exit.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(exit);
            }
            first
        });
    }
}

impl NothingVm {
    pub(super) fn new(vm: VmId, endpoint: Endpoint, pace: Pace, home: OpenHome) -> Self {
        let life = LifeLine { exit: watch::Sender::new(None), home: Mutex::new(Some(home)) };
        Self { vm, endpoint, pace, life: Arc::new(life) }
    }

    pub(super) fn lives(&self) -> bool {
        self.life.exit.borrow().is_none()
    }

    fn planned_failure(&self, step: Step) -> HypervisorError {
        HypervisorError::host(self.vm, format!("{step} (a planned fault)"), std::io::Error::other("planned"))
    }

    /// Ends by itself after this time, unless something else ends it first.
    pub(super) fn end_in(&self, delay: Duration) {
        let life = self.life.clone();
        tokio::spawn(async move {
            let mut ended = life.exit.subscribe();
            tokio::select! {
                () = tokio::time::sleep(delay) => life.end(ExitInfo::status(0)),
                _ = ended.wait_for(Option::is_some) => {}
            }
        });
    }
}

#[async_trait]
impl RunningVm for NothingVm {
    fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    async fn exited(&self) -> ExitInfo {
        let mut exit = self.life.exit.subscribe();
        // We hold the sender, so the channel cannot close while we wait.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone()).unwrap_or_default()
    }

    async fn terminate(&self) -> Result<(), HypervisorError> {
        match self.pace.terminate.fault {
            Some(Effect::Fail) => Err(self.planned_failure(Step::Terminate)),
            // Asked, and deaf.
            Some(Effect::Hang | Effect::Stubborn) => Ok(()),
            Some(Effect::DieAfter(_)) | None => {
                self.end_in(self.pace.terminate.delay);
                Ok(())
            }
        }
    }

    async fn kill(&self, limit: Duration) -> Result<(), HypervisorError> {
        let life = self.life.clone();
        match self.pace.kill.fault {
            Some(Effect::Fail) => return Err(self.planned_failure(Step::Kill)),
            Some(Effect::Hang) => {}
            Some(Effect::Stubborn) => {
                let delay = self.pace.kill.delay;
                // The kill goes on when nobody waits for it any more.
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    life.end(killed());
                });
            }
            Some(Effect::DieAfter(_)) | None => life.end(killed()),
        }
        match tokio::time::timeout(limit, self.exited()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(HypervisorError::StillAlive { vm: self.vm, what: "a planned zombie".to_owned() }),
        }
    }
}

fn killed() -> ExitInfo {
    ExitInfo::signal(9)
}
