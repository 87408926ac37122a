//! The sessions of this process: who can be told to end, and whose rows still have to be given back.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

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
    live: Mutex<HashMap<SessionId, Arc<Slot>>>,
    /// Rows that could not be given back yet.
    owed: Mutex<BTreeSet<(VmId, SessionId)>>,
}

/// What one session was told. Small: there is one for each session, for as long as it lasts.
#[derive(Debug, Default)]
struct Slot {
    order: OnceLock<Order>,
    listener: Mutex<Option<Waker>>,
}

/// One session's place in the list. Dropped without [`Ticket::settled`], its row is given back later by others.
#[derive(Debug)]
pub(crate) struct Ticket {
    sessions: Arc<Sessions>,
    vm: VmId,
    id: SessionId,
    slot: Arc<Slot>,
    /// Who is woken by an order; a session asks at each of its turns, and takes no lock for it.
    listening: Option<Waker>,
    /// [`Ticket::ordered`] has said it.
    told: bool,
    owes: bool,
}

impl Sessions {
    /// Enters a session, before any row names it. One that comes too late is told to end from the beginning.
    pub(crate) fn enter(self: &Arc<Self>, vm: VmId, id: SessionId) -> Ticket {
        let mut live = lock(&self.live);
        // Under the lock: `end` either is seen here or sees this session.
        let slot = Arc::<Slot>::default();
        if *self.ended.borrow() {
            slot.give(Order::Stop);
        }
        live.insert(id, slot.clone());
        drop(live);
        Ticket { sessions: self.clone(), vm, id, slot, listening: None, told: false, owes: false }
    }

    /// Tells one session to end; false when there is none of that id.
    pub(crate) fn order(&self, id: SessionId, order: Order) -> bool {
        let live = lock(&self.live);
        live.get(&id).inspect(|slot| slot.give(order)).is_some()
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

    /// The rows that have to be given back.
    pub(crate) fn owed(&self) -> BTreeSet<(VmId, SessionId)> {
        lock(&self.owed).clone()
    }

    /// One has to be given back.
    pub(crate) fn owe(&self, vm: VmId, id: SessionId) {
        lock(&self.owed).insert((vm, id));
    }

    /// One was given back.
    pub(crate) fn given_back(&self, vm: VmId, id: SessionId) {
        lock(&self.owed).remove(&(vm, id));
    }
}

impl Slot {
    /// A stop does not overwrite an abort, nor the other way round: the first order counts.
    fn give(&self, order: Order) {
        if self.order.set(order).is_ok()
            && let Some(listener) = lock(&self.listener).take()
        {
            listener.wake();
        }
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
        self.slot.order.get().copied()
    }

    /// Waits until the session is told to end. Says it once: who cannot obey at the moment is not kept busy by it.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn ordered(&mut self) -> Order {
        poll_fn(|cx| self.poll_ordered(cx)).await
    }

    fn poll_ordered(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        if self.told {
            return Poll::Pending;
        }
        if !self.listening.as_ref().is_some_and(|listening| listening.will_wake(cx.waker())) {
            self.listening = Some(cx.waker().clone());
            *lock(&self.slot.listener) = Some(cx.waker().clone());
        }
        // Looked at behind the listening: an order is either seen here or wakes.
        match self.order() {
            Some(order) => {
                self.told = true;
                Poll::Ready(order)
            }
            None => Poll::Pending,
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const VM: VmId = VmId::new(1);
    const ID: SessionId = SessionId::from_u128(7);

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

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

    #[test]
    fn an_order_wakes_whoever_listened_last() {
        let sessions = Arc::new(Sessions::default());
        let mut ticket = sessions.enter(VM, ID);
        let count = || Arc::new(Woken(AtomicUsize::new(0)));
        let (first, second) = (count(), count());
        let wakers = [first.clone(), second.clone()].map(Waker::from);
        let [mut moved_from, mut here] = [0, 1].map(|at| Context::from_waker(&wakers[at]));
        assert!(ticket.poll_ordered(&mut moved_from).is_pending());
        assert!(ticket.poll_ordered(&mut here).is_pending());
        assert!(ticket.poll_ordered(&mut here).is_pending());
        sessions.order(ID, Order::Abort);
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
        assert_eq!(ticket.poll_ordered(&mut moved_from), Poll::Ready(Order::Abort));
        sessions.order(ID, Order::Stop);
        assert!(ticket.poll_ordered(&mut moved_from).is_pending(), "said once");
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
        assert!(sessions.owed().is_empty(), "never acquired");
        let mut ticket = sessions.enter(VM, ID);
        ticket.owes();
        drop(ticket);
        sessions.owe(VM, ID);
        assert!(sessions.owed().into_iter().eq([(VM, ID)]), "once, whoever says it");
        sessions.given_back(VM, ID);
        assert!(sessions.owed().is_empty());
        assert_eq!(sessions.count(), 0);
    }
}
