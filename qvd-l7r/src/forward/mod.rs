//! The pump: once a desktop is connected, bytes move between two streams, and nothing else happens.
//!
//! It knows no protocol, no database and no lock, and allocates only for bytes that the receiver would not take
//! yet. Buffers belong to the thread: an idle session holds none. This module is the one place to replace for a
//! faster data path; its callers know [`Pump`], [`Prefix`] and [`Ended`].
//!
//! ```text
//! client ──read──▶ thread buffer ──write──▶ desktop      lane up
//! client ◀──write── thread buffer ◀──read── desktop      lane down
//!                     │ not taken
//!                     └▶ lane.unsent; the lane reads nothing while it holds bytes
//! ```
//!
//! End of file on one side: what is buffered is flushed, then writing is shut down on the other (with TLS that is
//! close_notify). A TLS client that closes has closed both ways. It is over when neither side can make progress: a
//! client that stays behind a desktop that is gone is left after a while.

mod lane;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Sleep};

use lane::{Lane, Turn};

/// Bytes that the client sent behind its request head: the beginning of the stream to the desktop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(pub Vec<u8>);

/// What ended a session's stream first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed.
    ByClient,
    /// The client's connection broke.
    ClientLost,
    /// The desktop closed.
    ByDesktop,
    /// The desktop's connection broke.
    DesktopLost,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByClient => "client closed",
            Self::ClientLost => "client lost",
            Self::ByDesktop => "desktop closed",
            Self::DesktopLost => "desktop lost",
        })
    }
}

/// Bytes moved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client to the desktop.
    pub up: u64,
    /// From the desktop to the client.
    pub down: u64,
}

/// A session's stream, a future that is done when both directions are.
///
/// # Cancellation
///
/// Dropping it leaves both streams open; bytes that one of them had not taken are lost.
#[derive(Debug)]
pub struct Pump<'a, C, D> {
    client: &'a mut C,
    desktop: &'a mut D,
    client_closes_both_ways: bool,
    up: Lane,
    down: Lane,
    ended: Option<Ended>,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<'a, C, D> Pump<'a, C, D>
where
    C: AsyncRead + AsyncWrite + Unpin,
    D: AsyncRead + AsyncWrite + Unpin,
{
    /// A pump between two streams. The prefix goes to the desktop before anything is read.
    ///
    /// `client_closes_both_ways` is true for TLS, whose clients do not half-close.
    pub fn new(client: &'a mut C, desktop: &'a mut D, client_closes_both_ways: bool, prefix: Prefix) -> Self {
        Self {
            client,
            desktop,
            client_closes_both_ways,
            up: Lane::holding(prefix.0),
            down: Lane::holding(Vec::new()),
            ended: None,
            farewell: None,
        }
    }

    /// Bytes moved so far.
    pub fn moved(&self) -> Moved {
        Moved { up: self.up.moved(), down: self.down.moved() }
    }

    fn note(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }

    /// Moves what can be moved; true when the session is over.
    fn turn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        match self.up.turn(cx, self.client, self.desktop, buffer) {
            Turn::Waiting | Turn::Finished => {}
            Turn::ReachedEnd => self.note(Ended::ByClient),
            Turn::ReadBroke => self.client_is_lost(),
            Turn::WriteBroke => {
                self.note(Ended::DesktopLost);
                self.up.discard();
                cx.waker().wake_by_ref();
            }
        }
        if self.client_is_gone() {
            return self.farewell(cx, buffer);
        }
        match self.down.turn(cx, self.desktop, self.client, buffer) {
            Turn::Waiting | Turn::Finished => {}
            Turn::ReachedEnd => self.note(Ended::ByDesktop),
            Turn::ReadBroke => self.note(Ended::DesktopLost),
            Turn::WriteBroke => {
                self.client_is_lost();
                return self.farewell(cx, buffer);
            }
        }
        if !(self.up.is_futile() && self.down.is_futile()) {
            return false;
        }
        // The desktop is gone both ways. A client in order closes now; another one is not waited for.
        (self.up.is_closed() && self.down.is_closed()) || self.time_is_over(cx)
    }

    fn client_is_lost(&mut self) {
        self.note(Ended::ClientLost);
        self.client_closes_both_ways = true;
        self.up.end();
    }

    fn client_is_gone(&self) -> bool {
        self.client_closes_both_ways && self.up.has_ended()
    }

    /// The client is gone: what it had sent is still delivered, unless the desktop refuses to take it for long.
    fn farewell(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        loop {
            match self.up.turn(cx, self.client, self.desktop, buffer) {
                Turn::Finished | Turn::WriteBroke => return true,
                Turn::ReachedEnd | Turn::ReadBroke => {}
                Turn::Waiting => break,
            }
        }
        self.time_is_over(cx)
    }

    fn time_is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = self.farewell.get_or_insert_with(|| Box::pin(tokio::time::sleep(FAREWELL)));
        limit.as_mut().poll(cx).is_ready()
    }
}

impl<C, D> Future for Pump<'_, C, D>
where
    C: AsyncRead + AsyncWrite + Unpin,
    D: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let pump = self.get_mut();
        let over = BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.resize(BUFFER_SIZE, 0);
            }
            pump.turn(cx, buffer)
        });
        // Over means that some lane ended, and each end is noted; the fallback is never seen.
        if over { Poll::Ready(pump.ended.unwrap_or(Ended::ByClient)) } else { Poll::Pending }
    }
}

/// How long a desktop may take for the last bytes of a client that is gone, and a client to go when its desktop has.
const FAREWELL: Duration = Duration::from_secs(10);

/// One per thread, shared by all its sessions.
const BUFFER_SIZE: usize = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
