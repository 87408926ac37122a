//! A driver whose virtual machines are entries of a map.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::running_vm::{DriverCall, DriverStep, FakeVm, Journal};
use crate::hypervisor::{
    Capabilities, Check, Endpoint, Found, Hypervisor, HypervisorError, Prepared, RunningVm, VmSpec,
};
use crate::id::{RunId, VmId};
use crate::testkit::script::lock;

/// A driver that keeps the contract of [`Hypervisor`] over machines that exist only in memory.
///
/// Clones share their machines: a clone given to a new daemon is the driver after that daemon's restart.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use qvd_core::hypervisor::*;
/// use qvd_core::testkit::fakes::{DriverStep, FakeHypervisor};
/// use qvd_core::{RunId, VmId};
///
/// let driver = FakeHypervisor::new();
/// let spec = VmSpec::new(VmId::new(7), RunId::new(1), "desk", "alice");
/// driver.prepare(&spec).await.unwrap();
/// let vm = driver.launch(&spec).await.unwrap();
/// driver.vm(VmId::new(7)).unwrap().end(ExitInfo::status(3));
/// assert_eq!(vm.exited().await.code, Some(3));
///
/// driver.fail_next(DriverStep::Prepare, |vm| HypervisorError::host(vm, "write the home", "disk full"));
/// assert!(driver.prepare(&spec).await.is_err());
/// # }
/// ```
#[derive(Clone)]
pub struct FakeHypervisor {
    name: String,
    capabilities: Capabilities,
    shared: Arc<Shared>,
}

impl fmt::Debug for FakeHypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHypervisor").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    journal: Arc<Journal>,
}

#[derive(Default)]
struct World {
    machines: BTreeMap<VmId, Machine>,
    homes: BTreeMap<VmId, String>,
    endpoints: BTreeMap<VmId, Endpoint>,
    foreign_locks: BTreeMap<VmId, String>,
    unreadable: BTreeMap<VmId, String>,
    checks: Vec<Check>,
}

/// What exists of a machine between `prepare` and `cleanup`; its entry is its lock.
struct Machine {
    run_id: RunId,
    vm: Option<FakeVm>,
}

impl Default for FakeHypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHypervisor {
    /// A driver named `fake`: no image needed, keeps homes, machines survive a restart and stop politely.
    pub fn new() -> Self {
        let capabilities = Capabilities {
            needs_image: false,
            own_network: false,
            keeps_home: true,
            survives_restart: true,
            polite_stop: true,
            has_agent: true,
        };
        Self { name: "fake".to_owned(), capabilities, shared: Arc::default() }
    }

    /// Another name.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Other capabilities.
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// What `check` reports.
    pub fn set_checks(&self, checks: Vec<Check>) {
        lock(&self.shared.world).checks = checks;
    }

    /// Endpoint of this machine's next launch; without it `unix:/nonexistent/qvd-fake/ID`.
    pub fn set_endpoint(&self, vm: VmId, endpoint: Endpoint) {
        lock(&self.shared.world).endpoints.insert(vm, endpoint);
    }

    /// The next call of this step fails so; failures queue up.
    pub fn fail_next(
        &self,
        step: DriverStep,
        failure: impl FnOnce(VmId) -> HypervisorError + Send + 'static,
    ) {
        self.shared.journal.script.fail_next(step, Box::new(failure));
    }

    /// Calls of this step wait until [`release`](FakeHypervisor::release).
    pub fn hold(&self, step: DriverStep) {
        self.shared.journal.script.hold(step);
    }

    /// Lets waiting calls of this step go on.
    pub fn release(&self, step: DriverStep) {
        self.shared.journal.script.release(step);
    }

    /// Somebody else holds the lock of this machine.
    pub fn hold_lock(&self, vm: VmId, holder: &str) {
        lock(&self.shared.world).foreign_locks.insert(vm, holder.to_owned());
    }

    /// That somebody let go of it.
    pub fn release_lock(&self, vm: VmId) {
        lock(&self.shared.world).foreign_locks.remove(&vm);
    }

    /// `find` cannot tell what there is of this machine.
    pub fn make_unreadable(&self, vm: VmId, reason: &str) {
        lock(&self.shared.world).unreadable.insert(vm, reason.to_owned());
    }

    /// `find` can tell again.
    pub fn make_readable(&self, vm: VmId) {
        lock(&self.shared.world).unreadable.remove(&vm);
    }

    /// Plants pieces of a machine without a life, as a crash leaves them.
    pub fn plant_debris(&self, vm: VmId) {
        lock(&self.shared.world).machines.insert(vm, Machine { run_id: RunId::new(0), vm: None });
    }

    /// Plants a machine that some earlier daemon launched.
    pub fn plant_running(&self, vm_id: VmId, run_id: RunId) -> FakeVm {
        let mut world = lock(&self.shared.world);
        let vm = self.new_vm(&world, vm_id);
        world.machines.insert(vm_id, Machine { run_id, vm: Some(vm.clone()) });
        vm
    }

    /// The machine as last launched or planted, dead ones included until their clean-up.
    pub fn vm(&self, vm: VmId) -> Option<FakeVm> {
        lock(&self.shared.world).machines.get(&vm)?.vm.clone()
    }

    /// Machines that live.
    pub fn living(&self) -> Vec<(VmId, RunId)> {
        let world = lock(&self.shared.world);
        world.machines.iter().filter(|(_, m)| m.lives()).map(|(id, m)| (*id, m.run_id)).collect()
    }

    /// Machines of which anything is left, living ones included.
    pub fn leftovers(&self) -> Vec<VmId> {
        lock(&self.shared.world).machines.keys().copied().collect()
    }

    /// Every call so far, in order of arrival, those to the machines included.
    pub fn calls(&self) -> Vec<DriverCall> {
        self.shared.journal.calls()
    }

    /// How often this step was called.
    pub fn times(&self, step: DriverStep) -> usize {
        self.shared.journal.script.times(step)
    }

    /// Waits until this step has been called at least `times` times.
    pub async fn called(&self, step: DriverStep, times: usize) {
        self.shared.journal.script.entered(step, times).await;
    }

    fn new_vm(&self, world: &World, vm: VmId) -> FakeVm {
        let nowhere = || Endpoint::Unix { dir: PathBuf::from(format!("/nonexistent/qvd-fake/{vm}")) };
        let endpoint = world.endpoints.get(&vm).cloned().unwrap_or_else(nowhere);
        FakeVm::new(vm, endpoint, Arc::clone(&self.shared.journal))
    }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn check(&self) -> Vec<Check> {
        // A report cannot fail; a failure prepared for this step is used up without effect.
        self.shared.journal.enter(DriverStep::Check, DriverCall::Check, NO_VM).await.ok();
        lock(&self.shared.world).checks.clone()
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        let vm = spec.vm_id;
        self.shared
            .journal
            .enter(DriverStep::Prepare, DriverCall::Prepare(Box::new(spec.clone())), vm)
            .await?;
        let mut world = lock(&self.shared.world);
        if let Some(holder) = world.lock_holder(spec) {
            return Err(HypervisorError::HomeInUse { vm, holder });
        }
        let machine = world.machines.entry(vm).or_insert(Machine { run_id: spec.run_id, vm: None });
        if machine.run_id != spec.run_id {
            *machine = Machine { run_id: spec.run_id, vm: None };
        }
        let storage = (self.capabilities.keeps_home && spec.home.is_some()).then(|| {
            let recorded = spec.storage.clone().unwrap_or_else(|| format!("{vm}-fs"));
            world.homes.entry(vm).or_insert(recorded).clone()
        });
        Ok(Prepared { storage })
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let vm = spec.vm_id;
        self.shared.journal.enter(DriverStep::Launch, DriverCall::Launch(vm, spec.run_id), vm).await?;
        let mut world = lock(&self.shared.world);
        let fresh = self.new_vm(&world, vm);
        let machine = world.machines.get_mut(&vm).filter(|m| m.run_id == spec.run_id);
        let machine = machine.ok_or_else(|| {
            let problem = format!("run {} was not prepared", spec.run_id);
            HypervisorError::Config { vm, problem }
        })?;
        let launched = machine.vm.get_or_insert(fresh);
        match launched.exit() {
            Some(exit) => Err(HypervisorError::EarlyExit { vm, exit }),
            None => Ok(Arc::new(launched.clone())),
        }
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        self.shared.journal.enter(DriverStep::Find, DriverCall::Find, NO_VM).await?;
        let world = lock(&self.shared.world);
        let unreadable = world
            .unreadable
            .iter()
            .map(|(vm_id, reason)| Found::Unknown { vm_id: *vm_id, reason: reason.clone() });
        let known = world.machines.iter().filter(|(id, _)| !world.unreadable.contains_key(id));
        Ok(unreadable.chain(known.map(|(vm_id, machine)| machine.found(*vm_id))).collect())
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.shared.journal.enter(DriverStep::Cleanup, DriverCall::Cleanup(vm), vm).await?;
        let mut world = lock(&self.shared.world);
        if world.machines.get(&vm).is_some_and(Machine::lives) {
            return Err(HypervisorError::Busy { vm, what: "the fake machine lives".to_owned() });
        }
        world.machines.remove(&vm);
        Ok(())
    }
}

/// Subject of failures of calls that concern no machine.
const NO_VM: VmId = VmId::new(0);

impl World {
    /// Who keeps this run from taking the machine's lock.
    fn lock_holder(&self, spec: &VmSpec) -> Option<String> {
        let other_run = || {
            let machine = self.machines.get(&spec.vm_id)?;
            (machine.lives() && machine.run_id != spec.run_id).then(|| format!("run {}", machine.run_id))
        };
        self.foreign_locks.get(&spec.vm_id).cloned().or_else(other_run)
    }
}

impl Machine {
    fn lives(&self) -> bool {
        self.vm.as_ref().is_some_and(FakeVm::lives)
    }

    fn found(&self, vm_id: VmId) -> Found {
        match &self.vm {
            Some(vm) if vm.lives() => Found::Running { vm_id, run_id: self.run_id, vm: Arc::new(vm.clone()) },
            Some(vm) => Found::Partial {
                vm_id,
                parts: vec!["a dead machine".to_owned()],
                ended: vm.exit_info().map(|exit| (self.run_id, exit)),
            },
            None => Found::Partial { vm_id, parts: vec!["what was prepared".to_owned()], ended: None },
        }
    }
}
