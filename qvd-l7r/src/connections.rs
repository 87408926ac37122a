//! The connections of a router, on their way to a desktop or carrying one, and the step between the two.

use std::convert::Infallible;
use std::future::Future;

use tokio::task::{JoinError, JoinSet};

use crate::gate::{Place, Room};
use crate::session::{Berth, Session};
use crate::workers::Workers;

/// All of them. Dropped, they end at once.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Those that speak HTTP, and may never want a desktop.
    arrivals: JoinSet<Option<Arrived>>,
    workers: Workers,
    sessions: JoinSet<()>,
}

/// A connection that has its desktop.
#[derive(Debug)]
struct Arrived {
    session: Box<Session>,
    place: Place,
    room: Room,
}

impl Connections {
    pub(crate) fn new(workers: Workers) -> Self {
        Self { arrivals: JoinSet::new(), workers, sessions: JoinSet::new() }
    }

    /// Serves a connection; a session that it comes to is carried by a worker.
    pub(crate) fn begin(
        &mut self,
        arrival: impl Future<Output = Option<(Session, Place)>> + Send + 'static,
        room: Room,
    ) {
        self.arrivals.spawn(async move {
            let (session, place) = arrival.await?;
            Some(Arrived { session: Box::new(session), place, room })
        });
    }

    /// Gives the next session to its worker, or takes note of an end; never ends while there is neither.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn look_after(&mut self) {
        tokio::select! {
            Some(arrived) = self.arrivals.join_next() => {
                if let Some(arrived) = noted(arrived).flatten() {
                    self.carry(arrived);
                }
            }
            Some(ended) = self.sessions.join_next() => {
                noted(ended);
            }
            else => std::future::pending().await,
        }
    }

    /// As [`look_after`](Self::look_after), again and again.
    pub(crate) async fn look_after_all(&mut self) -> Infallible {
        loop {
            self.look_after().await;
        }
    }

    fn carry(&mut self, arrived: Arrived) {
        let Arrived { session, place, room } = arrived;
        let seat = self.workers.seat();
        let runtime = seat.as_ref().map(|seat| seat.runtime.clone());
        let session = session.run(Berth { _room: room, _place: place, seat });
        match runtime {
            Some(runtime) => self.sessions.spawn_on(session, &runtime),
            None => self.sessions.spawn(session),
        };
    }

    pub(crate) fn count(&self) -> usize {
        self.arrivals.len() + self.sessions.len()
    }

    /// Waits until there is none.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn all_gone(&mut self) {
        while self.count() > 0 {
            self.look_after().await;
        }
    }

    /// Ends them at once.
    pub(crate) async fn cut(&mut self) {
        self.arrivals.shutdown().await;
        self.sessions.shutdown().await;
    }
}

fn noted<T>(ended: Result<T, JoinError>) -> Option<T> {
    let bug = |error: &JoinError| {
        if error.is_panic() {
            tracing::error!("a connection ended by a bug: {error}");
        }
    };
    ended.inspect_err(bug).ok()
}
