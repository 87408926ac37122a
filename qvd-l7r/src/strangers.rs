//! Connections on which nobody has logged in yet: how many there may be, and which of them goes when another comes.
//!
//! Every user begins as one of them, so refusing those who come would lock out the very people whom the limit is for:
//! a few thousand silent connections would do. The one that has been waited for longest goes instead. Who keeps quiet, or
//! sends crumbs, is pushed out by those who come behind, and a flood by itself; who means it is through before a flood has
//! gone once round. While a request of it is being answered a connection does not go: its client has done its part, and
//! how many of these there can be is up to the authenticators. When there are none but these, who comes is refused.
//!
//! ```text
//!            enter                answering
//!   (accepted) ──► waited for ◄──────────────► being answered
//!                   │   │         waiting              │
//!      dismissed ◄──┘   └────── known, or gone ◄───────┘
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// All of them.
#[derive(Debug)]
pub(crate) struct Strangers {
    metrics: Arc<Metrics>,
    crowd: Mutex<Crowd>,
}

#[derive(Debug, Default)]
struct Crowd {
    /// Those that are waited for, longest first, with what dismisses each.
    waited_for: BTreeMap<u64, oneshot::Sender<()>>,
    answered: usize,
    next: u64,
}

/// One of them; dropped when somebody has logged in, or with the connection.
#[derive(Debug)]
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Under this number; it may have been dismissed since.
    WaitedFor(u64),
    Answered(oneshot::Sender<()>),
    Dismissed,
}

/// Tells a connection that it has to go.
#[derive(Debug)]
pub(crate) struct Dismissal(oneshot::Receiver<()>);

impl Strangers {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, crowd: Mutex::default() }
    }

    /// Takes one more in. With `most` of them (0 means no limit) the one that was waited for longest goes; none when
    /// all are being answered.
    pub(crate) fn enter(self: &Arc<Self>, most: usize) -> Option<(Stranger, Dismissal)> {
        self.change(|crowd| {
            if most != 0 && crowd.count() >= most {
                let (_, longest) = crowd.waited_for.pop_first()?;
                // One that ended this moment needs no word.
                let _ = longest.send(());
            }
            let (dismiss, dismissed) = oneshot::channel();
            let number = crowd.wait_for(dismiss);
            let stranger = Stranger { strangers: self.clone(), state: State::WaitedFor(number) };
            Some((stranger, Dismissal(dismissed)))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Crowd) -> T) -> T {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut crowd);
        self.metrics.unauthenticated.set(u64::try_from(crowd.count()).unwrap_or(u64::MAX));
        done
    }
}

impl Crowd {
    fn count(&self) -> usize {
        self.waited_for.len() + self.answered
    }

    fn wait_for(&mut self, dismiss: oneshot::Sender<()>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waited_for.insert(number, dismiss);
        number
    }
}

impl Stranger {
    /// A whole request came: the next word is ours.
    pub(crate) fn answering(&mut self) {
        let State::WaitedFor(number) = self.state else { return };
        self.state = self.strangers.change(|crowd| match crowd.waited_for.remove(&number) {
            Some(dismiss) => {
                crowd.answered += 1;
                State::Answered(dismiss)
            }
            None => State::Dismissed,
        });
    }

    /// The next word is the client's, to take an answer to begin with.
    pub(crate) fn waiting(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Dismissed) {
            State::Answered(dismiss) => self.strangers.change(|crowd| {
                crowd.answered -= 1;
                State::WaitedFor(crowd.wait_for(dismiss))
            }),
            other => other,
        };
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Dismissed);
        self.strangers.change(|crowd| match state {
            State::WaitedFor(number) => drop(crowd.waited_for.remove(&number)),
            State::Answered(_) => crowd.answered -= 1,
            State::Dismissed => {}
        });
    }
}

impl Dismissal {
    /// Until it has to go; never for one on which somebody logged in.
    pub(crate) async fn come(self) {
        if self.0.await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Crowded {
        strangers: Arc<Strangers>,
        metrics: Arc<Metrics>,
    }

    impl Crowded {
        fn new() -> Self {
            let metrics = Arc::new(Metrics::default());
            Self { strangers: Arc::new(Strangers::new(metrics.clone())), metrics }
        }

        fn enter(&self) -> Option<(Stranger, Dismissal)> {
            self.strangers.enter(2)
        }

        fn count(&self) -> u64 {
            self.metrics.unauthenticated.get()
        }
    }

    fn must_go(dismissal: &mut Dismissal) -> bool {
        dismissal.0.try_recv().is_ok()
    }

    #[test]
    fn who_was_waited_for_longest_goes() {
        let crowded = Crowded::new();
        let (mut first, mut first_goes) = crowded.enter().unwrap();
        let (_second, mut second_goes) = crowded.enter().unwrap();
        // Whoever asked something has a new turn.
        first.answering();
        first.waiting();
        let (_third, mut third_goes) = crowded.enter().unwrap();
        assert_eq!(
            (must_go(&mut first_goes), must_go(&mut second_goes), must_go(&mut third_goes)),
            (false, true, false)
        );
        let _fourth = crowded.enter().unwrap();
        assert!(must_go(&mut first_goes));
        assert_eq!(crowded.count(), 2);
        first.answering();
        first.waiting();
        drop(first);
        assert_eq!(crowded.count(), 2, "one that was dismissed counts no more, whatever it does");
    }

    #[test]
    fn who_is_being_answered_stays_and_nobody_else_is_let_in_then() {
        let crowded = Crowded::new();
        let (mut one, mut one_goes) = crowded.enter().unwrap();
        let (mut other, mut other_goes) = crowded.enter().unwrap();
        one.answering();
        other.answering();
        assert!(crowded.enter().is_none());
        assert_eq!(crowded.count(), 2);
        assert!(!must_go(&mut one_goes) && !must_go(&mut other_goes));
        drop(one);
        assert!(crowded.enter().is_some(), "a place came free");
        drop(other);
        assert_eq!(crowded.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_has_left_the_crowd_and_is_never_dismissed() {
        let crowded = Crowded::new();
        let (known, dismissal) = crowded.enter().unwrap();
        drop(known);
        let _crowd: Vec<_> = (0..3).map(|_| crowded.enter().unwrap()).collect();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(3600), dismissal.come()).await;
        assert!(waited.is_err());
    }

    #[test]
    fn without_a_limit_all_stay() {
        let crowded = Crowded::new();
        let mut all: Vec<_> = (0..100).map(|_| crowded.strangers.enter(0).unwrap()).collect();
        assert!(all.iter_mut().all(|(_, dismissal)| !must_go(dismissal)));
        assert_eq!(crowded.count(), 100);
    }
}
