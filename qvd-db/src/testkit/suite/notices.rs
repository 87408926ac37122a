//! Who is woken by what.

use std::time::Duration;

use qvd_core::state::VmState;
use tokio::time::timeout;

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Channel, Claimant, Hint, Subscription};

case_list![
    a_claim_wakes_its_host_and_no_other,
    another_process_is_woken,
    an_abort_wakes_the_router_of_the_session,
    moves_of_a_vm_wake_those_who_wait_for_it,
    what_is_rolled_back_wakes_nobody,
    a_listener_of_one_vm_hears_of_that_one_alone,
    a_session_that_begins_or_ends_is_told_of_its_own_vm,
];

/// The hint that must come.
async fn hint(subscription: &mut Subscription) -> Hint {
    timeout(Duration::from_secs(10), subscription.next()).await.expect("nobody was woken")
}

/// Waits for a channel; a rescan in between is a wake-up, too, but not the one that is asked for.
async fn woken(subscription: &mut Subscription, channel: Channel) {
    while hint(subscription).await != Hint::Notified(channel) {}
}

async fn listening(db: &crate::Db, channels: &[Channel]) -> Subscription {
    let mut subscription = db.subscribe(channels);
    assert_eq!(hint(&mut subscription).await, Hint::Rescan, "the first hint is to look at everything");
    subscription
}

async fn a_claim_wakes_its_host_and_no_other(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let (other, _) = Fixture::running_host(&site.db, "n2").await;
    let mut ours = listening(&site.db, &[Channel::VmCommands(world.host)]).await;
    let mut theirs = listening(&site.db, &[Channel::VmCommands(other), Channel::ConfigChanged]).await;
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    assert_eq!(hint(&mut ours).await, Hint::Notified(Channel::VmCommands(world.host)));
    // Notices come in the order of their commits, so this one would come after a wrong one.
    site.db.config().set_all(&[("a".to_owned(), "1".to_owned())]).await.unwrap();
    assert_eq!(hint(&mut theirs).await, Hint::Notified(Channel::ConfigChanged));
}

async fn another_process_is_woken(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let channel = Channel::VmCommands(world.host);
    let mut subscription = listening(&site.db, &[channel]).await;
    assert!(second.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
    if site.is_postgres() || !site.is_shared() {
        assert_eq!(hint(&mut subscription).await, Hint::Notified(channel));
    } else {
        // The datagram, or the look at the file that comes once a second, whichever is first.
        let woken_by = hint(&mut subscription).await;
        assert!(matches!(woken_by, Hint::Rescan) || woken_by == Hint::Notified(channel), "{woken_by:?}");
    }
    assert_eq!(site.db.vms().pending(world.host, world.incarnation).await.unwrap().len(), 1);
}

async fn an_abort_wakes_the_router_of_the_session(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let channel = Channel::UserCommands(world.host);
    let mut router = listening(&site.db, &[channel]).await;
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    let seen = world.session(1).session_id;
    assert!(site.db.sessions().request_abort(world.vm, seen).await.unwrap().is_updated());
    woken(&mut router, channel).await;
    assert!(site.db.sessions().abort_user(world.vm).await.unwrap().is_updated());
    woken(&mut router, channel).await;
    // The machine under the session dies.
    let run = world.run().await;
    assert!(site.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
    woken(&mut router, channel).await;
}

async fn moves_of_a_vm_wake_those_who_wait_for_it(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    let mut waiting = listening(&site.db, &[Channel::VmState]).await;
    let run = vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().updated().unwrap().run_id;
    assert!(vms.accept_start(world.vm, world.host, world.incarnation).await.unwrap().is_updated());
    woken(&mut waiting, Channel::VmState).await;
    assert!(vms.set_state(world.vm, world.host, run, VmState::Running, None).await.unwrap().is_updated());
    woken(&mut waiting, Channel::VmState).await;
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    let session = world.session(1).session_id;
    assert!(site.db.sessions().release(world.vm, session).await.unwrap().is_updated());
    woken(&mut waiting, Channel::VmState).await;
    assert!(vms.clear(world.vm, world.host, run).await.unwrap().is_updated());
    woken(&mut waiting, Channel::VmState).await;
    assert!(vms.claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
    assert!(vms.order_stop(world.vm).await.unwrap().is_updated());
    woken(&mut waiting, Channel::VmState).await;
}

async fn what_is_rolled_back_wakes_nobody(site: Site) {
    let channels = [Channel::ConfigChanged, Channel::VmState];
    let mut subscription = listening(&site.db, &channels).await;
    let mut abandoned = site.db.begin().await.unwrap();
    abandoned.notify(Channel::ConfigChanged, String::new());
    drop(abandoned);
    let mut kept = site.db.begin().await.unwrap();
    kept.notify(Channel::VmState, "1:1:running".to_owned());
    kept.commit(&site.db).await.unwrap();
    assert_eq!(hint(&mut subscription).await, Hint::Notified(Channel::VmState));
}

async fn a_listener_of_one_vm_hears_of_that_one_alone(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let channels = [Channel::VmState, Channel::ConfigChanged];
    let mut subscription = listening(&site.db, &channels).await.only_vm(other);
    world.run().await;
    site.db.config().set_all(&[("a".to_owned(), "1".to_owned())]).await.unwrap();
    assert_eq!(hint(&mut subscription).await, Hint::Notified(Channel::ConfigChanged));
    Fixture { vm: other, ..world }.run().await;
    assert_eq!(hint(&mut subscription).await, Hint::Notified(Channel::VmState));
}

async fn a_session_that_begins_or_ends_is_told_of_its_own_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let other = Fixture { vm: other, db: site.db.clone(), ..world };
    world.run().await;
    other.run().await;
    let channels = [Channel::VmState, Channel::ConfigChanged];
    let mut subscription = listening(&site.db, &channels).await.only_vm(other.vm);
    let sessions = site.db.sessions();
    for (number, world, is_heard) in [(1, &world, false), (2, &other, true)] {
        let session = world.session(number).session_id;
        assert!(sessions.acquire(world.vm, world.session(number)).await.unwrap().is_updated());
        for is_end in [false, true] {
            let moved = match is_end {
                false => sessions.commit(world.vm, session).await,
                true => sessions.release(world.vm, session).await,
            };
            assert!(moved.unwrap().is_updated());
            site.db.config().set_all(&[("a".to_owned(), format!("{number} {is_end}"))]).await.unwrap();
            if is_heard {
                assert_eq!(hint(&mut subscription).await, Hint::Notified(Channel::VmState));
            }
            assert_eq!(hint(&mut subscription).await, Hint::Notified(Channel::ConfigChanged));
        }
    }
}
