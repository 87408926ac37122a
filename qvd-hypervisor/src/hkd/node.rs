//! What every task of this node shares.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use qvd_core::config::{Config, Source};
use qvd_core::hook::{Hook, HookEvent, HookKind};
use qvd_core::hypervisor::{Endpoint, Found, Hypervisor, HypervisorError};
use qvd_core::vma::{Params, Vma};
use qvd_core::{HostId, VmId};
use qvd_db::Db;

use super::settings::{Probe, VmaConnector};
use super::sight::Sight;
use super::slots::Slots;
use super::usable::Usable;
use super::vm_machine::Failure;

/// What every task of this node shares.
pub(crate) struct Node {
    pub(crate) db: Db,
    pub(crate) host: HostId,
    pub(crate) incarnation: i64,
    pub(crate) drivers: Vec<Arc<dyn Hypervisor>>,
    pub(crate) sight: Sight,
    pub(crate) usable: Usable,
    pub(crate) vma: Arc<dyn VmaConnector>,
    pub(crate) hooks: Vec<Arc<dyn Hook>>,
    pub(crate) slots: Slots,
    pub(crate) probe: Option<Arc<dyn Probe>>,
    pub(crate) config: Arc<LiveConfig>,
}

impl Node {
    /// The driver of that name, usable or not.
    pub(crate) fn driver(&self, name: &str) -> Option<&Arc<dyn Hypervisor>> {
        self.drivers.iter().find(|driver| driver.name() == name)
    }

    /// Runs what names no driver: the one of `vm.hypervisor`. While nobody has set that key, a host that lacks its
    /// default prefers its first.
    pub(crate) fn preferred(&self) -> Option<&Arc<dyn Hypervisor>> {
        let config = self.config.get();
        let unset = matches!(config.source("vm.hypervisor"), None | Some(Source::Default));
        self.driver(&config.text("vm.hypervisor")).or_else(|| self.drivers.first().filter(|_| unset))
    }

    /// The driver for a start: that of the name, else the preferred one.
    ///
    /// # Errors
    ///
    /// Why there is none: a driver that does not work or cannot tell what it runs gets nothing more to run, and no
    /// other one stands in for it.
    pub(crate) fn driver_to_start(&self, name: Option<&str>) -> Result<&Arc<dyn Hypervisor>, String> {
        let driver = match name {
            Some(name) => self.driver(name).ok_or_else(|| format!("this host has no driver '{name}'"))?,
            None => self.preferred().ok_or("this host does not have the driver that vm.hypervisor names")?,
        };
        match self.usable.may_start(driver.name()) {
            true => Ok(driver),
            false => Err(format!(
                "driver '{}' cannot be used on this host now; the log of its qvd-hkd tells why",
                driver.name()
            )),
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
