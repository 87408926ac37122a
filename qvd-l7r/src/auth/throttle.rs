//! Failed logins are answered later and later; right credentials are never kept waiting.
//!
//! Pure: addresses, logins and times in, delays out.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures of the recent past.
#[derive(Debug)]
pub(crate) struct Throttle {
    first: Duration,
    keys: RandomState,
    /// By the keyed hash of address and login: a login may be as long as a head, and is not kept.
    of_user: HashMap<u64, Failures>,
    of_address: HashMap<IpAddr, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// The first failure waits this long; each further one twice as long as the one before, up to eight times.
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, keys: RandomState::new(), of_user: HashMap::new(), of_address: HashMap::new() }
    }

    /// Notes a failed login; returns how long to wait with the answer.
    pub(crate) fn failed(&mut self, address: IpAddr, login: &str, now: Instant) -> Duration {
        self.forget_old(now);
        let of_user = count(&mut self.of_user, self.keys.hash_one((address, login)), now);
        let of_address = count(&mut self.of_address, address, now);
        // Many users may share an address, so its failures weigh less.
        let doublings = (of_user - 1).max((of_address - 1) / ADDRESS_SHARE).min(MOST_DOUBLINGS);
        self.first * 2u32.pow(doublings)
    }

    /// Notes a right login: that user's failures from there are forgotten.
    pub(crate) fn succeeded(&mut self, address: IpAddr, login: &str) {
        self.of_user.remove(&self.keys.hash_one((address, login)));
    }

    fn forget_old(&mut self, now: Instant) {
        if self.of_user.len().max(self.of_address.len()) < SWEEP_AT {
            return;
        }
        self.of_user.retain(|_, f| f.is_recent(now));
        self.of_address.retain(|_, f| f.is_recent(now));
        // A flood of invented logins must not fill the memory; the addresses still count them.
        if self.of_user.len() >= SWEEP_AT {
            self.of_user.clear();
        }
        if self.of_address.len() >= SWEEP_AT {
            self.of_address.clear();
        }
    }
}

impl Failures {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < MEMORY
    }
}

fn count<K: std::hash::Hash + Eq>(failures: &mut HashMap<K, Failures>, key: K, now: Instant) -> u32 {
    let entry = failures.entry(key).or_insert(Failures { count: 0, last: now });
    if !entry.is_recent(now) {
        entry.count = 0;
    }
    entry.count = entry.count.saturating_add(1);
    entry.last = now;
    entry.count
}

/// Failures older than this are forgotten.
const MEMORY: Duration = Duration::from_secs(600);

const MOST_DOUBLINGS: u32 = 3;

/// So many failures of an address weigh as one of a user.
const ADDRESS_SHARE: u32 = 10;

const SWEEP_AT: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn delays_double_up_to_eight_and_are_forgotten() {
        let now = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let delays: Vec<u64> = (0..6).map(|_| throttle.failed(HERE, "alice", now).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 8, 8]);
        assert_eq!(throttle.failed(THERE, "alice", now).as_secs(), 1, "another address is not delayed by it");
        assert_eq!(throttle.failed(HERE, "bob", now).as_secs(), 1, "nor another user");
        throttle.succeeded(HERE, "alice");
        assert_eq!(throttle.failed(HERE, "alice", now).as_secs(), 1);
        assert_eq!(throttle.failed(HERE, "bob", now + MEMORY * 2).as_secs(), 1);
    }

    #[test]
    fn an_address_that_tries_many_users_is_slowed_too() {
        let now = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let last = (0..41).map(|i| throttle.failed(HERE, &format!("user{i}"), now)).last().unwrap();
        assert_eq!(last.as_secs(), 8);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        for i in 0..3 * SWEEP_AT {
            throttle.failed(HERE, &i.to_string(), now);
        }
        assert!(throttle.of_user.len() <= SWEEP_AT);
    }
}
