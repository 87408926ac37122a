//! From an accepted socket to its first request, and on to the desktop that one of them asks for: who may come in, how
//! it is greeted, and why some do not get that far.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::abuse::Abuse;
use crate::conversation;
use crate::farewell::Leaving;
use crate::gate::{Gate, Place};
use crate::proxied::{self, NotProxied};
use crate::session::Session;
use crate::shared::Shared;
use crate::strangers::{Dismissal, Stranger};
use crate::stream::{ClientStream, tune};

/// A connection that was just accepted.
pub(crate) struct Arrival {
    pub(crate) entrance: Entrance,
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Its place among those of its address; behind a balancer the address is known later.
    pub(crate) place: Option<Place>,
    /// Its place among those on which nobody has logged in, and how it loses it.
    pub(crate) stranger: (Stranger, Dismissal),
    pub(crate) greeting: Option<Arc<ServerConfig>>,
    pub(crate) limit: Duration,
    pub(crate) leaving: watch::Receiver<Leaving>,
}

impl Arrival {
    /// Greets it and answers it until it ends or a desktop takes it over; then its place is the session's.
    pub(crate) async fn until_session(self) -> Option<(Session, Place)> {
        let Self { entrance, stream, peer, place, stranger, greeting, limit, leaving } = self;
        let (stranger, dismissal) = stranger;
        let shared = entrance.shared.clone();
        let served = async move {
            let (stream, client, place) =
                Self::greeted(&entrance, stream, peer, place, greeting, limit).await?;
            Some((conversation::serve(entrance.shared, stream, client, stranger, leaving).await?, place))
        };
        tokio::select! {
            biased;
            () = dismissal.come() => {
                shared.saw(Abuse::TooManyStrangers, peer, &"others came, and no login in all its time");
                None
            }
            session = served => session,
        }
    }

    async fn greeted(
        entrance: &Entrance,
        stream: TcpStream,
        peer: SocketAddr,
        place: Option<Place>,
        greeting: Option<Arc<ServerConfig>>,
        limit: Duration,
    ) -> Option<(ClientStream, SocketAddr, Place)> {
        let greeted = async {
            match place {
                Some(place) => greet(stream, greeting).await.map(|stream| (stream, peer, place)),
                None => arrive_by_balancer(entrance, stream, peer, greeting).await,
            }
        };
        let shared = &entrance.shared;
        let arrived = tokio::select! {
            arrived = tokio::time::timeout(limit, greeted) => arrived.unwrap_or(Err(Missed::Late)),
            () = shared.sessions.ended() => return None,
        };
        arrived.map_err(|missed| missed.tell(shared, peer)).ok()
    }
}

/// Who may come in, by address.
pub(crate) struct Entrance {
    pub(crate) shared: Arc<Shared>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) limit: usize,
}

impl Entrance {
    pub(crate) fn enter(&self, client: SocketAddr) -> Option<Place> {
        let place = self.gate.enter(client.ip().to_canonical(), self.limit);
        if place.is_none() {
            self.shared.saw(Abuse::AddressIsFull, client, &format_args!("{} come from there", self.limit));
        }
        place
    }
}

/// Why a connection does not get as far as its first request.
enum Missed {
    /// Somebody has told already.
    Told,
    NotProxied(NotProxied),
    Handshake(std::io::Error),
    Late,
}

impl Missed {
    fn tell(self, shared: &Shared, peer: SocketAddr) {
        match self {
            Self::Told => {}
            Self::NotProxied(NotProxied::Silent) => {
                tracing::debug!(balancer = %peer, "looked whether somebody listens")
            }
            Self::NotProxied(error) => shared.saw(Abuse::NoProxyHeader, peer, &error),
            Self::Handshake(error) => shared.saw(Abuse::Handshake, peer, &error),
            Self::Late => shared.saw(Abuse::SlowHandshake, peer, &"nothing usable came in time"),
        }
    }
}

/// Learns the client's address, which then counts as that of any other.
async fn arrive_by_balancer(
    entrance: &Entrance,
    mut stream: TcpStream,
    balancer: SocketAddr,
    greeting: Option<Arc<ServerConfig>>,
) -> Result<(ClientStream, SocketAddr, Place), Missed> {
    let client = proxied::client_of(&mut stream, balancer).await.map_err(Missed::NotProxied)?;
    let place = entrance.enter(client).ok_or(Missed::Told)?;
    Ok((greet(stream, greeting).await?, client, place))
}

async fn greet(stream: TcpStream, greeting: Option<Arc<ServerConfig>>) -> Result<ClientStream, Missed> {
    tune(&stream).map_err(Missed::Handshake)?;
    match greeting {
        None => Ok(ClientStream::plain(stream)),
        Some(config) => ClientStream::greet(stream, config).await.map_err(Missed::Handshake),
    }
}
