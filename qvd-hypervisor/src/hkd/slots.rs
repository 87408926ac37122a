//! How many virtual machines are set up or taken down at once.
//!
//! Two counts: *heavy* work of any kind, and *starting* within it. Stops are served before starts, so that a storm of
//! logins cannot delay a shutdown; starts are served in turn over users, so that one user's storm delays only that
//! user. Kills take no slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qvd_core::UserId;
use tokio::sync::oneshot;

/// The slots of a node; clones share them.
#[derive(Clone, Debug)]
pub struct Slots {
    book: Arc<Mutex<Book>>,
}

/// How the slots are used at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Heavy slots in use.
    pub heavy: usize,
    /// Starting slots in use.
    pub starting: usize,
    /// Heavy slots there are.
    pub heavy_limit: usize,
    /// Starting slots there are.
    pub starting_limit: usize,
}

/// One heavy slot, perhaps with a starting slot; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    book: Arc<Mutex<Book>>,
    starting: bool,
}

#[derive(Debug, Default)]
struct Book {
    usage: Usage,
    stops: VecDeque<oneshot::Sender<Permit>>,
    starts: BTreeMap<UserId, VecDeque<oneshot::Sender<Permit>>>,
    /// Users with waiting starts, next one first.
    turns: VecDeque<UserId>,
}

impl Slots {
    /// So many of each; at least one.
    pub fn new(heavy: usize, starting: usize) -> Self {
        let usage = Usage { heavy_limit: heavy.max(1), starting_limit: starting.max(1), ..Usage::default() };
        Self { book: Arc::new(Mutex::new(Book { usage, ..Book::default() })) }
    }

    /// Changes the counts. Work that is under way goes on; fewer slots fill up again only as it ends.
    pub fn resize(&self, heavy: usize, starting: usize) {
        let mut book = lock(&self.book);
        book.usage.heavy_limit = heavy.max(1);
        book.usage.starting_limit = starting.max(1);
        drop(book);
        serve(&self.book);
    }

    /// A heavy and a starting slot, in turn over users.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the place in the queue, or the slots, back.
    pub async fn start(&self, user: UserId) -> Permit {
        let waiting = {
            let mut book = lock(&self.book);
            let (ticket, waiting) = oneshot::channel();
            if book.starts.get(&user).is_none_or(VecDeque::is_empty) {
                book.turns.push_back(user);
            }
            book.starts.entry(user).or_default().push_back(ticket);
            waiting
        };
        self.wait(waiting, true).await
    }

    /// A heavy and a starting slot for a start that an earlier daemon began: at once, even over the limits, which
    /// then let nobody else in until it is done.
    pub fn keep(&self) -> Permit {
        let mut book = lock(&self.book);
        book.usage.heavy += 1;
        book.usage.starting += 1;
        Permit { book: Arc::clone(&self.book), starting: true }
    }

    /// A heavy slot, before every waiting start.
    ///
    /// # Cancellation
    ///
    /// As [`start`](Slots::start).
    pub async fn stop(&self) -> Permit {
        let waiting = {
            let (ticket, waiting) = oneshot::channel();
            lock(&self.book).stops.push_back(ticket);
            waiting
        };
        self.wait(waiting, false).await
    }

    /// How they are used.
    pub fn usage(&self) -> Usage {
        lock(&self.book).usage
    }

    async fn wait(&self, waiting: oneshot::Receiver<Permit>, starting: bool) -> Permit {
        serve(&self.book);
        match waiting.await {
            Ok(permit) => permit,
            // The book lives as long as `self`, and drops a ticket only by serving it.
            Err(_) => Permit { book: Arc::new(Mutex::new(Book::default())), starting },
        }
    }
}

impl Permit {
    /// Gives the starting slot back and keeps the heavy one.
    pub fn release_starting(&mut self) {
        if std::mem::take(&mut self.starting) {
            let mut book = lock(&self.book);
            book.usage.starting = book.usage.starting.saturating_sub(1);
            drop(book);
            serve(&self.book);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut book = lock(&self.book);
        book.usage.heavy = book.usage.heavy.saturating_sub(1);
        if self.starting {
            book.usage.starting = book.usage.starting.saturating_sub(1);
        }
        drop(book);
        serve(&self.book);
    }
}

/// Hands out what is free. A permit whose receiver is gone comes back by its drop, which serves the next one.
fn serve(book: &Arc<Mutex<Book>>) {
    while let Some((ticket, starting)) = lock(book).next() {
        // An undelivered permit is dropped here, outside the lock.
        let _ = ticket.send(Permit { book: Arc::clone(book), starting });
    }
}

impl Book {
    fn next(&mut self) -> Option<(oneshot::Sender<Permit>, bool)> {
        if self.usage.heavy >= self.usage.heavy_limit {
            return None;
        }
        while let Some(ticket) = self.stops.pop_front() {
            if !ticket.is_closed() {
                self.usage.heavy += 1;
                return Some((ticket, false));
            }
        }
        if self.usage.starting >= self.usage.starting_limit {
            return None;
        }
        while let Some(user) = self.turns.pop_front() {
            let Some(queue) = self.starts.get_mut(&user) else { continue };
            let mut ticket = queue.pop_front();
            while ticket.as_ref().is_some_and(oneshot::Sender::is_closed) {
                ticket = queue.pop_front();
            }
            if queue.is_empty() {
                self.starts.remove(&user);
            } else {
                self.turns.push_back(user);
            }
            if let Some(ticket) = ticket {
                self.usage.heavy += 1;
                self.usage.starting += 1;
                return Some((ticket, true));
            }
        }
        None
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // The book is consistent after every line that could panic.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const ALICE: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    #[tokio::test]
    async fn starts_are_bounded_within_heavy_work_and_stops_pass_them() {
        let slots = Slots::new(3, 2);
        let first = slots.start(ALICE).await;
        let second = slots.start(ALICE).await;
        let mut third = Box::pin(slots.start(ALICE));
        assert!(third.as_mut().now_or_never().is_none(), "two starts at once");
        let stop = slots.stop().await;
        assert_eq!(slots.usage().heavy, 3);
        let mut another_stop = Box::pin(slots.stop());
        assert!(another_stop.as_mut().now_or_never().is_none());
        drop(first);
        let another_stop = another_stop.as_mut().now_or_never().expect("a stop passes the waiting start");
        assert!(third.as_mut().now_or_never().is_none());
        drop((stop, another_stop));
        let third = third.as_mut().now_or_never().expect("its turn");
        drop((second, third));
        assert_eq!(slots.usage(), Usage { heavy_limit: 3, starting_limit: 2, ..Usage::default() });
    }

    #[tokio::test]
    async fn users_take_turns() {
        let slots = Slots::new(1, 1);
        let running = slots.start(ALICE).await;
        let mut alice: Vec<_> = (0..3).map(|_| Box::pin(slots.start(ALICE))).collect();
        for waiting in &mut alice {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        let mut bob = Box::pin(slots.start(BOB));
        assert!(bob.as_mut().now_or_never().is_none());
        drop(running);
        let one = alice[0].as_mut().now_or_never().expect("first come");
        drop(one);
        let one = bob.as_mut().now_or_never().expect("bob does not wait for all of alice's");
        drop(one);
        assert!(alice[1].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_goes_away_blocks_nobody() {
        let slots = Slots::new(1, 1);
        let running = slots.start(ALICE).await;
        {
            let mut gone = Box::pin(slots.start(BOB));
            assert!(gone.as_mut().now_or_never().is_none());
            let mut stop_gone = Box::pin(slots.stop());
            assert!(stop_gone.as_mut().now_or_never().is_none());
            drop(running);
            // Both were served, or will be, and are dropped now without being looked at.
        }
        assert_eq!(slots.usage().heavy, 0);
        slots.start(ALICE).await;
        assert_eq!(slots.usage().heavy, 0);
    }

    #[tokio::test]
    async fn the_starting_slot_goes_back_before_the_heavy_one() {
        let slots = Slots::new(2, 1);
        let mut first = slots.start(ALICE).await;
        let mut second = Box::pin(slots.start(ALICE));
        assert!(second.as_mut().now_or_never().is_none());
        first.release_starting();
        first.release_starting();
        assert!(second.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_start_of_an_earlier_daemon_keeps_its_slots_over_the_limits() {
        let slots = Slots::new(1, 1);
        let (one, two) = (slots.keep(), slots.keep());
        assert_eq!((slots.usage().heavy, slots.usage().starting), (2, 2));
        let mut third = Box::pin(slots.start(BOB));
        drop(one);
        assert!(third.as_mut().now_or_never().is_none(), "still one too many");
        drop(two);
        assert!(third.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn fewer_slots_drain() {
        let slots = Slots::new(2, 2);
        let (one, two) = (slots.start(ALICE).await, slots.start(ALICE).await);
        slots.resize(1, 1);
        let mut third = Box::pin(slots.start(BOB));
        drop(one);
        assert!(third.as_mut().now_or_never().is_none());
        drop(two);
        assert!(third.as_mut().now_or_never().is_some());
    }
}
