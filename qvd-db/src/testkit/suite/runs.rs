//! What a host's daemon writes while a virtual machine runs.

use std::time::{Duration, SystemTime};

use qvd_core::hypervisor::Endpoint;
use qvd_core::state::{UserCommand, VmPhase, VmState};
use qvd_core::{ErrorKind, RunId};

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{BlockedBy, Charged, Claimant, Expirations, Guard};

case_list![
    states_move_only_for_the_run_that_owns_the_row,
    a_stop_order_is_satisfied_by_stopping,
    the_endpoint_is_read_back_and_cleared,
    clearing_leaves_an_idle_row_and_ends_the_session,
    failures_block_a_vm_until_somebody_unblocks_it,
    limits_are_set_for_what_runs_and_gone_when_it_stops,
];

async fn states_move_only_for_the_run_that_owns_the_row(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let vms = site.db.vms();
    let foreign = RunId::new(run.get() + 1);
    let (other, _) = Fixture::running_host(&site.db, "n2").await;
    for (host, run) in [(world.host, foreign), (other, run)] {
        let moved = vms.set_state(world.vm, host, run, VmState::Stopping, None).await.unwrap();
        assert_eq!(moved, Guard::Unchanged(()));
        assert_eq!(vms.clear(world.vm, host, run).await.unwrap(), Guard::Unchanged(()));
        assert_eq!(vms.vma_ok(world.vm, host, run).await.unwrap(), Guard::Unchanged(()));
    }
    assert_eq!(vms.vma_ok(world.vm, world.host, run).await.unwrap(), Guard::Updated(()));
    let phase = Some(VmPhase::Stopping1);
    assert!(vms.set_state(world.vm, world.host, run, VmState::Stopping, phase).await.unwrap().is_updated());
    let row = vms.runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_state, row.vm_phase), (VmState::Stopping, phase));
    let mixed = vms.set_state(world.vm, world.host, run, VmState::Running, phase).await.unwrap_err();
    assert_eq!(mixed.kind(), ErrorKind::Invalid);
    let by_hand = vms.set_state(world.vm, world.host, run, VmState::Stopped, None).await.unwrap_err();
    assert_eq!(by_hand.kind(), ErrorKind::Invalid);
}

async fn a_stop_order_is_satisfied_by_stopping(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let vms = site.db.vms();
    assert!(vms.order_stop(world.vm).await.unwrap().is_updated());
    // A debugging machine can still be stopped: the order stays.
    assert!(vms.set_state(world.vm, world.host, run, VmState::Debugging, None).await.unwrap().is_updated());
    assert!(vms.runtime(world.vm).await.unwrap().unwrap().vm_cmd.is_some());
    assert!(vms.set_state(world.vm, world.host, run, VmState::Zombie, None).await.unwrap().is_updated());
    assert_eq!(vms.runtime(world.vm).await.unwrap().unwrap().vm_cmd, None);
}

async fn the_endpoint_is_read_back_and_cleared(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let vms = site.db.vms();
    let endpoints = [
        Endpoint::Unix { dir: "/run/qvd/vms/7".into() },
        Endpoint::Ip { address: [10, 3, 15, 254].into(), vma_port: 3030, x_port: 4100 },
    ];
    for endpoint in endpoints {
        let set = vms.set_endpoint(world.vm, world.host, run, &endpoint, Some(1234)).await.unwrap();
        assert!(set.is_updated());
        let row = vms.runtime(world.vm).await.unwrap().unwrap();
        let read = Endpoint::from_row(&row.vm_address.unwrap(), row.vm_vma_port, row.vm_x_port);
        assert_eq!(read.unwrap(), endpoint);
    }
    assert!(vms.clear(world.vm, world.host, run).await.unwrap().is_updated());
    let row = vms.runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_address, row.vm_vma_port, row.vm_x_port), (None, None, None));
    let late = vms
        .set_endpoint(world.vm, world.host, run, &Endpoint::Unix { dir: "/x".into() }, None)
        .await
        .unwrap();
    assert_eq!(late, Guard::Unchanged(()));
}

async fn clearing_leaves_an_idle_row_and_ends_the_session(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let vms = site.db.vms();
    assert!(vms.pin_image(world.vm, world.host, run).await.unwrap().is_updated());
    assert!(vms.order_stop(world.vm).await.unwrap().is_updated());
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert!(vms.clear(world.vm, world.host, run).await.unwrap().is_updated());
    let row = vms.runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.vm_state, row.host_id, row.vm_cmd), (VmState::Stopped, None, None));
    assert_eq!((row.current_di_id, row.host_incarnation, row.run_id), (None, None, run));
    assert_eq!(row.user_cmd, Some(UserCommand::Abort));
    assert!(vms.of_host(world.host).await.unwrap().is_empty());
    assert_eq!(vms.clear(world.vm, world.host, run).await.unwrap(), Guard::Unchanged(()));
}

async fn failures_block_a_vm_until_somebody_unblocks_it(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    let fail = async |counts| {
        let run = world.run().await;
        let charged = if counts { Charged::Vm { block_at: 3 } } else { Charged::Nobody };
        // Twice: a daemon that did not hear what became of a write repeats it.
        for _ in 0..2 {
            let failed = vms.record_failure(world.vm, world.host, run, "no agent", charged).await.unwrap();
            assert!(failed.is_updated());
        }
        assert!(vms.clear(world.vm, world.host, run).await.unwrap().is_updated());
        vms.runtime(world.vm).await.unwrap().unwrap()
    };
    assert_eq!(fail(true).await.fail_count, 1);
    let run = world.run().await;
    assert!(vms.record_success(world.vm, world.host, run).await.unwrap().is_updated());
    assert!(vms.clear(world.vm, world.host, run).await.unwrap().is_updated());
    assert_eq!(fail(true).await.fail_count, 1, "a success resets");
    assert_eq!(fail(false).await.fail_count, 1, "the node's fault does not count");
    assert!(!fail(true).await.blocked);
    let row = fail(true).await;
    assert_eq!((row.blocked, row.fail_count, row.last_error.as_deref()), (true, 3, Some("no agent")));
    assert_eq!(row.blocked_reason.as_deref(), Some("no agent"));
    let journal = site.db.events().of_vm(world.vm, 10).await.unwrap();
    assert_eq!((journal.len(), journal[0].event.kind.as_str()), (1, "blocked"));
    assert!(journal[0].event.detail.as_deref().unwrap().contains("no agent"), "{journal:?}");
    assert_eq!(vms.overview(world.vm).await.unwrap().unwrap().blocked_by.as_deref(), Some("hkd"));
    assert!(!vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    assert!(vms.set_blocked(world.vm, false, BlockedBy::Admin, None).await.unwrap().is_updated());
    let row = vms.runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.blocked, row.fail_count, row.blocked_reason), (false, 0, None));
    // Saying so twice is no second event.
    assert!(vms.set_blocked(world.vm, false, BlockedBy::Admin, None).await.unwrap().is_updated());
    let journal = site.db.events().of_vm(world.vm, 10).await.unwrap();
    assert_eq!((journal.len(), journal[0].event.kind.as_str()), (2, "unblocked"));
}

async fn limits_are_set_for_what_runs_and_gone_when_it_stops(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let images = site.db.images();
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limits = Expirations { soft: Some(soon), hard: None };
    let newer = images.add(Fixture::image(world.osf, Some("v2"))).await.unwrap();
    assert_eq!(images.tag(newer.id, "default", limits).await.unwrap(), 0, "a stopped VM gets no limit");
    images.tag(world.di, "default", Expirations::default()).await.unwrap();
    let run = world.run().await;
    assert!(site.db.vms().pin_image(world.vm, world.host, run).await.unwrap().is_updated());
    assert_eq!(images.tag(world.di, "default", limits).await.unwrap(), 0, "it runs from that image");
    assert_eq!(images.tag(newer.id, "default", limits).await.unwrap(), 1);
    let expiring = site.db.vms().expiring(world.host).await.unwrap();
    assert_eq!((expiring.len(), expiring[0].soft, expiring[0].hard), (1, Some(soon), None));
    assert_eq!(expiring[0].alerted_at, None);
    assert!(site.db.vms().record_alert(world.vm, world.host, run).await.unwrap().is_updated());
    assert!(site.db.vms().expiring(world.host).await.unwrap()[0].alerted_at.is_some());
    let hard = Expirations { soft: None, hard: Some(soon) };
    assert_eq!(images.untag(newer.id, "default", hard).await.unwrap(), 0, "it does not run from that image");
    assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
    assert!(site.db.vms().expiring(world.host).await.unwrap().is_empty());
    assert_eq!(site.db.vms().overview(world.vm).await.unwrap().unwrap().expires_soft, None);
}
