//! What is typed overtakes what flows, and who has the floor gives it up: sides that always have more, on one thread.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::os::unix::net::UnixStream as Wire;
use std::rc::Rc;

use tokio::net::UnixStream;
use tokio::task::LocalSet;

use super::*;

/// What a side does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Gives and takes without end.
    Flows,
    /// Gives nothing and takes all.
    Silent,
    /// Gives nothing more and takes all.
    Ended,
    /// Gives nothing, takes nothing, and has something left to send.
    Stuck,
    /// Gives and takes without end, but cannot be told that no more comes.
    Deaf,
    /// Its connection broke for writing; it still gives.
    Broken,
}

/// A side and how many bytes it gave.
struct Actor {
    mood: Cell<Mood>,
    given: Cell<usize>,
    is_tls: bool,
}

type Shared = Rc<Actor>;

fn actor(mood: Mood, is_tls: bool) -> Shared {
    Rc::new(Actor { mood: Cell::new(mood), given: Cell::new(0), is_tls })
}

impl Side for Shared {
    fn closes_both_ways(&self) -> bool {
        self.is_tls
    }

    fn poll_pull(&mut self, _: &mut Context<'_>, most: usize, _: &mut Buffers) -> Poll<io::Result<usize>> {
        match self.mood.get() {
            Mood::Flows | Mood::Deaf | Mood::Broken => {
                self.given.set(self.given.get() + most);
                Poll::Ready(Ok(most))
            }
            Mood::Ended => Poll::Ready(Ok(0)),
            Mood::Silent | Mood::Stuck => Poll::Pending,
        }
    }

    fn push(&mut self, _: &mut Context<'_>, _: usize, _: &mut Buffers) -> io::Result<()> {
        match self.mood.get() {
            Mood::Broken => Err(io::ErrorKind::BrokenPipe.into()),
            Mood::Flows | Mood::Silent | Mood::Ended | Mood::Stuck | Mood::Deaf => Ok(()),
        }
    }

    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mood.get() == Mood::Stuck { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mood.get() == Mood::Deaf { Poll::Pending } else { self.poll_sent(cx) }
    }

    fn held(&self) -> usize {
        0
    }

    fn footprint(&self) -> usize {
        0
    }

    fn forget(&mut self) {}
}

/// Polls a pump some times, whoever woke it.
fn poll<C: Side, D: Side>(pump: &mut Pump<'_, C, D>) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    (0..8).any(|_| Pin::new(&mut *pump).poll(&mut cx).is_ready())
}

/// Takes the floor with one session, which flows from its desktop or its client, lets `turn` happen to it, and tells
/// whether another one has its turn then, how often the first one is polled besides.
fn gives_the_floor_up(client: &Shared, desktop: &Shared, turn: impl FnOnce()) -> bool {
    run(async {
        let (mut to, mut from) = (client.clone(), desktop.clone());
        let mut first = Pump::new(&mut to, &mut from, Prefix::default());
        poll(&mut first);
        let source = actor(Mood::Flows, false);
        let (mut sink, mut flows) = (actor(Mood::Silent, false), source.clone());
        let mut second = Pump::new(&mut sink, &mut flows, Prefix::default());
        poll(&mut second);
        let before = source.given.get();
        poll(&mut second);
        assert_eq!(source.given.get(), before, "the first has the floor");
        turn();
        for _ in 0..8 {
            if poll(&mut first) {
                break;
            }
            poll(&mut second);
        }
        poll(&mut second);
        source.given.get() > before
    })
}

#[test]
fn whoever_does_not_flow_any_more_gives_the_floor_up() {
    let flow = || (actor(Mood::Silent, false), actor(Mood::Flows, false));
    let (client, desktop) = flow();
    assert!(gives_the_floor_up(&client, &desktop, || desktop.mood.set(Mood::Silent)), "drained");
    let (client, desktop) = flow();
    assert!(gives_the_floor_up(&client, &desktop, || client.mood.set(Mood::Stuck)), "a slow receiver");
    let (client, desktop) = flow();
    assert!(gives_the_floor_up(&client, &desktop, || client.mood.set(Mood::Broken)), "a broken receiver");
    let (client, desktop) = flow();
    assert!(gives_the_floor_up(&client, &desktop, || desktop.mood.set(Mood::Ended)), "ended");
    // Its client has closed, and its desktop is waited for a while.
    let (client, desktop) = (actor(Mood::Silent, true), actor(Mood::Deaf, false));
    assert!(gives_the_floor_up(&client, &desktop, || client.mood.set(Mood::Ended)), "a farewell");
}

#[test]
fn whoever_still_flows_leaves_turns_to_others() {
    let (client, desktop) = (actor(Mood::Silent, false), actor(Mood::Flows, false));
    assert!(gives_the_floor_up(&client, &desktop, || {}), "in order");
    // Nobody takes what the client says: it is read and dropped.
    let (client, desktop) = (actor(Mood::Flows, false), actor(Mood::Silent, false));
    assert!(gives_the_floor_up(&client, &desktop, || desktop.mood.set(Mood::Broken)), "in vain");
}

#[test]
fn what_is_dropped_counts_as_what_is_delivered() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (client, desktop) = (actor(Mood::Flows, false), actor(Mood::Broken, false));
    let (mut from, mut to) = (client.clone(), desktop.clone());
    let mut lane = Lane::beginning_with(Vec::new());
    with_buffers(|buffers| {
        assert_eq!(lane.turn(&mut cx, &mut from, &mut to, buffers), Turn::WriteBroke);
        lane.discard(0);
        client.given.set(0);
        assert_eq!(lane.turn(&mut cx, &mut from, &mut to, buffers), Turn::Waiting);
    });
    assert_eq!(client.given.get(), BUFFER_SIZE);
}

#[test]
fn a_finished_session_that_is_kept_does_not_keep_the_floor() {
    run(async {
        // The desktop is gone; the client still talks, and is not waited for.
        let client = actor(Mood::Flows, false);
        let (mut from, mut to) = (client.clone(), actor(Mood::Broken, false));
        let mut first = Pump::new(&mut from, &mut to, Prefix::default());
        first.down.end();
        while Pin::new(&mut first).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending() {
            tokio::time::advance(FAREWELL).await;
        }
        let source = actor(Mood::Flows, false);
        let (mut sink, mut flows) = (actor(Mood::Silent, false), source.clone());
        let mut second = Pump::new(&mut sink, &mut flows, Prefix::default());
        poll(&mut second);
        assert!(source.given.get() > 2 * BUFFER_SIZE);
        drop(first);
    });
}

#[test]
fn what_is_typed_waits_for_a_buffer_or_two_however_many_wait_for_the_floor() {
    const FLOWS: usize = 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sources = RefCell::new(Vec::new());
    let moved = || sources.borrow().iter().map(|source: &Shared| source.given.get()).sum::<usize>();
    let worst = LocalSet::new().block_on(&runtime, async {
        let mut typist = Wire::pair().unwrap();
        typist.1.set_nonblocking(true).unwrap();
        let mut keyboard = PlainStream::new(UnixStream::from_std(typist.1).unwrap());
        let (mut screen, desktop) = duplex(64);
        let mut desktop = PlainStream::new(desktop);
        tokio::task::spawn_local(async move {
            Pump::new(&mut keyboard, &mut desktop, Prefix::default()).await;
        });
        for _ in 0..FLOWS {
            let (mut client, mut desktop) = (actor(Mood::Silent, false), actor(Mood::Flows, false));
            sources.borrow_mut().push(desktop.clone());
            tokio::task::spawn_local(async move {
                Pump::new(&mut client, &mut desktop, Prefix::default()).await;
            });
        }
        // All are in full flow before the first key.
        while sources.borrow().iter().any(|source| source.given.get() <= BUFFER_SIZE) {
            tokio::task::yield_now().await;
        }
        let mut worst = 0;
        for _ in 0..500 {
            let before = moved();
            typist.0.write_all(b"k").unwrap();
            screen.read_exact(&mut [0]).await.unwrap();
            worst = worst.max(moved() - before);
        }
        worst
    });
    assert!(worst <= 3 * BUFFER_SIZE, "{} buffers passed before a key", worst / BUFFER_SIZE);
    let sources = sources.borrow();
    let given = || sources.iter().map(|source| source.given.get());
    let (least, most) = (given().min().unwrap(), given().max().unwrap());
    assert!(least * 2 >= most, "one was served {least} bytes, another {most}");
}
