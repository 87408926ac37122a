//! What all connections of a router share.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use qvd_core::auth::Chain;
use qvd_core::balance::{LoadBalancer, Weighted};
use qvd_core::config::Config;
use qvd_db::Db;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::abuse::{Abuse, Watch};
use crate::auth::Throttle;
use crate::counters::Counters;
use crate::farewell::Leaving;
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::sessions::Sessions;
use crate::takeover;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) db: Db,
    pub(crate) node: Node,
    pub(crate) chain: Chain,
    pub(crate) instance: Instance,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) counters: Counters,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) throttle: Mutex<Throttle>,
    /// Where everything runs but the desktops' streams.
    pub(crate) control: Handle,
    /// Whose row is given back next.
    pub(crate) settling: Arc<Semaphore>,
    watch: Watch,
    /// The router is on its way out and takes no new work.
    pub(crate) stopping: AtomicBool,
    /// How far it is on its way out, for whoever waits for that.
    pub(crate) leaving: watch::Sender<Leaving>,
    config: RwLock<Config>,
    /// Chosen by the embedder; none means the default one with the weights of the moment.
    balancer: Option<Arc<dyn LoadBalancer>>,
}

/// What a [`Shared`] is made of.
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) node: String,
    pub(crate) chain: Chain,
    pub(crate) balancer: Option<Arc<dyn LoadBalancer>>,
    pub(crate) config: Config,
    pub(crate) instance: Instance,
    pub(crate) counters: Counters,
    pub(crate) control: Handle,
    pub(crate) throttle: Throttle,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            db: parts.db,
            node: Node::new(parts.node),
            chain: parts.chain,
            instance: parts.instance,
            sessions: Arc::default(),
            counters: parts.counters,
            control: parts.control,
            metrics: Arc::default(),
            throttle: Mutex::new(parts.throttle),
            settling: Arc::new(Semaphore::new(takeover::MOST_SETTLING)),
            watch: Watch::default(),
            stopping: AtomicBool::new(false),
            leaving: watch::Sender::new(Leaving::No),
            config: RwLock::new(parts.config),
            balancer: parts.balancer,
        }
    }

    /// The configuration of the moment.
    pub(crate) fn config(&self) -> Config {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Counts and logs what a peer did.
    pub(crate) fn saw(&self, what: Abuse, peer: SocketAddr, detail: &dyn Display) {
        self.watch.saw(what, &self.metrics, Some(peer), detail);
    }

    /// Counts and logs what all peers together did.
    pub(crate) fn saw_all(&self, what: Abuse, detail: &dyn Display) {
        self.watch.saw(what, &self.metrics, None, detail);
    }

    pub(crate) fn balancer(&self) -> Arc<dyn LoadBalancer> {
        self.balancer.clone().unwrap_or_else(|| Arc::new(Weighted::from_config(&self.config())))
    }
}
