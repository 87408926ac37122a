//! Bytes that pass between two sockets without being copied: through a pipe, by splice(2).
//!
//! Worth it only for much at once: a keystroke is copied in less time than its page is handed over. So a lane copies
//! until a read fills [`MUCH`], splices from then on, and copies again when little comes.
//!
//! Pipes belong to the thread, as its buffers do, and it has [`MOST_PIPES`]. A session keeps one only while its receiver
//! leaves bytes in it; when none is left bytes are copied.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::backlog::{add_kept, forget_kept};

/// A socket whose bytes are the session's as they are.
#[derive(Clone, Copy, Debug)]
pub enum Socket<'a> {
    /// Over a network.
    Tcp(&'a TcpStream),
    /// Within the machine.
    Unix(&'a UnixStream),
}

impl Socket<'_> {
    /// Moves at most `most` bytes into an empty pipe; none is the end of the stream.
    pub(super) fn poll_fill(
        self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_readable(cx))?;
            match self.try_io(Interest::READABLE, || splice(self.as_fd(), pipe.write.as_fd(), most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    pipe.held = moved?;
                    return Poll::Ready(Ok(pipe.held));
                }
            }
        }
    }

    /// Moves all that the pipe holds to the socket.
    pub(super) fn poll_empty(self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        while pipe.held > 0 {
            if self.poll_writable(cx)?.is_pending() {
                pipe.count();
                return Poll::Pending;
            }
            // A short count does not mean that the socket is full: pipes count pages.
            match self.try_io(Interest::WRITABLE, || splice(pipe.read.as_fd(), self.as_fd(), pipe.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => pipe.held -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        pipe.count();
        Poll::Ready(Ok(()))
    }

    fn poll_readable(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
        }
    }

    fn poll_writable(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(cx),
            Self::Unix(socket) => socket.poll_write_ready(cx),
        }
    }

    fn try_io<T>(self, interest: Interest, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, work),
            Self::Unix(socket) => socket.try_io(interest, work),
        }
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Where bytes are between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    /// How many of them are counted among the process's.
    counted: usize,
    /// Among those of its thread.
    _place: Arc<()>,
}

impl Pipe {
    fn new(place: Arc<()>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // As it is it holds what sixteen pages hold; who may not have more goes on with that.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok(Self { read, write, held: 0, counted: 0, _place: place })
    }

    /// Bytes that it holds.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Counts what its session has to wait for; nothing is to be done when nothing stays.
    fn count(&mut self) {
        if self.counted != self.held {
            forget_kept(self.counted);
            add_kept(self.held);
            self.counted = self.held;
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        forget_kept(self.counted);
    }
}

/// The pipes of a thread.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
    /// Each pipe has one, wherever it is.
    places: Arc<()>,
}

impl Pipes {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// There are as many as there may be, or the system gives no more: then bytes are copied.
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(pipe);
        }
        if Arc::strong_count(&self.places) > MOST_PIPES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Pipe::new(self.places.clone())
    }

    /// Takes one back that is empty.
    pub(super) fn put(&mut self, pipe: Pipe) {
        if pipe.held == 0 {
            self.empty.push(pipe);
        }
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

/// From so many bytes at once on splicing costs less than copying.
pub(super) const MUCH: usize = 64 << 10;

/// Pipes of a thread. Slow readers keep theirs, and whoever wants can be slow: they must leave descriptors for those who
/// come, and pages for the account's other processes, which all together may have 64 MiB in pipes.
pub(super) const MOST_PIPES: usize = 8;

/// Of a pipe: a whole buffer, with room for pages that are not full.
const PIPE_SIZE: usize = 512 << 10;
