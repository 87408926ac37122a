//! User sessions: acquire, take over, commit, release.

use qvd_core::state::{UserCommand, UserState};
use qvd_core::{SessionId, VmId};
use uuid::Uuid;

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{BlockedBy, Guard, NewSession};

case_list![
    a_session_is_acquired_committed_and_released,
    of_two_sessions_one_gets_the_vm,
    an_abort_hits_only_the_session_that_was_seen,
    a_session_that_was_asked_to_end_does_not_connect,
    a_late_clean_up_does_not_touch_the_next_session,
    a_blocked_vm_takes_no_session,
    sessions_of_a_dead_router_are_released_together,
    nobody_connected_cannot_be_disconnected,
];

async fn a_session_is_acquired_committed_and_released(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let session = world.session(1);
    let id = session.session_id;
    let row = sessions.acquire(world.vm, session).await.unwrap().updated().unwrap();
    assert_eq!((row.user_state, row.session_id), (UserState::Connecting, Some(id)));
    assert_eq!((row.real_user_id, row.l7r_host_id), (Some(world.user), Some(world.host)));
    assert_eq!(sessions.commit(world.vm, id).await.unwrap(), Guard::Updated(()));
    assert_eq!(sessions.commit(world.vm, id).await.unwrap(), Guard::Unchanged(()));
    assert_eq!(sessions.release(world.vm, id).await.unwrap(), Guard::Updated(()));
    assert_eq!(sessions.release(world.vm, id).await.unwrap(), Guard::Unchanged(()));
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.user_state, row.session_id, row.l7r_host_id), (UserState::Disconnected, None, None));
    assert_eq!(row.real_user_id, Some(world.user), "who was last stays known");
    assert_eq!(sessions.acquire(VmId::new(99), world.session(1)).await.unwrap(), Guard::NotFound);
}

async fn of_two_sessions_one_gets_the_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    for n in 0..8 {
        let (a, b) = (world.session(2 * n), world.session(2 * n + 1));
        let (ours, theirs) = (a.session_id, b.session_id);
        let (one, two) =
            tokio::join!(site.db.sessions().acquire(world.vm, a), second.sessions().acquire(world.vm, b));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.is_updated() != two.is_updated(), "{one:?} {two:?}");
        let winner = if one.is_updated() { ours } else { theirs };
        assert_eq!(one.row().unwrap().session_id, Some(winner));
        assert_eq!(two.row().unwrap().session_id, Some(winner));
        assert!(site.db.sessions().release(world.vm, winner).await.unwrap().is_updated());
    }
}

async fn an_abort_hits_only_the_session_that_was_seen(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let old = world.session(1).session_id;
    assert!(sessions.acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert!(sessions.commit(world.vm, old).await.unwrap().is_updated());
    assert_eq!(
        sessions.request_abort(world.vm, SessionId::from_u128(9)).await.unwrap(),
        Guard::Unchanged(())
    );
    assert!(site.db.vms().runtime(world.vm).await.unwrap().unwrap().user_cmd.is_none());
    assert_eq!(sessions.request_abort(world.vm, old).await.unwrap(), Guard::Updated(()));
    let instance = Uuid::from_u128(7);
    assert_eq!(sessions.aborted(world.host, instance).await.unwrap(), [(world.vm, old)]);
    assert!(sessions.aborted(world.host, Uuid::from_u128(8)).await.unwrap().is_empty());
    assert!(sessions.release(world.vm, old).await.unwrap().is_updated());
    let row = sessions.acquire(world.vm, world.session(2)).await.unwrap().updated().unwrap();
    assert_eq!(row.user_cmd, None, "the next session is not told to end");
    assert_eq!(sessions.request_abort(world.vm, old).await.unwrap(), Guard::Unchanged(()));
}

async fn a_session_that_was_asked_to_end_does_not_connect(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let id = world.session(1).session_id;
    assert!(sessions.acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert!(sessions.abort_user(world.vm).await.unwrap().is_updated());
    assert_eq!(sessions.commit(world.vm, id).await.unwrap(), Guard::Unchanged(()));
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.user_state, row.user_cmd), (UserState::Connecting, Some(UserCommand::Abort)));
}

async fn a_late_clean_up_does_not_touch_the_next_session(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let old = world.session(1).session_id;
    assert!(sessions.acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert!(sessions.release(world.vm, old).await.unwrap().is_updated());
    // The same process, so the same pid.
    assert!(sessions.acquire(world.vm, world.session(2)).await.unwrap().is_updated());
    assert_eq!(sessions.release(world.vm, old).await.unwrap(), Guard::Unchanged(()));
    assert_eq!(sessions.commit(world.vm, old).await.unwrap(), Guard::Unchanged(()));
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!(row.session_id, Some(world.session(2).session_id));
}

async fn a_blocked_vm_takes_no_session(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let blocked = site.db.vms().set_blocked(world.vm, true, BlockedBy::Admin, None).await.unwrap();
    assert!(blocked.is_updated());
    let refused = site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap();
    assert!(matches!(refused, Guard::Unchanged(row) if row.blocked && row.session_id.is_none()));
}

async fn sessions_of_a_dead_router_are_released_together(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let alive = site.db.vms().add(Fixture::vm("ana-3", world.user, world.osf)).await.unwrap();
    let (dead, living) = (Uuid::from_u128(7), Uuid::from_u128(8));
    assert!(sessions.acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert!(sessions.acquire(other, world.session(2)).await.unwrap().is_updated());
    let kept = NewSession { l7r_instance: living, ..world.session(3) };
    assert!(sessions.acquire(alive, kept).await.unwrap().is_updated());
    let mut instances = sessions.instances(world.host).await.unwrap();
    instances.sort();
    assert_eq!(instances, [dead, living]);
    let mut released = sessions.release_instance(world.host, dead).await.unwrap();
    released.sort();
    assert_eq!(released, [world.vm, other]);
    assert_eq!(sessions.instances(world.host).await.unwrap(), [living]);
    let row = site.db.vms().runtime(alive).await.unwrap().unwrap();
    assert_eq!(row.user_state, UserState::Connecting);
}

async fn nobody_connected_cannot_be_disconnected(site: Site) {
    let world = Fixture::fill(&site.db).await;
    assert_eq!(site.db.sessions().abort_user(world.vm).await.unwrap(), Guard::Unchanged(()));
    assert_eq!(site.db.sessions().abort_user(VmId::new(99)).await.unwrap(), Guard::NotFound);
}
