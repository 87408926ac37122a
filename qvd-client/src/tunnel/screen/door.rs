//! A display of our own in front of one that wants a cookie: whoever belongs to this user enters without, and the
//! cookie is shown for them. Everything after the opening passes unread.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::authority::Cookie;
use super::opening::Opening;
use super::place::{Place, socket_path};

/// Numbers of displays to take, out of the way of X servers, of ssh and of agents.
const NUMBERS: std::ops::Range<u16> = 20_000..30_000;

/// The display; it and what passes through it go when it is dropped.
#[derive(Debug)]
pub(super) struct Door {
    number: u16,
    _porter: JoinSet<()>,
}

impl Door {
    pub(super) fn open(place: Place, cookie: Cookie) -> io::Result<Self> {
        let (number, listener) = listen()?;
        tracing::debug!(number, ?place, "a display that adds the cookie");
        let mut porter = JoinSet::new();
        porter.spawn(admit_all(listener, place, cookie));
        Ok(Self { number, _porter: porter })
    }

    /// As in `DISPLAY`.
    pub(super) fn display(&self) -> String {
        format!(":{}", self.number)
    }
}

/// A free display. Its name is abstract: it leaves no file, it is the first that X clients try, and whether another
/// holds it the system says itself. It has no permissions, so everybody who enters is looked at.
fn listen() -> io::Result<(u16, UnixListener)> {
    // Neighbours begin at different places.
    let skip = usize::try_from(std::process::id()).unwrap_or_default() % NUMBERS.len();
    for number in NUMBERS.cycle().skip(skip).take(NUMBERS.len()) {
        let path = socket_path(number);
        if Path::new(&path).symlink_metadata().is_ok() {
            continue;
        }
        match std::os::unix::net::UnixListener::bind_addr(&SocketAddr::from_abstract_name(path)?) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok((number, UnixListener::from_std(listener)?));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no display number is free"))
}

async fn admit_all(listener: UnixListener, place: Place, cookie: Cookie) {
    let mut guests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = guests.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let (place, cookie) = (place.clone(), cookie.clone());
                guests.spawn(async move {
                    if let Err(error) = admit(client, &place, &cookie).await {
                        tracing::debug!(%error, "an X connection broke");
                    }
                });
            }
            Err(error) => {
                // Without file descriptors, say. Who is inside stays.
                tracing::warn!(%error, "the display that adds the cookie takes no more clients");
                while guests.join_next().await.is_some() {}
                return;
            }
        }
    }
}

async fn admit(mut client: UnixStream, place: &Place, cookie: &Cookie) -> io::Result<()> {
    let peer = client.peer_cred()?.uid();
    if peer != nix::unistd::geteuid().as_raw() {
        tracing::warn!(peer, "another user wanted to use the X display and was turned away");
        return Ok(());
    }
    // nxproxy also connects just to see whether somebody is there.
    let Some(opening) = Opening::read(&mut client).await? else { return Ok(()) };
    let mut server = place.connect().await?.stream;
    opening.send(&mut server, Some(cookie)).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}
