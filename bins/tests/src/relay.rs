//! A TCP link between a client and its router that breaks where a test wants it to.
//!
//! The relay listens on loopback and passes every connection on. A break ends both sides at once, as a lost network
//! does, and nothing passes afterwards until it is [armed](Relay::arm) again.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Where the link breaks by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// So long after the client's first byte.
    After(Duration),
    /// When so many bytes went from the client to the router.
    Up(u64),
    /// When so many bytes went from the router to the client.
    Down(u64),
}

/// Which bytes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// All that pass.
    #[default]
    Wire,
    /// Those of the desktop's own stream, behind the head of the 101; only an unencrypted link shows it.
    Desktop,
}

/// What has passed since the relay was armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From the client, in bytes that count.
    pub up: u64,
    /// To the client, in bytes that count.
    pub down: u64,
    /// When the client's first byte came.
    pub begun: Option<Instant>,
    /// Whether the link was broken.
    pub broken: bool,
}

/// A running relay; it ends with this value.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    link: Arc<Link>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    passed: Passed,
    breaks: Option<Break>,
    count: Count,
    head: Head,
    /// Both ends of every connection that may still carry something.
    live: Vec<TcpStream>,
    /// Counts the armings, so that a timer of an earlier one breaks nothing.
    round: u64,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Relay {
    /// Listens on a free port of loopback and passes on to `router`, another one.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub fn start(router: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the relay cannot listen")?;
        let port = listener.local_addr().context("the relay has no address")?.port();
        let link = Arc::new(Link::default());
        let acceptor = std::thread::spawn({
            let link = Arc::clone(&link);
            move || accept(&listener, router, &link)
        });
        Ok(Self { port, link, acceptor: Some(acceptor) })
    }

    /// Where a client finds it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Begins anew: what passed is forgotten, what still passes is broken, the next connection breaks as given.
    pub fn arm(&self, breaks: Option<Break>, count: Count) {
        self.link.cut();
        let mut state = self.link.lock();
        state.round += 1;
        state.passed = Passed::default();
        state.head = Head::default();
        (state.breaks, state.count) = (breaks, count);
    }

    /// Breaks the link now.
    pub fn cut(&self) {
        self.link.cut();
    }

    /// What has passed so far.
    pub fn passed(&self) -> Passed {
        self.link.lock().passed
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.link.lock().over = true;
        self.link.cut();
        // Wakes the acceptor, which sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        let mut state = self.lock();
        state.passed.broken = true;
        for end in state.live.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// How much of what just came may pass, and whether the link breaks behind it.
    fn admit(self: &Arc<Self>, way: Way, bytes: &[u8]) -> (usize, bool) {
        let mut state = self.lock();
        if way == Way::Up && state.passed.begun.is_none() {
            state.passed.begun = Some(Instant::now());
            if let Some(Break::After(time)) = state.breaks {
                self.cut_later(state.round, time);
            }
        }
        let uncounted = match (state.count, way) {
            (Count::Wire, _) => 0,
            (Count::Desktop, Way::Up) if state.head.is_behind => 0,
            (Count::Desktop, Way::Up) => bytes.len(),
            (Count::Desktop, Way::Down) => state.head.pass(bytes),
        };
        let (limit, passed) = match (way, state.breaks) {
            (Way::Up, Some(Break::Up(limit))) => (limit, &mut state.passed.up),
            (Way::Up, _) => (u64::MAX, &mut state.passed.up),
            (Way::Down, Some(Break::Down(limit))) => (limit, &mut state.passed.down),
            (Way::Down, _) => (u64::MAX, &mut state.passed.down),
        };
        let counted = (bytes.len() - uncounted) as u64;
        let admitted = counted.min(limit.saturating_sub(*passed));
        *passed += admitted;
        // No more than the length of a slice.
        (uncounted + admitted as usize, *passed >= limit)
    }

    fn cut_later(self: &Arc<Self>, round: u64, time: Duration) {
        let link = Arc::clone(self);
        std::thread::spawn(move || {
            let deadline = Instant::now() + time;
            let mut state = link.lock();
            while state.round == round && !state.passed.broken {
                let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                    drop(state);
                    return link.cut();
                };
                state = link.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
    }
}

fn accept(listener: &TcpListener, router: u16, link: &Arc<Link>) {
    loop {
        let Ok((client, _)) = listener.accept() else { return };
        if link.lock().over {
            return;
        }
        // A client that cannot be passed on sees its connection closed.
        let _ = pass_on(client, router, link);
    }
}

fn pass_on(client: TcpStream, router: u16, link: &Arc<Link>) -> std::io::Result<()> {
    let router = TcpStream::connect((Ipv4Addr::LOCALHOST, router))?;
    client.set_nodelay(true)?;
    router.set_nodelay(true)?;
    let ends = [client.try_clone()?, router.try_clone()?];
    {
        let mut state = link.lock();
        if state.passed.broken {
            return Ok(());
        }
        state.live.extend(ends);
    }
    let (client_twin, router_twin) = (client.try_clone()?, router.try_clone()?);
    let (up, down) = (Arc::clone(link), Arc::clone(link));
    std::thread::spawn(move || carry(client, router, Way::Up, &up));
    std::thread::spawn(move || carry(router_twin, client_twin, Way::Down, &down));
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, way: Way, link: &Arc<Link>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => {
                let (admitted, breaks) = link.admit(way, &buffer[..count]);
                let written = to.write_all(&buffer[..admitted]);
                if breaks {
                    link.cut();
                }
                if breaks || written.is_err() {
                    return;
                }
            }
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// Finds the end of the 101's head in what goes to the client.
#[derive(Debug, Default)]
struct Head {
    seen: Vec<u8>,
    is_behind: bool,
}

impl Head {
    /// How many of these bytes still belong to the head or lie before it.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.is_behind {
            return 0;
        }
        let known = self.seen.len();
        self.seen.extend_from_slice(bytes);
        let find = |needle: &[u8], from: usize| {
            self.seen[from..].windows(needle.len()).position(|w| w == needle).map(|at| from + at)
        };
        let end = find(b"HTTP/1.1 101", 0).and_then(|at| find(b"\r\n\r\n", at)).map(|at| at + 4);
        match end {
            Some(end) => {
                self.is_behind = true;
                self.seen = Vec::new();
                end - known
            }
            None => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait_until;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A router that answers every byte it gets with the same byte.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut twin = stream.try_clone().expect("a twin");
                std::thread::spawn(move || std::io::copy(&mut stream, &mut twin));
            }
        });
        port
    }

    fn read_all(mut stream: TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A broken link may also be reported as an error; what came before it counts.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    }

    fn client(relay: &Relay, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).expect("the relay accepts");
        stream.write_all(bytes).expect("the relay reads");
        stream
    }

    #[test]
    fn everything_passes_until_the_link_is_cut() {
        let relay = Relay::start(echo()).expect("a relay");
        let mut stream = client(&relay, b"hello");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"hello");
        assert!(!relay.passed().broken);
        relay.cut();
        assert_eq!(read_all(stream), b"");
        assert_eq!((relay.passed().up, relay.passed().down, relay.passed().broken), (5, 5, true));
        assert_eq!(read_all(TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).expect("accepts")), b"");
    }

    #[test]
    fn it_breaks_behind_the_last_byte_that_may_pass() {
        let relay = Relay::start(echo()).expect("a relay");
        relay.arm(Some(Break::Down(3)), Count::Wire);
        assert_eq!(read_all(client(&relay, b"hello")), b"hel");
        relay.arm(Some(Break::Up(2)), Count::Wire);
        read_all(client(&relay, b"hello"));
        assert_eq!((relay.passed().up, relay.passed().broken), (2, true));
    }

    #[test]
    fn it_breaks_after_a_time_that_begins_with_the_first_byte() {
        let relay = Relay::start(echo()).expect("a relay");
        relay.arm(Some(Break::After(Duration::from_millis(30))), Count::Wire);
        let stream = client(&relay, b"h");
        assert_eq!(read_all(stream), b"h");
        let begun = relay.passed().begun.expect("a first byte came");
        assert!(begun.elapsed() >= Duration::from_millis(30));
        // A timer of an earlier round breaks nothing.
        relay.arm(Some(Break::After(Duration::from_secs(3600))), Count::Wire);
        let _open = client(&relay, b"h");
        wait_until("the byte", LIMIT, || (relay.passed().down == 1).then_some(())).expect("it passes");
        relay.arm(None, Count::Wire);
        assert!(!relay.passed().broken);
    }

    #[test]
    fn the_desktops_bytes_begin_behind_the_101() {
        let mut head = Head::default();
        assert_eq!(head.pass(b"HTTP/1.1 102 Processing\r\n\r\n"), 27);
        assert_eq!(head.pass(b"HTTP/1.1 10"), 11);
        assert_eq!(head.pass(b"1 Switching Protocols\r\nUpgrade: QVD/1.0\r"), 40);
        assert_eq!(head.pass(b"\n\r\nNX"), 3);
        assert_eq!(head.pass(b"bytes"), 0);
    }
}
