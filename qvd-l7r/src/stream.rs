//! The two ends of a session: a client over TLS or plain TCP, a desktop over TCP or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use qvd_core::hypervisor::{Endpoint, X_SOCKET};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use qvd_vma::client::dial_unix;

use crate::forward::{Buffers, PlainStream, Side, Socket, TlsStream};

/// A client's connection.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Plain(PlainStream<TcpStream>),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A desktop's connection.
#[derive(Debug)]
pub(crate) enum DesktopStream {
    Tcp(PlainStream<TcpStream>),
    Unix(PlainStream<UnixStream>),
}

impl ClientStream {
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self::Plain(PlainStream::new(socket))
    }

    /// Shakes hands over TLS.
    ///
    /// # Errors
    ///
    /// The connection's; `InvalidData` when the client speaks no TLS that suits the configuration.
    pub(crate) async fn greet(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::Tls(Box::new(TlsStream::accept(socket, config).await?)))
    }

    /// The same stream, watched by the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// The system watches no more sockets.
    pub(crate) fn at_home(self) -> io::Result<Self> {
        match self {
            Self::Plain(stream) => stream.over(tcp_at_home).map(Self::Plain),
            Self::Tls(stream) => stream.over(tcp_at_home).map(|stream| Self::Tls(Box::new(stream))),
        }
    }
}

impl DesktopStream {
    /// Connects to a desktop. The first connection that a desktop accepts is its session: dial only what is
    /// then used.
    ///
    /// # Errors
    ///
    /// The connection's, a time-out among them.
    pub(crate) async fn dial(endpoint: &Endpoint, limit: Duration) -> io::Result<Self> {
        let dial = async {
            match endpoint {
                Endpoint::Ip { address, x_port, .. } => {
                    let stream = TcpStream::connect(SocketAddr::new(*address, *x_port)).await?;
                    tune(&stream)?;
                    Ok(Self::Tcp(PlainStream::new(stream)))
                }
                Endpoint::Unix { dir } => {
                    dial_unix(dir, X_SOCKET).await.map(|stream| Self::Unix(PlainStream::new(stream)))
                }
                _ => {
                    Err(io::Error::new(io::ErrorKind::Unsupported, "this kind of address cannot be dialled"))
                }
            }
        };
        tokio::time::timeout(limit, dial).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The same stream, watched by the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// The system watches no more sockets.
    pub(crate) fn at_home(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.over(tcp_at_home).map(Self::Tcp),
            Self::Unix(stream) => {
                stream.over(|socket| UnixStream::from_std(socket.into_std()?)).map(Self::Unix)
            }
        }
    }
}

fn tcp_at_home(socket: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(socket.into_std()?)
}

/// Small messages go at once, and a peer that vanished, or whose network forgot the connection, is noticed within
/// [`SILENCE`], whether or not something was on its way to it.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probe = SILENCE / 8;
    let keepalive = TcpKeepalive::new().with_time(SILENCE / 2).with_interval(probe).with_retries(4);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // Without this what is on its way is sent again for a quarter of an hour, and no probe is.
    socket.set_tcp_user_timeout(Some(SILENCE))
}

/// A peer from which nothing came for so long, no acknowledgement even, is gone. Its desktop is suspended, not lost.
const SILENCE: Duration = Duration::from_secs(120);

macro_rules! delegate {
    ($name:ident { $($variant:ident => $socket:expr),* }) => {
        impl Side for $name {
            fn socket(&self) -> Option<Socket<'_>> {
                match self { $(Self::$variant(s) => $socket(s),)* }
            }

            fn closes_both_ways(&self) -> bool {
                match self { $(Self::$variant(s) => s.closes_both_ways(),)* }
            }

            fn poll_pull(
                &mut self,
                cx: &mut Context<'_>,
                most: usize,
                buffers: &mut Buffers,
            ) -> Poll<io::Result<usize>> {
                match self { $(Self::$variant(s) => s.poll_pull(cx, most, buffers),)* }
            }

            fn push(&mut self, cx: &mut Context<'_>, length: usize, buffers: &mut Buffers) -> io::Result<()> {
                match self { $(Self::$variant(s) => s.push(cx, length, buffers),)* }
            }

            fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self { $(Self::$variant(s) => s.poll_sent(cx),)* }
            }

            fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self { $(Self::$variant(s) => s.poll_finish(cx),)* }
            }

            fn held(&self) -> usize {
                match self { $(Self::$variant(s) => s.held(),)* }
            }

            fn footprint(&self) -> usize {
                match self { $(Self::$variant(s) => s.footprint(),)* }
            }

            fn forget(&mut self) {
                match self { $(Self::$variant(s) => s.forget(),)* }
            }
        }
    };
}

delegate!(ClientStream { Plain => tcp, Tls => sealed });
delegate!(DesktopStream { Tcp => tcp, Unix => unix });

fn tcp(stream: &PlainStream<TcpStream>) -> Option<Socket<'_>> {
    Some(Socket::Tcp(stream.socket()))
}

fn unix(stream: &PlainStream<UnixStream>) -> Option<Socket<'_>> {
    Some(Socket::Unix(stream.socket()))
}

/// What is on the wire is not what the session says.
fn sealed(_: &TlsStream<TcpStream>) -> Option<Socket<'_>> {
    None
}

/// Until the 101, a client's stream carries HTTP.
impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_looks_after_peers_that_vanish() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
        let idle = socket.tcp_keepalive_time().unwrap();
        let probes = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(idle + probes, SILENCE);
    }
}
