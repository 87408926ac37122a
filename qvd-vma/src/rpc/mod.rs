//! The agent's calls: an HTTP/1.1 server in the dialect of the protocol, many connections at a time.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::long_path::ShortPath;

mod connection;
mod methods;
mod vnc;

pub use methods::Methods;

/// Where calls come in.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a unix socket that only this account and the socket's group may connect to, however long its
    /// path is; what is left of an earlier one is replaced.
    ///
    /// # Errors
    ///
    /// Those of removing and binding.
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let short = ShortPath::new(dir, name)?;
        match std::fs::remove_file(short.as_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(short.as_path())?;
        std::fs::set_permissions(short.as_path(), PermissionsExt::from_mode(0o660))?;
        Ok(Self::Unix(listener))
    }

    /// Listens on a TCP port of all addresses.
    ///
    /// # Errors
    ///
    /// Those of binding.
    pub async fn bind_tcp(port: u16) -> io::Result<Self> {
        let dual_stack = TcpListener::bind(("::", port)).await;
        match dual_stack {
            Ok(listener) => Ok(Self::Tcp(listener)),
            // A machine without IPv6.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                Ok(Self::Tcp(TcpListener::bind(("0.0.0.0", port)).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// The listening socket that this process was given as its standard input, if it was given one.
    ///
    /// # Errors
    ///
    /// When there is one and it cannot be used.
    pub fn from_stdin() -> io::Result<Option<Self>> {
        use nix::sys::socket::{
            AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
        };
        use std::os::fd::{AsFd, AsRawFd};
        let stdin = io::stdin();
        if !getsockopt(&stdin.as_fd(), sockopt::AcceptConn).unwrap_or(false) {
            return Ok(None);
        }
        let family = getsockname::<SockaddrStorage>(stdin.as_fd().as_raw_fd())?.family();
        let socket = stdin.as_fd().try_clone_to_owned()?;
        if family == Some(AddressFamily::Unix) {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            return Ok(Some(Self::Unix(UnixListener::from_std(listener)?)));
        }
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Some(Self::Tcp(TcpListener::from_std(listener)?)))
    }
}

/// Serves calls until `shutdown` completes; calls under way get a moment to finish.
pub async fn serve(listener: Listener, methods: Arc<Methods>, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    tokio::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            // The semaphore is never closed.
            permit = Arc::clone(&permits).acquire_owned() => permit.ok(),
            () = &mut shutdown => break,
        };
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let methods = Arc::clone(&methods);
                connections.spawn(async move {
                    connection::serve(stream, &methods).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a call");
                // Out of descriptors, most likely: those of running calls come back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_CALLS, rest).await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(listener: &Listener) -> io::Result<connection::Stream> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(connection::Stream::Tcp(stream))
        }
        Listener::Unix(listener) => Ok(connection::Stream::Unix(listener.accept().await?.0)),
    }
}

/// More callers than any router and host have at once.
const MOST_CONNECTIONS: usize = 64;

/// How long calls may go on after the end was asked for.
const LAST_CALLS: Duration = Duration::from_millis(500);
