//! What the daemon looks at again and again, each a future beside its loop, and when to look next.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use qvd_core::{RunId, TenantId, VmId};
use qvd_db::Expiring;

use super::Read;
use crate::hkd::adopt::{self, Inspection};
use crate::hkd::error::{Error, Result};
use crate::hkd::node::Node;
use crate::hkd::reconcile::{self, Findings};
use crate::hkd::{routers, start_up};

/// One kind of look: perhaps going on, perhaps to begin at some time.
struct Look<T> {
    at: Option<Instant>,
    going: Option<BoxFuture<'static, T>>,
}

impl<T> Default for Look<T> {
    fn default() -> Self {
        Self { at: None, going: None }
    }
}

impl<T> Look<T> {
    /// Whether it is to begin now.
    fn is_due(&self, now: Instant) -> bool {
        self.going.is_none() && self.at.is_some_and(|at| at <= now)
    }

    /// Begins, and names the time of the next one.
    fn begin(&mut self, look: impl Future<Output = T> + Send + 'static, next: Option<Instant>) {
        self.at = next;
        self.going = Some(look.boxed());
    }

    /// Keeps an earlier time that was named before.
    fn no_later_than(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When a look that is not going on is to begin.
    fn waits_until(&self) -> Option<Instant> {
        self.at.filter(|_| self.going.is_none())
    }
}

/// What a look brought.
pub(super) enum Looked {
    /// Rows of virtual machines and of the host.
    Rows(Read<Findings>),
    /// Limits of running virtual machines.
    Limits(Read<Vec<Expiring>>),
    /// The database's configuration.
    Config(Read<Vec<(String, String)>>),
    /// Sessions of dead routers that were ended.
    Routers(Read<usize>),
    /// Everything that runs here, once more.
    Inspection(Result<Inspection>),
    /// Whether every driver told what it lacks.
    Drivers(Result<bool>),
    /// Entries of the journal that were too old.
    Journal(Read<u64>),
    /// It is time to begin one.
    Due,
}

/// All looks.
#[derive(Default)]
pub(super) struct Looks {
    obeying: bool,
    rows: Look<Read<Findings>>,
    limits: Look<Read<Vec<Expiring>>>,
    config: Look<Read<Vec<(String, String)>>>,
    routers: Look<Read<usize>>,
    inspection: Look<Result<Inspection>>,
    drivers: Look<Result<bool>>,
    journal: Look<Read<u64>>,
    forgotten_at: Option<Instant>,
}

impl Looks {
    /// Begins to look for orders.
    pub(super) fn obey(&mut self, at: Instant) {
        self.obeying = true;
        self.scan_at(at);
    }

    /// Begins no more looks for orders; one that is going on comes to its end.
    pub(super) fn stop_obeying(&mut self) {
        self.obeying = false;
        (self.rows.at, self.limits.at) = (None, None);
    }

    /// Looks at rows and limits then at the latest, while obeying.
    pub(super) fn scan_at(&mut self, at: Instant) {
        if self.obeying {
            self.rows.no_later_than(at);
            self.limits.no_later_than(at);
        }
    }

    /// Looks at limits then at the latest, while obeying.
    pub(super) fn limits_at(&mut self, at: Instant) {
        if self.obeying {
            self.limits.no_later_than(at);
        }
    }

    /// Reads the configuration then.
    pub(super) fn reload_at(&mut self, at: Instant) {
        self.config.no_later_than(at);
    }

    /// Begins to watch over this node's routers.
    pub(super) fn watch_routers(&mut self, at: Instant) {
        (self.routers.at, self.forgotten_at) = (Some(at), Some(at));
    }

    /// Begins to remove what is too old from the journal.
    pub(super) fn tidy(&mut self, at: Instant) {
        self.journal.at = Some(at);
    }

    /// Looks into everything that runs here then.
    pub(super) fn inspect_at(&mut self, at: Instant) {
        self.inspection.no_later_than(at);
    }

    /// Asks the drivers then what they lack, and publishes them.
    pub(super) fn check_at(&mut self, at: Instant) {
        self.drivers.no_later_than(at);
    }

    /// Whether rows are being looked at.
    pub(super) fn scans(&self) -> bool {
        self.rows.going.is_some()
    }

    /// Looks at rows no more, whatever it would have found.
    pub(super) fn drop_scan(&mut self) {
        self.rows = Look::default();
    }

    /// Looks no more into what runs here, whatever it would have found.
    pub(super) fn drop_inspection(&mut self) {
        self.inspection = Look::default();
    }

    /// Waits for the end of a look, or for the time to begin one.
    ///
    /// # Cancellation
    ///
    /// Safe: looks go on at the next call.
    pub(super) async fn next(&mut self) -> Looked {
        let waits = [
            self.rows.waits_until(),
            self.limits.waits_until(),
            self.config.waits_until(),
            self.routers.waits_until(),
            self.inspection.waits_until(),
            self.drivers.waits_until(),
            self.journal.waits_until(),
        ];
        let due = waits.into_iter().flatten().min();
        tokio::select! {
            biased;
            rows = super::finished(&mut self.rows.going) => Looked::Rows(rows),
            limits = super::finished(&mut self.limits.going) => Looked::Limits(limits),
            config = super::finished(&mut self.config.going) => Looked::Config(config),
            routers = super::finished(&mut self.routers.going) => Looked::Routers(routers),
            all = super::finished(&mut self.inspection.going) => Looked::Inspection(all),
            drivers = super::finished(&mut self.drivers.going) => Looked::Drivers(drivers),
            removed = super::finished(&mut self.journal.going) => Looked::Journal(removed),
            () = super::sleep_until(due) => Looked::Due,
        }
    }

    /// Begins each look whose time has come. `runs` are the tasks that exist.
    pub(super) fn begin_due(
        &mut self,
        node: &Arc<Node>,
        runs: impl Iterator<Item = (VmId, RunId)> + Clone,
        now: Instant,
    ) {
        let config = node.config.get();
        let after = |key: &str| Some(now + config.seconds(key));
        if self.rows.is_due(now) {
            let (node, runs) = (Arc::clone(node), runs.clone().collect());
            let scan = async move { reconcile::scan(&node.db, node.host, node.incarnation, &runs).await };
            self.rows
                .begin(scan, after("internal.hkd.agent.vm_command_handler.delay").filter(|_| self.obeying));
        }
        if self.limits.is_due(now) {
            let node = Arc::clone(node);
            let look = async move { node.db.vms().expiring(node.host).await };
            self.limits.begin(look, after("internal.hkd.agent.expiration_monitor.delay"));
        }
        if self.config.is_due(now) {
            let node = Arc::clone(node);
            self.config.begin(async move { node.db.config().load(TenantId::DEFAULT).await }, None);
        }
        if self.inspection.is_due(now) {
            let (node, runs) = (Arc::clone(node), runs.collect());
            self.inspection.begin(async move { everything(&node, &runs).await }, None);
        }
        if self.drivers.is_due(now) {
            let node = Arc::clone(node);
            self.drivers.begin(async move { start_up::publish(&node).await }, None);
        }
        if self.journal.is_due(now) {
            let (node, keep) = (Arc::clone(node), config.seconds("internal.hkd.agent.journal.keep"));
            let tidy = async move {
                match SystemTime::now().checked_sub(keep) {
                    Some(before) => node.db.events().prune(before).await,
                    None => Ok(0),
                }
            };
            self.journal.begin(tidy, Some(now + TIDY));
        }
        if self.routers.is_due(now) {
            let forgotten = self.forgotten_at.is_some_and(|at| at <= now);
            if forgotten {
                self.forgotten_at = after("internal.hkd.agent.l7rmonitor.delay");
            }
            let dir = config.path("path.run").join("l7r");
            self.routers.begin(bury(Arc::clone(node), dir, forgotten), Some(now + BURIAL));
        }
    }
}

/// Everything that runs here or that a row tells of, and has no task.
pub(super) async fn everything(node: &Node, tasks: &HashMap<VmId, RunId>) -> Result<Inspection> {
    let rows = node.db.vms().of_host(node.host).await;
    let rows = rows.map_err(|source| Error::Database { operation: "list the VMs of this host", source })?;
    adopt::inspect(node, &rows, tasks).await.map_err(|text| Error::Failed { text })
}

/// Ends the sessions of dead routers; with `forgotten`, also of those whose lock files are gone. Tells how many.
async fn bury(node: Arc<Node>, dir: PathBuf, forgotten: bool) -> Read<usize> {
    let mut freed = routers::bury_dead(&node.db, node.host, &dir).await?.len();
    if forgotten {
        freed += routers::bury_forgotten(&node.db, node.host, &dir).await?.len();
    }
    Ok(freed)
}

/// Between two looks for what is too old in the journal.
const TIDY: Duration = Duration::from_secs(3600);

/// Between two looks at the locks of this node's routers; the database is asked only when one died.
const BURIAL: Duration = Duration::from_secs(1);
