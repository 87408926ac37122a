//! The node itself: start, end, restart, a second daemon, the database's commands.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qvd_core::RunId;
use qvd_core::hypervisor::ExitInfo;
use qvd_core::state::{HostCommand, HostState, UserState, VmState};
use qvd_core::testkit::fakes::{DriverStep, FakeHypervisor, VmaMethod};
use qvd_db::{Expirations, NewEvent, NewImage, TakeOver};
use qvd_hypervisor::hkd::{Control, Error, Shutdown};
use tokio::sync::mpsc;

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
async fn what_cannot_be_seen_and_does_not_live_is_cleaned_all_the_same() {
    let site = Site::new().await;
    let vm = site.vm("dark").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.kill().await;
    site.driver.vm(vm).unwrap().end(ExitInfo::default());
    site.driver.make_unreadable(vm, "its record is damaged");
    let daemon = site.daemon().await;
    // Clean-up, which refuses what lives, is the judge.
    site.vm_is(vm, VmState::Stopped).await;
    assert!(site.driver.leftovers().is_empty());
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn an_end_while_no_daemon_ran_is_told() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.kill().await;
    site.driver.vm(vm).unwrap().end(ExitInfo::signal(11));
    let daemon = site.daemon().await;
    let row = site.vm_is(vm, VmState::Stopped).await;
    assert!(row.last_error.unwrap().contains("signal 11"));
    assert_eq!(row.fail_count, 0, "no failed start");
    daemon.end(Shutdown::Stop).await.unwrap();
}

/// A second driver that looks for ever, as on a storage that hangs.
fn hung_driver() -> FakeHypervisor {
    let hung = FakeHypervisor::new().named("hung");
    hung.hold(DriverStep::Find);
    hung
}

#[tokio::test]
async fn a_driver_that_hangs_keeps_the_node_neither_from_starting_nor_from_stopping() {
    let site = Site::with(&[("internal.hkd.driver.timeout", "0.1")]).await;
    let (vm, before) = (site.vm("desk").await, site.vm("before").await);
    let daemon = site.daemon().await;
    site.claim(before).await;
    site.vm_is(before, VmState::Running).await;
    daemon.kill().await;
    let hung = hung_driver();
    let daemon = Daemon::start(site.settings().hypervisor(Arc::new(hung.clone()))).await;
    // What the other driver found is adopted, and it works.
    site.stop(before).await;
    site.vm_is(before, VmState::Stopped).await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    let unknown = daemon.end(Shutdown::Stop).await.unwrap_err();
    assert!(unknown.to_string().contains("could not be found out"), "{unknown}");
    assert_ne!(site.host_state().await, HostState::Stopped, "nobody knows what the hung one runs");
    assert!(site.driver.leftovers().is_empty());
    assert_eq!(hung.times(DriverStep::Find), 1, "it was not asked twice at once");
}

#[tokio::test]
async fn what_a_driver_finds_late_is_taken_care_of_late() {
    let site = Site::with(&[("internal.hkd.driver.timeout", "0.1")]).await;
    let foreign = site.vm("foreign").await;
    let hung = hung_driver();
    hung.hold(DriverStep::Check);
    hung.plant_running(foreign, RunId::new(99));
    let daemon = Daemon::start(site.settings().hypervisor(Arc::new(hung.clone()))).await;
    let drivers = || async { site.db.hosts().load(site.host).await.unwrap().unwrap().hypervisors };
    assert_eq!(drivers().await, ["fake"], "no start is sent to a driver that hangs");
    hung.release(DriverStep::Check);
    hung.release(DriverStep::Find);
    site.until("the late one to be gone", || async { hung.leftovers().is_empty().then_some(()) }).await;
    site.until("its driver to be counted on", || async {
        (drivers().await == ["fake", "hung"]).then_some(())
    })
    .await;
    daemon.end(Shutdown::Stop).await.unwrap();
    assert_eq!(site.host_state().await, HostState::Stopped);
}

#[tokio::test]
async fn a_node_whose_preferred_driver_is_blind_gets_only_what_names_another_one() {
    let site = Site::with(&[("internal.hkd.driver.timeout", "0.1")]).await;
    let vm = site.vm("desk").await;
    let hung = hung_driver();
    let both = site.settings_with(Arc::new(hung.clone())).hypervisor(Arc::new(site.driver.clone()));
    let daemon = Daemon::start(both).await;
    let candidates = async |driver| site.db.hosts().candidates(driver).await.unwrap().len();
    assert_eq!((candidates(None).await, candidates(Some("hung")).await), (0, 0));
    assert_eq!(candidates(Some("fake")).await, 1);
    // Nor does another driver stand in for it.
    site.claim(vm).await;
    let row = site
        .until("the start to fail", || async {
            let row = site.row(vm).await;
            (row.vm_state == VmState::Stopped && row.last_error.is_some()).then_some(row)
        })
        .await;
    assert!(row.last_error.unwrap().contains("driver 'hung' cannot be used"));
    assert_eq!(site.driver.times(DriverStep::Prepare), 0);
    hung.release(DriverStep::Find);
    site.until("it to be counted on", || async { (candidates(None).await == 1).then_some(()) }).await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn a_driver_that_did_not_tell_what_it_lacks_is_asked_again() {
    let site = Site::with(&[("internal.hkd.driver.timeout", "0.1")]).await;
    let slow = FakeHypervisor::new().named("slow");
    slow.hold(DriverStep::Check);
    let daemon = Daemon::start(site.settings().hypervisor(Arc::new(slow.clone()))).await;
    let drivers = || async { site.db.hosts().load(site.host).await.unwrap().unwrap().hypervisors };
    assert_eq!(drivers().await, ["fake"]);
    slow.release(DriverStep::Check);
    site.until("it to be counted on", || async { (drivers().await == ["fake", "slow"]).then_some(()) }).await;
    daemon.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn an_order_to_stop_the_node_waits_in_the_row_until_it_says_stopping() {
    let site = Site::new().await;
    let vm = site.vm("desk").await;
    let daemon = site.daemon().await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    site.agent(vm).hold(VmaMethod::Poweroff);
    assert!(site.db.hosts().order(site.host, HostCommand::Stop).await.unwrap().is_updated());
    site.agent(vm).called(VmaMethod::Poweroff, 1).await;
    assert_eq!(site.host_state().await, HostState::Stopping);
    let incarnation = site.db.hosts().load(site.host).await.unwrap().unwrap().runtime.incarnation;
    assert_eq!(site.db.hosts().command(site.host, incarnation).await.unwrap(), None);
    site.agent(vm).release(VmaMethod::Poweroff);
    daemon.ended().await.unwrap();
    // The next daemon does not find it again.
    site.daemon().await.end(Shutdown::Stop).await.unwrap();
}

#[tokio::test]
async fn an_abort_overtakes_a_stop_that_takes_long() {
    let site = Site::with(&[
        ("internal.hkd.lxc.timeout.on_state.stopping.shutdown.waiting_for_lxc", "300"),
        ("internal.hkd.lxc.timeout.on_state.stopping.stop.waiting_for_lxc", "300"),
    ])
    .await;
    let vm = site.vm("desk").await;
    let (controls, wishes) = mpsc::channel(1);
    let daemon = Daemon::start(site.settings().controls(wishes)).await;
    site.claim(vm).await;
    site.vm_is(vm, VmState::Running).await;
    site.driver.vm(vm).unwrap().set_ignores_terminate(true);
    controls.send(Control::Shutdown(Shutdown::Stop)).await.unwrap();
    site.agent(vm).called(VmaMethod::Poweroff, 1).await;
    controls.send(Control::Shutdown(Shutdown::Abort)).await.unwrap();
    daemon.ended().await.unwrap();
    assert_eq!(site.driver.times(DriverStep::Kill), 1);
    assert_eq!(site.driver.times(DriverStep::Terminate), 0);
    assert_eq!(site.row(vm).await.vm_state, VmState::Stopped);
    assert_eq!(site.host_state().await, HostState::Stopped);
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
    let others = [site.vm("other").await, site.vm("another").await];
    let daemon = site.daemon().await;
    for vm in others.into_iter().chain([vm]) {
        site.claim(vm).await;
        site.vm_is(vm, VmState::Running).await;
    }
    let lock = std::fs::File::create(site.router_lock_file(vm)).unwrap();
    lock.lock().unwrap();
    site.connect(vm).await;
    let session_ends = |vm| {
        let site = &site;
        site.until("the session to end", move || async move {
            (site.row(vm).await.user_state == UserState::Disconnected).then_some(())
        })
    };
    // Two looks at all routers, one after the other, that each find a dead one.
    for dead in others {
        site.connect(dead).await;
        std::fs::File::create(site.router_lock_file(dead)).unwrap();
        session_ends(dead).await;
    }
    assert_eq!(site.row(vm).await.user_state, UserState::Connected, "its router lives");
    drop(lock);
    session_ends(vm).await;
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
async fn what_is_too_old_is_removed_from_the_journal() {
    let site = Site::with(&[("internal.hkd.agent.journal.keep", "0")]).await;
    let told = NewEvent { host_id: Some(site.host), kind: "long ago".into(), ..NewEvent::default() };
    site.db.events().append(told).await.unwrap();
    let daemon = site.daemon().await;
    site.until("it to be gone", || async {
        let events = site.db.events().of_host(site.host, 100).await.unwrap();
        events.iter().all(|event| event.event.kind != "long ago").then_some(())
    })
    .await;
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
