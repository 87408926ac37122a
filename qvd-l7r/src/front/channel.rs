//! One connection's bytes: requests in, answers out, and what was read too far.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant};

use qvd_core::VmId;
use qvd_core::proto::http1::{HeadError, Limits, RequestScan};

use super::reply::{progress_head, remark_head, switch_head};
use super::{Reply, Request};
use crate::forward::Prefix;
use crate::progress::Step;

/// What came instead of, or as, the next request.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A request.
    Request(Box<Request>),
    /// Bytes that are none.
    Bad(HeadError),
    /// A request that began and was not complete in time.
    Late,
    /// The peer closed, broke, or said nothing for too long.
    Gone,
}

/// Times that a peer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Until the first byte of a request.
    pub(crate) idle: Duration,
    /// From its first byte to the end of its head.
    pub(crate) head: Duration,
}

/// A connection that speaks HTTP so far.
#[derive(Debug)]
pub(crate) struct Channel<S> {
    stream: S,
    /// Read and not used yet.
    ahead: Vec<u8>,
    /// How far the next request has been read: a head that comes in crumbs costs no more than one in a piece.
    scan: RequestScan,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), scan: RequestScan::default(), ended: false }
    }

    /// Whether the next request has begun to arrive.
    pub(crate) fn has_begun(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Reads the next request.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost; the time limits begin anew.
    pub(crate) async fn next_request(&mut self, patience: Patience) -> Incoming {
        let limits = Limits::default();
        let mut deadline = Instant::now() + if self.has_begun() { patience.head } else { patience.idle };
        loop {
            match self.scan.advance(&self.ahead, &limits) {
                Ok(Some((head, used))) => {
                    self.ahead.drain(..used);
                    self.scan = RequestScan::default();
                    return Incoming::Request(Box::new(head.into()));
                }
                Ok(None) => {}
                Err(error) => return Incoming::Bad(error),
            }
            let was_idle = !self.has_begun();
            match tokio::time::timeout_at(deadline, self.read_ahead()).await {
                Ok(true) => {}
                Err(_) if self.has_begun() => return Incoming::Late,
                Ok(false) | Err(_) => return Incoming::Gone,
            }
            if was_idle {
                deadline = Instant::now() + patience.head;
            }
        }
    }

    /// Waits until the peer closes; what it sends meanwhile is kept. Never returns while too much is kept.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn closed(&mut self) {
        while self.ahead.len() < MOST_AHEAD {
            if !self.read_ahead().await {
                return;
            }
        }
        std::future::pending().await
    }

    /// Whether the peer has closed, as far as can be told without waiting.
    pub(crate) async fn is_closed(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.closed() => true,
            () = std::future::ready(()) => self.ended,
        }
    }

    /// Sends a final answer: head, then body, each in a record of its own.
    pub(crate) async fn answer(&mut self, reply: &Reply) -> io::Result<()> {
        self.send(reply, false).await
    }

    /// The same, and ends the connection in order, if the peer lets it happen in time.
    pub(crate) async fn answer_last(mut self, reply: &Reply) {
        let _ = self.send(reply, true).await;
        self.close().await;
    }

    /// Tells of a step.
    pub(crate) async fn tell(&mut self, step: Step, vm: VmId) -> io::Result<()> {
        self.say(&progress_head(step, vm)).await
    }

    /// Tells of something that is no step.
    pub(crate) async fn remark(&mut self, text: &str) -> io::Result<()> {
        self.say(&remark_head(text)).await
    }

    /// Sends the 101; from then on the stream is not HTTP any more.
    pub(crate) async fn switch(&mut self, slave_key: &str) -> io::Result<()> {
        self.say(&switch_head(slave_key)).await
    }

    /// The raw stream, and what the peer sent behind its request.
    pub(crate) fn into_parts(self) -> (S, Prefix) {
        (self.stream, Prefix(self.ahead))
    }

    /// Ends the connection in order, if the peer lets it happen in time.
    pub(crate) async fn close(mut self) {
        close(&mut self.stream).await;
    }

    /// What goes together goes with one call; the end of the stream too, if it is the last answer.
    async fn send(&mut self, reply: &Reply, last: bool) -> io::Result<()> {
        let body = reply.body();
        let head = reply.head(&body);
        in_time(async {
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.write_all(body.as_bytes()).await?;
            if last { self.stream.shutdown().await } else { self.stream.flush().await }
        })
        .await
    }

    async fn say(&mut self, head: &str) -> io::Result<()> {
        in_time(async {
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Reads some bytes; false at the end.
    async fn read_ahead(&mut self) -> bool {
        if self.ended {
            return false;
        }
        self.ahead.reserve(READ_SIZE);
        let read = self.stream.read_buf(&mut self.ahead).await;
        self.ended = !matches!(read, Ok(n) if n > 0);
        if self.ahead.is_empty() {
            // An idle connection keeps no buffer.
            self.ahead = Vec::new();
        }
        !self.ended
    }
}

async fn in_time(send: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(SEND_LIMIT, send).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Shuts a stream's writing side down (close_notify with TLS) and lets the peer read what was sent before the
/// socket goes: a socket closed with unread bytes in it resets the connection, and the peer may lose the answer.
pub(crate) async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let farewell = async {
        stream.shutdown().await?;
        let mut rest = vec![0; READ_SIZE];
        let mut patience = DRAIN_LIMIT;
        while patience > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                n => patience = patience.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // A peer that does not let go is let go.
    let _ = tokio::time::timeout(CLOSE_LIMIT, farewell).await;
}

/// Most bytes kept of what a client sends before it is answered.
const MOST_AHEAD: usize = 64 << 10;

const READ_SIZE: usize = 4 << 10;

/// A peer that takes longer to take a few hundred bytes is gone.
const SEND_LIMIT: Duration = Duration::from_secs(30);

const CLOSE_LIMIT: Duration = Duration::from_secs(2);

const DRAIN_LIMIT: usize = 1 << 20;
