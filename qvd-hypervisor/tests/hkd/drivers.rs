//! The daemon with the built-in drivers.

use std::sync::Arc;

use qvd_core::hypervisor::Hypervisor;
use qvd_core::state::VmState;
use qvd_hypervisor::drivers::nothing::NothingDriver;
use qvd_hypervisor::hkd::Shutdown;

use crate::site::{Daemon, Site};

/// Steps of the nothing driver take no time.
const AT_ONCE: [(&str, &str); 4] = [
    ("internal.hkd.nothing.timeout.on_state.starting", "0"),
    ("internal.hkd.nothing.timeout.on_state.running", "0"),
    ("internal.hkd.nothing.timeout.on_state.stopping", "0"),
    ("internal.hkd.nothing.timeout.on_state.zombie", "0"),
];

#[tokio::test]
async fn a_machine_of_the_nothing_driver_needs_no_agent_and_does_not_outlive_its_daemon() {
    let site = Site::with(&AT_ONCE).await;
    let vm = site.vm("desk").await;
    let driver = || Arc::new(NothingDriver::from_config(&site.config())) as Arc<dyn Hypervisor>;
    let daemon = Daemon::start(site.settings_with(driver())).await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.kill().await;

    // A driver without memory finds nothing: the row is cleared.
    let daemon = Daemon::start(site.settings_with(driver())).await;
    site.vm_is(vm, VmState::Stopped).await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    site.stop(vm).await;
    site.vm_is(vm, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[cfg(feature = "process")]
#[tokio::test]
async fn a_process_machine_outlives_its_daemon_and_is_adopted_by_the_next() {
    use crate::lab::{Lab, skip};

    let lab = Lab::new("trap 'exit 0' TERM; touch $run/up; while :; do sleep 1 & wait; done");
    let driver = || Arc::new(lab.driver()) as Arc<dyn Hypervisor>;
    let missing: Vec<_> =
        driver().check().await.into_iter().filter(|c| c.required && c.remedy.is_some()).collect();
    if !missing.is_empty() {
        return skip(&format!("{missing:?}"));
    }
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = Daemon::start(site.settings_with(driver())).await;
    site.claim(vm).await;
    let before = site.vm_is(vm, VmState::Running).await;
    lab.await_up(vm.get()).await;
    let init = lab.record(vm.get()).init;
    daemon.kill().await;

    let daemon = Daemon::start(site.settings_with(driver())).await;
    let after = site.row(vm).await;
    assert_eq!((after.vm_state, after.run_id), (VmState::Running, before.run_id));
    assert_eq!(lab.record(vm.get()).init, init, "the same machine, not a new one");
    site.stop(vm).await;
    site.vm_is(vm, VmState::Stopped).await;
    assert!(driver().find().await.unwrap().is_empty());

    // Its home is kept, and it starts again.
    let (stored, _) = site.db.vms().load(vm).await.unwrap().unwrap();
    assert!(stored.storage.is_some_and(|home| !home.is_empty()));
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.end(Shutdown::Stop).await.unwrap();
    assert!(driver().find().await.unwrap().is_empty());
    lab.end().await;
}
