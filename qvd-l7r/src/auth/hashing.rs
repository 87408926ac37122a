//! Where passwords are hashed: on threads that may block, as many at once as there are processors, and no longer a queue
//! before them than is worth waiting in.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// That of this process: its processors are shared by all of its routers.
pub(crate) static HASHING: LazyLock<Hashing> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    Hashing::new(processors, QUEUE_PER_PROCESSOR * processors)
});

/// Slots and the queue before them.
#[derive(Debug)]
pub(crate) struct Hashing {
    slots: Arc<Semaphore>,
    most_waiting: usize,
    waiting: AtomicUsize,
    hashed: AtomicU64,
    refused: AtomicU64,
    waited_micros: AtomicU64,
}

/// Why nothing was hashed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHashed {
    /// There is no use in waiting.
    #[error("{0} passwords wait to be hashed already")]
    QueueIsFull(usize),
    #[error("the thread that hashed it ended: {0}")]
    Lost(#[from] JoinError),
}

impl Hashing {
    fn new(slots: usize, most_waiting: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            most_waiting,
            waiting: AtomicUsize::new(0),
            hashed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waited_micros: AtomicU64::new(0),
        }
    }

    /// Runs something that keeps a processor busy and takes the memory of a hash, when it is its turn.
    ///
    /// # Cancellation
    ///
    /// Who leaves while waiting gives up the turn; what has begun is done in vain.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotHashed> {
        let begun = Instant::now();
        let turn = self.queue()?;
        // The semaphore is never closed; without a permit the work is merely not counted.
        let permit = self.slots.clone().acquire_owned().await.ok();
        drop(turn);
        let waited = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(waited, Ordering::Relaxed);
        self.hashed.fetch_add(1, Ordering::Relaxed);
        let hashed = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        Ok(hashed.await?)
    }

    fn queue(&self) -> Result<Turn<'_>, NotHashed> {
        let longer = |waiting| (waiting < self.most_waiting).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, longer) {
            Ok(_) => Ok(Turn(&self.waiting)),
            Err(waiting) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(NotHashed::QueueIsFull(waiting))
            }
        }
    }

    /// Writes its counts among those of a router.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        metrics.passwords_waiting.set(u64::try_from(waiting).unwrap_or(u64::MAX));
        metrics.passwords_hashed_total.set(self.hashed.load(Ordering::Relaxed));
        metrics.passwords_refused_total.set(self.refused.load(Ordering::Relaxed));
        metrics.password_wait_seconds_total.set(self.waited_micros.load(Ordering::Relaxed) / 1_000_000);
    }
}

/// A place in the queue.
struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A processor hashes this many in some seconds, and clients do not wait for much longer than that.
const QUEUE_PER_PROCESSOR: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_queue_that_is_full_takes_nobody_and_a_turn_given_up_is_the_next_ones() {
        let hashing = Arc::new(Hashing::new(1, 2));
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let busy = {
            let hashing = hashing.clone();
            tokio::spawn(async move {
                let work = move || {
                    begin.send(()).unwrap();
                    ended.recv().unwrap();
                };
                hashing.run(work).await
            })
        };
        tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
        // Polled once, they wait.
        let mut first = Box::pin(hashing.run(|| 1));
        let mut second = Box::pin(hashing.run(|| 2));
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut first).await.is_err());
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut second).await.is_err());
        assert!(matches!(hashing.run(|| 3).await, Err(NotHashed::QueueIsFull(2))));
        drop(first);
        let mut third = Box::pin(hashing.run(|| 3));
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut third).await.is_err());
        end.send(()).unwrap();
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (2, 3));
        busy.await.unwrap().unwrap();

        assert!(hashing.waited_micros.load(Ordering::Relaxed) > 0);
        // What is told is in whole seconds.
        hashing.waited_micros.store(2_999_999, Ordering::Relaxed);
        let metrics = Metrics::default();
        hashing.tell(&metrics);
        let told = metrics.snapshot();
        assert_eq!(
            (told.passwords_waiting, told.passwords_hashed_total, told.passwords_refused_total),
            (0, 3, 1)
        );
        assert_eq!(told.password_wait_seconds_total, 2);
    }
}
