//! Which of a thread's lanes moves much.
//!
//! Draining one session for a while costs less for each byte than giving all of them a little in turn: whoever comes back
//! sooner finds less to take at once. But a keystroke must not wait until all others had their while. So a lane that has
//! more to move than one buffer asks for the floor. One lane has it at a time; it moves a buffer, lets the runtime look
//! who else is ready, and goes on, until nothing is left, or it had [`MOST_TURNS`] and others wait. What is small needs no
//! floor and takes no lock: it waits for the holder's buffer, and for one of each lane that became ready with it, however
//! many wait for the floor.
//!
//! ```text
//! lane A   ▓▓ ▓▓ ▓▓ … 4 MiB            ▓▓ …
//! lane B   ·· waits ··  ▓▓ ▓▓ ▓ drained
//! keystroke   k       k     k  k                 between any two buffers
//! ```

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

/// A lane in full flow; dropped, it gives the floor up, or its place in the queue.
#[derive(Debug)]
pub(super) struct Flow {
    floor: Arc<Floor>,
    id: u64,
    /// Since it asked, or had the floor last.
    turns: u32,
}

/// The floor of a thread. A lane that goes on elsewhere, as embedders without workers let it, keeps its place here.
#[derive(Debug, Default)]
struct Floor {
    last_id: AtomicU64,
    /// Who has it; looked at without the lock.
    holder: AtomicU64,
    /// The first has the floor.
    lanes: Mutex<VecDeque<(u64, Waker)>>,
}

impl Flow {
    /// Asks for the floor of this thread.
    pub(super) fn enter(cx: &Context<'_>) -> Self {
        FLOOR.with(|floor| Self::at(floor, cx))
    }

    fn at(floor: &Arc<Floor>, cx: &Context<'_>) -> Self {
        let id = floor.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let waker = cx.waker().clone();
        floor.change(id, |lanes| lanes.push_back((id, waker)));
        Self { floor: Arc::clone(floor), id, turns: 0 }
    }

    /// Whether it has the floor; if not, the waker is called when it does.
    pub(super) fn has_floor(&self, cx: &Context<'_>) -> bool {
        if self.floor.holder.load(Ordering::Acquire) == self.id {
            return true;
        }
        let mut waker = cx.waker().clone();
        // The one before is dropped behind the lock, as it may own what owns another lane.
        let _before = self.floor.change(self.id, |lanes| {
            if let Some((_, own)) = lanes.iter_mut().find(|(id, _)| *id == self.id) {
                std::mem::swap(own, &mut waker);
            }
            waker
        });
        // It may have become its own meanwhile, when another thread has a hand in it.
        self.floor.holder.load(Ordering::Acquire) == self.id
    }

    /// A turn is over, and more is to be moved: by the others first, when these were enough, and not before the runtime
    /// has looked who else is ready.
    pub(super) fn pause(&mut self, cx: &mut Context<'_>) {
        self.turns += 1;
        if self.turns >= MOST_TURNS {
            self.turns = 0;
            self.floor.change(self.id, |lanes| {
                if lanes.front().is_some_and(|(id, _)| *id == self.id) {
                    lanes.rotate_left(1);
                }
            });
        }
        if self.has_floor(cx) {
            // Woken behind those that are found ready; without a runtime at once.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _own = self.floor.change(self.id, |lanes| {
            let at = lanes.iter().position(|(id, _)| *id == self.id);
            at.and_then(|at| lanes.remove(at))
        });
    }
}

impl Floor {
    /// Lets a lane change the queue, and wakes another one that has the floor behind that and had it not before.
    fn change<T>(&self, by: u64, change: impl FnOnce(&mut VecDeque<(u64, Waker)>) -> T) -> T {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut lanes);
        let first = lanes.front();
        let holder = first.map_or(NOBODY, |(id, _)| *id);
        let before = self.holder.swap(holder, Ordering::AcqRel);
        let waker = first.filter(|_| holder != before && holder != by).map(|(_, waker)| waker.clone());
        drop(lanes);
        if let Some(waker) = waker {
            waker.wake();
        }
        changed
    }
}

const NOBODY: u64 = 0;

/// Most turns of a lane while others wait for the floor: 4 MiB, two milliseconds where both ends are on this machine. Half
/// of it costs a seventh more for each byte of many busy sessions.
const MOST_TURNS: u32 = 16;

thread_local! {
    static FLOOR: Arc<Floor> = Arc::default();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use super::*;

    /// Counts how often it was called, and lets a thread wait for that.
    struct Bell {
        rung: AtomicUsize,
        owner: thread::Thread,
    }

    impl Bell {
        fn new() -> Arc<Self> {
            Arc::new(Self { rung: AtomicUsize::new(0), owner: thread::current() })
        }

        fn rung(&self) -> usize {
            self.rung.swap(0, Ordering::SeqCst)
        }
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.rung.fetch_add(1, Ordering::SeqCst);
            self.owner.unpark();
        }
    }

    fn enter(floor: &Arc<Floor>) -> (Flow, Waker, Arc<Bell>) {
        let bell = Bell::new();
        let waker = Waker::from(bell.clone());
        (Flow::at(floor, &Context::from_waker(&waker)), waker, bell)
    }

    #[test]
    fn who_came_first_has_the_floor_and_leaves_it_to_the_next_that_still_waits() {
        let floor = Arc::default();
        let [(a, at_a, bell_a), (b, at_b, bell_b), (c, at_c, bell_c)] = [(); 3].map(|()| enter(&floor));
        let [at_a, at_b, at_c] = [&at_a, &at_b, &at_c].map(Context::from_waker);
        assert_eq!([a.has_floor(&at_a), b.has_floor(&at_b), c.has_floor(&at_c)], [true, false, false]);
        drop(b);
        assert_eq!([bell_a.rung(), bell_b.rung(), bell_c.rung()], [0, 0, 0], "nothing changed for anybody");
        drop(a);
        assert_eq!([bell_a.rung(), bell_b.rung(), bell_c.rung()], [0, 0, 1]);
        assert!(c.has_floor(&at_c));
        drop(c);
        let (d, at_d, bell_d) = enter(&floor);
        assert!(d.has_floor(&Context::from_waker(&at_d)));
        assert_eq!(bell_d.rung(), 0, "it is there already");
    }

    #[test]
    fn whoever_had_many_turns_goes_behind_the_others() {
        let floor = Arc::default();
        let (mut a, at_a, bell_a) = enter(&floor);
        let mut at_a = Context::from_waker(&at_a);
        for _ in 0..=MOST_TURNS {
            a.pause(&mut at_a);
            assert!(a.has_floor(&at_a), "nobody else wants it");
            assert_eq!(bell_a.rung(), 1, "goes on");
        }

        let (b, at_b, bell_b) = enter(&floor);
        let at_b = Context::from_waker(&at_b);
        for _ in 2..MOST_TURNS {
            a.pause(&mut at_a);
            assert_eq!([bell_a.rung(), bell_b.rung()], [1, 0]);
        }
        a.pause(&mut at_a);
        assert_eq!([bell_a.rung(), bell_b.rung()], [0, 1]);
        assert_eq!([a.has_floor(&at_a), b.has_floor(&at_b)], [false, true]);
        for _ in 0..MOST_TURNS {
            a.pause(&mut at_a);
        }
        assert!(b.has_floor(&at_b), "only who has the floor can pass it on");
        drop(b);
        assert_eq!([bell_a.rung(), bell_b.rung()], [1, 0]);
        assert!(a.has_floor(&at_a));
    }

    #[test]
    fn the_waker_that_was_seen_last_is_called() {
        let floor = Arc::default();
        let (a, ..) = enter(&floor);
        let (b, _, bell_b) = enter(&floor);
        let bell = Bell::new();
        assert!(!b.has_floor(&Context::from_waker(&Waker::from(bell.clone()))));
        drop(a);
        assert_eq!([bell_b.rung(), bell.rung()], [0, 1]);
    }

    #[test]
    fn lanes_that_went_on_on_other_threads_have_their_turn_too() {
        let floor = Arc::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let (mut flow, waker, _) = enter(&floor);
                        let mut cx = Context::from_waker(&waker);
                        for _ in 0..3 {
                            while !flow.has_floor(&cx) {
                                thread::park();
                            }
                            flow.turns = MOST_TURNS - 1;
                            flow.pause(&mut cx);
                        }
                    }
                });
            }
        });
        assert!(floor.lanes.lock().unwrap().is_empty());
    }
}
