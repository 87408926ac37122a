//! A client's TLS connection: rustls without buffers of its own, directly over the socket.
//!
//! The same connection carries the handshake and HTTP (as an async stream) and then the desktop (as a
//! [`Side`] of the pump), so that alerts and key updates stay in the library's hands all the way. Records are
//! opened and sealed in the thread's buffers; what a connection keeps is a record that has not arrived as a whole,
//! what was deciphered and is not read yet, and what the socket did not take.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backlog::Backlog;
use super::buffers::{Buffers, with_buffers};
use super::side::{Side, receive};

/// The server's side of a TLS connection.
pub struct TlsStream<S> {
    socket: S,
    connection: UnbufferedServerConnection,
    /// Received, and no whole record yet.
    partial: Vec<u8>,
    /// Deciphered, and not read yet.
    ahead: Vec<u8>,
    backlog: Backlog,
    /// The client said that it sends no more, or what it sends makes no sense.
    peer_closed: bool,
    /// We said so, or gave up.
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with a client.
    ///
    /// # Errors
    ///
    /// The socket's; `InvalidData` when the two do not come to terms, after the client was sent the alert.
    ///
    /// # Cancellation
    ///
    /// The connection is dropped with it.
    pub async fn accept(socket: S, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut stream = Self {
            socket,
            connection: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            partial: Vec::new(),
            ahead: Vec::new(),
            backlog: Backlog::default(),
            peer_closed: false,
            closed: false,
        };
        std::future::poll_fn(|cx| with_buffers(|buffers| stream.poll_handshake(cx, buffers))).await?;
        Ok(stream)
    }

    /// The same stream over what becomes of its socket.
    pub(crate) fn over(self, become_it: impl FnOnce(S) -> io::Result<S>) -> io::Result<Self> {
        Ok(Self { socket: become_it(self.socket)?, ..self })
    }

    /// Changes the keys of what is sent from now on, and asks the client to do the same.
    #[cfg(test)]
    pub(super) fn refresh_keys(&mut self) -> io::Result<()> {
        self.writing(|traffic| traffic.refresh_traffic_keys().map_err(invalid))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<()>> {
        loop {
            let over = !self.connection.is_handshaking();
            // In the newer protocol only tickets can be left: they go with what is sent next, or when the client is
            // waited for. In the older one our last word is, and the client waits for it.
            let modern = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            if !(over && modern) {
                ready!(self.poll_sent(cx))?;
            }
            if over {
                self.free_unused();
                return Poll::Ready(Ok(()));
            }
            let length = ready!(self.poll_open(cx, SMALL_READ, buffers))?;
            // The client's first request may be right behind its last word of the handshake.
            self.ahead.extend_from_slice(&buffers.clear[..length]);
        }
    }

    /// Reads once and deciphers what became whole, which may be nothing.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        let kept = self.partial.len();
        if kept > MOST_PARTIAL {
            return Poll::Ready(Err(invalid("a handshake message is too long")));
        }
        let end = buffers.clear.len().min(kept + most);
        let read = match receive(cx, &mut self.socket, &mut buffers.sealed[kept..end]) {
            Poll::Pending => {
                self.free_unused();
                return Poll::Pending;
            }
            Poll::Ready(read) => read?,
        };
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buffers.sealed[..kept].copy_from_slice(&self.partial);
        let opened = self.open(kept + read, buffers);
        if opened.is_err() {
            self.give_up(cx, buffers);
        }
        Poll::Ready(opened)
    }

    /// Deciphers the whole records of `buffers.sealed[..filled]`; the rest is kept.
    fn open(&mut self, filled: usize, buffers: &mut Buffers) -> io::Result<usize> {
        let Buffers { clear, sealed, .. } = buffers;
        let (mut at, mut length) = (0, 0);
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut sealed[at..filled]);
            let over = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        // What is deciphered is never longer than what was received.
                        clear[length..length + record.payload.len()].copy_from_slice(record.payload);
                        length += record.payload.len();
                        discard += record.discard;
                    }
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    false
                }
                Ok(ConnectionState::EncodeTlsData(message)) => {
                    encode(message, &mut self.backlog)?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    false
                }
                // With something to discard, more may be behind it.
                Ok(ConnectionState::BlockedHandshake) => discard == 0,
                Ok(_) => true,
                Err(error) => return Err(invalid(error)),
            };
            at += discard;
            if over {
                break;
            }
        }
        self.partial.clear();
        if !self.peer_closed {
            self.partial.extend_from_slice(&sealed[at..filled]);
        }
        Ok(length)
    }

    /// Sends the alert that says why, if it can still be said. Nothing is read or written behind it.
    fn give_up(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) {
        // The alert comes before the library reads on. Had it none, it would look where it left off: anything will
        // do there, if only it is long enough.
        let state = self.connection.process_tls_records(&mut buffers.sealed).state;
        if let Ok(ConnectionState::EncodeTlsData(alert)) = state
            && encode(alert, &mut self.backlog).is_ok()
        {
            let _ = self.poll_sent(cx);
        }
        self.partial = Vec::new();
        self.peer_closed = true;
        self.closed = true;
    }

    /// Does something with the connection in the state that lets it send.
    fn writing<T>(
        &mut self,
        work: impl FnOnce(WriteTraffic<'_, ServerConnectionData>) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            // The library counts from the beginning of what it was shown and did not use up.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.partial);
            match state.map_err(invalid)? {
                ConnectionState::WriteTraffic(traffic) => {
                    let done = work(traffic);
                    self.partial.drain(..discard);
                    return done;
                }
                ConnectionState::EncodeTlsData(message) => encode(message, &mut self.backlog)?,
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            self.partial.drain(..discard);
        }
    }

    /// Seals the first `length` bytes of `buffers.clear`; returns how long they are then.
    fn seal(&mut self, length: usize, buffers: &mut Buffers) -> io::Result<usize> {
        let Buffers { clear, sealed, .. } = buffers;
        self.writing(|mut traffic| {
            loop {
                match traffic.encrypt(&clear[..length], sealed) {
                    Ok(sealed) => return Ok(sealed),
                    Err(EncryptError::InsufficientSize(size)) => sealed.resize(size.required_size, 0),
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        })
    }

    /// Says once that no more comes.
    fn queue_close(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let mut alert = [0; MOST_ALERT];
        let length =
            self.writing(|mut traffic| traffic.queue_close_notify(&mut alert).map_err(io::Error::other))?;
        self.backlog.keep(&alert[..length]);
        self.closed = true;
        Ok(())
    }

    fn free_unused(&mut self) {
        for buffer in [&mut self.partial, &mut self.ahead] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                *buffer = Vec::new();
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for TlsStream<S> {
    fn closes_both_ways(&self) -> bool {
        true
    }

    fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffers.clear.len());
            buffers.clear[..length].copy_from_slice(&self.ahead[..length]);
            self.ahead.drain(..length);
            self.free_unused();
            return Poll::Ready(Ok(length));
        }
        while !self.peer_closed {
            let length = ready!(self.poll_open(cx, most, buffers))?;
            if length > 0 {
                return Poll::Ready(Ok(length));
            }
        }
        self.free_unused();
        Poll::Ready(Ok(0))
    }

    fn push(&mut self, cx: &mut Context<'_>, length: usize, buffers: &mut Buffers) -> io::Result<()> {
        let length = self.seal(length, buffers)?;
        self.backlog.send(cx, &mut self.socket, &buffers.sealed[..length])
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.backlog.poll_send(cx, &mut self.socket)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue_close()?;
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn held(&self) -> usize {
        self.backlog.held()
    }

    fn footprint(&self) -> usize {
        self.backlog.footprint() + self.partial.capacity() + self.ahead.capacity()
    }

    fn forget(&mut self) {
        self.backlog.clear();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = with_buffers(|buffers| {
            let length = ready!(this.poll_pull(cx, SMALL_READ, buffers))?;
            let taken = length.min(buf.remaining());
            buf.put_slice(&buffers.clear[..taken]);
            if taken < length {
                // In front of what is there still.
                this.ahead.splice(..0, buffers.clear[taken..length].iter().copied());
            }
            Poll::Ready(Ok(()))
        });
        if read.is_pending() {
            // Who is waited for may be one who has not got all of what he was told.
            let _ = this.poll_sent(cx)?;
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    /// Seals the bytes as a record of their own; it goes with those before it at the next flush.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.held() >= MOST_GATHERED {
            ready!(this.poll_sent(cx))?;
        }
        let length = bytes.len().min(MOST_IN_RECORD);
        with_buffers(|buffers| {
            buffers.clear[..length].copy_from_slice(&bytes[..length]);
            let sealed = this.seal(length, buffers)?;
            this.backlog.keep(&buffers.sealed[..sealed]);
            Poll::Ready(Ok(length))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_finish(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor what they protect.
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("version", &self.connection.protocol_version())
            .field("peer_closed", &self.peer_closed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

fn encode(mut message: EncodeTlsData<'_, ServerConnectionData>, to: &mut Backlog) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        match message.encode(&mut bytes) {
            Ok(length) => {
                to.keep(&bytes[..length]);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => bytes.resize(size.required_size, 0),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Bytes read at once while nothing but a handshake or HTTP is expected.
const SMALL_READ: usize = 16 << 10;

/// Of bytes that a record carries.
const MOST_IN_RECORD: usize = 16 << 10;

/// Of records that wait for a flush.
const MOST_GATHERED: usize = 64 << 10;

/// A handshake message in pieces is kept until it is whole; the library allows 64 KiB.
const MOST_PARTIAL: usize = 96 << 10;

/// close_notify as a record, and a key update that was due before it.
const MOST_ALERT: usize = 1 << 10;
