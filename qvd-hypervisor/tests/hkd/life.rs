//! Lives of virtual machines under one daemon.

use std::time::Duration;

use qvd_core::hypervisor::{ExitInfo, HypervisorError};
use qvd_core::state::{UserCommand, UserState, VmCommand, VmState};
use qvd_core::testkit::fakes::{DriverCall, DriverStep, VmaMethod};
use qvd_hypervisor::hkd::Shutdown;

use crate::site::Site;

#[tokio::test]
async fn a_claim_becomes_a_running_machine_and_a_stop_leaves_nothing() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    let row = site.vm_is(vm, VmState::Running).await;
    assert_eq!(row.vm_address.as_deref(), Some(&*format!("unix:/nonexistent/qvd-fake/{vm}")));
    assert_eq!(row.vm_phase, None);
    assert_eq!(site.driver.living().len(), 1);
    let (stored, _) = site.db.vms().load(vm).await.unwrap().unwrap();
    assert_eq!(stored.storage.as_deref(), Some(&*format!("{vm}-fs")), "the home's name is kept");

    site.stop(vm).await;
    let agent = site.agent(vm);
    agent.called(VmaMethod::Poweroff, 1).await;
    site.driver.vm(vm).unwrap().end(ExitInfo::status(0));
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert_eq!((row.host_id, row.vm_address, row.last_error), (None, None, None));
    assert!(site.driver.leftovers().is_empty());
    assert_eq!(site.driver.times(DriverStep::Kill), 0, "it went by itself");
    let counts = site.db.counters().vms().await.unwrap();
    assert_eq!(counts.iter().map(|c| (c.run_attempts, c.run_ok)).next(), Some((1, 1)));
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_hangs_is_asked_then_terminated_then_killed() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    site.driver.vm(vm).unwrap().set_ignores_terminate(true);
    site.stop(vm).await;
    site.vm_is(vm, VmState::Stopped).await;
    let calls = site.driver.calls();
    let position = |wanted: &dyn Fn(&DriverCall) -> bool| calls.iter().rposition(wanted).unwrap();
    let terminate = position(&|c| matches!(c, DriverCall::Terminate(_)));
    let kill = position(&|c| matches!(c, DriverCall::Kill(..)));
    let cleanup = position(&|c| matches!(c, DriverCall::Cleanup(_)));
    assert!(terminate < kill && kill < cleanup, "{calls:?}");
    assert_eq!(site.agent(vm).times(VmaMethod::Poweroff), 1);
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_never_answers_fails_the_start_and_too_many_failures_block() {
    let site = Site::with(&[("hkd.vm.failures.max", "2")]).await;
    let vm = site.vm("desk").await;
    site.set_new_agents_answer(false);
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.until("the first failure", || async { (site.row(vm).await.fail_count == 1).then_some(()) }).await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert!(!row.blocked);
    assert!(row.last_error.unwrap().contains("its agent did not answer"));
    site.claim(vm).await;
    site.until("the second failure", || async { (site.row(vm).await.fail_count == 2).then_some(()) }).await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert!(row.blocked && row.blocked_reason.is_some());
    assert!(site.driver.living().is_empty() && site.driver.leftovers().is_empty());
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn the_hosts_own_failures_block_the_host_and_not_the_machine() {
    let site = Site::with(&[("hkd.host.failures.max", "1"), ("hkd.vm.failures.max", "1")]).await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.driver.fail_next(DriverStep::Prepare, |vm| HypervisorError::host(vm, "write the home", "disk full"));
    site.claim(vm).await;
    site.until("the host to block itself", || async {
        site.db.hosts().load(site.host).await.unwrap().unwrap().runtime.blocked.then_some(())
    })
    .await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert_eq!((row.blocked, row.fail_count), (false, 0));
    assert!(row.last_error.unwrap().contains("disk full"));
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_dies_is_cleaned_and_its_session_ended() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    let _router =
        std::fs::File::create(site.router_lock_file(vm)).map(|f| f.lock().map(|()| f)).unwrap().unwrap();
    site.connect(vm).await;
    site.driver.vm(vm).unwrap().end(ExitInfo::signal(9));
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert_eq!((row.user_state, row.user_cmd), (UserState::Connected, Some(UserCommand::Abort)));
    assert!(row.last_error.unwrap().contains("signal 9"));
    assert_eq!(row.fail_count, 0, "no failed start");
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_silent_agent_stops_a_running_machine() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    site.agent(vm).set_reachable(false);
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert!(row.last_error.unwrap().contains("did not answer"));
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_stop_while_it_is_prepared_cancels_the_start() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.driver.hold(DriverStep::Prepare);
    site.claim(vm).await;
    site.driver.called(DriverStep::Prepare, 1).await;
    site.stop(vm).await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert_eq!((row.fail_count, row.last_error), (0, None), "a cancelled start counts against nobody");
    assert_eq!(site.driver.times(DriverStep::Launch), 0);
    site.driver.release(DriverStep::Prepare);
    // And it starts again.
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_home_in_use_elsewhere_is_waited_for_and_told_and_counts_against_nobody() {
    let strict = [("hkd.vm.starting.max", "1"), ("hkd.host.failures.max", "1"), ("hkd.vm.failures.max", "1")];
    let site = Site::with(&strict).await;
    let (vm, other) = (site.vm("desk").await, site.vm("other").await);
    let daemon = site.daemon().await;
    site.driver.hold_lock(vm, "run 4 on host 'b'");
    site.claim(vm).await;
    site.driver.called(DriverStep::Prepare, 1).await;
    site.until("the holder to be told", || async { site.row(vm).await.last_error }).await;
    // It waits without a slot.
    site.claim(other).await;
    site.vm_is(other, VmState::Running).await;
    let row = site.row(vm).await;
    assert_eq!((row.vm_state, row.fail_count, row.blocked), (VmState::Starting, 0, false));
    assert!(row.last_error.unwrap().contains("run 4 on host 'b'"));
    site.driver.release_lock(vm);
    site.vm_is(vm, VmState::Running).await;
    assert!(!site.db.hosts().load(site.host).await.unwrap().unwrap().runtime.blocked);
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_clean_up_that_finds_the_home_in_use_waits_as_well_and_a_stop_ends_that() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    let held = |vm| HypervisorError::HomeInUse { vm, holder: "run 4 on host 'b'".to_owned() };
    site.driver.fail_next(DriverStep::Cleanup, held);
    site.claim(vm).await;
    site.until("the holder to be told", || async { site.row(vm).await.last_error }).await;
    assert_eq!(site.row(vm).await.vm_state, VmState::Starting, "nothing of it is a zombie here");
    site.stop(vm).await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert_eq!(row.fail_count, 0);
    assert_eq!(site.driver.times(DriverStep::Prepare), 0);
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn an_order_to_stop_waits_in_the_row_until_it_is_obeyed() {
    let site = Site::new().await;
    let (vm, later) = (site.vm("desk").await, site.vm("later").await);
    let daemon = site.daemon().await;
    site.driver.hold(DriverStep::Launch);
    site.claim(vm).await;
    site.driver.called(DriverStep::Launch, 1).await;
    site.stop(vm).await;
    // A scan that finds this one has found the stop as well.
    site.claim(later).await;
    site.driver.called(DriverStep::Prepare, 2).await;
    // The task knows, and nothing was done yet that a crash could not undo.
    let row = site.row(vm).await;
    assert_eq!((row.vm_state, row.vm_cmd), (VmState::Starting, Some(VmCommand::Stop)));
    daemon.kill().await;
    site.driver.release(DriverStep::Launch);
    let daemon = site.daemon().await;
    site.vm_is(vm, VmState::Stopped).await;
    assert!(site.driver.leftovers().is_empty());
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_row_that_was_taken_away_kills_and_is_not_written() {
    let site = Site::with(&[("internal.hkd.agent.vm_command_handler.delay", "0.05")]).await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    let row = site.vm_is(vm, VmState::Running).await;
    // Behind the daemon's back: cleared, as a release by another node would.
    assert!(site.db.vms().clear(vm, site.host, row.run_id).await.unwrap().is_updated());
    site.until("the machine to be killed", || async { site.driver.leftovers().is_empty().then_some(()) })
        .await;
    let row = site.row(vm).await;
    assert_eq!((row.vm_state, row.host_id), (VmState::Stopped, None));
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn what_will_not_die_is_a_zombie_and_others_go_on() {
    let site = Site::new().await;
    let (stuck, other) = (site.vm("stuck").await, site.vm("other").await);
    let daemon = site.daemon().await;
    site.claim(stuck).await;
    site.vm_is(stuck, VmState::Running).await;
    let machine = site.driver.vm(stuck).unwrap();
    machine.set_ignores_terminate(true);
    machine.set_resists_kill(true);
    site.stop(stuck).await;
    site.vm_is(stuck, VmState::Zombie).await;
    site.claim(other).await;
    site.vm_is(other, VmState::Running).await;
    machine.set_resists_kill(false);
    site.vm_is(stuck, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn limits_bound_how_many_boot_at_once() {
    let site = Site::with(&[("hkd.vm.starting.max", "2"), ("internal.hkd.max_heavy", "3")]).await;
    let mut vms = Vec::new();
    for n in 0..5 {
        vms.push(site.vm(&format!("desk{n}")).await);
    }
    let daemon = site.daemon().await;
    site.driver.hold(DriverStep::Prepare);
    for vm in &vms {
        site.claim(*vm).await;
    }
    site.driver.called(DriverStep::Prepare, 2).await;
    tokio::time::timeout(Duration::from_millis(200), site.driver.called(DriverStep::Prepare, 3))
        .await
        .expect_err("a third one was prepared at once");
    site.driver.release(DriverStep::Prepare);
    for vm in vms {
        site.vm_is(vm, VmState::Running).await;
    }
    daemon.end(Shutdown::Stop).await.unwrap();
}
