//! Hosts: lists, candidates, ticks, release of dead ones.

use std::time::Duration;

use qvd_core::state::{HostCommand, HostState, UserCommand, UserState, VmState};
use qvd_core::units::Mebibytes;
use qvd_core::{ErrorKind, HostId};

use super::case_list;
use crate::sql::{Sql, sql};
use crate::testkit::{Fixture, Site};
use crate::value::params;
use crate::{Channel, Charged, Claimant, Guard, Hint, HostLoad, NewHost, Owner, Seen, StateSaved, TakeOver};

case_list![
    hosts_are_found_by_name_and_taken_values_are_named,
    candidates_are_hosts_that_can_be_used,
    a_tick_counts_only_for_its_incarnation,
    a_host_that_goes_down_gives_its_starts_back,
    a_host_with_a_live_vm_is_not_stopped,
    a_host_command_is_taken_once,
    failures_of_the_node_block_it,
    a_host_with_something_on_it_cannot_be_deleted,
    several_hosts_are_blocked_and_deleted_as_a_whole,
    a_host_with_a_lease_cannot_be_lost,
    a_lost_host_is_released_after_its_fence,
    a_host_that_moved_is_neither_lost_nor_released,
];

const AGE: Sql = sql!("let a report grow old":
    "update host_runtimes set lease_until = " NOW " + $2, ok_ts = " NOW " - $3 where host_id = $1");

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
    assert!(
        names(None).await.is_empty() && names(Some("process")).await.is_empty(),
        "its drivers are unknown"
    );
    let drivers = ["process".to_owned(), "nothing".to_owned()];
    let publish = async |default| {
        let hosts = site.db.hosts();
        let (host, incarnation, ram) = (world.host, world.incarnation, Mebibytes(4096));
        let published = hosts.publish_capacity(host, incarnation, ram, 8000.5, &drivers, default);
        assert!(published.await.unwrap().is_updated());
    };
    publish(None).await;
    assert!(names(None).await.is_empty(), "its preferred driver does not work");
    assert_eq!(names(Some("nothing")).await, ["n1"]);
    publish(Some("process")).await;
    site.db.properties().set(Owner::Host(world.host), "rack", "3").await.unwrap();
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
    let found = hosts.candidates(Some("process")).await.unwrap();
    assert_eq!((found[0].usable_ram_mib, found[0].usable_cpu, found[0].vms), (4096.0, 8000.5, 1));
    assert_eq!(found[0].properties.get("rack").map(String::as_str), Some("3"));
    assert!(names(Some("kvm")).await.is_empty());
    assert_eq!(hosts.by_name("n1").await.unwrap().unwrap().hypervisors, drivers);
    // Fresh reports only, blocked ones never, those whose lease ran out never.
    assert_eq!(names(None).await, ["n1"]);
    for (age, fresh) in [(330, true), (340, false)] {
        site.db
            .write(&AGE, params![world.host, Duration::from_secs(450 - age), Duration::from_secs(age)])
            .await
            .unwrap();
        assert_eq!(
            names(None).await.len(),
            usize::from(fresh),
            "reported {age} s ago, with a lease of 450 s"
        );
    }
    let tick = hosts.tick(
        world.host,
        world.incarnation,
        Duration::from_secs(450),
        Duration::ZERO,
        HostLoad::default(),
    );
    assert!(tick.await.unwrap().is_updated());
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
    assert_eq!(stale, Guard::Unchanged(StateSaved::default()));
    let gone = site.db.hosts().set_state(HostId::new(99), 1, HostState::Stopping).await.unwrap();
    assert_eq!(gone, Guard::NotFound);
    let stopped = site.db.hosts().set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap();
    assert_eq!(stopped, Guard::Updated(StateSaved::default()));
    let runtime = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime;
    assert_eq!((runtime.state, runtime.pid), (HostState::Stopped, None));
}

async fn a_host_that_goes_down_gives_its_starts_back(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let (other, _) = Fixture::running_host(&site.db, "n2").await;
    let kept = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    assert!(site.db.vms().claim(kept, other, Claimant::Router).await.unwrap().is_updated());
    let mut waiting = site.db.subscribe(&[Channel::VmState]).only_vm(world.vm);
    while waiting.next().await != Hint::Rescan {}
    let hosts = site.db.hosts();
    let saved = hosts.set_state(world.host, world.incarnation, HostState::Stopping).await.unwrap();
    assert_eq!(saved.updated().unwrap().cancelled, [world.vm]);
    let woken = tokio::time::timeout(Duration::from_secs(10), waiting.next()).await;
    assert!(woken.is_ok(), "the router that waits for the start is told");
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_cmd, row.host_id, row.host_incarnation), (None, None, None));
    assert!(site.db.vms().claim(world.vm, other, Claimant::Router).await.unwrap().is_updated());
    assert_eq!(site.db.vms().runtime(kept).await.unwrap().unwrap().host_id, Some(other));
}

async fn a_host_with_a_live_vm_is_not_stopped(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let hosts = site.db.hosts();
    let state = async || hosts.load(world.host).await.unwrap().unwrap().runtime.state;
    assert!(hosts.set_state(world.host, world.incarnation, HostState::Stopping).await.unwrap().is_updated());
    let refused = hosts.set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap();
    let live = StateSaved { live: vec![world.vm], ..StateSaved::default() };
    assert_eq!((refused, state().await), (Guard::Unchanged(live), HostState::Stopping));
    let foreign = hosts.set_state(world.host, world.incarnation + 1, HostState::Stopped).await.unwrap();
    assert_eq!(foreign, Guard::Unchanged(StateSaved::default()), "that is another matter");
    assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
    assert!(hosts.set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap().is_updated());
    assert_eq!(state().await, HostState::Stopped);
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
    let fail = async || {
        let charged = Charged::Host { incarnation: world.incarnation, block_at: 3 };
        let run = world.run().await;
        let failed =
            site.db.vms().record_failure(world.vm, world.host, run, "disk full", charged).await.unwrap();
        assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
        failed
    };
    let blocked = async || hosts.load(world.host).await.unwrap().unwrap().runtime.blocked;
    assert!(fail().await.is_updated());
    assert!(fail().await.is_updated());
    assert!(hosts.record_success(world.host, world.incarnation).await.unwrap().is_updated());
    assert!(fail().await.is_updated());
    assert!(fail().await.is_updated());
    assert!(!blocked().await);
    assert!(fail().await.is_updated());
    assert!(blocked().await);
    let journal = site.db.events().of_host(world.host, 1).await.unwrap();
    assert_eq!(journal[0].event.kind, "blocked");
    assert!(journal[0].event.detail.as_deref().unwrap().contains("disk full"), "{journal:?}");
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.fail_count, row.blocked), (0, false), "it was not the VM's fault");
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

async fn several_hosts_are_blocked_and_deleted_as_a_whole(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let hosts = site.db.hosts();
    let idle = hosts.add(host("idle", "10.0.0.3")).await.unwrap();
    let gone = HostId::new(99);
    hosts.set_all_blocked(&[idle, gone, world.host], true).await.unwrap();
    assert!(hosts.list().await.unwrap().iter().all(|host| host.runtime.blocked));
    assert_eq!(hosts.delete_all(&[idle, world.host]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(hosts.list().await.unwrap().len(), 2, "none went");
    assert_eq!(hosts.delete_all(&[idle, gone]).await.unwrap(), [idle]);
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
