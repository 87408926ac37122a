//! Whether a router is on its way out, and what that means for connections that wait for their next request.

use tokio::sync::watch;

/// How far a router is on its way out; connections watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It is not.
    No,
    /// Another router accepts in its place. Whoever is in the middle of something may finish here and notices nothing:
    /// the address goes on being served.
    Succeeded,
    /// Nobody takes its place, or the process is to end: idle connections go, requests hear that it stops.
    ForGood,
}

/// What a connection has come to, as far as it matters for its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No request of it was answered yet.
    New,
    /// It was answered, and nobody logged in: a health check, for one. It loses nothing when it has to come again.
    Passing,
    /// Somebody logged in here, and may be about to choose a desktop.
    Known,
}

impl Leaving {
    /// Whether a connection that waits for a request has to go.
    pub(crate) fn sends_away(self, standing: Standing) -> bool {
        match self {
            Self::No => false,
            Self::Succeeded => standing == Standing::Passing,
            Self::ForGood => true,
        }
    }
}

/// Waits for a change that sends away a connection which stands so.
///
/// # Cancellation
///
/// A change that was seen and sends nobody away is not seen again.
pub(crate) async fn sent_away(leaving: &mut watch::Receiver<Leaving>, standing: Standing) {
    while leaving.changed().await.is_ok() {
        if leaving.borrow_and_update().sends_away(standing) {
            return;
        }
    }
    // The door is gone, and with it the connection's task.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_succeeded_router_sends_away_who_loses_nothing_and_one_that_ends_everybody() {
        use Standing::{Known, New, Passing};
        let (sender, mut leaving) = watch::channel(Leaving::No);
        for (now, away) in [
            (Leaving::Succeeded, [(New, false), (Passing, true), (Known, false)]),
            (Leaving::ForGood, [(New, true), (Passing, true), (Known, true)]),
        ] {
            for (standing, goes) in away {
                sender.send_replace(now);
                let waited =
                    tokio::time::timeout(std::time::Duration::ZERO, sent_away(&mut leaving, standing)).await;
                assert_eq!((now.sends_away(standing), waited.is_ok()), (goes, goes), "{now:?} {standing:?}");
            }
        }
        assert!(!Leaving::No.sends_away(Passing));
    }
}
