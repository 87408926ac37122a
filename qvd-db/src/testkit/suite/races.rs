//! Two writers at once, each of whom believes what was true a moment ago: whoever comes second finds out.
//!
//! Every case is run some times over, so that both orders and the overlap come up.

use std::time::{Duration, SystemTime};

use qvd_core::Secret;
use qvd_core::state::{HostState, UserCommand, UserState, VmState};
use uuid::Uuid;

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Claimant, Expirations, Guard, HostLoad, NewHost, Seen, SslMaterial, TakeOver};

case_list![
    a_claim_and_a_take_over_agree_on_the_incarnation,
    a_claim_and_the_hosts_shutdown_strand_no_start,
    a_claim_and_a_block_of_the_host,
    a_lost_host_is_not_claimed,
    a_report_and_a_loss_exclude_each_other,
    a_release_and_a_take_over_of_a_lost_host,
    a_pinned_image_and_a_moving_tag_see_each_other,
    a_pinned_image_is_not_deleted,
    a_commit_and_an_abort,
    a_release_and_an_acquisition_of_a_session,
    a_host_is_deleted_or_taken_over,
    a_user_is_deleted_or_gets_a_vm,
    a_vm_is_deleted_or_claimed,
    a_password_upgrade_loses_against_a_change,
    a_made_certificate_loses_against_a_stored_one,
];

const ROUNDS: u8 = 6;

/// Makes its daemon run under a token that is known, and yields the incarnation.
async fn restart(world: &Fixture, token: Uuid) -> i64 {
    let hosts = world.db.hosts();
    let incarnation = hosts.load(world.host).await.unwrap().unwrap().runtime.incarnation;
    assert!(hosts.set_state(world.host, incarnation, HostState::Stopped).await.unwrap().is_updated());
    let taken = hosts.take_over(world.host, Fixture::daemon(token)).await.unwrap();
    assert!(hosts.set_state(world.host, taken.incarnation, HostState::Running).await.unwrap().is_updated());
    taken.incarnation
}

async fn a_claim_and_a_take_over_agree_on_the_incarnation(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let token = Uuid::from_u128(5);
    for _ in 0..ROUNDS {
        restart(&world, token).await;
        let (claimed, taken) = tokio::join!(
            site.db.vms().claim(world.vm, world.host, Claimant::Router),
            second.hosts().take_over(world.host, Fixture::daemon(token)),
        );
        let (claimed, taken) = (claimed.unwrap(), taken.unwrap());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        let expected = claimed.is_updated().then_some(taken.incarnation);
        assert_eq!(row.host_incarnation, expected, "{claimed:?}");
        let pending = site.db.vms().pending(world.host, taken.incarnation).await.unwrap();
        assert_eq!(pending.len(), usize::from(claimed.is_updated()), "the new daemon sees the start");
    }
}

async fn a_claim_and_the_hosts_shutdown_strand_no_start(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let incarnation = restart(&world, Uuid::from_u128(5)).await;
        let state = if round % 2 == 0 { HostState::Stopping } else { HostState::Stopped };
        let (claimed, saved) = tokio::join!(
            site.db.vms().claim(world.vm, world.host, Claimant::Router),
            second.hosts().set_state(world.host, incarnation, state),
        );
        let (claimed, saved) = (claimed.unwrap(), saved.unwrap().updated().unwrap());
        assert_eq!(saved.cancelled.len(), usize::from(claimed.is_updated()), "{claimed:?}");
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        assert_eq!((row.host_id, row.vm_cmd), (None, None), "{claimed:?}");
    }
}

async fn a_claim_and_a_block_of_the_host(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for _ in 0..ROUNDS {
        let (claimed, blocked) = tokio::join!(
            site.db.vms().claim(world.vm, world.host, Claimant::Router),
            second.hosts().set_blocked(world.host, true),
        );
        assert!(blocked.unwrap().is_updated());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        assert_eq!(claimed.unwrap().is_updated(), row.host_id.is_some());
        if row.host_id.is_some() {
            assert!(site.db.vms().order_stop(world.vm).await.unwrap().is_updated());
        }
        let late = site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap();
        assert!(!late.is_updated(), "the block holds from its commit on");
        assert!(site.db.hosts().set_blocked(world.host, false).await.unwrap().is_updated());
    }
}

/// The lease runs out at once.
async fn expire(world: &Fixture) -> Seen {
    let hosts = world.db.hosts();
    let none = Duration::ZERO;
    let tick = hosts.tick(world.host, world.incarnation, none, none, HostLoad::default()).await.unwrap();
    assert!(tick.is_updated());
    let runtime = hosts.load(world.host).await.unwrap().unwrap().runtime;
    Seen { incarnation: runtime.incarnation, ok_ts: runtime.ok_ts.unwrap() }
}

async fn a_lost_host_is_not_claimed(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let seen = expire(&world).await;
    let (claimed, lost) = tokio::join!(
        site.db.vms().claim(world.vm, world.host, Claimant::Admin),
        second.hosts().mark_lost(world.host, seen),
    );
    assert!(lost.unwrap().is_updated());
    assert!(!claimed.unwrap().is_updated(), "its lease had run out");
    assert_eq!(site.db.vms().runtime(world.vm).await.unwrap().unwrap().host_id, None);
    let journal = site.db.events().of_host(world.host, 1).await.unwrap();
    assert_eq!(journal[0].event.to_state.as_deref(), Some("lost"));
}

async fn a_report_and_a_loss_exclude_each_other(site: Site) {
    let second = site.second().await;
    for round in 0..ROUNDS {
        let (host, incarnation) = Fixture::running_host(&site.db, &format!("n{round}")).await;
        let none = Duration::ZERO;
        let report = |db: crate::Db| async move {
            db.hosts().tick(host, incarnation, none, none, HostLoad::default()).await.unwrap()
        };
        assert!(report(site.db.clone()).await.is_updated());
        let runtime = site.db.hosts().load(host).await.unwrap().unwrap().runtime;
        let seen = Seen { incarnation, ok_ts: runtime.ok_ts.unwrap() };
        let (lost, reported) = tokio::join!(site.db.hosts().mark_lost(host, seen), report(second.clone()));
        let lost = lost.unwrap();
        assert!(lost.is_updated() != reported.is_updated(), "{lost:?} {reported:?}");
        let state = site.db.hosts().load(host).await.unwrap().unwrap().runtime.state;
        assert_eq!(state == HostState::Lost, lost.is_updated());
    }
}

async fn a_release_and_a_take_over_of_a_lost_host(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let incarnation = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime.incarnation;
        let here = Fixture { incarnation, ..world.clone() };
        here.run().await;
        let seen = expire(&here).await;
        assert!(site.db.hosts().mark_lost(world.host, seen).await.unwrap().is_updated());
        let daemon = TakeOver { watch: Duration::ZERO, ..Fixture::daemon(Uuid::from_u128(round.into())) };
        let (released, taken) = tokio::join!(
            site.db.hosts().release(world.host, seen),
            second.hosts().take_over(world.host, daemon),
        );
        let (released, taken) = (released.unwrap(), taken.unwrap());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        if released.is_updated() {
            assert_eq!((row.vm_state, row.host_id), (VmState::Stopped, None));
        } else {
            assert_eq!((row.vm_state, row.host_incarnation), (VmState::Running, Some(taken.incarnation)));
            assert!(site.db.vms().clear(world.vm, world.host, row.run_id).await.unwrap().is_updated());
        }
        let running = site.db.hosts().set_state(world.host, taken.incarnation, HostState::Running).await;
        assert!(running.unwrap().is_updated());
    }
}

async fn a_pinned_image_and_a_moving_tag_see_each_other(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let images = site.db.images();
    let newer = images.add(Fixture::image(world.osf, Some("v2"))).await.unwrap().id;
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limits = Expirations { soft: Some(soon), hard: None };
    for _ in 0..ROUNDS {
        images.tag(world.di, "default", Expirations::default()).await.unwrap();
        let run = world.run().await;
        let (pinned, tagged) = tokio::join!(
            site.db.vms().pin_image(world.vm, world.host, run),
            second.images().tag(newer, "default", limits),
        );
        let pinned = pinned.unwrap().updated().unwrap().unwrap().id;
        let limit = site.db.vms().overview(world.vm).await.unwrap().unwrap().expires_soft;
        // Either the start sees the new tag, or the change of tag sees the image.
        assert_eq!(limit, (pinned == world.di).then_some(soon));
        assert_eq!(tagged.unwrap(), u64::from(pinned == world.di));
        assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
    }
}

async fn a_pinned_image_is_not_deleted(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let images = site.db.images();
    let mut holder = world.di;
    for round in 0..ROUNDS {
        let heir = images.add(Fixture::image(world.osf, Some(&format!("r{round}")))).await.unwrap().id;
        let run = world.run().await;
        let (pinned, deleted) =
            tokio::join!(site.db.vms().pin_image(world.vm, world.host, run), second.images().delete(holder),);
        let pinned = pinned.unwrap().updated().unwrap().unwrap().id;
        assert_eq!(pinned == holder, deleted.is_err(), "{deleted:?}");
        assert!(images.load(pinned).await.unwrap().is_some());
        assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
        if deleted.is_err() {
            assert!(images.delete(holder).await.unwrap().is_updated());
        }
        holder = heir;
    }
}

async fn a_commit_and_an_abort(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let session = world.session(round);
        let id = session.session_id;
        assert!(site.db.sessions().acquire(world.vm, session).await.unwrap().is_updated());
        let (committed, asked) = tokio::join!(
            site.db.sessions().commit(world.vm, id),
            second.sessions().request_abort(world.vm, id),
        );
        assert!(asked.unwrap().is_updated());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        let expected =
            if committed.unwrap().is_updated() { UserState::Connected } else { UserState::Connecting };
        assert_eq!((row.user_state, row.user_cmd), (expected, Some(UserCommand::Abort)));
        assert!(site.db.sessions().release(world.vm, id).await.unwrap().is_updated());
    }
}

async fn a_release_and_an_acquisition_of_a_session(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let (old, new) = (world.session(2 * round), world.session(2 * round + 1));
        let (old_id, new_id) = (old.session_id, new.session_id);
        assert!(site.db.sessions().acquire(world.vm, old).await.unwrap().is_updated());
        let (released, acquired) = tokio::join!(
            site.db.sessions().release(world.vm, old_id),
            second.sessions().acquire(world.vm, new),
        );
        assert!(released.unwrap().is_updated());
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        let acquired = acquired.unwrap().is_updated();
        assert_eq!(row.session_id, acquired.then_some(new_id));
        if acquired {
            assert!(site.db.sessions().release(world.vm, new_id).await.unwrap().is_updated());
        }
    }
}

async fn a_host_is_deleted_or_taken_over(site: Site) {
    let second = site.second().await;
    for round in 0..ROUNDS {
        let (name, address) = (format!("n{round}"), format!("10.0.0.{round}"));
        let host = NewHost { name, address, frontend: true, backend: true };
        let host = site.db.hosts().add(host).await.unwrap();
        let (deleted, taken) = tokio::join!(
            site.db.hosts().delete(host),
            second.hosts().take_over(host, Fixture::daemon(Uuid::from_u128(1))),
        );
        assert!(deleted.is_ok() != taken.is_ok(), "{deleted:?} {taken:?}");
        assert_eq!(site.db.hosts().load(host).await.unwrap().is_some(), taken.is_ok());
    }
}

async fn a_user_is_deleted_or_gets_a_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let login = format!("user-{round}");
        let user = site.db.users().add(qvd_core::TenantId::DEFAULT, &login, None).await.unwrap();
        let (deleted, added) = tokio::join!(
            site.db.users().delete(user),
            second.vms().add(Fixture::vm(&login, user, world.osf)),
        );
        assert!(deleted.is_ok() != added.is_ok(), "{deleted:?} {added:?}");
        assert_eq!(site.db.users().load(user).await.unwrap().is_some(), added.is_ok());
    }
}

async fn a_vm_is_deleted_or_claimed(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let vm = Fixture::vm(&format!("ana-r{round}"), world.user, world.osf);
        let vm = site.db.vms().add(vm).await.unwrap();
        let (deleted, claimed) =
            tokio::join!(site.db.vms().delete(vm), second.vms().claim(vm, world.host, Claimant::Router),);
        let (deleted, claimed) = (deleted.unwrap(), claimed.unwrap());
        assert!(deleted.is_updated() != claimed.is_updated(), "{deleted:?} {claimed:?}");
        assert_eq!(site.db.vms().runtime(vm).await.unwrap().is_some(), claimed.is_updated());
    }
}

async fn a_password_upgrade_loses_against_a_change(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for round in 0..ROUNDS {
        let (old, upgraded, changed) =
            (format!("old-{round}"), format!("upgraded-{round}"), format!("changed-{round}"));
        let users = site.db.users();
        assert!(users.set_password_hash(world.user, None, &old).await.unwrap().is_updated());
        let (upgrade, change) = tokio::join!(
            users.set_password_hash(world.user, Some(&old), &upgraded),
            second.users().set_password_hash(world.user, None, &changed),
        );
        assert!(upgrade.is_ok());
        assert_eq!(change.unwrap(), Guard::Updated(()));
        let stored = users.load(world.user).await.unwrap().unwrap().password_hash.unwrap();
        assert_eq!(stored.expose(), &changed);
    }
}

async fn a_made_certificate_loses_against_a_stored_one(site: Site) {
    let second = site.second().await;
    let config = site.db.config();
    let named = |name: &str| SslMaterial {
        cert: Some(format!("certificate of {name}")),
        key: Some(Secret::new(format!("key of {name}"))),
        ..SslMaterial::default()
    };
    for round in 0..ROUNDS {
        config.set_ssl(&SslMaterial::default()).await.unwrap();
        let (made, bought) = (named("router"), named("administrator"));
        let (first, stored) = if round % 2 == 0 {
            let (first, stored) =
                tokio::join!(config.set_ssl_if_absent(&made), second.config().set_ssl(&bought),);
            stored.unwrap();
            (first.unwrap(), bought)
        } else {
            let other = named("other router");
            let (one, two) =
                tokio::join!(config.set_ssl_if_absent(&made), second.config().set_ssl_if_absent(&other),);
            let (one, two) = (one.unwrap(), two.unwrap());
            assert_eq!(one, two, "both use what is stored");
            (one.clone(), one)
        };
        assert!(first == made || first == stored, "never halves of two: {first:?}");
        assert_eq!(config.ssl().await.unwrap(), stored);
        assert_eq!(config.set_ssl_if_absent(&made).await.unwrap(), stored);
    }
}
