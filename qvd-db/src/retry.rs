//! How often a write that collided with another is tried again, and how long to wait before.

use std::time::Duration;

use crate::error::{Error, Result};

/// Counts the tries of one write.
#[derive(Debug)]
pub(crate) struct Attempts {
    tries: u32,
    /// Those that ended because a lock did not come free.
    lock_waits: u32,
}

impl Attempts {
    pub(crate) const fn new() -> Self {
        Self { tries: 0, lock_waits: 0 }
    }

    /// Yields the outcome when it is final; otherwise waits, and the caller tries again.
    pub(crate) async fn settle<T>(&mut self, outcome: Result<T>) -> Option<Result<T>> {
        self.tries += 1;
        self.lock_waits += u32::from(outcome.as_ref().is_err_and(Error::waited_for_lock));
        match outcome {
            Err(Error::Contended { operation, source })
                if self.tries < MOST && self.lock_waits < MOST_LOCK_WAITS =>
            {
                tracing::debug!(operation, attempt = self.tries, error = %source, "collided with another writer");
                tokio::time::sleep(pause(self.tries, random())).await;
                None
            }
            outcome => Some(outcome),
        }
    }
}

/// Tries of one write, the first included.
const MOST: u32 = 8;

/// Tries that may wait for a lock until the database loses patience, which takes seconds each time.
const MOST_LOCK_WAITS: u32 = 2;

/// Up to 4 ms after the first collision, twice that after each further one: 0.5 s at most in all.
fn pause(attempt: u32, random: u16) -> Duration {
    let longest = Duration::from_millis(2) * 2u32.pow(attempt.min(MOST));
    longest.mul_f64(f64::from(random) / f64::from(u16::MAX))
}

fn random() -> u16 {
    // Without randomness the colliding writers only need a try more.
    getrandom::u32().map_or(u16::MAX / 2, |n| (n & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_short() {
        assert_eq!(pause(1, u16::MAX), Duration::from_millis(4));
        assert_eq!(pause(7, u16::MAX), Duration::from_millis(256));
        assert_eq!(pause(7, 0), Duration::ZERO);
        let all: Duration = (1..MOST).map(|n| pause(n, u16::MAX)).sum();
        assert!(all < Duration::from_secs(1), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_tried_eight_times() {
        let mut attempts = Attempts::new();
        let collided =
            || Err::<(), _>(Error::Contended { operation: "test", source: sqlx::Error::PoolTimedOut });
        for _ in 1..8 {
            assert!(attempts.settle(collided()).await.is_none());
        }
        assert!(attempts.settle(collided()).await.unwrap().is_err());
    }
}
