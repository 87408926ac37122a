//! The guarded writes of a user session: acquire, displace, commit, give back. Each outcome is an event of the
//! connect machine; none of them can touch a row that another session owns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::error::chain;
use qvd_core::{HostId, SessionId, UserId, VmId};
use qvd_db::{Db, Guard, NewSession};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::broker::{Event, Failure};
use crate::sessions::Ticket;

/// Who takes a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed {
    pub(crate) vm: VmId,
    pub(crate) session: SessionId,
    pub(crate) router: HostId,
    pub(crate) instance: Uuid,
    pub(crate) user: UserId,
    pub(crate) peer: IpAddr,
}

/// `disconnected → connecting`, if nobody has it.
pub(crate) async fn acquire(db: Db, who: Claimed) -> Event {
    let session = NewSession {
        session_id: who.session,
        l7r_host: who.router,
        l7r_pid: std::process::id(),
        l7r_instance: who.instance,
        real_user: who.user,
        user_ip: Some(who.peer),
    };
    match db.sessions().acquire(who.vm, session).await {
        Ok(Guard::Updated(row)) => Event::Acquired(Box::new(row)),
        Ok(Guard::Unchanged(row)) => Event::NotAcquired(Box::new(row)),
        Ok(Guard::NotFound) => Event::RowGone,
        Err(error) => failed(who.vm, &error),
    }
}

/// Tells the session that was seen to go; another one that came meanwhile is left alone.
pub(crate) async fn ask_abort(db: Db, vm: VmId, seen: SessionId) -> Event {
    match db.sessions().request_abort(vm, seen).await {
        Ok(Guard::Updated(_)) => Event::AbortAsked,
        Ok(Guard::Unchanged(_)) => Event::AlreadyGone,
        Ok(Guard::NotFound) => Event::RowGone,
        Err(error) => failed(vm, &error),
    }
}

/// `connecting → connected`, if it still is ours and nobody told it to go.
pub(crate) async fn commit(db: Db, vm: VmId, session: SessionId) -> Event {
    match db.sessions().commit(vm, session).await {
        Ok(Guard::Updated(_)) => Event::Committed,
        Ok(Guard::Unchanged(_)) => match db.vms().runtime(vm).await {
            Ok(Some(row)) => Event::NotCommitted(Box::new(row)),
            Ok(None) => Event::RowGone,
            Err(error) => failed(vm, &error),
        },
        Ok(Guard::NotFound) => Event::RowGone,
        Err(error) => failed(vm, &error),
    }
}

/// `→ disconnected`, if it still is ours; true when nothing is left to give back.
pub(crate) async fn give_back(db: &Db, vm: VmId, session: SessionId) -> bool {
    match db.sessions().release(vm, session).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(vm = %vm, session = %session, "session not given back yet: {}", chain(&error));
            false
        }
    }
}

/// Gives a session's row back and its place in the list; what cannot be given back now stays owed.
///
/// A network that breaks ends all sessions in one moment, and each statement takes kilobytes while it waits for the
/// database: whoever has to wait long for its turn leaves its row to the upkeep.
pub(crate) async fn settle(db: Db, turns: Arc<Semaphore>, mut ticket: Ticket) {
    if !ticket.is_owing() {
        return;
    }
    if let Ok(Ok(_turn)) = tokio::time::timeout(SETTLING_WAIT, turns.acquire()).await
        && Box::pin(give_back(&db, ticket.vm(), ticket.id())).await
    {
        ticket.settled();
    }
}

fn failed(vm: VmId, error: &qvd_db::Error) -> Event {
    tracing::warn!(vm = %vm, "connect cannot go on: {}", chain(error));
    Event::Failed(Failure::Database)
}

/// Rows given back at once.
pub(crate) const MOST_SETTLING: usize = 64;

/// How long one waits for its turn.
const SETTLING_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use qvd_core::{SessionId, VmId};

    use super::*;
    use crate::sessions::Sessions;

    async fn ticket(sessions: &Arc<Sessions>) -> (Db, Ticket) {
        let db = qvd_db::testkit::memory().await;
        let mut ticket = sessions.enter(VmId::new(1), SessionId::from_u128(1));
        ticket.owes();
        (db, ticket)
    }

    #[tokio::test]
    async fn whoever_waits_long_for_a_turn_stays_owed() {
        let sessions = Arc::new(Sessions::default());
        let (db, ticket) = ticket(&sessions).await;
        tokio::time::pause();
        settle(db, Arc::new(Semaphore::new(0)), ticket).await;
        assert_eq!(sessions.owed().len(), 1);
    }

    #[tokio::test]
    async fn waiting_for_a_turn_takes_little_memory() {
        let sessions = Arc::new(Sessions::default());
        let (db, ticket) = ticket(&sessions).await;
        let waiting = settle(db, Arc::new(Semaphore::new(0)), ticket);
        assert!(size_of_val(&waiting) < 512, "{}", size_of_val(&waiting));
    }
}
