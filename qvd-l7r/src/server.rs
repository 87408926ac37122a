//! Listening, accepting, greeting, and the end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qvd_core::config::Config;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::abuse::Abuse;
use crate::arrival::{Arrival, Entrance};
use crate::auth::HASHING;
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::farewell::Leaving;
use crate::gate::{Gate, Room};
use crate::listen::Listeners;
use crate::metrics::{Metrics, Snapshot};
use crate::proxied::Balancers;
use crate::ready::Works;
use crate::sessions::Sessions;
use crate::shared::Shared;
use crate::strangers::Strangers;
use crate::succession::{Ending, Office, Succession};
use crate::tls::{Fingerprint, Tls};
use crate::upkeep;
use crate::workers::Workers;

/// A router that listens; connections wait until [`serve`](Self::serve) runs.
#[derive(Debug)]
pub struct BoundRouter {
    pub(crate) works: Works,
    pub(crate) listeners: Listeners,
    pub(crate) office: Office,
}

/// A hand on a router that serves. It keeps nothing of the router alive, its place among the living included.
#[derive(Clone, Debug)]
pub struct RouterHandle {
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    leaving: watch::Receiver<Leaving>,
}

impl RouterHandle {
    /// What the router counted so far.
    pub fn metrics(&self) -> Snapshot {
        HASHING.tell(&self.metrics);
        self.metrics.snapshot()
    }

    /// Sessions that exist now, those being brought up included.
    pub fn sessions(&self) -> usize {
        self.sessions.count()
    }

    /// Waits until the router gives up its place: it was told to end, or another one accepts in its stead.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn gives_way(&self) {
        // Without the router there is nobody in that place either.
        let _ = self.leaving.clone().wait_for(|leaving| *leaving != Leaving::No).await;
    }

    /// Ends all sessions, those that connections now on their way would begin included; there are no more of them
    /// behind this. A router that was told to end waits for them otherwise, and ends within seconds then.
    pub fn end_sessions(&self) {
        self.sessions.end();
    }
}

impl BoundRouter {
    /// Where it listens; the first place, if there are several.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs()[0]
    }

    /// Everywhere that it listens; at least one place.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.listeners.addresses()
    }

    /// SHA-256 of the certificate; `None` without TLS.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.works.tls.as_ref().map(|tls| tls.fingerprint())
    }

    /// A hand on it for the time that it serves.
    pub fn handle(&self) -> RouterHandle {
        RouterHandle {
            metrics: self.works.shared.metrics.clone(),
            sessions: self.works.shared.sessions.clone(),
            leaving: self.works.shared.leaving.subscribe(),
        }
    }

    /// Lets another router take the sockets over, as soon as this one serves and as long as it does.
    ///
    /// # Errors
    ///
    /// [`Error::Succession`] when the place cannot be made; the router can serve all the same.
    pub fn offer(&mut self, succession: &Succession) -> Result<()> {
        let sockets = self.listeners.shared().map_err(|source| Error::Accept { source })?;
        self.office.offer(succession, sockets)
    }

    /// What to do once this router serves and no other one does any more, before anybody can see the other's end: what
    /// a service is known by, its pid file for one, changes hands here.
    pub fn once_established(&mut self, what: impl FnOnce() + Send + 'static) {
        self.office.once_established(Box::new(what));
    }

    /// Serves until `shutdown` is done, then ends in order: health checks are told, idle connections closed, the
    /// port is given up, and desktops live on until their users leave, `l7r.drain.timeout` passes or
    /// [`RouterHandle::end_sessions`] is called.
    ///
    /// When another router takes over, this one lets go of the sockets at once, serves the connections that it has to
    /// their end, and ends with the last one, within the same limits.
    ///
    /// # Errors
    ///
    /// [`Error::Succession`] when the router that was to be succeeded goes on; this one has left it the place then. What
    /// goes wrong in one connection ends there.
    ///
    /// # Cancellation
    ///
    /// Dropping it ends every connection at once; the rows of their sessions are cleared by the next router of
    /// this node.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let Self { works, listeners, mut office } = self;
        let Works { shared, tls, balancers, workers, queue, stop_notice } = works;
        let mut background = JoinSet::new();
        background.spawn(queue.write(shared.db.clone()));
        background.spawn(upkeep::run(shared.clone(), tls.clone()));
        let mut door = Door::new(shared.clone(), tls, listeners, balancers, workers);
        let mut shutdown = pin!(shutdown);

        let serves =
            || tracing::info!(node = shared.node.name(), instance = %shared.instance.id(), "router serves");
        // In this order: whoever is told that this router accepts finds that it does.
        let ending = tokio::select! {
            biased;
            () = door.accept() => None,
            ending = office.hold(serves) => Some(ending),
            () = &mut shutdown => None,
        };
        drop(office);
        let sessions = shared.sessions.count();
        let (successor, result) = match ending {
            None => {
                tracing::info!(sessions, "router is stopping");
                tell(&shared, Leaving::ForGood);
                let _ = tokio::time::timeout(stop_notice, door.accept()).await;
                door.close().drain().await;
                (None, Ok(()))
            }
            Some(ending) => {
                tell(&shared, Leaving::Succeeded);
                let rest = door.close();
                let (successor, result) = match ending {
                    Ending::Succeeded(successor) => {
                        tracing::info!(sessions, "router was succeeded and ends with its last connection");
                        (Some(successor), Ok(()))
                    }
                    Ending::NotEstablished(error) => (None, Err(error)),
                };
                let told = async {
                    shutdown.await;
                    tracing::info!(sessions = shared.sessions.count(), "router is stopping");
                    tell(&shared, Leaving::ForGood);
                    std::future::pending::<()>().await
                };
                tokio::select! {
                    () = rest.drain() => {}
                    () = told => {}
                }
                (successor, result)
            }
        };

        // What is owed behind that is cleared by the next router of this node.
        let _ = tokio::time::timeout(LAST_ROWS, upkeep::give_back_owed(&shared.db, &shared.sessions)).await;
        let _ = tokio::time::timeout(LAST_WRITES, shared.counters.written()).await;
        background.shutdown().await;
        if let Some(successor) = successor {
            successor.settled().await;
        }
        tracing::info!("router stopped");
        result
    }
}

/// The port and the connections that came through it.
struct Door {
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    listeners: Listeners,
    balancers: Arc<Balancers>,
    gate: Arc<Gate>,
    room: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    /// Others wait, and that has been told.
    full: bool,
    connections: Connections,
}

/// The connections of a router that has given up its port.
struct Rest {
    shared: Arc<Shared>,
    connections: Connections,
}

impl Door {
    fn new(
        shared: Arc<Shared>,
        tls: Option<Arc<Tls>>,
        listeners: Listeners,
        balancers: Balancers,
        workers: Workers,
    ) -> Self {
        let most = usize::try_from(shared.config().integer("l7r.limit.connections")).unwrap_or(0);
        let most = if most == 0 { Semaphore::MAX_PERMITS } else { most.min(Semaphore::MAX_PERMITS) };
        Self {
            strangers: Arc::new(Strangers::new(shared.metrics.clone())),
            shared,
            tls,
            listeners,
            balancers: Arc::new(balancers),
            gate: Arc::default(),
            room: Arc::new(Semaphore::new(most)),
            full: false,
            connections: Connections::new(workers),
        }
    }

    /// Accepts while there is room; never ends by itself.
    async fn accept(&mut self) {
        loop {
            let arrival = async {
                let permit = room(&self.room, &self.shared, &mut self.full).await;
                (self.listeners.accept().await, permit)
            };
            tokio::select! {
                (accepted, permit) = arrival => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, permit),
                    Err(error) => {
                        // Out of descriptors, or a peer that was faster: neither ends the router.
                        tracing::warn!("connection not accepted: {error}");
                        let _ = tokio::time::timeout(ACCEPT_PAUSE, self.connections.look_after_all()).await;
                    }
                },
                () = self.connections.look_after() => {}
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, permit: Option<OwnedSemaphorePermit>) {
        let config = self.shared.config();
        let entrance = Entrance {
            shared: self.shared.clone(),
            gate: self.gate.clone(),
            limit: usize::try_from(config.integer("l7r.limit.connections.per.address")).unwrap_or(0),
        };
        // Behind a balancer the address is known later.
        let is_balancer = self.balancers.contain(peer.ip());
        let place = match is_balancer {
            true => None,
            false => match entrance.enter(peer) {
                Some(place) => Some(place),
                None => return,
            },
        };
        self.shared.metrics.accepted_total.add(1);
        let most = most_strangers(&config);
        let Some(stranger) = self.strangers.enter(most) else {
            let detail = format_args!("the requests of {most} others without a login are being answered");
            return self.shared.saw(Abuse::TooManyStrangers, peer, &detail);
        };
        let arrival = Arrival {
            entrance,
            stream,
            peer,
            place,
            stranger,
            greeting: self.tls.as_ref().map(|tls| tls.config()),
            limit: config.seconds("l7r.limit.handshake.timeout"),
            leaving: self.shared.leaving.subscribe(),
        };
        // On the heap, and gone before a desktop is there: a session lasts for hours and needs no room for what led
        // to it.
        let arrival = Box::pin(arrival.until_session());
        let counted = self.shared.metrics.hold(|metrics| &metrics.connections);
        let room = Room { _counted: counted, _permit: permit };
        self.connections.begin(arrival, room);
    }

    /// Gives up the port.
    fn close(self) -> Rest {
        let Self { shared, connections, .. } = self;
        Rest { shared, connections }
    }
}

impl Rest {
    /// Waits for the connections that are left, as long as the configuration allows.
    async fn drain(self) {
        let Self { shared, mut connections } = self;
        let config = shared.config();
        let limit = config.has("l7r.drain.timeout").then(|| config.seconds("l7r.drain.timeout"));
        let time_is_over = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = connections.all_gone() => return,
            () = shared.sessions.ended() => {}
            () = time_is_over => {
                tracing::warn!(sessions = shared.sessions.count(), "sessions are ended: the time to drain is over");
                shared.sessions.end();
            }
        }
        if tokio::time::timeout(LAST_CONNECTIONS, connections.all_gone()).await.is_err() {
            tracing::warn!(connections = connections.count(), "connections are cut: they do not end");
            connections.cut().await;
        }
    }
}

/// Room for one more connection, as soon as there is any.
async fn room(room: &Arc<Semaphore>, shared: &Shared, full: &mut bool) -> Option<OwnedSemaphorePermit> {
    if room.available_permits() == 0 && !std::mem::replace(full, true) {
        shared.saw_all(Abuse::RouterIsFull, &"others wait until one ends (l7r.limit.connections)");
    }
    // The semaphore is never closed.
    let permit = room.clone().acquire_owned().await.ok();
    *full = false;
    permit
}

/// How many connections may be open on which nobody has logged in; 0 means no limit.
fn most_strangers(config: &Config) -> usize {
    let limit = |key| usize::try_from(config.integer(key)).unwrap_or(0);
    match limit("l7r.limit.connections.unauthenticated") {
        0 => limit("l7r.limit.connections").div_ceil(2),
        most => most,
    }
}

/// Tells connections how far the router is on its way out.
fn tell(shared: &Shared, how: Leaving) {
    if how == Leaving::ForGood {
        shared.stopping.store(true, Ordering::Relaxed);
    }
    shared.leaving.send_replace(how);
}

/// Before accepting is tried again after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections may take to end once they are told.
const LAST_CONNECTIONS: Duration = Duration::from_secs(10);

/// How long the rows of sessions that ended at last may take to be given back.
const LAST_ROWS: Duration = Duration::from_secs(10);

/// How long the counters may take to reach the database at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);
