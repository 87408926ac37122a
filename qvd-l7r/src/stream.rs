//! The two ends of a session: a client over TLS or plain TCP, a desktop over TCP or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use qvd_core::hypervisor::{Endpoint, X_SOCKET};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use qvd_vma::client::dial_unix;

/// A client's connection.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A desktop's connection.
#[derive(Debug)]
pub(crate) enum DesktopStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientStream {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
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
                    Ok(Self::Tcp(stream))
                }
                Endpoint::Unix { dir } => dial_unix(dir, X_SOCKET).await.map(Self::Unix),
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
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(s) => Pin::new(s).poll_read(cx, buf),)* }
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(s) => Pin::new(s).poll_write(cx, buf),)* }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(s) => Pin::new(s).poll_flush(cx),)* }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(s) => Pin::new(s).poll_shutdown(cx),)* }
            }
        }
    };
}

delegate!(ClientStream { Plain, Tls });
delegate!(DesktopStream { Tcp, Unix });
