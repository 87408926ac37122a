//! A router that lacks nothing but its sockets.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::CounterQueue;
use crate::error::Result;
use crate::listen::{self, Listeners, Wanted};
use crate::proxied::Balancers;
use crate::server::{Bound, BoundRouter};
use crate::shared::Shared;
use crate::succession::{Office, Predecessor, Succession};
use crate::tls::Tls;
use crate::workers::Workers;

/// A router that has its certificate, its database and its place among the living, and listens nowhere yet.
#[derive(Debug)]
pub struct ReadyRouter(Ready);

/// What a [`ReadyRouter`] is made of.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) balancers: Balancers,
    pub(crate) workers: Workers,
    pub(crate) queue: CounterQueue,
    pub(crate) stop_notice: Duration,
    pub(crate) place: Place,
}

/// Where a router will listen.
#[derive(Debug)]
pub(crate) enum Place {
    At(Vec<Wanted>),
    Open(Vec<TcpListener>),
}

impl From<Ready> for ReadyRouter {
    fn from(ready: Ready) -> Self {
        Self(ready)
    }
}

impl ReadyRouter {
    /// Listens where the builder was told.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`](crate::Error::Bind) when an address cannot be listened on.
    pub fn bind(mut self) -> Result<BoundRouter> {
        let sockets = match std::mem::replace(&mut self.0.place, Place::Open(Vec::new())) {
            Place::At(wanted) => listen::open(&wanted)?,
            Place::Open(sockets) => sockets,
        };
        self.on(sockets, Office::default())
    }

    /// Takes the listening sockets of the router that serves. That one goes on until this one serves, and does not
    /// notice when this one never does; wherever the builder was told to listen is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Succession`](crate::Error::Succession) when there is none, or it does not give them.
    pub async fn succeed(self, succession: &Succession) -> Result<BoundRouter> {
        let (predecessor, sockets) = Predecessor::ask(succession).await?;
        self.on(sockets, Office::succeeding(predecessor))
    }

    fn on(self, sockets: Vec<TcpListener>, office: Office) -> Result<BoundRouter> {
        let Ready { shared, tls, balancers, workers, queue, stop_notice, place: _ } = self.0;
        let listeners = Listeners::new(sockets)?;
        Ok(Bound { shared, tls, listeners, balancers, workers, queue, stop_notice, office }.into())
    }
}
