//! What the forward path costs, in figures that noise cannot move: calls at the socket, allocations, bytes held.
//!
//! In lock step over sockets in memory: a peer writes, the pump is polled until everything has arrived, and only what
//! happens inside the pump is counted. Times are for the benchmarks.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use qvd_l7r::forward::{Moved, PlainStream, Prefix, Pump, Side, TlsStream};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const MIB: usize = 1 << 20;
const RECORD: usize = 16 << 10;

#[test]
fn a_mebibyte_down_is_four_reads_and_four_writes_and_nothing_of_ours_is_allocated() {
    let mut session = TlsSession::begin();
    session.down(MIB);
    for step in [256 << 10, RECORD] {
        let spent = session.count(|session| (0..MIB / step).for_each(|_| session.down(step)));
        let calls = (MIB / step) as u64;
        assert_eq!((spent.desktop.reads, spent.client.writes), (calls, calls), "in steps of {step}");
        // The library allocates one vector for each record that it seals. Ours are none.
        assert!(spent.allocations <= (MIB / RECORD) as u64, "in steps of {step}: {spent:?}");
    }
    session.holds_nothing();
}

#[test]
fn a_mebibyte_up_is_a_few_reads_and_writes_and_nothing_of_ours_is_allocated() {
    let mut session = TlsSession::begin();
    session.up(MIB);
    // 240 KiB in records fit into one buffer, 256 KiB and what the records add do not.
    for step in [240 << 10, RECORD] {
        let steps = MIB / step;
        let spent = session.count(|session| (0..steps).for_each(|_| session.up(step)));
        assert_eq!(
            (spent.client.reads, spent.desktop.writes),
            (steps as u64, steps as u64),
            "steps of {step}"
        );
        // The library allocates one vector for each record that it opens. Ours are none.
        assert!(spent.allocations <= (steps * step / RECORD) as u64, "in steps of {step}: {spent:?}");
    }
    session.holds_nothing();
}

#[test]
fn a_stream_of_whole_buffers_up_allocates_for_partial_records_once_a_turn() {
    let mut session = TlsSession::begin();
    session.up(MIB);
    let spent = session.count(|session| session.up(MIB));
    assert!(spent.client.reads <= 5 && spent.desktop.writes <= 5, "{spent:?}");
    // A record that a read cut in two is kept in one vector for the whole turn; it may grow.
    assert!(spent.allocations <= (MIB / RECORD + 4) as u64, "{spent:?}");
    session.holds_nothing();
}

#[test]
fn a_round_trip_is_one_read_and_one_write_each_way() {
    let mut session = TlsSession::begin();
    session.up(64);
    session.down(64);
    let trips = 1000;
    let spent = session.count(|session| {
        for _ in 0..trips {
            session.up(64);
            session.down(64);
        }
    });
    let once = Calls { reads: trips, writes: trips, in_vain: spent.client.in_vain };
    assert_eq!(spent.client, once);
    assert_eq!(spent.desktop, Calls { in_vain: spent.desktop.in_vain, ..once });
    // Asked once more each time, which the runtime answers from memory: a read that was short has emptied the socket.
    assert!(spent.client.in_vain <= 2 * trips && spent.desktop.in_vain <= 2 * trips, "{spent:?}");
    assert!(spent.allocations <= 2 * trips, "one by the library for each record: {spent:?}");
}

#[test]
fn without_tls_nothing_at_all_is_allocated() {
    let (near, client) = wire();
    let (far, desktop) = wire();
    let (mut near, mut far) = (PlainStream::new(near), PlainStream::new(far));
    let mut pump = Pump::new(&mut near, &mut far, Prefix::default());
    let bytes = vec![7; 256 << 10];
    let pass = |pump: &mut Pump<'_, _, _>| {
        for (from, to) in [(&client, &desktop), (&desktop, &client)] {
            from.write(&bytes);
            assert!(poll(pump).is_pending());
            assert_eq!(to.take().len(), bytes.len());
        }
    };
    pass(&mut pump);
    let (before, calls) = (counted(), (client.calls(), desktop.calls()));
    (0..4).for_each(|_| pass(&mut pump));
    assert_eq!(counted().allocations - before.allocations, 0);
    assert_eq!((client.calls() - calls.0).moves(), (4, 4), "a mebibyte each way");
    assert_eq!((desktop.calls() - calls.1).moves(), (4, 4));
    assert_eq!(pump.footprint(), 0);
}

#[test]
fn an_idle_session_holds_a_few_kilobytes_and_a_new_one_takes_few_allocations() {
    let configs = Configs::new();
    drop(TlsSession::with(&configs));
    let before = counted();
    let sessions: Vec<TlsSession> = (0..16)
        .map(|_| {
            let mut session = TlsSession::with(&configs);
            session.up(100_000);
            session.down(100_000);
            session
        })
        .collect();
    let spent = counted();
    let each = |what: u64| what / sessions.len() as u64;
    let held = each((spent.live - before.live) as u64) + size_of::<TlsStream<Wire>>() as u64;
    let allocations = each(spent.allocations - before.allocations);
    println!("an idle session of TLS 1.3 holds {held} bytes; allocations until it idles: {allocations}");
    assert!(held <= MOST_HELD, "{held} bytes");
    assert!(allocations <= MOST_ALLOCATIONS, "{allocations} allocations");
    sessions.iter().for_each(TlsSession::holds_nothing);
}

/// The library's state for the most part. What AWS-LC takes for its keys goes past this allocator, and is seen by the
/// benchmark of idle sessions.
const MOST_HELD: u64 = 2560;

/// A full handshake with two tickets, and 14 records.
const MOST_ALLOCATIONS: u64 = 170;

/// A TLS client, the pump's two sides and a desktop, all on this thread.
struct TlsSession {
    tls: ClientConnection,
    client: Far,
    desktop: Far,
    near: TlsStream<Wire>,
    far: PlainStream<Wire>,
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    client: Calls,
    desktop: Calls,
    allocations: u64,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Configs {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["desk".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        Self { client: Arc::new(client), server: Arc::new(server) }
    }
}

impl TlsSession {
    fn begin() -> Self {
        Self::with(&Configs::new())
    }

    fn with(configs: &Configs) -> Self {
        let (near, client) = wire();
        let (far, desktop) = wire();
        let name = ServerName::try_from("desk").unwrap();
        let mut tls = ClientConnection::new(configs.client.clone(), name).unwrap();
        let mut accept = Box::pin(TlsStream::accept(near, configs.server.clone()));
        let near = loop {
            say(&mut tls, &client);
            if let Poll::Ready(accepted) = poll(&mut accept) {
                break accepted.unwrap();
            }
            hear(&mut tls, &client);
        };
        Self { tls, client, desktop, near, far: PlainStream::new(far) }
    }

    fn up(&mut self, length: usize) {
        let mut left = length;
        while left > 0 {
            // The client's library takes some records at a time.
            let n = self.tls.writer().write(&vec![1; left]).unwrap();
            say(&mut self.tls, &self.client);
            left -= n;
        }
        let moved = self.pump();
        assert_eq!(moved.up, length as u64);
        assert_eq!(self.desktop.take().len(), length);
    }

    fn down(&mut self, length: usize) {
        self.desktop.write(&vec![2; length]);
        let moved = self.pump();
        assert_eq!(moved.down, length as u64);
        let mut left = length;
        let mut sealed = VecDeque::from(self.client.take());
        while left > 0 {
            self.tls.read_tls(&mut sealed).unwrap();
            self.tls.process_new_packets().unwrap();
            let mut heard = vec![0; left];
            match self.tls.reader().read(&mut heard) {
                Ok(n) => left -= n,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    fn pump(&mut self) -> Moved {
        let mut pump = Pump::new(&mut self.near, &mut self.far, Prefix::default());
        assert!(poll(&mut pump).is_pending());
        pump.moved()
    }

    fn count(&mut self, work: impl FnOnce(&mut Self)) -> Spent {
        let before = (self.client.calls(), self.desktop.calls(), counted().allocations);
        work(self);
        Spent {
            client: self.client.calls() - before.0,
            desktop: self.desktop.calls() - before.1,
            allocations: counted().allocations - before.2,
        }
    }

    fn holds_nothing(&self) {
        assert_eq!((self.near.footprint(), self.far.footprint()), (0, 0), "no buffer in an idle session");
    }
}

fn say(tls: &mut ClientConnection, to: &Far) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    to.write(&bytes);
}

fn hear(tls: &mut ClientConnection, from: &Far) {
    let mut bytes = VecDeque::from(from.take());
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).unwrap();
        tls.process_new_packets().unwrap();
    }
}

/// Polls something of the router's as often as it asks for it, and counts meanwhile.
fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    COUNTING.set(true);
    let polled = loop {
        let polled = Pin::new(&mut *future).poll(&mut cx);
        if polled.is_ready() || !woken.0.swap(false, Ordering::Relaxed) {
            break polled;
        }
    };
    COUNTING.set(false);
    polled
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Calls at one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    reads: u64,
    writes: u64,
    /// That found nothing to read.
    in_vain: u64,
}

impl Calls {
    fn moves(self) -> (u64, u64) {
        (self.reads, self.writes)
    }
}

impl std::ops::Sub for Calls {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            reads: self.reads - other.reads,
            writes: self.writes - other.writes,
            in_vain: self.in_vain - other.in_vain,
        }
    }
}

/// A socket in memory with all the room that a test needs: it allocates nothing on the way.
#[derive(Debug)]
struct Shared {
    to_router: VecDeque<u8>,
    from_router: VecDeque<u8>,
    calls: Calls,
}

/// The router's end.
#[derive(Debug)]
struct Wire(Rc<RefCell<Shared>>);

/// The peer's end.
struct Far(Rc<RefCell<Shared>>);

fn wire() -> (Wire, Far) {
    let room = || VecDeque::with_capacity(2 * MIB);
    let shared = Shared { to_router: room(), from_router: room(), calls: Calls::default() };
    let shared = Rc::new(RefCell::new(shared));
    (Wire(shared.clone()), Far(shared))
}

impl Far {
    fn write(&self, bytes: &[u8]) {
        self.0.borrow_mut().to_router.extend(bytes);
    }

    fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().from_router.drain(..).collect()
    }

    fn calls(&self) -> Calls {
        self.0.borrow().calls
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        if shared.to_router.is_empty() {
            shared.calls.in_vain += 1;
            return Poll::Pending;
        }
        shared.calls.reads += 1;
        let length = buf.remaining().min(shared.to_router.len());
        let space = buf.initialize_unfilled_to(length);
        shared.to_router.read_exact(space)?;
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        shared.calls.writes += 1;
        shared.from_router.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    allocations: u64,
    live: i64,
}

fn counted() -> Counted {
    Counted { allocations: ALLOCATIONS.get(), live: LIVE.get() }
}

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

fn note(allocations: u64, bytes: i64) {
    if COUNTING.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
        LIVE.set(LIVE.get() + bytes);
    }
}

// SAFETY: every call goes to the system's allocator as it came. What is done beside touches cells of this thread that
// need no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: as above; the block came from there.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
