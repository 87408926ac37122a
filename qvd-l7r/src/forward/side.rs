//! The two ends of a session as the pump sees them, and the one without encryption.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backlog::Backlog;
use super::buffers::Buffers;
use super::splice::Socket;

/// One end of a session. What its socket does not take, it keeps; while it keeps bytes, the pump gives it no more.
pub trait Side {
    /// Whether an end that closes has closed both ways.
    fn closes_both_ways(&self) -> bool;

    /// The socket, if the session's bytes pass it as they are and it can be spliced.
    fn socket(&self) -> Option<Socket<'_>> {
        None
    }

    /// Receives bytes into `buffers.clear`, after reading at most `most` from the socket; none means a proper end.
    fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>>;

    /// Sends the first `length` bytes of `buffers.clear`.
    fn push(&mut self, cx: &mut Context<'_>, length: usize, buffers: &mut Buffers) -> io::Result<()>;

    /// Sends what is kept.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends what is kept and the word that no more comes.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// How many bytes are kept.
    fn held(&self) -> usize;

    /// Memory for bytes on their way, kept or not.
    fn footprint(&self) -> usize;

    /// Forgets what is kept: nobody takes it any more.
    fn forget(&mut self);
}

/// A socket whose bytes are the session's.
#[derive(Debug)]
pub struct PlainStream<S> {
    socket: S,
    backlog: Backlog,
}

impl<S> PlainStream<S> {
    /// Over a connected socket.
    pub fn new(socket: S) -> Self {
        Self { socket, backlog: Backlog::default() }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// The same stream over what becomes of its socket.
    pub(crate) fn over<T>(self, become_it: impl FnOnce(S) -> io::Result<T>) -> io::Result<PlainStream<T>> {
        Ok(PlainStream { socket: become_it(self.socket)?, backlog: self.backlog })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for PlainStream<S> {
    fn closes_both_ways(&self) -> bool {
        false
    }

    fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        let most = most.min(buffers.clear.len());
        receive(cx, &mut self.socket, &mut buffers.clear[..most])
    }

    fn push(&mut self, cx: &mut Context<'_>, length: usize, buffers: &mut Buffers) -> io::Result<()> {
        self.backlog.send(cx, &mut self.socket, &buffers.clear[..length])
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.backlog.poll_send(cx, &mut self.socket)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn held(&self) -> usize {
        self.backlog.held()
    }

    fn footprint(&self) -> usize {
        self.backlog.footprint()
    }

    fn forget(&mut self) {
        self.backlog.clear();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.backlog.poll_send(cx, &mut this.socket))?;
        Pin::new(&mut this.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.backlog.poll_send(cx, &mut this.socket))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.backlog.poll_send(cx, &mut this.socket))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// Reads once; none is the end of the stream.
pub(super) fn receive<S>(cx: &mut Context<'_>, socket: &mut S, space: &mut [u8]) -> Poll<io::Result<usize>>
where
    S: AsyncRead + Unpin,
{
    let mut filled = ReadBuf::new(space);
    ready!(Pin::new(socket).poll_read(cx, &mut filled))?;
    Poll::Ready(Ok(filled.filled().len()))
}
