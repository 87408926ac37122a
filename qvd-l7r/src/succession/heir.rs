//! The side that asks: a router that is ready and lacks nothing but the sockets.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::net::{Shutdown, shutdown};
use socket2::Socket;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{PATIENCE, Succession, check_peer, wire};
use crate::error::Result;

/// The router that is to be succeeded; it serves until [`relieve`](Self::relieve).
#[derive(Debug)]
pub(crate) struct Predecessor {
    succession: Succession,
    stream: UnixStream,
}

impl Predecessor {
    /// Asks for the listening sockets.
    pub(crate) async fn ask(succession: &Succession) -> Result<(Self, Vec<TcpListener>)> {
        let asked = async {
            let dir = succession.open_dir()?;
            let stream = UnixStream::connect(succession.path(&dir)).await?;
            check_peer(&stream)?;
            wire::send(&stream, wire::ASK, &[]).await?;
            let (line, descriptors) = wire::receive(&stream).await?;
            if line != wire::SOCKETS {
                return Err(io::Error::other(format!("it said: {line}")));
            }
            let sockets = descriptors.into_iter().map(listening).collect::<io::Result<Vec<_>>>()?;
            Ok((stream, sockets))
        };
        let late = || Err(io::ErrorKind::TimedOut.into());
        match timeout(PATIENCE, asked).await.unwrap_or_else(|_| late()) {
            Ok((stream, sockets)) => Ok((Self { succession: succession.clone(), stream }, sockets)),
            Err(source) => Err(succession.failed("get the sockets of the router that serves", source)),
        }
    }

    /// Tells it that this router accepts. Afterwards the other one does no more, or is gone; an error means that it goes
    /// on, and that this one must not.
    pub(crate) async fn relieve(&self) -> Result<()> {
        let relieved = async {
            wire::send(&self.stream, wire::ACCEPTING, &[]).await?;
            match wire::receive(&self.stream).await?.0.as_str() {
                wire::LEFT => Ok(()),
                other => Err(io::Error::other(format!("it said: {other}"))),
            }
        };
        let Err(source) =
            timeout(PATIENCE, relieved).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        else {
            return Ok(());
        };
        // From here on it can say nothing more; what it said before can still be read. So both know the same, however
        // late it was.
        let _ = shutdown(&self.stream, Shutdown::Both);
        if wire::receive(&self.stream).await.is_ok_and(|(line, _)| line == wire::LEFT) {
            return Ok(());
        }
        if self.succession.is_held()? {
            return Err(self.succession.failed("take the place of the router that serves", source));
        }
        tracing::warn!("the router that was to be succeeded ended before it let go: {source}");
        Ok(())
    }
}

fn listening(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let socket = Socket::from(descriptor);
    let is_tcp = socket.protocol()? == Some(socket2::Protocol::TCP);
    if !is_tcp || !socket.is_listener()? {
        return Err(io::Error::other("what it gave is no socket that listens"));
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::config::Config;

    fn pair() -> (Predecessor, UnixStream, tempfile::TempDir) {
        let run = tempfile::tempdir().unwrap();
        let config = Config::builder().set("path.run", run.path().display().to_string()).build().unwrap();
        let (stream, asked) = UnixStream::pair().unwrap();
        (Predecessor { succession: Succession::of(&config).unwrap(), stream }, asked, run)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_too_late_cannot_let_go_any_more() {
        let (predecessor, asked, _run) = pair();
        // Nobody is at the place, so this one serves.
        predecessor.relieve().await.unwrap();
        assert_eq!(wire::receive(&asked).await.unwrap().0, wire::ACCEPTING);
        let late = wire::send(&asked, wire::LEFT, &[]).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn one_that_let_go_and_is_gone_has_let_go() {
        let (predecessor, asked, _run) = pair();
        wire::send(&asked, wire::LEFT, &[]).await.unwrap();
        drop(asked);
        predecessor.relieve().await.unwrap();
    }
}
