//! One direction of a session's stream.

use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};

use super::backlog::is_process_laden;
use super::buffers::{BUFFER_SIZE, Buffers};
use super::floor::Flow;
use super::side::Side;
use super::splice::{self, Pipe};

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
    /// No more bytes come; deliver what is kept, then shut writing down.
    Ending,
    /// The receiver is gone; bytes are read and dropped, so that the sender's end is noticed.
    Discarding,
    /// Done.
    Closed,
}

#[derive(Debug)]
pub(super) struct Lane {
    phase: Phase,
    /// Delivered before anything is read.
    first: Vec<u8>,
    /// The receiver was slow a moment ago: read less at once, so that less has to be kept.
    cautious: bool,
    /// Much came at once a moment ago: worth a pipe, where the two sides can have one.
    ample: bool,
    /// What the receiver left in a pipe.
    pipe: Option<Pipe>,
    /// There was more than one buffer to move.
    flow: Option<Flow>,
    pushed: u64,
}

impl Lane {
    /// A lane that delivers these bytes first.
    pub(super) fn beginning_with(mut first: Vec<u8>) -> Self {
        // A buffer that was read into and is empty again is a buffer all the same.
        first.shrink_to_fit();
        Self { phase: Phase::Open, first, cautious: false, ample: false, pipe: None, flow: None, pushed: 0 }
    }

    /// Memory kept besides the lane itself.
    pub(super) fn footprint(&self) -> usize {
        self.first.capacity() + self.piped()
    }

    /// Bytes given to the receiver that it left in a pipe.
    pub(super) fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Bytes given to the receiver; it may still keep some.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
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

    /// Reads nothing more; what the receiver keeps is delivered.
    pub(super) fn end(&mut self) {
        self.phase = match self.phase {
            Phase::Open | Phase::Ending => Phase::Ending,
            Phase::Discarding | Phase::Closed => Phase::Closed,
        };
    }

    /// Drops everything that still comes; of what was given to the receiver, so much was lost.
    pub(super) fn discard(&mut self, lost: usize) {
        self.pushed = self.pushed.saturating_sub((lost + self.piped()) as u64);
        self.pipe = None;
        self.phase = match self.phase {
            Phase::Open | Phase::Discarding => Phase::Discarding,
            Phase::Ending | Phase::Closed => Phase::Closed,
        };
    }

    /// Moves bytes until one side would block, something happens that the pump must know, or a buffer is full of them
    /// and others must be looked after.
    pub(super) fn turn<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &mut Buffers,
    ) -> Turn
    where
        F: Side,
        T: Side,
    {
        // Taken out of the lane, so that every end of the turn but the last gives the floor up.
        let flow = self.flow.take();
        if flow.as_ref().is_some_and(|flow| !flow.has_floor(cx)) {
            self.flow = flow;
            return Turn::Waiting;
        }
        let mut moved = 0;
        for _ in 0..MOVES_PER_TURN {
            let step = match self.deliver(cx, to, buffers) {
                ControlFlow::Continue(()) => self.move_once(cx, from, to, buffers),
                ControlFlow::Break(turn) => ControlFlow::Break(turn),
            };
            match step {
                ControlFlow::Continue(bytes) => moved += bytes,
                ControlFlow::Break(turn) => return turn,
            }
            if moved >= BUFFER_SIZE {
                break;
            }
        }
        self.flow.insert(flow.unwrap_or_else(|| Flow::enter(cx))).pause(cx);
        Turn::Waiting
    }

    /// Leaves the floor to others; the lane has its next turn when it is woken.
    pub(super) fn rest(&mut self) {
        self.flow = None;
    }

    /// Delivers what was moved before, and the end behind it; what the turn came to, if no more can be moved.
    fn deliver<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut T,
        buffers: &mut Buffers,
    ) -> ControlFlow<Turn> {
        let delivered = match self.phase {
            Phase::Open => self.poll_delivered(cx, to, buffers),
            Phase::Ending => match self.poll_delivered(cx, to, buffers) {
                Poll::Ready(Ok(())) => to.poll_finish(cx),
                not_yet => not_yet,
            },
            Phase::Discarding => Poll::Ready(Ok(())),
            Phase::Closed => return ControlFlow::Break(Turn::Finished),
        };
        match delivered {
            Poll::Pending => return ControlFlow::Break(Turn::Waiting),
            // A receiver that has closed already is as closed as we want it, if it got everything.
            Poll::Ready(Err(_)) if self.phase == Phase::Open || to.held() + self.piped() > 0 => {
                return ControlFlow::Break(Turn::WriteBroke);
            }
            Poll::Ready(_) => {}
        }
        if self.phase == Phase::Ending {
            self.phase = Phase::Closed;
            return ControlFlow::Break(Turn::Finished);
        }
        ControlFlow::Continue(())
    }

    /// Sends what the receiver kept, or left in a pipe.
    fn poll_delivered<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut T,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<()>> {
        ready!(to.poll_sent(cx))?;
        if let Some(pipe) = &mut self.pipe
            && let Some(socket) = to.socket()
        {
            let emptied = socket.poll_empty(cx, pipe);
            self.cautious = emptied.is_pending();
            ready!(emptied)?;
        }
        if let Some(empty) = self.pipe.take() {
            buffers.pipes.put(empty);
        }
        Poll::Ready(Ok(()))
    }

    /// One move from socket to pipe; the way out of it is the next delivery's. `None` when this is not for pipes.
    fn splice<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &mut Buffers,
    ) -> Option<Poll<io::Result<usize>>>
    where
        F: Side,
        T: Side,
    {
        if !self.ample || self.phase != Phase::Open || !self.first.is_empty() {
            return None;
        }
        let (source, _) = (from.socket()?, to.socket()?);
        // None is left: copying needs none.
        let mut pipe = buffers.pipes.take().ok()?;
        let moved = source.poll_fill(cx, &mut pipe, self.most());
        match moved {
            Poll::Ready(Ok(length)) if length > 0 => {
                self.ample = length >= splice::MUCH;
                self.pushed += length as u64;
                self.pipe = Some(pipe);
            }
            Poll::Ready(_) | Poll::Pending => {
                // Nothing is left of a flow that paused.
                self.ample = false;
                buffers.pipes.put(pipe);
            }
        }
        Some(moved)
    }

    /// One read, one write, of so many bytes; or what the turn came to, if it is over.
    fn move_once<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &mut Buffers,
    ) -> ControlFlow<Turn, usize>
    where
        F: Side,
        T: Side,
    {
        let spliced = self.splice(cx, from, to, buffers);
        let copied = spliced.is_none();
        let pulled = match spliced {
            Some(spliced) => spliced,
            None if self.first.is_empty() => from.poll_pull(cx, self.most(), buffers),
            None => Poll::Ready(Ok(self.take_first(buffers))),
        };
        let length = match pulled {
            Poll::Pending => return ControlFlow::Break(Turn::Waiting),
            Poll::Ready(Ok(0)) => return ControlFlow::Break(self.no_more(cx, Turn::ReachedEnd)),
            Poll::Ready(Err(_)) => return ControlFlow::Break(self.no_more(cx, Turn::ReadBroke)),
            Poll::Ready(Ok(length)) => length,
        };
        if copied && self.phase == Phase::Open {
            if to.push(cx, length, buffers).is_err() {
                return ControlFlow::Break(Turn::WriteBroke);
            }
            self.pushed += length as u64;
            self.cautious = to.held() > 0;
            self.ample = length >= splice::MUCH;
        }
        ControlFlow::Continue(length)
    }

    fn take_first(&mut self, buffers: &mut Buffers) -> usize {
        let length = self.first.len().min(buffers.clear.len());
        buffers.clear[..length].copy_from_slice(&self.first[..length]);
        self.first.drain(..length);
        if self.first.is_empty() {
            self.first = Vec::new();
        }
        length
    }

    fn most(&self) -> usize {
        if is_process_laden() {
            LADEN_READ
        } else if self.cautious {
            CAUTIOUS_READ
        } else {
            BUFFER_SIZE
        }
    }

    fn no_more(&mut self, cx: &mut Context<'_>, how: Turn) -> Turn {
        self.phase = if self.phase == Phase::Discarding { Phase::Closed } else { Phase::Ending };
        // The next turn finishes; make sure that there is one.
        cx.waker().wake_by_ref();
        how
    }
}

/// Most moves in a turn, when they are small ones.
const MOVES_PER_TURN: usize = 8;

/// Most bytes read at once after a short write (protocol page, row 74).
const CAUTIOUS_READ: usize = 64 << 10;

/// Most bytes read at once while all sessions together keep very much.
const LADEN_READ: usize = 16 << 10;
