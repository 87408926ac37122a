//! Machines that are processes: an agent and its children in namespaces of their own, on the host's network or, where
//! root is told so, each with an address of its own on a bridge.
//!
//! It separates desktops, it does not defend a host against them. It needs no image, starts in well under a
//! second, and works for an ordinary user as well as for root.
//!
//! ```text
//!  driver (this module, inside qvd-hkd)                       outlives the driver
//!  ────────────────────────────────────                       ───────────────────────────────────────────────
//!  prepare  homes: choose, make under the lock
//!  launch   plan: spec → Order ── launch-N.json ──► courier ──► holder (lock, run.json) ─► init ─► qvd-vma ─► …
//!                                  ◄── Report ─────┘              │                          pid 1 of its own
//!  find     inspect: run.json + /proc + lock → Verdict            │
//!  machine  pidfd of init and holder; exit file ◄─────────────────┘ exit
//!  cleanup  refuses the living; takes the lock; removes directory and control groups; keeps home and lock file
//! ```
//!
//! See [`holder`](crate::holder) for the process tree and the files. Nothing is kept in memory between calls, so
//! a driver made after a restart knows as much as the one before it.

mod check;
mod inspect;
mod machine;
mod plan;
mod run;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;

use qvd_core::VmId;
use qvd_core::hypervisor::{
    Capabilities, Check, Found, Hypervisor, HypervisorError, Prepared, RunningVm, VmSpec,
};

pub use check::apparmor_profile;
pub use settings::ProcessSettings;

use crate::hostops::{HostOps, SystemHost};
use run::Host;

/// The driver `process`.
#[derive(Clone, Debug)]
pub struct ProcessDriver {
    host: Arc<Host>,
}

impl ProcessDriver {
    /// A driver with these settings. Nothing is touched until it is used.
    pub fn new(settings: ProcessSettings) -> Self {
        Self::with_host_ops(settings, Arc::new(SystemHost))
    }

    /// A driver that asks `ops` about processes and locks; for tests.
    pub fn with_host_ops(settings: ProcessSettings, ops: Arc<dyn HostOps>) -> Self {
        Self { host: Arc::new(Host { settings, ops }) }
    }

    /// What it was told.
    pub fn settings(&self) -> &ProcessSettings {
        &self.host.settings
    }

    /// Runs something that may block for as long as a storage does.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> Result<T, HypervisorError> + Send + 'static,
        vm: VmId,
    ) -> Result<T, HypervisorError> {
        let host = self.host.clone();
        match tokio::task::spawn_blocking(move || work(&host)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(HypervisorError::host(vm, "finish its work", error)),
        }
    }
}

#[async_trait]
impl Hypervisor for ProcessDriver {
    fn name(&self) -> &str {
        "process"
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.own_network = self.host.settings.bridge.is_some();
        can.keeps_home = true;
        can.survives_restart = true;
        can.polite_stop = true;
        can.has_agent = true;
        can
    }

    async fn check(&self) -> Vec<Check> {
        let host = self.host.clone();
        let checked = tokio::task::spawn_blocking(move || check::all(&host.settings)).await;
        checked
            .unwrap_or_else(|error| vec![Check::failed("process driver", error.to_string(), "report this")])
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        let spec = spec.clone();
        let vm = spec.vm_id;
        self.blocking(move |host| host.prepare(&spec), vm).await
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let spec = spec.clone();
        let vm = spec.vm_id;
        let first = spec.clone();
        let launch = match self.blocking(move |host| host.order(&first), vm).await? {
            run::Ordered::Lives(machine) => return Ok(machine),
            run::Ordered::Now(launch) => launch,
        };
        let report = self.host.carry_out(vm, &launch).await?;
        self.host.conclude(&spec, report).await
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        self.blocking(|host| host.find(), VmId::new(0)).await
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.blocking(move |host| host.cleanup(vm), vm).await
    }
}
