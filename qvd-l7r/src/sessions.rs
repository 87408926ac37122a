//! The sessions of this process: who can be told to end, and whose rows still have to be given back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qvd_core::{SessionId, VmId};
use tokio::sync::watch;

/// Why a session is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A contending session or an administrator wants it gone.
    Abort,
    /// The router ends.
    Stop,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// None may live any more; never taken back.
    ended: watch::Sender<bool>,
    live: Mutex<HashMap<SessionId, watch::Sender<Option<Order>>>>,
    /// Rows that could not be given back yet.
    owed: Mutex<Vec<(VmId, SessionId)>>,
}

/// One session's place in the list. Dropped without [`Ticket::settled`], its row is given back later by others.
#[derive(Debug)]
pub(crate) struct Ticket {
    sessions: Arc<Sessions>,
    vm: VmId,
    id: SessionId,
    orders: watch::Receiver<Option<Order>>,
    /// [`Ticket::ordered`] has said it.
    told: bool,
    owes: bool,
}

impl Sessions {
    /// Enters a session, before any row names it. One that comes too late is told to end from the beginning.
    pub(crate) fn enter(self: &Arc<Self>, vm: VmId, id: SessionId) -> Ticket {
        let mut live = lock(&self.live);
        // Under the lock: `end` either is seen here or sees this session.
        let (sender, orders) = watch::channel(self.ended.borrow().then_some(Order::Stop));
        live.insert(id, sender);
        drop(live);
        Ticket { sessions: self.clone(), vm, id, orders, told: false, owes: false }
    }

    /// Tells one session to end; false when there is none of that id.
    pub(crate) fn order(&self, id: SessionId, order: Order) -> bool {
        let live = lock(&self.live);
        // A stop does not overwrite an abort, nor the other way round: the first order counts.
        live.get(&id)
            .map(|s| s.send_if_modified(|slot| slot.is_none().then(|| *slot = Some(order)).is_some()))
            .is_some()
    }

    /// Tells all of them to end, and those that are still to come.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
        let ids: Vec<SessionId> = lock(&self.live).keys().copied().collect();
        for id in ids {
            self.order(id, Order::Stop);
        }
    }

    /// Waits until none may live any more. Whatever else a connection waits for must not outlast this.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn ended(&self) {
        if self.ended.subscribe().wait_for(|ended| *ended).await.is_err() {
            // Only if the sender were gone, and it is borrowed here.
            std::future::pending().await
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Takes the rows that have to be given back.
    pub(crate) fn take_owed(&self) -> Vec<(VmId, SessionId)> {
        std::mem::take(&mut *lock(&self.owed))
    }

    /// Puts one back that could not be given back now.
    pub(crate) fn owe(&self, vm: VmId, id: SessionId) {
        lock(&self.owed).push((vm, id));
    }
}

impl Ticket {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn vm(&self) -> VmId {
        self.vm
    }

    /// From now on a row may name this session.
    pub(crate) fn owes(&mut self) {
        self.owes = true;
    }

    /// Whether a row may name this session.
    pub(crate) fn is_owing(&self) -> bool {
        self.owes
    }

    /// The row was given back.
    pub(crate) fn settled(&mut self) {
        self.owes = false;
    }

    /// What the session was told, if it was.
    pub(crate) fn order(&self) -> Option<Order> {
        *self.orders.borrow()
    }

    /// Waits until the session is told to end. Says it once: who cannot obey at the moment is not kept busy by it.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn ordered(&mut self) -> Order {
        if self.told {
            return std::future::pending().await;
        }
        let order = self.orders.wait_for(Option::is_some).await.ok().and_then(|order| *order);
        self.told = order.is_some();
        match order {
            Some(order) => order,
            // Only if the sender were gone, and it lives as long as the ticket.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.sessions.live).remove(&self.id);
        if self.owes {
            self.sessions.owe(self.vm, self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId::new(1);
    const ID: SessionId = SessionId::from_u128(7);

    #[tokio::test]
    async fn the_first_order_counts_and_waits_for_its_reader() {
        let sessions = Arc::new(Sessions::default());
        let mut ticket = sessions.enter(VM, ID);
        assert!(sessions.order(ID, Order::Abort));
        sessions.end();
        assert_eq!(ticket.ordered().await, Order::Abort);
        assert_eq!(ticket.order(), Some(Order::Abort));
        let again = tokio::time::timeout(std::time::Duration::ZERO, ticket.ordered()).await;
        assert!(again.is_err(), "said once");
        assert!(!sessions.order(SessionId::from_u128(8), Order::Abort));
    }

    #[tokio::test]
    async fn a_session_that_comes_behind_the_end_is_told_too() {
        let sessions = Arc::new(Sessions::default());
        sessions.end();
        sessions.ended().await;
        assert_eq!(sessions.enter(VM, ID).ordered().await, Order::Stop);
    }

    #[test]
    fn a_row_that_was_not_given_back_is_owed() {
        let sessions = Arc::new(Sessions::default());
        drop(sessions.enter(VM, ID));
        assert!(sessions.take_owed().is_empty(), "never acquired");
        let mut ticket = sessions.enter(VM, ID);
        ticket.owes();
        drop(ticket);
        assert_eq!(sessions.take_owed(), [(VM, ID)]);
        assert_eq!(sessions.count(), 0);
    }
}
