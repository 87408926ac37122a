//! Machines that are nothing: they take their time to start and to stop, and fail when told to.
//!
//! For simulations of many hosts and for load on the database. Every delay and every fault follows from a seed, the
//! machine, its run and the step, so that a story repeats itself whatever order the calls come in; time is the
//! runtime's, which a test may pause. Clones share their machines, as one host does; a driver made anew knows none,
//! which is what a restart does to machines without processes.
//!
//! ```text
//! prepare ──► launch ── ≈ starting ──► runs for ever, or until a fault ends it
//!                                       │ terminate: ends ≈ stopping later
//!                                       │ kill: ends at once, ≈ zombie later when a fault made it stubborn
//!                                       ▼
//!                                     cleanup
//! ```

mod faults;
mod machine;
mod storage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use qvd_core::VmId;
use qvd_core::config::Config;
use qvd_core::hypervisor::{
    Capabilities, Check, Endpoint, Found, Hypervisor, HypervisorError, Prepared, RunningVm, VmSpec,
};

pub use faults::{Effect, Fault, Step};
pub use storage::ShadowStorage;

use faults::{Dice, chosen};
use machine::{Ending, NothingVm, Pace};

/// How the machines of [`NothingDriver`] behave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NothingSettings {
    /// Name of the host, for messages and the shadow storage.
    pub node: String,
    /// Mean time of a launch.
    pub starting: Duration,
    /// Mean time of a polite end.
    pub stopping: Duration,
    /// Mean time until a stubborn machine dies of a kill.
    pub zombie: Duration,
    /// Where all chance comes from.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Storage that several hosts of a simulation share.
    pub storage: Arc<ShadowStorage>,
    /// Whether callers should look for an agent behind the endpoint; a simulation may put one there.
    pub has_agent: bool,
    /// Where an agent would be: a directory per machine below this one.
    pub endpoints: PathBuf,
}

impl Default for NothingSettings {
    fn default() -> Self {
        Self {
            node: "localhost".to_owned(),
            starting: Duration::from_secs(5),
            stopping: Duration::from_secs(5),
            zombie: Duration::from_secs(100),
            seed: 0,
            faults: Vec::new(),
            storage: Arc::new(ShadowStorage::locking()),
            has_agent: false,
            endpoints: PathBuf::from("/nonexistent/qvd-nothing"),
        }
    }
}

/// The driver `nothing`.
#[derive(Clone, Debug)]
pub struct NothingDriver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: NothingSettings,
    machines: Mutex<BTreeMap<VmId, Machine>>,
}

/// What there is of a machine between prepare and cleanup.
#[derive(Debug)]
struct Machine {
    run_id: qvd_core::RunId,
    vm: Option<Arc<NothingVm>>,
}

impl Machine {
    fn living(&self) -> Option<&Arc<NothingVm>> {
        self.vm.as_ref().filter(|vm| vm.lives())
    }
}

impl NothingDriver {
    /// A driver without machines.
    pub fn new(settings: NothingSettings) -> Self {
        Self { shared: Arc::new(Shared { settings, machines: Mutex::default() }) }
    }

    /// A driver with the delays of `internal.hkd.nothing.timeout.on_state.*`, whose machines have an agent when
    /// `internal.hkd.nothing.endpoints` says where.
    pub fn from_config(config: &Config) -> Self {
        let has_agent = config.has(ENDPOINTS);
        let endpoints = if has_agent { config.path(ENDPOINTS) } else { NothingSettings::default().endpoints };
        let mean = |state: &str| config.seconds(&format!("internal.hkd.nothing.timeout.on_state.{state}"));
        Self::new(NothingSettings {
            node: config.text("nodename"),
            starting: mean("starting"),
            stopping: mean("stopping"),
            zombie: mean("zombie"),
            has_agent,
            endpoints,
            ..NothingSettings::default()
        })
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<VmId, Machine>> {
        self.shared.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dice(&self, vm: VmId, run: i64, step: Step) -> Dice {
        Dice::new(self.shared.settings.seed, vm.get(), run, step)
    }

    /// Does what a fault wants here; answers the time after which the machine shall die by itself.
    async fn suffer(&self, vm: VmId, run: i64, step: Step) -> Result<Option<Duration>, HypervisorError> {
        match chosen(&self.shared.settings.faults, step, &mut self.dice(vm, run, step)) {
            None | Some(Effect::Stubborn) => Ok(None),
            Some(Effect::DieAfter(delay)) => Ok(Some(delay)),
            Some(Effect::Fail) => Err(HypervisorError::host(
                vm,
                format!("{step} (a planned fault)"),
                std::io::Error::other("planned"),
            )),
            Some(Effect::Hang) => std::future::pending().await,
        }
    }

    fn refuse_beside_another(&self, spec: &VmSpec) -> Result<(), HypervisorError> {
        let vm = spec.vm_id;
        let machines = self.machines();
        let other =
            machines.get(&vm).filter(|machine| machine.living().is_some() && machine.run_id != spec.run_id);
        match other {
            Some(machine) => {
                Err(HypervisorError::HomeInUse { vm, holder: format!("run {} on this host", machine.run_id) })
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Hypervisor for NothingDriver {
    fn name(&self) -> &str {
        "nothing"
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.polite_stop = true;
        can.has_agent = self.shared.settings.has_agent;
        can
    }

    async fn check(&self) -> Vec<Check> {
        Vec::new()
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        self.refuse_beside_another(spec)?;
        self.suffer(spec.vm_id, spec.run_id.get(), Step::Prepare).await?;
        self.refuse_beside_another(spec)?;
        let mut machines = self.machines();
        let machine = machines.entry(spec.vm_id).or_insert(Machine { run_id: spec.run_id, vm: None });
        if machine.run_id != spec.run_id {
            *machine = Machine { run_id: spec.run_id, vm: None };
        }
        Ok(Prepared::default())
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let (vm, run) = (spec.vm_id, spec.run_id.get());
        self.refuse_beside_another(spec)?;
        let settings = &self.shared.settings;
        let known =
            self.machines().get(&vm).filter(|machine| machine.run_id == spec.run_id).map(|m| m.vm.clone());
        match known {
            None => {
                let problem = format!("run {run} was not prepared");
                return Err(HypervisorError::Config { vm, problem });
            }
            Some(Some(machine)) if !machine.lives() => {
                return Err(HypervisorError::EarlyExit { vm, exit: machine.exited().await });
            }
            Some(_) => {}
        }
        if self.machines().get(&vm).and_then(Machine::living).is_none() {
            let fate = self.suffer(vm, run, Step::Launch).await?;
            tokio::time::sleep(self.dice(vm, run, Step::Launch).around(settings.starting)).await;
            self.refuse_beside_another(spec)?;
            let mut machines = self.machines();
            // Another call for this run may have been faster.
            if machines.get(&vm).and_then(Machine::living).is_none() {
                let home = settings
                    .storage
                    .open(vm, &format!("run {run} on host '{}'", settings.node))
                    .map_err(|holder| HypervisorError::HomeInUse { vm, holder })?;
                let ending = |step, mean| {
                    let mut dice = self.dice(vm, run, step);
                    Ending { delay: dice.around(mean), fault: chosen(&settings.faults, step, &mut dice) }
                };
                let pace = Pace {
                    terminate: ending(Step::Terminate, settings.stopping),
                    kill: ending(Step::Kill, settings.zombie),
                };
                let endpoint = Endpoint::Unix { dir: settings.endpoints.join(vm.to_string()) };
                let machine = Arc::new(NothingVm::new(vm, endpoint, pace, home));
                if let Some(delay) = fate {
                    machine.end_in(delay);
                }
                machines.insert(vm, Machine { run_id: spec.run_id, vm: Some(machine) });
            }
        }
        match self.machines().get(&vm).and_then(|machine| machine.vm.clone()) {
            Some(machine) => Ok(machine),
            None => {
                Err(HypervisorError::Busy { vm, what: "it was cleaned up while being launched".to_owned() })
            }
        }
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        let machines = self.machines();
        let found = machines.iter().map(|(vm, machine)| match machine.living() {
            Some(living) => Found::Running { vm_id: *vm, run_id: machine.run_id, vm: living.clone() },
            None => Found::Partial { vm_id: *vm, parts: vec!["its entry".to_owned()], ended: None },
        });
        Ok(found.collect())
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        let run = self.machines().get(&vm).map_or(0, |machine| machine.run_id.get());
        self.suffer(vm, run, Step::Cleanup).await?;
        let mut machines = self.machines();
        if machines.get(&vm).is_some_and(|machine| machine.living().is_some()) {
            return Err(HypervisorError::Busy { vm, what: "it lives".to_owned() });
        }
        machines.remove(&vm);
        Ok(())
    }
}

const ENDPOINTS: &str = "internal.hkd.nothing.endpoints";

#[cfg(test)]
mod tests;
