//! The node itself: start, end, restart, a second daemon, the database's commands.

use std::time::{Duration, SystemTime};

use qvd_core::RunId;
use qvd_core::state::{HostCommand, HostState, UserState, VmState};
use qvd_core::testkit::fakes::{DriverStep, VmaMethod};
use qvd_db::{Expirations, NewImage, TakeOver};
use qvd_hypervisor::hkd::{Error, Shutdown};

use crate::site::{Daemon, NODE, Site};

#[tokio::test]
async fn a_stop_of_the_node_stops_its_machines_first() {
    let site = Site::new().await;
    let vms = [site.vm("a").await, site.vm("b").await];
    let daemon = site.daemon().await;
    for vm in vms {
        site.claim(vm).await;
        site.vm_is(vm, VmState::Running).await;
    }
    daemon.end(Shutdown::Stop).await.unwrap();
    assert_eq!(site.host_state().await, HostState::Stopped);
    for vm in vms {
        assert_eq!(site.row(vm).await.vm_state, VmState::Stopped);
    }
    assert!(site.driver.leftovers().is_empty());
}

#[tokio::test]
async fn a_restart_that_keeps_machines_adopts_them_without_touching_the_session() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    let before = site.vm_is(vm, VmState::Running).await;
    let _router =
        std::fs::File::create(site.router_lock_file(vm)).map(|f| f.lock().map(|()| f)).unwrap().unwrap();
    site.connect(vm).await;
    daemon.end(Shutdown::KeepVms).await.unwrap();
    assert_eq!(site.host_state().await, HostState::Starting, "the balancer skips it");
    assert_eq!(site.driver.living().len(), 1);

    let daemon = site.daemon().await;
    let after = site.row(vm).await;
    assert_eq!((after.vm_state, after.run_id), (VmState::Running, before.run_id));
    assert_eq!((after.user_state, after.user_cmd), (UserState::Connected, None));
    assert!(after.host_incarnation > before.host_incarnation, "it follows the new daemon");
    assert_eq!(site.driver.times(DriverStep::Launch), 1);
    // It is watched again: a stop works.
    site.stop(vm).await;
    site.vm_is(vm, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_killed_daemon_leaves_machines_that_the_next_one_adopts() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.kill().await;
    let daemon = site.daemon().await;
    site.vm_is(vm, VmState::Running).await;
    assert_eq!(site.driver.times(DriverStep::Kill), 0);
    site.driver.vm(vm).unwrap().end(qvd_core::hypervisor::ExitInfo::default());
    site.vm_is(vm, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn what_no_row_tells_of_is_destroyed_and_debris_removed() {
    let site = Site::new().await;
    let (foreign, debris) = (site.vm("foreign").await, site.vm("debris").await);
    site.driver.plant_running(foreign, RunId::new(99));
    site.driver.plant_debris(debris);
    let daemon = site.daemon().await;
    site.until("everything to be gone", || async { site.driver.leftovers().is_empty().then_some(()) }).await;
    assert_eq!(site.row(foreign).await.vm_state, VmState::Stopped);
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn something_that_cannot_be_inspected_holds_up_nobody_else() {
    let site = Site::new().await;
    let (dark, other) = (site.vm("dark").await, site.vm("other").await);
    let daemon = site.daemon().await;
    site.claim(dark).await;
    site.vm_is(dark, VmState::Running).await;
    daemon.kill().await;
    site.driver.make_unreadable(dark, "permission denied");
    let daemon = site.daemon().await;
    site.vm_is(dark, VmState::Zombie).await;
    site.claim(other).await;
    site.vm_is(other, VmState::Running).await;
    assert_eq!(site.row(dark).await.vm_state, VmState::Zombie, "never taken for absent");
    site.driver.make_readable(dark);
    site.vm_is(dark, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_on_the_node_is_refused_in_clear_words() {
    let site = Site::new().await;
    let daemon = site.daemon().await;
    let refused = Daemon::launch(site.settings()).ended().await.unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
    assert!(refused.to_string().contains("another qvd-hkd of this node is running"), "{refused}");
    assert_eq!(site.host_state().await, HostState::Running, "the first one is not disturbed");
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_name_that_the_database_does_not_know_is_refused() {
    let site = Site::new().await;
    assert!(site.db.hosts().delete(site.host).await.unwrap().is_updated());
    let refused = Daemon::launch(site.settings()).ended().await.unwrap_err();
    assert!(matches!(&refused, Error::UnknownHost { name } if name == NODE), "{refused:?}");
}

#[tokio::test]
async fn a_command_in_the_database_stops_the_node() {
    let site = Site::new().await;
    let daemon = site.daemon().await;
    assert!(site.db.hosts().order(site.host, HostCommand::Stop).await.unwrap().is_updated());
    daemon.ended().await.unwrap();
    assert_eq!(site.host_state().await, HostState::Stopped);
}

#[tokio::test]
async fn a_host_that_was_taken_over_kills_what_it_runs() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    let thief = TakeOver {
        run_token: std::fs::read_to_string(site.run_dir().join("hkd.lock")).unwrap().trim().parse().unwrap(),
        machine_id: "other".into(),
        boot_id: "other".into(),
        pid: 1,
        lease: Duration::from_secs(450),
        fence_grace: Duration::from_secs(150),
        watch: Duration::ZERO,
    };
    site.db.hosts().take_over(site.host, thief).await.unwrap();
    let lost = daemon.ended().await.unwrap_err();
    assert!(matches!(lost, Error::Lost { .. }), "{lost:?}");
    assert!(site.driver.leftovers().is_empty(), "nothing lives on");
    assert_eq!(site.row(vm).await.vm_state, VmState::Running, "nothing was written");
}

#[tokio::test]
async fn limits_in_the_row_ask_the_user_and_then_stop_the_machine() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    let now = SystemTime::now();
    let soft = now - Duration::from_secs(1);
    expire(&site, vm, Some(soft), None).await;
    site.agent(vm).called(VmaMethod::Expire, 1).await;
    assert_eq!(site.row(vm).await.vm_state, VmState::Running);
    expire(&site, vm, Some(soft), Some(now + Duration::from_millis(300))).await;
    site.vm_is(vm, VmState::Stopped).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_session_that_a_hard_limit_cut_finds_its_machine_started_again() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    let first = site.vm_is(vm, VmState::Running).await;
    let _router =
        std::fs::File::create(site.router_lock_file(vm)).map(|f| f.lock().map(|()| f)).unwrap().unwrap();
    site.connect(vm).await;
    expire(&site, vm, None, Some(SystemTime::now())).await;
    site.until("a new run", || async {
        let row = site.row(vm).await;
        (row.run_id > first.run_id && row.vm_state == VmState::Running).then_some(())
    })
    .await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn sessions_of_a_dead_router_of_this_node_end() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    let lock = std::fs::File::create(site.router_lock_file(vm)).unwrap();
    lock.lock().unwrap();
    site.connect(vm).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(site.row(vm).await.user_state, UserState::Connected, "its router lives");
    drop(lock);
    site.until("the session to end", || async {
        (site.row(vm).await.user_state == UserState::Disconnected).then_some(())
    })
    .await;
    assert_eq!(site.row(vm).await.vm_state, VmState::Running);
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_configuration_change_is_obeyed_without_a_restart() {
    let site = Site::with(&[("hkd.vm.starting.max", "1")]).await;
    let vms = [site.vm("a").await, site.vm("b").await];
    let daemon = site.daemon().await;
    site.driver.hold(DriverStep::Prepare);
    for vm in vms {
        site.claim(vm).await;
    }
    site.driver.called(DriverStep::Prepare, 1).await;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    // A bad value beside it changes nothing.
    site.db
        .config()
        .set_all(&[pair("hkd.vm.starting.max", "2"), pair("internal.hkd.max_heavy", "many")])
        .await
        .unwrap();
    site.driver.called(DriverStep::Prepare, 2).await;
    site.driver.release(DriverStep::Prepare);
    for vm in vms {
        site.vm_is(vm, VmState::Running).await;
    }
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn drivers_that_work_are_published() {
    let site = Site::new().await;
    let daemon = site.daemon().await;
    let host = site.db.hosts().load(site.host).await.unwrap().unwrap();
    assert_eq!(host.hypervisors, ["fake"]);
    assert!(host.runtime.usable_ram.is_some() && host.runtime.lease_until.is_some());
    site.host_is(HostState::Running).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

/// A new image with limits for what runs on older ones, as an administrator adds it.
async fn expire(site: &Site, vm: qvd_core::VmId, soft: Option<SystemTime>, hard: Option<SystemTime>) {
    let (vm, _) = site.db.vms().load(vm).await.unwrap().unwrap();
    let image = NewImage {
        osf_id: vm.osf_id,
        file_name: "desk".into(),
        format: "none".into(),
        version: None,
        size: None,
        sha256: None,
    };
    let staged = site.db.images().stage(image).await.unwrap();
    let published = site.db.images().publish(staged.id, Expirations { soft, hard }).await.unwrap();
    assert_eq!(published.updated().unwrap().expiring_vms, 1);
}
