//! The daemon is killed at every step of a virtual machine's life, one after another, and started again: each time
//! the site reaches the same end as without the crash.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use qvd_core::VmId;
use qvd_core::state::{HostState, VmState};
use qvd_hypervisor::hkd::{Probe, Shutdown};
use tokio::sync::Notify;

use crate::site::{Daemon, Site};

/// Counts steps; the task that reaches the chosen one stays there for ever.
#[derive(Default)]
struct Tripwire {
    crash_at: Option<usize>,
    seen: Mutex<Vec<String>>,
    reached: Notify,
}

impl Tripwire {
    fn steps(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

#[async_trait]
impl Probe for Tripwire {
    async fn reached(&self, _vm: VmId, step: &str) {
        let count = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(step.to_owned());
            seen.len()
        };
        if self.crash_at == Some(count) {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// One life, start to stop; `Some(step)` when the daemon was killed on the way.
async fn live(crash_at: Option<usize>) -> (Site, Vec<String>, Option<String>) {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let wire = Arc::new(Tripwire { crash_at, ..Tripwire::default() });
    let daemon = Daemon::start(site.settings().probe(Arc::clone(&wire) as Arc<dyn Probe>)).await;
    site.claim(vm).await;
    let ordered = AtomicBool::new(false);
    let whole_life = async {
        site.vm_is(vm, VmState::Running).await;
        site.stop(vm).await;
        ordered.store(true, Ordering::Relaxed);
        site.vm_is(vm, VmState::Stopped).await;
    };
    let crashed = tokio::select! {
        () = whole_life => false,
        () = wire.reached.notified() => true,
    };
    if !crashed {
        daemon.end(Shutdown::Stop).await.unwrap();
        return (site, wire.steps(), None);
    }
    daemon.kill().await;
    let step = wire.steps().last().cloned();
    let second = site.daemon().await;
    converges(&site, vm, ordered.load(Ordering::Relaxed)).await;
    // And the machine is as good as new.
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    second.end(Shutdown::Stop).await.unwrap();
    (site, wire.steps(), step)
}

/// After the restart: running or stopped within bounds, never two at once, then stopped with nothing left: on demand,
/// or by itself when that was ordered before the crash, for no order vanishes.
async fn converges(site: &Site, vm: VmId, ordered: bool) {
    site.until("a settled state", || async {
        let row = site.row(vm).await;
        let settled = match row.vm_state {
            VmState::Running => site.driver.living().len() == 1,
            VmState::Stopped => {
                row.vm_cmd.is_none() && row.host_id.is_none() && site.driver.leftovers().is_empty()
            }
            _ => false,
        };
        settled.then_some(())
    })
    .await;
    if !ordered && site.row(vm).await.vm_state == VmState::Running {
        site.stop(vm).await;
    }
    site.vm_is(vm, VmState::Stopped).await;
    site.until("nothing to be left", || async { site.driver.leftovers().is_empty().then_some(()) }).await;
    assert!(site.driver.living().is_empty());
}

#[tokio::test]
async fn a_daemon_killed_at_any_step_and_restarted_reaches_the_same_end() {
    let (_, steps, _) = live(None).await;
    for wanted in ["Load", "TakeStartPermit", "Prepare", "Launch", "Poweroff", "Terminate", "Cleanup"] {
        assert!(steps.iter().any(|step| step == wanted), "no {wanted} in {steps:?}");
    }
    for wanted in ["write Endpoint", "write Clear", "write State(Running, None)"] {
        assert!(steps.iter().any(|step| step == wanted), "no {wanted} in {steps:?}");
    }
    for crash_at in 1..=steps.len() {
        let one = tokio::time::timeout(Duration::from_secs(60), live(Some(crash_at)));
        let (site, _, step) =
            one.await.unwrap_or_else(|_| panic!("stuck after a crash at {crash_at}: {steps:?}"));
        let step = step.unwrap_or_else(|| panic!("step {crash_at} of {steps:?} was not reached"));
        assert_eq!(site.host_state().await, HostState::Stopped, "after a crash at {step}");
        assert!(site.driver.leftovers().is_empty(), "after a crash at {step}");
    }
}
