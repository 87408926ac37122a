//! Hosts: lists, candidates, ticks, release of dead ones.

use std::time::Duration;

use qvd_core::state::{HostCommand, HostState, UserCommand, UserState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{ErrorKind, HostId};

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Claimant, Guard, HostLoad, NewHost, Owner, Seen, TakeOver};

case_list![
    hosts_are_found_by_name_and_taken_values_are_named,
    candidates_are_hosts_that_can_be_used,
    a_tick_counts_only_for_its_incarnation,
    a_host_command_is_taken_once,
    failures_of_the_node_block_it,
    a_host_with_something_on_it_cannot_be_deleted,
    a_host_with_a_lease_cannot_be_lost,
    a_lost_host_is_released_after_its_fence,
    a_host_that_moved_is_neither_lost_nor_released,
];

fn host(name: &str, address: &str) -> NewHost {
    NewHost { name: name.to_owned(), address: address.to_owned(), frontend: true, backend: true }
}

async fn hosts_are_found_by_name_and_taken_values_are_named(site: Site) {
    let hosts = site.db.hosts();
    let id = hosts.add(host("n1", "10.0.0.1")).await.unwrap();
    let loaded = hosts.by_name("n1").await.unwrap().unwrap();
    assert_eq!((loaded.id, loaded.runtime.state, loaded.runtime.incarnation), (id, HostState::Stopped, 0));
    assert_eq!((loaded.runtime.ok_ts, loaded.hypervisors.len(), loaded.runtime.vms_assigned), (None, 0, 0));
    let taken = hosts.add(host("n1", "10.0.0.2")).await.unwrap_err();
    assert_eq!(
        (taken.to_string().as_str(), taken.kind()),
        ("host name 'n1' already exists", ErrorKind::Conflict)
    );
    let taken = hosts.add(host("n2", "10.0.0.1")).await.unwrap_err();
    assert_eq!(taken.to_string(), "host address '10.0.0.1' already exists");
    assert_eq!(hosts.list().await.unwrap().len(), 1);
    assert!(hosts.load(HostId::new(99)).await.unwrap().is_none());
}

async fn candidates_are_hosts_that_can_be_used(site: Site) {
    let hosts = site.db.hosts();
    let world = Fixture::fill(&site.db).await;
    let names = async |driver| {
        let found = site.db.hosts().candidates(driver).await.unwrap();
        found.into_iter().map(|host| host.name).collect::<Vec<_>>()
    };
    hosts.add(host("stopped", "10.0.0.3")).await.unwrap();
    assert_eq!(names(None).await, ["n1"]);
    assert!(names(Some("process")).await.is_empty(), "its drivers are unknown");
    let drivers = ["process".to_owned(), "nothing".to_owned()];
    let published = hosts.publish_capacity(world.host, world.incarnation, Mebibytes(4096), 8000.5, &drivers);
    assert!(published.await.unwrap().is_updated());
    site.db.properties().set(Owner::Host(world.host), "rack", "3").await.unwrap();
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
    let found = hosts.candidates(Some("process")).await.unwrap();
    assert_eq!((found[0].usable_ram_mib, found[0].usable_cpu, found[0].vms), (4096.0, 8000.5, 1));
    assert_eq!(found[0].properties.get("rack").map(String::as_str), Some("3"));
    assert!(names(Some("kvm")).await.is_empty());
    assert_eq!(hosts.by_name("n1").await.unwrap().unwrap().hypervisors, drivers);
    // Fresh reports only, blocked ones never, those whose lease ran out never.
    assert_eq!(hosts.candidates_reporting_within(None, Duration::from_secs(45)).await.unwrap().len(), 1);
    assert!(hosts.candidates_reporting_within(None, Duration::ZERO).await.unwrap().is_empty());
    assert!(hosts.set_blocked(world.host, true).await.unwrap().is_updated());
    assert!(names(None).await.is_empty());
    assert!(hosts.set_blocked(world.host, false).await.unwrap().is_updated());
    assert_eq!(names(None).await, ["n1"]);
    let tick = hosts.tick(world.host, world.incarnation, Duration::ZERO, Duration::ZERO, HostLoad::default());
    assert!(tick.await.unwrap().is_updated());
    assert!(names(None).await.is_empty());
}

async fn a_tick_counts_only_for_its_incarnation(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let tick = async |incarnation| {
        let load = HostLoad { load1: Some(0.5), vms_starting: 2, ..HostLoad::default() };
        let (lease, grace) = (Duration::from_secs(450), Duration::from_secs(150));
        site.db.hosts().tick(world.host, incarnation, lease, grace, load).await.unwrap()
    };
    assert_eq!(tick(world.incarnation).await, Guard::Updated(()));
    assert_eq!(tick(world.incarnation + 1).await, Guard::Unchanged(()));
    let runtime = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime;
    let lease = runtime.lease_until.unwrap().duration_since(runtime.ok_ts.unwrap()).unwrap();
    assert_eq!(lease, Duration::from_secs(450));
    let stale =
        site.db.hosts().set_state(world.host, world.incarnation - 1, HostState::Stopping).await.unwrap();
    assert_eq!(stale, Guard::Unchanged(()));
    let gone = site.db.hosts().set_state(HostId::new(99), 1, HostState::Stopping).await.unwrap();
    assert_eq!(gone, Guard::NotFound);
    let stopped = site.db.hosts().set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap();
    assert_eq!(stopped, Guard::Updated(()));
    let runtime = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime;
    assert_eq!((runtime.state, runtime.pid), (HostState::Stopped, None));
}

async fn a_host_command_is_taken_once(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let hosts = site.db.hosts();
    assert_eq!(hosts.take_command(world.host, world.incarnation).await.unwrap(), None);
    assert!(hosts.order(world.host, HostCommand::Stop).await.unwrap().is_updated());
    assert_eq!(hosts.take_command(world.host, world.incarnation + 1).await.unwrap(), None);
    let second = site.second().await;
    let (one, other) = tokio::join!(
        hosts.take_command(world.host, world.incarnation),
        second.hosts().take_command(world.host, world.incarnation),
    );
    let mut taken = [one.unwrap(), other.unwrap()];
    taken.sort();
    assert_eq!(taken, [None, Some(HostCommand::Stop)]);
}

async fn failures_of_the_node_block_it(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let hosts = site.db.hosts();
    let fail = async || hosts.record_failure(world.host, world.incarnation, "disk full", 3).await.unwrap();
    let blocked = async || hosts.load(world.host).await.unwrap().unwrap().runtime.blocked;
    assert!(fail().await.is_updated());
    assert!(fail().await.is_updated());
    assert!(hosts.record_success(world.host, world.incarnation).await.unwrap().is_updated());
    assert!(fail().await.is_updated());
    assert!(fail().await.is_updated());
    assert!(!blocked().await);
    assert!(fail().await.is_updated());
    assert!(blocked().await);
    assert!(hosts.set_blocked(world.host, false).await.unwrap().is_updated());
    assert!(fail().await.is_updated());
    assert!(!blocked().await, "unblocking forgets");
}

async fn a_host_with_something_on_it_cannot_be_deleted(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let hosts = site.db.hosts();
    let running = hosts.delete(world.host).await.unwrap_err();
    assert_eq!(running.to_string(), format!("host {} (n1) is running; stop it first", world.host));
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
    let busy = hosts.delete(world.host).await.unwrap_err();
    assert_eq!(busy.to_string(), format!("host {} (n1) has 1 VMs assigned", world.host));
    assert!(site.db.vms().order_stop(world.vm).await.unwrap().is_updated());
    assert!(hosts.set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap().is_updated());
    assert_eq!(hosts.delete(world.host).await.unwrap(), Guard::Updated(()));
    assert_eq!(hosts.delete(world.host).await.unwrap(), Guard::NotFound);
    assert!(site.db.counters().hosts().await.unwrap().is_empty());
}

async fn seen(site: &Site, host: HostId) -> Seen {
    let runtime = site.db.hosts().load(host).await.unwrap().unwrap().runtime;
    Seen { incarnation: runtime.incarnation, ok_ts: runtime.ok_ts.unwrap() }
}

async fn a_host_with_a_lease_cannot_be_lost(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let seen = seen(&site, world.host).await;
    assert_eq!(site.db.hosts().mark_lost(world.host, seen).await.unwrap(), Guard::Unchanged(()));
    assert!(!site.db.hosts().release(world.host, seen).await.unwrap().is_updated());
    assert_eq!(site.db.hosts().mark_lost(HostId::new(99), seen).await.unwrap(), Guard::NotFound);
    assert_eq!(site.db.hosts().release(HostId::new(99), seen).await.unwrap(), Guard::NotFound);
}

async fn expire_lease(world: &Fixture) {
    let (lease, grace) = (Duration::ZERO, Duration::ZERO);
    let tick = world.db.hosts().tick(world.host, world.incarnation, lease, grace, HostLoad::default());
    assert!(tick.await.unwrap().is_updated());
}

async fn a_lost_host_is_released_after_its_fence(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    // A start that was not accepted yet, and a session through the lost host to a machine elsewhere.
    let pending = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    assert!(site.db.vms().claim(pending, world.host, Claimant::Admin).await.unwrap().is_updated());
    let (router, _) = Fixture::running_host(&site.db, "n2").await;
    let elsewhere = site.db.vms().add(Fixture::vm("ana-3", world.user, world.osf)).await.unwrap();
    assert!(site.db.sessions().acquire(elsewhere, world.session(2)).await.unwrap().is_updated());
    let through = crate::NewSession { l7r_host: router, ..world.session(1) };
    assert!(site.db.sessions().acquire(world.vm, through).await.unwrap().is_updated());

    expire_lease(&world).await;
    let seen = seen(&site, world.host).await;
    let hosts = site.db.hosts();
    assert!(!hosts.release(world.host, seen).await.unwrap().is_updated(), "not lost yet");
    assert_eq!(hosts.mark_lost(world.host, seen).await.unwrap(), Guard::Updated(()));
    assert_eq!(hosts.mark_lost(world.host, seen).await.unwrap(), Guard::Unchanged(()));
    let (lease, grace) = (Duration::from_secs(9), Duration::ZERO);
    let late = hosts.tick(world.host, world.incarnation, lease, grace, HostLoad::default()).await.unwrap();
    assert_eq!(late, Guard::Unchanged(()), "who counts as lost must fence");

    let mut released = hosts.release(world.host, seen).await.unwrap().updated().unwrap();
    released.vms.sort();
    assert_eq!((released.vms, released.sessions), (vec![world.vm, pending], vec![elsewhere]));
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_state, row.host_id, row.host_incarnation), (VmState::Stopped, None, None));
    assert_eq!(row.run_id.get(), run.get() + 1, "late writes of the old run find nothing");
    assert_eq!((row.user_state, row.user_cmd), (UserState::Connecting, Some(UserCommand::Abort)));
    let row = site.db.vms().runtime(pending).await.unwrap().unwrap();
    assert_eq!((row.vm_cmd, row.host_id), (None, None));
    let row = site.db.vms().runtime(elsewhere).await.unwrap().unwrap();
    assert_eq!((row.user_state, row.session_id), (UserState::Disconnected, None));
    let late = site.db.vms().set_state(world.vm, world.host, run, VmState::Stopping, None).await.unwrap();
    assert_eq!(late, Guard::Unchanged(()));
    assert!(site.db.vms().claim(world.vm, router, Claimant::Admin).await.unwrap().is_updated());
}

async fn a_host_that_moved_is_neither_lost_nor_released(site: Site) {
    let world = Fixture::fill(&site.db).await;
    world.run().await;
    expire_lease(&world).await;
    let before = seen(&site, world.host).await;
    // The daemon reports once more, with a lease that runs out at once: the observer's count begins anew.
    expire_lease(&world).await;
    let hosts = site.db.hosts();
    assert_eq!(hosts.mark_lost(world.host, before).await.unwrap(), Guard::Unchanged(()));
    let now = seen(&site, world.host).await;
    assert_eq!(hosts.mark_lost(world.host, now).await.unwrap(), Guard::Updated(()));
    // Its daemon comes back and takes the row before the release.
    let daemon = TakeOver { watch: Duration::ZERO, ..Fixture::daemon(uuid::Uuid::new_v4()) };
    assert!(hosts.take_over(world.host, daemon).await.is_ok());
    assert!(!hosts.release(world.host, now).await.unwrap().is_updated());
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_state, row.host_id), (VmState::Running, Some(world.host)));
}
