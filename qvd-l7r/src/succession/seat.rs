//! The side that is asked: a router's place, from the moment that it accepts until another one does in its stead.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{PATIENCE, Predecessor, Succession, check_dir, check_peer, remove_if_ours, wire, within};
use crate::error::{Error, Result};

/// What a router has to do with those before and behind it.
#[derive(Default)]
pub(crate) struct Office {
    predecessor: Option<Predecessor>,
    seat: Option<Seat>,
    /// Called once it serves and nobody else does.
    established: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Office")
            .field("predecessor", &self.predecessor)
            .field("seat", &self.seat)
            .finish_non_exhaustive()
    }
}

/// Why a router holds its office no longer.
pub(crate) enum Ending {
    /// Another one accepts, and was told that from now on this one does no more.
    Succeeded(Successor),
    /// The one before goes on.
    NotEstablished(Error),
}

impl Office {
    pub(crate) fn succeeding(predecessor: Predecessor) -> Self {
        Self { predecessor: Some(predecessor), ..Self::default() }
    }

    /// Lets others ask for these sockets once this router serves.
    pub(crate) fn offer(&mut self, succession: &Succession, sockets: Vec<OwnedFd>) -> Result<()> {
        let seat = Seat::take(succession, sockets);
        self.seat = Some(seat.map_err(|e| succession.failed("let another router take over later", e))?);
        Ok(())
    }

    pub(crate) fn once_established(&mut self, what: Box<dyn FnOnce() + Send>) {
        self.established = Some(what);
    }

    /// Holds it, and says by `serves` when it does. The router must accept already when this is polled first.
    ///
    /// # Cancellation
    ///
    /// A hand-over under way is broken off, unless it was answered already.
    pub(crate) async fn hold(&mut self, serves: impl FnOnce()) -> Ending {
        if let Some(predecessor) = &self.predecessor {
            match predecessor.relieve().await {
                Ok(()) => tracing::info!("took the place of the router that served before"),
                Err(error) => return Ending::NotEstablished(error),
            }
        }
        if let Some(established) = self.established.take() {
            established();
        }
        if let Some(seat) = &mut self.seat {
            seat.publish();
        }
        serves();
        // Behind the pid file: a service manager that sees the other one end looks who it is now.
        self.predecessor = None;
        match &self.seat {
            Some(seat) => Ending::Succeeded(seat.successor().await),
            None => std::future::pending().await,
        }
    }
}

/// A router that accepts in place of this one.
pub(crate) struct Successor {
    stream: UnixStream,
}

impl Successor {
    /// Waits until it has taken over all else: what this process is known by is no more its own.
    pub(crate) async fn settled(self) {
        let _ = timeout(PATIENCE, wire::closed(&self.stream)).await;
    }
}

/// The unix socket, and what is given away there.
#[derive(Debug)]
struct Seat {
    // The paths begin at it.
    _dir: File,
    listener: UnixListener,
    path: PathBuf,
    /// Its path until it is published.
    unpublished: Option<PathBuf>,
    inode: u64,
    sockets: Vec<OwnedFd>,
}

impl Seat {
    fn take(succession: &Succession, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        if sockets.len() > wire::MOST_SOCKETS {
            let text = format!("{} sockets are too many, {} is the most", sockets.len(), wire::MOST_SOCKETS);
            return Err(io::Error::other(text));
        }
        let dir = succession.open_dir()?;
        check_dir(&dir)?;
        let path = succession.path(&dir);
        // Under its name it is never seen without somebody who answers, nor does the one before lose it too early.
        let unpublished = within(&dir, &format!("{}.{}.new", succession.name, std::process::id()));
        let _ = fs::remove_file(&unpublished);
        let listener = UnixListener::bind(&unpublished)?;
        fs::set_permissions(&unpublished, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&unpublished)?.ino();
        Ok(Self { _dir: dir, listener, path, unpublished: Some(unpublished), inode, sockets })
    }

    fn publish(&mut self) {
        if let Some(unpublished) = self.unpublished.take()
            && let Err(error) = fs::rename(&unpublished, &self.path)
        {
            tracing::error!("no other router can take over from this one: {error}");
            self.unpublished = Some(unpublished);
        }
    }

    /// Answers whoever asks, one after another, until one of them accepts.
    async fn successor(&self) -> Successor {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors. No event says that some came free, and the socket stays readable: without a
                    // pause this would keep the processor busy.
                    tracing::warn!("a router that asks for the sockets is not heard: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match timeout(PATIENCE, self.hand_over(stream))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            {
                Ok(Some(successor)) => return successor,
                Ok(None) => {}
                Err(error) => tracing::warn!("nobody took over, this router goes on: {error}"),
            }
        }
    }

    /// One talk; none when the other only looked whether somebody is there.
    async fn hand_over(&self, stream: UnixStream) -> io::Result<Option<Successor>> {
        check_peer(&stream)?;
        match wire::receive(&stream).await {
            Ok((line, _)) if line == wire::ASK => {}
            Ok((line, _)) => {
                wire::send(&stream, "this router knows 'qvd-l7r succession 1' alone", &[]).await?;
                return Err(io::Error::other(format!("asked with '{line}'")));
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let sockets: Vec<_> = self.sockets.iter().map(|socket| socket.as_fd()).collect();
        wire::send(&stream, wire::SOCKETS, &sockets).await?;
        tracing::info!("a router that is to take over has the listening sockets");
        match wire::receive(&stream).await?.0.as_str() {
            wire::ACCEPTING => {
                // Only what can still be said counts: with nobody there to hear it, nobody accepts either.
                wire::send(&stream, wire::LEFT, &[]).await?;
                Ok(Some(Successor { stream }))
            }
            other => Err(io::Error::other(format!("it said '{other}'"))),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A successor has put its own there.
        remove_if_ours(self.unpublished.as_ref().unwrap_or(&self.path), self.inode);
    }
}

/// Before accepting is tried again after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
