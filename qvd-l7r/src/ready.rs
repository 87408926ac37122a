//! A router that lacks nothing but its sockets.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::CounterQueue;
use crate::error::Result;
use crate::listen::{self, Listeners, Wanted};
use crate::proxied::Balancers;
use crate::server::BoundRouter;
use crate::shared::Shared;
use crate::succession::{Office, Predecessor, Succession};
use crate::tls::Tls;
use crate::workers::Workers;

/// A router that has its certificate, its database and its place among the living, and listens nowhere yet.
#[derive(Debug)]
pub struct ReadyRouter {
    pub(crate) works: Works,
    pub(crate) place: Place,
}

/// What a router works with, wherever it listens.
#[derive(Debug)]
pub(crate) struct Works {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) balancers: Balancers,
    pub(crate) workers: Workers,
    pub(crate) queue: CounterQueue,
    pub(crate) stop_notice: Duration,
}

/// Where a router will listen.
#[derive(Debug)]
pub(crate) enum Place {
    At(Vec<Wanted>),
    Open(Vec<TcpListener>),
}

impl ReadyRouter {
    /// Listens where the builder was told.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`](crate::Error::Bind) when an address cannot be listened on.
    pub fn bind(self) -> Result<BoundRouter> {
        let sockets = match self.place {
            Place::At(wanted) => listen::open(&wanted)?,
            Place::Open(sockets) => sockets,
        };
        Ok(BoundRouter { works: self.works, listeners: Listeners::new(sockets)?, office: Office::default() })
    }

    /// Takes the listening sockets of the router that serves. That one goes on until this one serves, and does not
    /// notice when this one never does; wherever the builder was told to listen is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Succession`](crate::Error::Succession) when there is none, or it does not give them.
    pub async fn succeed(self, succession: &Succession) -> Result<BoundRouter> {
        let (predecessor, sockets) = Predecessor::ask(succession).await?;
        let (listeners, office) = (Listeners::new(sockets)?, Office::succeeding(predecessor));
        Ok(BoundRouter { works: self.works, listeners, office })
    }
}
