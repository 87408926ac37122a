//! Claims, stop orders and what a start needs.

use qvd_core::state::{HostState, VmCommand, VmState};
use qvd_core::{HostId, VmId};

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{BlockedBy, Claimant, Guard, Pending};

case_list![
    a_claim_assigns_orders_and_counts_the_run_at_once,
    of_many_claims_one_wins,
    a_claim_needs_a_host_that_takes_work,
    a_blocked_vm_starts_for_administrators_only,
    a_start_is_accepted_once,
    a_start_that_waits_can_be_cancelled,
    a_stop_and_an_acceptance_cross,
    a_stop_is_ordered_only_of_what_lives,
    a_launch_has_everything,
    an_image_is_pinned_from_its_tag,
    the_home_is_recorded_once,
];

async fn a_claim_assigns_orders_and_counts_the_run_at_once(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let claimed =
        site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().updated().unwrap();
    assert_eq!((claimed.host_id, claimed.run_id.get()), (Some(world.host), 1));
    assert_eq!((claimed.vm_cmd, claimed.vm_state), (Some(VmCommand::Start), VmState::Stopped));
    assert_eq!(claimed.host_incarnation, Some(world.incarnation));
    let pending = site.db.vms().pending(world.host, world.incarnation).await.unwrap();
    assert_eq!(pending, [Pending { vm_id: world.vm, run_id: claimed.run_id, command: VmCommand::Start }]);
    let again = site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap();
    assert_eq!(again, Guard::Unchanged(claimed.clone()));
    assert_eq!(site.db.vms().of_host(world.host).await.unwrap(), [claimed]);
    let nothing = site.db.vms().claim(VmId::new(99), world.host, Claimant::Router).await.unwrap();
    assert_eq!(nothing, Guard::NotFound);
}

async fn of_many_claims_one_wins(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let (other, _) = Fixture::running_host(&site.db, "n2").await;
    let second = site.second().await;
    let mut claims = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (db, host) = if n % 2 == 0 { (site.db.clone(), world.host) } else { (second.clone(), other) };
        claims.spawn(async move { db.vms().claim(world.vm, host, Claimant::Router).await.unwrap() });
    }
    let outcomes = claims.join_all().await;
    let won: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_updated()).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!(won[0].row(), Some(&row));
    assert_eq!(row.run_id.get(), 1);
    assert!(outcomes.iter().all(|outcome| outcome.row() == Some(&row)), "losers see the winner's row");
}

async fn a_claim_needs_a_host_that_takes_work(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let hosts = site.db.hosts();
    let refused = async |why: &str| {
        let outcome = site.db.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap();
        assert!(matches!(&outcome, Guard::Unchanged(row) if row.host_id.is_none()), "{why}: {outcome:?}");
    };
    assert!(hosts.set_blocked(world.host, true).await.unwrap().is_updated());
    refused("blocked").await;
    assert!(hosts.set_blocked(world.host, false).await.unwrap().is_updated());
    for state in [HostState::Starting, HostState::Stopping, HostState::Stopped] {
        assert!(hosts.set_state(world.host, world.incarnation, state).await.unwrap().is_updated());
        refused(state.as_str()).await;
    }
    assert!(hosts.set_state(world.host, world.incarnation, HostState::Running).await.unwrap().is_updated());
    let none = std::time::Duration::ZERO;
    let tick =
        hosts.tick(world.host, world.incarnation, none, none, crate::HostLoad::default()).await.unwrap();
    assert!(tick.is_updated());
    refused("its lease ran out").await;
    let nowhere = site.db.vms().claim(world.vm, HostId::new(99), Claimant::Admin).await.unwrap();
    assert!(!nowhere.is_updated());
    let router = crate::NewHost {
        name: "front".to_owned(),
        address: "10.0.0.9".to_owned(),
        frontend: true,
        backend: false,
    };
    let router = hosts.add(router).await.unwrap();
    let taken = hosts.take_over(router, Fixture::daemon(uuid::Uuid::new_v4())).await.unwrap();
    assert!(hosts.set_state(router, taken.incarnation, HostState::Running).await.unwrap().is_updated());
    let not_meant = site.db.vms().claim(world.vm, router, Claimant::Admin).await.unwrap();
    assert!(!not_meant.is_updated());
}

async fn a_blocked_vm_starts_for_administrators_only(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    assert!(vms.set_blocked(world.vm, true, BlockedBy::Admin, None).await.unwrap().is_updated());
    let routed = vms.claim(world.vm, world.host, Claimant::Router).await.unwrap();
    assert!(matches!(routed, Guard::Unchanged(row) if row.blocked));
    assert!(vms.claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
}

async fn a_start_is_accepted_once(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    let early = vms.accept_start(world.vm, world.host, world.incarnation).await.unwrap();
    assert!(!early.is_updated(), "nobody ordered it");
    assert!(vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    let (other, incarnation) = Fixture::running_host(&site.db, "n2").await;
    assert!(!vms.accept_start(world.vm, other, incarnation).await.unwrap().is_updated(), "another host");
    let second = site.second().await;
    let (one, two) = tokio::join!(
        vms.accept_start(world.vm, world.host, world.incarnation),
        second.vms().accept_start(world.vm, world.host, world.incarnation),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.is_updated() != two.is_updated(), "{one:?} {two:?}");
    let row = vms.runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_state, row.vm_cmd), (VmState::Starting, None));
    assert_eq!(row.vm_phase.map(|phase| phase.as_str()), Some("starting_1"));
}

async fn a_start_that_waits_can_be_cancelled(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    assert!(vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    let cancelled = vms.order_stop(world.vm).await.unwrap().updated().unwrap();
    assert_eq!((cancelled.vm_cmd, cancelled.host_id, cancelled.host_incarnation), (None, None, None));
    assert!(!vms.accept_start(world.vm, world.host, world.incarnation).await.unwrap().is_updated());
    let again = vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().updated().unwrap();
    assert_eq!(again.run_id.get(), 2, "a run id is never used again");
}

async fn a_stop_and_an_acceptance_cross(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for _ in 0..10 {
        assert!(site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
        let (stop, accept) =
            tokio::join!(async { second.vms().order_stop(world.vm).await.unwrap() }, async {
                site.db.vms().accept_start(world.vm, world.host, world.incarnation).await.unwrap()
            },);
        assert!(stop.is_updated());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        if accept.is_updated() {
            assert_eq!((row.vm_state, row.vm_cmd), (VmState::Starting, Some(VmCommand::Stop)));
            assert!(site.db.vms().clear(world.vm, world.host, row.run_id).await.unwrap().is_updated());
        } else {
            assert_eq!((row.vm_state, row.vm_cmd, row.host_id), (VmState::Stopped, None, None));
        }
    }
}

async fn a_stop_is_ordered_only_of_what_lives(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    assert!(matches!(vms.order_stop(world.vm).await.unwrap(), Guard::Unchanged(_)));
    assert_eq!(vms.order_stop(VmId::new(99)).await.unwrap(), Guard::NotFound);
    let run = world.run().await;
    let ordered = vms.order_stop(world.vm).await.unwrap().updated().unwrap();
    assert_eq!(ordered.vm_cmd, Some(VmCommand::Stop));
    assert!(vms.order_stop(world.vm).await.unwrap().is_updated(), "ordered twice is ordered");
    let pending = vms.pending(world.host, world.incarnation).await.unwrap();
    assert_eq!(pending, [Pending { vm_id: world.vm, run_id: run, command: VmCommand::Stop }]);
    for state in [VmState::Stopping, VmState::Zombie] {
        assert!(vms.set_state(world.vm, world.host, run, state, None).await.unwrap().is_updated());
        assert!(matches!(vms.order_stop(world.vm).await.unwrap(), Guard::Unchanged(_)), "{state}");
    }
}

async fn a_launch_has_everything(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let launch = site.db.vms().launch_spec(world.vm).await.unwrap().unwrap();
    assert_eq!(
        (launch.vm.name.as_str(), launch.login.as_str(), launch.osf.name.as_str()),
        ("ana-1", "ana", "desk")
    );
    let image = launch.image.unwrap();
    assert_eq!((image.id, image.format.as_str()), (world.di, "none"));
    assert!(site.db.images().set_blocked(world.di, true).await.unwrap().is_updated());
    let launch = site.db.vms().launch_spec(world.vm).await.unwrap().unwrap();
    assert_eq!(launch.image, None, "a blocked image is not chosen");
    assert!(site.db.vms().launch_spec(VmId::new(99)).await.unwrap().is_none());
}

async fn an_image_is_pinned_from_its_tag(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let vms = site.db.vms();
    let pinned = vms.pin_image(world.vm, world.host, run).await.unwrap().updated().flatten().unwrap();
    assert_eq!(pinned.id, world.di);
    assert_eq!(vms.runtime(world.vm).await.unwrap().unwrap().current_di_id, Some(world.di));
    let foreign = qvd_core::RunId::new(run.get() + 1);
    assert_eq!(vms.pin_image(world.vm, world.host, foreign).await.unwrap(), Guard::Unchanged(None));
    site.db.images().untag(world.di, "default", crate::Expirations::default()).await.unwrap();
    assert_eq!(vms.pin_image(world.vm, world.host, run).await.unwrap(), Guard::Updated(None));
    assert!(vms.set_current_di(world.vm, world.host, run, world.di).await.unwrap().is_updated());
    let missing = vms.set_current_di(world.vm, world.host, run, qvd_core::DiId::new(99)).await.unwrap_err();
    assert_eq!(missing.to_string(), "DI 99 not found");
}

async fn the_home_is_recorded_once(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    assert_eq!(vms.record_storage(world.vm, "1-fs").await.unwrap(), Guard::Updated(()));
    assert_eq!(vms.record_storage(world.vm, "2-fs").await.unwrap(), Guard::Unchanged(()));
    assert_eq!(vms.load(world.vm).await.unwrap().unwrap().0.storage.as_deref(), Some("1-fs"));
    assert_eq!(vms.record_storage(VmId::new(99), "x").await.unwrap(), Guard::NotFound);
}
