//! The pump: once a desktop is connected, bytes move between two sockets, and nothing else happens.
//!
//! It knows no HTTP and no database, takes no lock for what fits a buffer, and allocates only for bytes that a receiver
//! would not take yet. Buffers and pipes belong to the thread: an idle session holds none. Of a thread's sessions one
//! at a time moves more than a buffer, so that what others type overtakes it. This module is the one place to replace
//! for a faster data path.
//!
//! ```text
//!          TlsStream                                       PlainStream
//! client ──read──▶ sealed ──open all whole records──▶ clear ──write──▶ desktop   lane up
//! client ◀──write── sealed ◀──seal all of it── clear ◀──read── desktop           lane down
//!             │ not taken                         │ not taken
//!             └▶ backlog                          └▶ backlog; who has one is given nothing more
//! ```
//!
//! Where both sides carry the bytes as they are, many at once pass through a pipe in place of a buffer.
//!
//! End of file on one side: what is kept is sent, then writing is shut down on the other (with TLS that is
//! close_notify). A TLS client that closes has closed both ways. It is over when neither side can make progress: a
//! client that stays behind a desktop that is gone is left after a while.

mod backlog;
mod buffers;
mod floor;
mod lane;
mod side;
mod splice;
mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Duration, Sleep};

use buffers::with_buffers;
use lane::{Lane, Turn};

pub use buffers::Buffers;
pub use side::{PlainStream, Side};
pub use splice::Socket;
pub use tls::TlsStream;

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
/// Dropping it leaves both sides open, and able to send what they keep. While it has more to move than a buffer, others
/// of its thread that have so too may wait for it: whoever keeps it unfinished polls it when it is woken.
#[derive(Debug)]
pub struct Pump<'a, C, D> {
    client: &'a mut C,
    desktop: &'a mut D,
    up: Lane,
    down: Lane,
    /// Nothing more is to be had from the client, and nothing can be told to it.
    client_lost: bool,
    ended: Option<Ended>,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<'a, C: Side, D: Side> Pump<'a, C, D> {
    /// A pump between two sides. The prefix goes to the desktop before anything is read.
    pub fn new(client: &'a mut C, desktop: &'a mut D, prefix: Prefix) -> Self {
        Self {
            client,
            desktop,
            up: Lane::beginning_with(prefix.0),
            down: Lane::beginning_with(Vec::new()),
            client_lost: false,
            ended: None,
            farewell: None,
        }
    }

    /// Bytes moved so far.
    pub fn moved(&self) -> Moved {
        let sent = |lane: &Lane, held: usize| lane.pushed().saturating_sub((held + lane.piped()) as u64);
        Moved { up: sent(&self.up, self.desktop.held()), down: sent(&self.down, self.client.held()) }
    }

    /// Memory for bytes on their way, none in an idle session.
    pub fn footprint(&self) -> usize {
        let lanes = self.up.footprint() + self.down.footprint();
        lanes + self.client.footprint() + self.desktop.footprint()
    }

    fn note(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }

    /// Moves what can be moved; true when the session is over.
    fn turn(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> bool {
        match self.up.turn(cx, self.client, self.desktop, buffers) {
            Turn::Waiting | Turn::Finished => {}
            Turn::ReachedEnd => self.note(Ended::ByClient),
            Turn::ReadBroke => self.client_is_lost(),
            Turn::WriteBroke => {
                self.note(Ended::DesktopLost);
                self.up.discard(self.desktop.held());
                self.desktop.forget();
                cx.waker().wake_by_ref();
            }
        }
        if self.client_is_gone() {
            self.down.rest();
            return self.farewell(cx, buffers);
        }
        match self.down.turn(cx, self.desktop, self.client, buffers) {
            Turn::Waiting | Turn::Finished => {}
            Turn::ReachedEnd => self.note(Ended::ByDesktop),
            Turn::ReadBroke => self.note(Ended::DesktopLost),
            Turn::WriteBroke => {
                self.client_is_lost();
                return self.farewell(cx, buffers);
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
        self.client_lost = true;
        self.up.end();
    }

    fn client_is_gone(&self) -> bool {
        (self.client_lost || self.client.closes_both_ways()) && self.up.has_ended()
    }

    /// The client is gone: what it had sent is still delivered, unless the desktop refuses to take it for long.
    fn farewell(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> bool {
        loop {
            match self.up.turn(cx, self.client, self.desktop, buffers) {
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

impl<C: Side, D: Side> Future for Pump<'_, C, D> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let pump = self.get_mut();
        if !with_buffers(|buffers| pump.turn(cx, buffers)) {
            return Poll::Pending;
        }
        // Whoever keeps a pump that is done keeps nobody waiting.
        pump.up.rest();
        pump.down.rest();
        // Over means that some lane ended, and each end is noted; the fallback is never seen.
        Poll::Ready(pump.ended.unwrap_or(Ended::ByClient))
    }
}

/// How long a desktop may take for the last bytes of a client that is gone, and a client to go when its desktop has.
const FAREWELL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
