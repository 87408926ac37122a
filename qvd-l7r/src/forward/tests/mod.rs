//! The pump over in-memory sockets that read and write in random small pieces and stall at random.

mod floor;
mod splice;
mod tls;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::buffers::BUFFER_SIZE;
use super::*;

/// Cuts reads and writes into pieces by a fixed sequence; 0 is a stall.
struct Choppy {
    inner: DuplexStream,
    pieces: Vec<usize>,
    at: usize,
    /// How many pieces were written.
    sent: Arc<AtomicUsize>,
}

impl Choppy {
    fn new(inner: DuplexStream, pieces: &[usize]) -> Self {
        Self { inner, pieces: pieces.to_vec(), at: 0, sent: Arc::default() }
    }

    fn next_piece(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        self.at += 1;
        match self.pieces[self.at % self.pieces.len()] {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            n => Poll::Ready(n),
        }
    }
}

impl AsyncRead for Choppy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = std::task::ready!(self.next_piece(cx)).min(buf.remaining());
        let mut piece = vec![0; size];
        let mut part = ReadBuf::new(&mut piece);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let size = std::task::ready!(self.next_piece(cx)).min(buf.len());
        self.sent.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, &buf[..size])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.next_piece(cx));
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.next_piece(cx));
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn choppy(inner: DuplexStream, pieces: &[usize]) -> PlainStream<Choppy> {
    PlainStream::new(Choppy::new(inner, pieces))
}

fn pipe(size: usize) -> (DuplexStream, PlainStream<DuplexStream>) {
    let (far, near) = duplex(size);
    (far, PlainStream::new(near))
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(3600), future).await.expect("it ends") })
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed).wrapping_add((i >> 8) as u8)).collect()
}

/// Writes everything and half-closes while it reads everything.
async fn speak(stream: DuplexStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let ((), received) = tokio::join!(send, read.read_to_end(&mut heard));
    received.unwrap();
    heard
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    // At least one piece is not a stall, so that everything ends.
    (1usize..5000, proptest::collection::vec(0usize..4000, 0..12)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_byte_arrives_in_order_both_ways(
        up in 0usize..300_000, down in 0usize..300_000, prefix in 0usize..3000,
        pipe in 1usize..70_000, chop_client in pieces(), chop_desktop in pieces(),
    ) {
        run(async move {
            let (client_end, client) = duplex(pipe);
            let (desktop_end, desktop) = duplex(pipe);
            let (mut client, mut desktop) = (choppy(client, &chop_client), choppy(desktop, &chop_desktop));
            let first = noise(prefix, 9);
            let pump = async {
                let mut pump = Pump::new(&mut client, &mut desktop, Prefix(first.clone()));
                (&mut pump).await;
                let moved = pump.moved();
                // Closing both is the caller's part.
                drop((client, desktop));
                moved
            };
            let (moved, at_client, at_desktop) =
                tokio::join!(pump, speak(client_end, noise(up, 1)), speak(desktop_end, noise(down, 2)));
            assert_eq!(at_client, noise(down, 2));
            assert_eq!(at_desktop, [noise(prefix, 9), noise(up, 1)].concat());
            assert_eq!(moved, Moved { up: (up + prefix) as u64, down: down as u64 });
        });
    }
}

#[test]
fn a_half_closed_client_still_hears_the_desktop() {
    run(async {
        let (mut client_end, mut client) = pipe(64);
        let (mut desktop_end, mut desktop) = pipe(64);
        let talk = async {
            client_end.write_all(b"bye").await.unwrap();
            client_end.shutdown().await.unwrap();
            let mut heard = Vec::new();
            desktop_end.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"bye");
            desktop_end.write_all(b"and thanks").await.unwrap();
            drop(desktop_end);
            let mut answer = Vec::new();
            client_end.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (ended, answer) = tokio::join!(Pump::new(&mut client, &mut desktop, Prefix::default()), talk);
        assert_eq!((ended, answer.as_slice()), (Ended::ByClient, &b"and thanks"[..]));
    });
}

#[test]
fn a_desktop_that_takes_nothing_does_not_hold_a_gone_client_for_ever() {
    run(async {
        let (mut client_end, mut client) = pipe(1024);
        let (mut desktop_end, mut desktop) = pipe(4);
        client_end.write_all(b"nobody reads this").await.unwrap();
        // Its own stream is not read while it holds bytes of it: that it is gone shows when it is written to.
        drop(client_end);
        desktop_end.write_all(b"ping").await.unwrap();
        let started = tokio::time::Instant::now();
        let ended = Pump::new(&mut client, &mut desktop, Prefix::default()).await;
        assert_eq!(ended, Ended::ClientLost);
        assert_eq!(started.elapsed().as_secs(), FAREWELL.as_secs());
    });
}

#[test]
fn a_client_that_stays_does_not_hold_a_desktop_that_is_gone_for_ever() {
    run(async {
        let (mut client_end, mut client) = pipe(1024);
        let (desktop_end, mut desktop) = pipe(1024);
        drop(desktop_end);
        client_end.write_all(b"anybody there?").await.unwrap();
        let started = tokio::time::Instant::now();
        let ended = Pump::new(&mut client, &mut desktop, Prefix::default()).await;
        assert_eq!(ended, Ended::DesktopLost);
        assert_eq!(started.elapsed().as_secs(), FAREWELL.as_secs());
    });
}

#[test]
fn a_desktop_that_closed_one_way_is_still_spoken_to() {
    run(async {
        let (mut client_end, mut client) = pipe(1024);
        let (mut desktop_end, mut desktop) = pipe(1024);
        desktop_end.shutdown().await.unwrap();
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        assert!(tokio::time::timeout(FAREWELL * 10, &mut pump).await.is_err());
        let talk = async {
            client_end.write_all(b"still here").await.unwrap();
            let mut heard = [0; 10];
            desktop_end.read_exact(&mut heard).await.unwrap();
            drop(client_end);
            heard
        };
        let (ended, heard) = tokio::join!(pump, talk);
        assert_eq!((ended, &heard), (Ended::ByDesktop, b"still here"));
    });
}

#[test]
fn an_idle_session_keeps_no_buffer() {
    let mut read_ahead = Vec::with_capacity(4096);
    read_ahead.extend_from_slice(b"x");
    read_ahead.clear();
    assert_eq!(Lane::beginning_with(read_ahead).footprint(), 0);
}

#[test]
fn a_desktop_that_closes_delivers_its_last_bytes() {
    run(async {
        let (mut client_end, mut client) = pipe(8);
        let (mut desktop_end, mut desktop) = pipe(1024);
        desktop_end.write_all(&noise(1000, 3)).await.unwrap();
        drop(desktop_end);
        let talk = async {
            let mut heard = Vec::new();
            client_end.read_to_end(&mut heard).await.unwrap();
            drop(client_end);
            heard
        };
        let (ended, heard) = tokio::join!(Pump::new(&mut client, &mut desktop, Prefix::default()), talk);
        assert_eq!((ended, heard), (Ended::ByDesktop, noise(1000, 3)));
    });
}

/// What a side held after a short write, and what it held after the one that followed.
async fn held_by_a_slow_client<C: Side>(client: C, client_end: impl AsyncRead) -> (usize, usize, u64) {
    let (mut desktop_end, mut desktop) = pipe(4 << 20);
    let sent = noise(2 << 20, 4);
    desktop_end.write_all(&sent).await.unwrap();
    let mut client = client;
    let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
    let mut client_end = std::pin::pin!(client_end);
    let first = std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut pump).poll(cx).is_pending());
        Poll::Ready(pump.client.held())
    })
    .await;
    let taken = pump.down.pushed();
    // Slowly, so that the pump is full again before the client has caught up.
    while pump.down.pushed() == taken {
        std::future::poll_fn(|cx| {
            let mut space = [0; 1000];
            let _ = client_end.as_mut().poll_read(cx, &mut ReadBuf::new(&mut space));
            assert!(Pin::new(&mut pump).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // A task that never yields is given nothing to read any more.
        tokio::task::yield_now().await;
    }
    let second = pump.client.held();
    (first, second, pump.down.pushed() - taken)
}

#[test]
fn row_74_a_slow_client_costs_one_buffer_and_smaller_reads_later() {
    run(async {
        let (client_end, client) = pipe(1000);
        let (first, second, read) = held_by_a_slow_client(client, client_end).await;
        assert_eq!(first, BUFFER_SIZE - 1000);
        assert_eq!(read, 64 << 10, "after a short write");
        assert!(second <= 64 << 10, "{second}");
    });
}

#[test]
fn while_a_receiver_is_slow_the_sender_is_not_read() {
    run(async {
        let (mut client_end, mut client) = pipe(1);
        let (mut desktop_end, mut desktop) = pipe(1 << 20);
        desktop_end.write_all(&noise(1 << 20, 4)).await.unwrap();
        let mut pump = Pump::new(&mut client, &mut desktop, Prefix::default());
        let stalled = tokio::time::timeout(Duration::from_secs(60), &mut pump).await;
        assert!(stalled.is_err(), "the pump waits for its slow client");
        assert!(pump.client.held() <= BUFFER_SIZE, "{}", pump.client.held());
        drop(pump);
        let mut rest = Vec::new();
        drop(desktop_end);
        desktop.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() >= (1 << 20) - BUFFER_SIZE - 1, "only one buffer was taken, {} left", rest.len());
        client_end.read_exact(&mut [0]).await.unwrap();
    });
}
