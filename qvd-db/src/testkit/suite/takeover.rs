//! A daemon takes its host's row over.

use std::time::Duration;

use qvd_core::state::{HostState, VmState};
use qvd_core::{ErrorKind, HostId};
use uuid::Uuid;

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Claimant, HostLoad, NewHost, TakeOver};

case_list![
    the_first_daemon_takes_the_row_at_once,
    the_same_directory_takes_the_row_at_once_and_its_vms_follow,
    a_second_daemon_is_refused,
    a_rebooted_machine_takes_the_row_if_nothing_moves,
    a_row_that_moves_while_watched_is_refused,
    of_two_daemons_one_gets_the_row,
    a_clean_stop_leaves_the_row_to_anybody,
];

async fn fresh_host(site: &Site) -> HostId {
    let host =
        NewHost { name: "n1".to_owned(), address: "10.0.0.1".to_owned(), frontend: true, backend: true };
    site.db.hosts().add(host).await.unwrap()
}

fn never_watch(run_token: Uuid) -> TakeOver {
    TakeOver { watch: Duration::from_secs(3600), ..Fixture::daemon(run_token) }
}

async fn the_first_daemon_takes_the_row_at_once(site: Site) {
    let host = fresh_host(&site).await;
    let taken = site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))).await.unwrap();
    assert_eq!((taken.incarnation, taken.same_directory), (1, false));
    let runtime = site.db.hosts().load(host).await.unwrap().unwrap().runtime;
    assert_eq!((runtime.state, runtime.incarnation, runtime.pid), (HostState::Starting, 1, Some(4711)));
    let lease = runtime.lease_until.unwrap().duration_since(runtime.ok_ts.unwrap()).unwrap();
    assert_eq!(lease, Duration::from_secs(450));
    let missing = site.db.hosts().take_over(HostId::new(99), never_watch(Uuid::nil())).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

async fn the_same_directory_takes_the_row_at_once_and_its_vms_follow(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let token = Uuid::from_u128(5);
    let stopped = site.db.hosts().set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap();
    assert!(stopped.is_updated());
    let first = site.db.hosts().take_over(world.host, never_watch(token)).await.unwrap();
    let running = site.db.hosts().set_state(world.host, first.incarnation, HostState::Running).await.unwrap();
    assert!(running.is_updated());
    let claimed = site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap();
    assert!(claimed.is_updated());

    let again = site.db.hosts().take_over(world.host, never_watch(token)).await.unwrap();
    assert_eq!((again.incarnation, again.same_directory), (first.incarnation + 1, true));
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!(row.host_incarnation, Some(again.incarnation), "starts that wait follow too");
    let late = site.db.vms().accept_start(world.vm, world.host, first.incarnation).await.unwrap();
    assert!(!late.is_updated());
    assert!(site.db.vms().pending(world.host, first.incarnation).await.unwrap().is_empty());
    assert_eq!(site.db.vms().pending(world.host, again.incarnation).await.unwrap().len(), 1);
    let accepted = site.db.vms().accept_start(world.vm, world.host, again.incarnation).await.unwrap();
    assert_eq!(accepted.updated().map(|row| row.vm_state), Some(VmState::Starting));
}

async fn a_second_daemon_is_refused(site: Site) {
    let host = fresh_host(&site).await;
    site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))).await.unwrap();
    let other = TakeOver { machine_id: "machine-2".to_owned(), ..never_watch(Uuid::from_u128(2)) };
    let refused = site.db.hosts().take_over(host, other).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let text = refused.to_string();
    for part in ["'n1'", "10.0.0.1", "machine-1"] {
        assert!(text.contains(part), "'{part}' in: {text}");
    }
    let left = text.rsplit_once("wait ").and_then(|(_, left)| left.strip_suffix(" s"));
    let left: u32 = left.and_then(|left| left.parse().ok()).unwrap();
    assert!((500..=600).contains(&left), "lease and grace are 600 s: {text}");
    let clone = site.db.hosts().take_over(host, never_watch(Uuid::from_u128(3))).await.unwrap_err();
    assert_eq!(clone.kind(), ErrorKind::Conflict, "same machine, same boot, another directory");
}

async fn a_rebooted_machine_takes_the_row_if_nothing_moves(site: Site) {
    let host = fresh_host(&site).await;
    let first = site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))).await.unwrap();
    let rebooted = TakeOver { boot_id: "boot-2".to_owned(), ..Fixture::daemon(Uuid::from_u128(2)) };
    let second = site.db.hosts().take_over(host, rebooted).await.unwrap();
    assert_eq!((second.incarnation, second.same_directory), (first.incarnation + 1, false));
}

async fn a_row_that_moves_while_watched_is_refused(site: Site) {
    let host = fresh_host(&site).await;
    let alive = site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))).await.unwrap();
    let rebooted = TakeOver {
        boot_id: "boot-2".to_owned(),
        watch: Duration::from_millis(500),
        ..Fixture::daemon(Uuid::from_u128(2))
    };
    let hosts = site.db.hosts();
    let reporting = async {
        loop {
            let (lease, grace) = (Duration::from_secs(60), Duration::from_secs(60));
            let tick = hosts.tick(host, alive.incarnation, lease, grace, HostLoad::default()).await.unwrap();
            assert!(tick.is_updated());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let refused = tokio::select! {
        outcome = hosts.take_over(host, rebooted) => outcome.unwrap_err(),
        () = reporting => unreachable!("a daemon reports for ever"),
    };
    assert!(refused.to_string().contains("reported while it was watched"), "{refused}");
}

async fn of_two_daemons_one_gets_the_row(site: Site) {
    let host = fresh_host(&site).await;
    let second = site.second().await;
    let other = TakeOver { machine_id: "machine-2".to_owned(), ..never_watch(Uuid::from_u128(2)) };
    let (one, two) = tokio::join!(
        site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))),
        second.hosts().take_over(host, other),
    );
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1, "{one:?} {two:?}");
}

async fn a_clean_stop_leaves_the_row_to_anybody(site: Site) {
    let host = fresh_host(&site).await;
    let first = site.db.hosts().take_over(host, never_watch(Uuid::from_u128(1))).await.unwrap();
    let stopped = site.db.hosts().set_state(host, first.incarnation, HostState::Stopped).await.unwrap();
    assert!(stopped.is_updated());
    let other = TakeOver { machine_id: "machine-2".to_owned(), ..never_watch(Uuid::from_u128(2)) };
    assert_eq!(site.db.hosts().take_over(host, other).await.unwrap().incarnation, 2);
}
