//! Counters in the database, kept off the path of requests: one task writes them, one after another.

use qvd_core::HostId;
use qvd_core::error::chain;
use qvd_db::{Db, HostCounter};
use tokio::sync::{mpsc, oneshot};

/// The counting end.
#[derive(Clone, Debug)]
pub(crate) struct Counters(mpsc::Sender<Entry>);

/// The writing end.
#[derive(Debug)]
pub(crate) struct CounterQueue(mpsc::Receiver<Entry>);

#[derive(Debug)]
enum Entry {
    Count(HostId, HostCounter),
    Barrier(oneshot::Sender<()>),
}

pub(crate) fn counters() -> (Counters, CounterQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Counters(sender), CounterQueue(receiver))
}

impl Counters {
    /// Adds one. A count that finds the queue full is lost: it must not slow anybody down.
    pub(crate) fn count(&self, host: HostId, counter: HostCounter) {
        let _ = self.0.try_send(Entry::Count(host, counter));
    }

    /// Waits until everything counted before is written, or nobody writes any more.
    pub(crate) async fn written(&self) {
        let (done, written) = oneshot::channel();
        if self.0.send(Entry::Barrier(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

impl CounterQueue {
    /// Writes until every counting end is gone.
    pub(crate) async fn write(mut self, db: Db) {
        while let Some(entry) = self.0.recv().await {
            match entry {
                Entry::Count(host, counter) => {
                    if let Err(error) = db.counters().host(host, counter).await {
                        tracing::debug!(host = %host, "not counted: {}", chain(&error));
                    }
                }
                Entry::Barrier(done) => drop(done.send(())),
            }
        }
    }
}

const QUEUE: usize = 4096;
