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

use crate::forward::{Buffers, PlainStream, Side, TlsStream};

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
}

/// Small messages go at once, and a peer whose machine vanished is noticed.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

macro_rules! delegate {
    ($name:ident { $($variant:ident),* }) => {
        impl Side for $name {
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

delegate!(ClientStream { Plain, Tls });
delegate!(DesktopStream { Tcp, Unix });

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
