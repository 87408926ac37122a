//! One direction of a session's stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more can be moved now; a waker is registered.
    Waiting,
    /// The reading side ended; said once.
    ReachedEnd,
    /// The reading side broke; said once, and what was read before is still delivered.
    ReadBroke,
    /// The writing side broke; nothing more can be delivered.
    WriteBroke,
    /// Everything is delivered and writing is shut down.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Bytes may come.
    Open,
    /// No more bytes come; flush, then shut writing down.
    Ending,
    /// The receiver is gone; bytes are read and dropped, so that the sender's end is noticed.
    Discarding,
    /// Done.
    Closed,
}

#[derive(Debug)]
pub(super) struct Lane {
    phase: Phase,
    unsent: Vec<u8>,
    sent: usize,
    /// Bytes were written since the last complete flush.
    unflushed: bool,
    /// The receiver was slow a moment ago: read less at once, so that less has to be kept.
    cautious: bool,
    moved: u64,
}

impl Lane {
    /// A lane that delivers these bytes first.
    pub(super) fn holding(mut bytes: Vec<u8>) -> Self {
        // A buffer that was read into and is empty again is a buffer all the same.
        bytes.shrink_to_fit();
        Self { phase: Phase::Open, unsent: bytes, sent: 0, unflushed: false, cautious: false, moved: 0 }
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Memory kept besides the lane itself.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.unsent.capacity()
    }

    /// Bytes kept for a receiver that was slow.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Whether it delivers nothing any more.
    pub(super) fn is_futile(&self) -> bool {
        matches!(self.phase, Phase::Discarding | Phase::Closed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether no more bytes will be read for delivery.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Closed)
    }

    /// Reads nothing more; delivers what it holds.
    pub(super) fn end(&mut self) {
        self.phase = match self.phase {
            Phase::Open | Phase::Ending => Phase::Ending,
            Phase::Discarding | Phase::Closed => Phase::Closed,
        };
    }

    /// Drops what it holds and everything that still comes.
    pub(super) fn discard(&mut self) {
        self.unsent = Vec::new();
        self.phase = match self.phase {
            Phase::Open | Phase::Discarding => Phase::Discarding,
            Phase::Ending | Phase::Closed => Phase::Closed,
        };
    }

    /// Moves bytes until one side would block, something happens that the pump must know, or it is another
    /// session's turn.
    pub(super) fn turn<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        buffer: &mut [u8],
    ) -> Turn
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..BUFFERS_PER_TURN {
            match self.deliver_unsent(cx, to) {
                Poll::Pending => return Turn::Waiting,
                Poll::Ready(Err(Broken)) => return Turn::WriteBroke,
                Poll::Ready(Ok(())) => {}
            }
            match self.phase {
                Phase::Closed => return Turn::Finished,
                Phase::Ending => match self.finish(cx, to) {
                    Poll::Pending => return Turn::Waiting,
                    Poll::Ready(Err(Broken)) => return Turn::WriteBroke,
                    Poll::Ready(Ok(())) => {}
                },
                Phase::Open | Phase::Discarding => match self.read_once(cx, from, to, buffer) {
                    Poll::Pending => return self.flush(cx, to),
                    Poll::Ready(Some(turn)) => return turn,
                    Poll::Ready(None) => {}
                },
            }
        }
        cx.waker().wake_by_ref();
        Turn::Waiting
    }

    fn read_once<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        buffer: &mut [u8],
    ) -> Poll<Option<Turn>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let size = if self.cautious { CAUTIOUS_READ.min(buffer.len()) } else { buffer.len() };
        let mut filled = ReadBuf::new(&mut buffer[..size]);
        let outcome = std::task::ready!(Pin::new(from).poll_read(cx, &mut filled));
        let ending = match outcome {
            Err(_) => Some(Turn::ReadBroke),
            Ok(()) if filled.filled().is_empty() => Some(Turn::ReachedEnd),
            Ok(()) => None,
        };
        if let Some(turn) = ending {
            let discarding = self.phase == Phase::Discarding;
            self.phase = if discarding { Phase::Closed } else { Phase::Ending };
            // The next turn finishes; make sure that there is one.
            cx.waker().wake_by_ref();
            return Poll::Ready(Some(turn));
        }
        if self.phase == Phase::Open {
            match self.write_through(cx, to, filled.filled()) {
                Ok(taken) if taken == filled.filled().len() => self.cautious = false,
                Ok(taken) => {
                    self.cautious = true;
                    self.unsent = filled.filled()[taken..].to_vec();
                    self.sent = 0;
                }
                Err(Broken) => return Poll::Ready(Some(Turn::WriteBroke)),
            }
        }
        Poll::Ready(None)
    }

    /// Writes until all is taken or the receiver would block; returns how much was taken.
    fn write_through<W>(&mut self, cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Result<usize, Broken>
    where
        W: AsyncWrite + Unpin,
    {
        let mut taken = 0;
        while taken < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[taken..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Broken),
                Poll::Ready(Ok(n)) => {
                    taken += n;
                    self.moved += n as u64;
                    self.unflushed = true;
                }
            }
        }
        Ok(taken)
    }

    fn deliver_unsent<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Broken>>
    where
        W: AsyncWrite + Unpin,
    {
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let bytes = std::mem::take(&mut self.unsent);
        let taken = self.write_through(cx, to, &bytes[self.sent..])?;
        self.sent += taken;
        if self.sent < bytes.len() {
            self.unsent = bytes;
            return Poll::Pending;
        }
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Pushes out what the receiver's own layer (TLS) may still hold, before waiting for more.
    fn flush<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Turn
    where
        W: AsyncWrite + Unpin,
    {
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Turn::WriteBroke,
            }
        }
        Turn::Waiting
    }

    fn finish<W>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Broken>>
    where
        W: AsyncWrite + Unpin,
    {
        if self.unflushed {
            std::task::ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken)?;
            self.unflushed = false;
        }
        // A receiver that has closed already is as closed as we want it.
        let _ = std::task::ready!(Pin::new(to).poll_shutdown(cx));
        self.phase = Phase::Closed;
        Poll::Ready(Ok(()))
    }
}

/// The receiver cannot take bytes any more.
#[derive(Debug)]
struct Broken;

/// Bounds the work of one session before others have their turn.
const BUFFERS_PER_TURN: usize = 8;

/// Most bytes read at once after a short write.
const CAUTIOUS_READ: usize = 64 << 10;
