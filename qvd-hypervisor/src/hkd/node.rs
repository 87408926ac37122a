//! What every task of this node shares.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use qvd_core::config::Config;
use qvd_core::hook::{Hook, HookEvent, HookKind};
use qvd_core::hypervisor::{Endpoint, Found, Hypervisor, HypervisorError};
use qvd_core::vma::{Params, Vma};
use qvd_core::{HostId, VmId};
use qvd_db::Db;

use super::settings::{Probe, VmaConnector};
use super::sight::Sight;
use super::slots::Slots;
use super::vm_machine::Failure;

/// What every task of this node shares.
pub(crate) struct Node {
    pub(crate) db: Db,
    pub(crate) host: HostId,
    pub(crate) incarnation: i64,
    pub(crate) drivers: Vec<Arc<dyn Hypervisor>>,
    pub(crate) sight: Sight,
    pub(crate) vma: Arc<dyn VmaConnector>,
    pub(crate) hooks: Vec<Arc<dyn Hook>>,
    pub(crate) slots: Slots,
    pub(crate) probe: Option<Arc<dyn Probe>>,
    pub(crate) config: Arc<LiveConfig>,
}

impl Node {
    /// The driver of that name; without a name, the one that `vm.hypervisor` names, else the first.
    pub(crate) fn driver(&self, name: Option<&str>) -> Option<&Arc<dyn Hypervisor>> {
        let named = |name: &str| self.drivers.iter().find(|driver| driver.name() == name);
        match name {
            Some(name) => named(name),
            None => named(&self.config.get().text("vm.hypervisor")).or_else(|| self.drivers.first()),
        }
    }

    /// What this driver finds, within bounds.
    pub(crate) async fn find(&self, driver: &Arc<dyn Hypervisor>) -> Result<Vec<Found>, HypervisorError> {
        self.sight.find(driver, self.config.get().seconds("internal.hkd.driver.timeout")).await
    }

    /// The agent at this endpoint.
    pub(crate) fn agent(&self, endpoint: &Endpoint) -> Arc<dyn Vma> {
        self.vma.connect(endpoint, self.config.get().seconds("internal.hkd.agent.rpc.timeout"))
    }

    /// Lets the probe see a step.
    pub(crate) async fn reached(&self, vm: VmId, step: &str) {
        if let Some(probe) = &self.probe {
            probe.reached(vm, step).await;
        }
    }

    /// Runs every hook that wants this kind, one after another, until one fails.
    pub(crate) async fn run_hooks(&self, kind: HookKind, params: Params) -> Result<(), Failure> {
        let event = HookEvent::new(kind, params);
        for hook in self.hooks.iter().filter(|hook| hook.wants(kind)) {
            if let Err(error) = hook.run(&event).await {
                return Err(Failure::nobody(error.to_string()));
            }
        }
        Ok(())
    }
}

/// The configuration as it is now; replaced as a whole when the database's part changes.
#[derive(Debug)]
pub(crate) struct LiveConfig(RwLock<Config>);

impl LiveConfig {
    pub(crate) fn new(config: Config) -> Self {
        Self(RwLock::new(config))
    }

    pub(crate) fn get(&self) -> Config {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, config: Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Repeats a database call while the database is away, at growing pauses, as long as the caller waits.
pub(crate) async fn while_away<T, F>(mut call: impl FnMut() -> F) -> Result<T, qvd_db::Error>
where
    F: Future<Output = Result<T, qvd_db::Error>>,
{
    let mut pause = Duration::from_millis(200);
    loop {
        match call().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(error = %qvd_core::error::chain(&error), "database away, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            outcome => return outcome,
        }
    }
}
