//! Building a router.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::auth::Chain;
use qvd_core::balance::LoadBalancer;
use qvd_core::config::Config;
use qvd_db::Db;
use tokio::runtime::Handle;

use crate::auth::{self, Bounded, Throttle, Tokens};
use crate::certificate;
use crate::counters::counters;
use crate::error::{Error, Result};
use crate::instance::{self, Instance};
use crate::listen::{self, Wanted};
use crate::proxied::Balancers;
use crate::ready::{Place, ReadyRouter, Works};
use crate::server::BoundRouter;
use crate::shared::{Parts, Shared};
use crate::tls;
use crate::workers::Workers;

/// A router that is not yet listening.
///
/// # Example
///
/// ```no_run
/// # async fn example(db: qvd_db::Db) -> qvd_l7r::Result<()> {
/// use qvd_l7r::Router;
///
/// let router = Router::builder(db, "node1").build()?.bind().await?;
/// println!("listening on {}", router.local_addr());
/// router.serve(std::future::pending()).await
/// # }
/// ```
#[derive(Debug)]
pub struct Router {
    db: Db,
    node: String,
    config: Config,
    chain: Chain,
    balancer: Option<Arc<dyn LoadBalancer>>,
    balancers: Balancers,
    place: Place,
    workers: Vec<Handle>,
    failed_login_delay: Duration,
    stop_notice: Duration,
}

/// Collects what a [`Router`] needs.
#[derive(Debug)]
pub struct RouterBuilder {
    db: Db,
    node: String,
    config: Config,
    chain: Option<Chain>,
    balancer: Option<Arc<dyn LoadBalancer>>,
    place: Option<Place>,
    workers: Vec<Handle>,
    failed_login_delay: Duration,
    stop_notice: Duration,
}

impl Router {
    /// Whether a router can be built from a configuration, as far as it tells without its database.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the key that cannot be used.
    pub fn check_config(config: &Config) -> Result<()> {
        auth::check(config)?;
        check_balancer(config)?;
        Balancers::from_config(config)?;
        if config.flag("l7r.use_ssl") {
            tls::Policy::from_config(config)?;
        }
        listen::configured(config).map(drop)
    }

    /// The directory below `path.run` where a router keeps what tells others of its node that it lives. It must be able
    /// to write there.
    pub fn run_dir(config: &Config) -> PathBuf {
        instance::dir(&config.path("path.run"))
    }

    /// Begins a router for the node of this name, which need not be registered yet.
    pub fn builder(db: Db, node: impl Into<String>) -> RouterBuilder {
        RouterBuilder {
            db,
            node: node.into(),
            config: Config::defaults(),
            chain: None,
            balancer: None,
            place: None,
            workers: Vec::new(),
            failed_login_delay: Duration::from_secs(1),
            stop_notice: Duration::from_millis(500),
        }
    }

    /// Makes the directory of [`run_dir`](Self::run_dir), for this account alone.
    ///
    /// # Errors
    ///
    /// What the file system had to say.
    pub fn make_run_dir(config: &Config) -> std::io::Result<()> {
        instance::make_dir(&Self::run_dir(config))
    }

    /// Loads or makes the certificate and listens.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] when an address cannot be listened on; before that, what [`ready`](Self::ready) had to say.
    pub async fn bind(self) -> Result<BoundRouter> {
        self.ready().await?.bind()
    }

    /// Loads or makes the certificate, and all else that a router needs but the sockets.
    ///
    /// # Errors
    ///
    /// What the database, the certificate or the lock file had to say.
    pub async fn ready(self) -> Result<ReadyRouter> {
        let tls = if self.config.flag("l7r.use_ssl") {
            Some(Arc::new(certificate::load_or_make(&self.db, &self.node, &self.config).await?))
        } else {
            None
        };
        let instance = Instance::begin(&self.config.path("path.run"))?;
        let (counters, queue) = counters();
        let shared = Arc::new(Shared::new(Parts {
            db: self.db,
            node: self.node,
            chain: self.chain,
            balancer: self.balancer,
            config: self.config,
            instance,
            counters,
            control: Handle::current(),
            throttle: Throttle::new(self.failed_login_delay),
        }));
        // Health checks have an answer from the first one on; a failure shows in it.
        let _ = shared.node.load(&shared.db).await;
        let (balancers, workers) = (self.balancers, Workers::new(self.workers));
        let works = Works { shared, tls, balancers, workers, queue, stop_notice: self.stop_notice };
        Ok(ReadyRouter { works, place: self.place })
    }
}

impl RouterBuilder {
    /// The configuration, the database's part included; later changes there are followed. Default: the defaults.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Who checks users. Default: what `l7r.auth.plugins` names. Each call of one may take 10 s.
    pub fn authenticators(mut self, chain: Chain) -> Self {
        self.chain = Some(chain);
        self
    }

    /// Who chooses hosts. Default: [`Weighted`](qvd_core::balance::Weighted) with the configured weights.
    pub fn balancer(mut self, balancer: Arc<dyn LoadBalancer>) -> Self {
        self.balancer = Some(balancer);
        self
    }

    /// Where to listen. Default: `l7r.address` and `l7r.port`. Port 0 takes a free one.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.place = Some(Place::At(vec![Wanted::exactly(address)]));
        self
    }

    /// Sockets that listen already: what [`listen`](crate::listen()) opened, or a service manager. No other is listened on.
    pub fn listeners(mut self, sockets: Vec<TcpListener>) -> Self {
        self.place = Some(Place::Open(sockets));
        self
    }

    /// Runtimes that carry the desktops' streams, each usually one thread; a session stays on the one that it is given
    /// to. They must run as long as the router serves. Default: none, and the runtime that binds the router does it all.
    pub fn workers(mut self, runtimes: Vec<Handle>) -> Self {
        self.workers = runtimes;
        self
    }

    /// How long the answer to a first failed login is held back; further ones wait longer. Default: 1 s.
    pub fn failed_login_delay(mut self, delay: Duration) -> Self {
        self.failed_login_delay = delay;
        self
    }

    /// How long a router that ends goes on telling health checks so before it stops listening. Default: 0.5 s.
    pub fn stop_notice(mut self, notice: Duration) -> Self {
        self.stop_notice = notice;
        self
    }

    /// The router.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the key that cannot be used.
    pub fn build(self) -> Result<Router> {
        if self.node.is_empty() {
            let problem = "is not set; it must be the name under which this host was added".to_owned();
            return Err(Error::Setting { key: "nodename", problem });
        }
        let chain = match self.chain {
            Some(chain) => chain,
            None => auth::chain_from_config(&self.db, &self.config)?,
        };
        let chain = chain.followed_by(Arc::new(Tokens::new(self.db.clone()))).wrapped(Bounded::wrap);
        if self.balancer.is_none() {
            check_balancer(&self.config)?;
        }
        let balancers = Balancers::from_config(&self.config)?;
        let place = match self.place {
            Some(place) => place,
            None => Place::At(listen::configured(&self.config)?),
        };
        Ok(Router {
            db: self.db,
            node: self.node,
            config: self.config,
            chain,
            balancer: self.balancer,
            balancers,
            place,
            workers: self.workers,
            failed_login_delay: self.failed_login_delay,
            stop_notice: self.stop_notice,
        })
    }
}

fn check_balancer(config: &Config) -> Result<()> {
    let balancer = config.text("l7r.loadbalancer.plugin");
    if matches!(balancer.as_str(), "" | "default") {
        return Ok(());
    }
    let problem = format!("'{balancer}' is no balancer of this router (one of: default)");
    Err(Error::Setting { key: "l7r.loadbalancer.plugin", problem })
}
