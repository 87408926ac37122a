//! Laws of [`Hypervisor`] and [`RunningVm`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Law, Report, ensure, words};
use crate::hypervisor::{Blame, Found, Hypervisor, HypervisorError, LaunchPlace, RunningVm, VmSpec};
use crate::id::{RunId, VmId};
use crate::testkit::cancel::{MOST_AWAITS, drop_at_await};

const CHECK: Law =
    Law::new("check", "Everything that the readiness report finds missing comes with a remedy.");
const PREPARE_TWICE: Law = Law::new("prepare-twice", "Preparing the same run twice is preparing it once.");
const LAUNCH_ONCE: Law =
    Law::new("launch-once", "A second launch of a run that lives answers with the living one.");
const UNPREPARED: Law =
    Law::new("launch-unprepared", "A machine that was never prepared is not launched, and leaves nothing.");
const ENDED: Law = Law::new("launch-ended", "A run that has ended is not started again.");
const DEBRIS: Law =
    Law::new("debris", "A machine that has ended is found until it is cleaned up, and not as running.");
const UNREADABLE: Law =
    Law::new("unreadable", "A machine that cannot be read is unknown or an error, never absent.");
const FIND: Law = Law::new("find", "What runs is found with its run, and finding changes nothing.");
const HANDLE: Law = Law::new("handle", "Dropping the handle of a machine ends nothing.");
const INSIDE: Law =
    Law::new("inside-its-place", "All that runs for a machine is in the place that it was given.");
const SECOND_RUN: Law = Law::new(
    "second-run",
    "While a run lives, another run of the machine is refused and nobody is blamed for it.",
);
const BUSY: Law = Law::new("cleanup-busy", "Cleaning up a machine that lives is refused, and it lives on.");
const KILL: Law = Law::new("kill", "A kill that succeeded leaves the machine dead.");
const EXITED: Law = Law::new("exited", "Any number may wait for the end, also after it.");
const TERMINATE: Law = Law::new("terminate", "A machine that is asked politely ends.").needs("polite_stop");
const CLEANUP: Law = Law::new("cleanup", "Cleaning up leaves nothing to find, and may be repeated.");
const CLEANUP_UNKNOWN: Law =
    Law::new("cleanup-unknown", "Cleaning up a machine that was never heard of succeeds.");
const AGAIN: Law = Law::new("again", "After a clean-up the next run comes up.");
const HOME: Law = Law::new(
    "home",
    "The next run gets the home of the last one, with what is in it, whatever happened meanwhile.",
)
.needs("keeps_home");
const ADOPT: Law =
    Law::new("adopt", "A driver made afresh finds what an earlier one launched, and can end it.")
        .needs("survives_restart");
const PARALLEL: Law = Law::new("parallel", "Machines come and go side by side without touching each other.");
const ODD_NAMES: Law = Law::new("odd-names", "Names are foreign text and no reason to fail.");
const CANCEL_PREPARE: Law =
    Law::new("cancel-prepare", "A prepare that was dropped at any await can be cleaned up, and done again.");
const CANCEL_LAUNCH: Law = Law::new(
    "cancel-launch",
    "A launch that was dropped at any await leaves what is found, ended and cleaned up, and can be done again.",
);
const CANCEL_CLEANUP: Law =
    Law::new("cancel-cleanup", "A clean-up that was dropped at any await can be finished.");

/// How a driver is made, and what it is given to run.
///
/// Every driver that `open` makes must stand for the same host: same directories, same state. The suite uses machine ids
/// from 900,001 on, each once, and cleans them up.
#[derive(Clone)]
pub struct DriverSubject {
    open: Arc<dyn Fn() -> Arc<dyn Hypervisor> + Send + Sync>,
    adapt: Arc<dyn Fn(VmSpec) -> VmSpec + Send + Sync>,
    home: Option<HomeMark>,
    places: Option<Places>,
    spoil: Option<Spoil>,
    step: Duration,
    next: Arc<AtomicI64>,
}

/// Makes a machine unreadable.
type Spoil = Arc<dyn Fn(VmId) + Send + Sync>;

/// Makes places for machines, and names what is outside.
#[derive(Clone)]
struct Places {
    make: Arc<dyn Fn(VmId) -> LaunchPlace + Send + Sync>,
    outside: Arc<dyn Fn(VmId) -> Vec<String> + Send + Sync>,
}

/// Leaves a mark in a home, and looks for it.
#[derive(Clone)]
struct HomeMark {
    leave: Arc<dyn Fn(VmId) + Send + Sync>,
    is_there: Arc<dyn Fn(VmId) -> bool + Send + Sync>,
}

impl fmt::Debug for DriverSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverSubject").field("step", &self.step).finish_non_exhaustive()
    }
}

impl DriverSubject {
    /// `open` makes the driver as a newly started daemon would.
    pub fn new(open: impl Fn() -> Arc<dyn Hypervisor> + Send + Sync + 'static) -> Self {
        Self {
            open: Arc::new(open),
            adapt: Arc::new(|spec| spec),
            home: None,
            places: None,
            spoil: None,
            step: Duration::from_secs(30),
            next: Arc::new(AtomicI64::new(900_001)),
        }
    }

    /// Completes each specification with what this driver needs: image, memory, address.
    #[must_use]
    pub fn adapt(mut self, adapt: impl Fn(VmSpec) -> VmSpec + Send + Sync + 'static) -> Self {
        self.adapt = Arc::new(adapt);
        self
    }

    /// Lets the suite see into homes: `leave` puts a mark into the home of a machine, `is_there` tells whether it still
    /// is. Without them only the homes' names are compared.
    #[must_use]
    pub fn home_mark(
        mut self,
        leave: impl Fn(VmId) + Send + Sync + 'static,
        is_there: impl Fn(VmId) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.home = Some(HomeMark { leave: Arc::new(leave), is_there: Arc::new(is_there) });
        self
    }

    /// How a place for a machine is made, and which processes of a machine that runs are outside the one that it got.
    /// Without them that law is not tried.
    #[must_use]
    pub fn places(
        mut self,
        make: impl Fn(VmId) -> LaunchPlace + Send + Sync + 'static,
        processes_outside: impl Fn(VmId) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.places = Some(Places { make: Arc::new(make), outside: Arc::new(processes_outside) });
        self
    }

    /// How a machine that runs is made unreadable for the driver, for good. Without it that law is not tried.
    #[must_use]
    pub fn make_unreadable(mut self, spoil: impl Fn(VmId) + Send + Sync + 'static) -> Self {
        self.spoil = Some(Arc::new(spoil));
        self
    }

    /// Longest time for one step: a launch, an end, a clean-up.
    #[must_use]
    pub fn step_limit(mut self, limit: Duration) -> Self {
        self.step = limit;
        self
    }

    fn spec(&self) -> VmSpec {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.spec_of(VmId::new(id), 1)
    }

    fn spec_of(&self, vm: VmId, run: i64) -> VmSpec {
        (self.adapt)(VmSpec::new(vm, RunId::new(run), format!("conformance-{vm}"), "conformance"))
    }

    /// A machine that runs, with its driver.
    async fn running(&self) -> Result<(Arc<dyn Hypervisor>, VmSpec, Arc<dyn RunningVm>), String> {
        let (driver, spec) = ((self.open)(), self.spec());
        let vm = self.bring_up(&*driver, &spec).await?;
        Ok((driver, spec, vm))
    }

    async fn bring_up(&self, driver: &dyn Hypervisor, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, String> {
        driver.prepare(spec).await.map_err(|e| format!("prepare: {}", words(&e)))?;
        driver.launch(spec).await.map_err(|e| format!("launch: {}", words(&e)))
    }

    /// Ends what lives of a machine and cleans up, until nothing is found of it. A dropped call may still be at work in the
    /// background, so this is tried until the limit.
    async fn settle(&self, driver: &dyn Hypervisor, vm: VmId) -> Result<(), String> {
        let deadline = Instant::now() + self.step;
        loop {
            let outcome = self.settle_once(driver, vm).await;
            let last = match outcome {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if Instant::now() >= deadline {
                return Err(format!("VM {vm} cannot be cleaned up: {last}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn mark_home(&self, vm: VmId) {
        if let Some(home) = &self.home {
            (home.leave)(vm);
        }
    }

    fn ensure_home(&self, vm: VmId, after: &str) -> Result<(), String> {
        let kept = self.home.as_ref().is_none_or(|home| (home.is_there)(vm));
        ensure(kept, || format!("what was in the home is gone after {after}"))
    }

    async fn settle_once(&self, driver: &dyn Hypervisor, vm: VmId) -> Result<(), String> {
        if let Some(Found::Running { vm, .. }) = found(driver, vm).await? {
            vm.kill(self.step).await.map_err(|e| format!("kill: {}", words(&e)))?;
        }
        driver.cleanup(vm).await.map_err(|e| format!("cleanup: {}", words(&e)))?;
        match found(driver, vm).await? {
            None => Ok(()),
            Some(left) => Err(format!("left after the clean-up: {left:?}")),
        }
    }
}

/// Runs the suite.
///
/// # Panics
///
/// When a law is broken; the message is the report.
pub async fn hypervisor(subject: DriverSubject) -> Report {
    let report = hypervisor_report(subject).await;
    report.assert_kept();
    report
}

/// Runs the suite and reports.
pub async fn hypervisor_report(s: DriverSubject) -> Report {
    let driver = (s.open)();
    let can = driver.capabilities();
    let mut report = Report::new(format!("driver {}", driver.name()));
    // A law takes a few steps; those that drop at every await take many.
    let (few, many) = (s.step * 6, s.step * 60);
    report.check(CHECK, true, few, check(s.clone())).await;
    report.check(PREPARE_TWICE, true, few, prepare_twice(s.clone())).await;
    report.check(LAUNCH_ONCE, true, few, launch_once(s.clone())).await;
    report.check(UNPREPARED, true, few, unprepared(s.clone())).await;
    report.check(ENDED, true, few, ended(s.clone())).await;
    report.check(DEBRIS, true, few, debris(s.clone())).await;
    report.check(FIND, true, few, find(s.clone())).await;
    report.check(HANDLE, true, few, handle(s.clone())).await;
    if let Some(places) = s.places.clone() {
        report.check(INSIDE, true, few, inside(s.clone(), places)).await;
    }
    report.check(SECOND_RUN, true, few, second_run(s.clone())).await;
    report.check(BUSY, true, few, busy(s.clone())).await;
    report.check(KILL, true, few, kill(s.clone())).await;
    report.check(EXITED, true, few, exited(s.clone())).await;
    report.check(TERMINATE, can.polite_stop, few, terminate(s.clone())).await;
    report.check(CLEANUP, true, few, cleanup(s.clone())).await;
    report.check(CLEANUP_UNKNOWN, true, few, cleanup_unknown(s.clone())).await;
    report.check(AGAIN, true, few, again(s.clone())).await;
    report.check(HOME, can.keeps_home, few, home(s.clone())).await;
    report.check(ADOPT, can.survives_restart, few, adopt(s.clone())).await;
    report.check(PARALLEL, true, many, parallel(s.clone())).await;
    report.check(ODD_NAMES, true, many, odd_names(s.clone())).await;
    report.check(CANCEL_PREPARE, true, many, cancel_prepare(s.clone())).await;
    report.check(CANCEL_LAUNCH, true, many, cancel_launch(s.clone())).await;
    report.check(CANCEL_CLEANUP, true, many, cancel_cleanup(s.clone())).await;
    if let Some(spoil) = s.spoil.clone() {
        // Last of all: what it spoils stays spoiled.
        report.check(UNREADABLE, true, few, unreadable(s, spoil)).await;
    }
    report
}

async fn found(driver: &dyn Hypervisor, vm: VmId) -> Result<Option<Found>, String> {
    let all = driver.find().await.map_err(|e| format!("find: {}", words(&e)))?;
    let mut own: Vec<Found> = all.into_iter().filter(|found| found.vm_id() == vm).collect();
    ensure(own.len() <= 1, || format!("found more than once: {own:?}"))?;
    Ok(own.pop())
}

async fn ensure_running(driver: &dyn Hypervisor, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, String> {
    match found(driver, spec.vm_id).await? {
        Some(Found::Running { run_id, vm, .. }) if run_id == spec.run_id => Ok(vm),
        other => Err(format!("run {} of VM {} lives, but is found as {other:?}", spec.run_id, spec.vm_id)),
    }
}

async fn check(s: DriverSubject) -> Result<(), String> {
    for line in (s.open)().check().await {
        ensure(!line.what.is_empty(), || format!("{line:?} does not say what was looked at"))?;
        let mute = line.remedy.as_ref().is_some_and(|remedy| remedy.trim().is_empty());
        ensure(!mute, || format!("'{}' is missing and no remedy is named", line.what))?;
    }
    Ok(())
}

async fn prepare_twice(s: DriverSubject) -> Result<(), String> {
    let (driver, spec) = ((s.open)(), s.spec());
    let first = driver.prepare(&spec).await.map_err(|e| words(&e))?;
    let second = driver.prepare(&spec).await.map_err(|e| format!("the second time: {}", words(&e)))?;
    ensure(first == second, || format!("{first:?}, then {second:?}"))?;
    s.settle(&*driver, spec.vm_id).await
}

async fn launch_once(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, first) = s.running().await?;
    let second = driver.launch(&spec).await.map_err(|e| format!("the second launch: {}", words(&e)))?;
    ensure(first.endpoint() == second.endpoint(), || "two machines for one run".to_owned())?;
    ensure_running(&*driver, &spec).await?;
    second.kill(s.step).await.map_err(|e| words(&e))?;
    let ended = timeout(s.step, first.exited()).await;
    ensure(ended.is_ok(), || "the first handle's machine lives when the second one's was killed".to_owned())?;
    s.settle(&*driver, spec.vm_id).await
}

async fn unprepared(s: DriverSubject) -> Result<(), String> {
    let (driver, spec) = ((s.open)(), s.spec());
    let launched = driver.launch(&spec).await;
    ensure(launched.is_err(), || "it was launched".to_owned())?;
    s.settle(&*driver, spec.vm_id).await
}

async fn ended(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    for driver in [driver, (s.open)()] {
        match driver.launch(&spec).await {
            Err(HypervisorError::EarlyExit { .. }) => {}
            other => return Err(format!("launched again after its end: {other:?}")),
        }
    }
    s.settle(&*(s.open)(), spec.vm_id).await
}

async fn debris(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    match found(&*driver, spec.vm_id).await? {
        Some(Found::Partial { parts, .. }) => {
            ensure(!parts.is_empty(), || "it is found without a word on what there is".to_owned())?;
        }
        other => return Err(format!("after its end it is found as {other:?}")),
    }
    s.settle(&*driver, spec.vm_id).await
}

async fn unreadable(s: DriverSubject, spoil: Spoil) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    spoil(spec.vm_id);
    let seen = driver.find().await;
    // Ended by its handle before anything else: nobody else may find it now.
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    let Ok(all) = seen else { return Ok(()) };
    match all.into_iter().find(|found| found.vm_id() == spec.vm_id) {
        Some(Found::Unknown { reason, .. }) => {
            ensure(!reason.is_empty(), || "it does not say why it cannot tell".to_owned())
        }
        other => Err(format!("it is found as {other:?}")),
    }
}

async fn find(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    for _ in 0..3 {
        let adopted = ensure_running(&*driver, &spec).await?;
        ensure(adopted.endpoint() == vm.endpoint(), || {
            format!("launched at {}, found at {}", vm.endpoint(), adopted.endpoint())
        })?;
    }
    s.settle(&*driver, spec.vm_id).await
}

async fn handle(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    drop(vm);
    ensure_running(&*driver, &spec).await?;
    s.settle(&*driver, spec.vm_id).await
}

async fn inside(s: DriverSubject, places: Places) -> Result<(), String> {
    let (driver, mut spec) = ((s.open)(), s.spec());
    spec.place = Some((places.make)(spec.vm_id));
    s.bring_up(&*driver, &spec).await?;
    let outside = (places.outside)(spec.vm_id);
    ensure(outside.is_empty(), || format!("outside: {}", outside.join(", ")))?;
    s.settle(&*driver, spec.vm_id).await
}

async fn second_run(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    let other = s.spec_of(spec.vm_id, 2);
    // Another daemon's driver: what only this one remembers keeps nobody out.
    match (s.open)().prepare(&other).await {
        Ok(_) => return Err("the second run was prepared beside the living one".to_owned()),
        Err(error) => ensure(error.blame() == Blame::Nobody, || {
            format!("{:?} is blamed: {}", error.blame(), words(&error))
        })?,
    }
    let living = ensure_running(&*driver, &spec).await?;
    ensure(living.endpoint() == vm.endpoint(), || "the living run moved".to_owned())?;
    s.settle(&*driver, spec.vm_id).await
}

async fn busy(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, _vm) = s.running().await?;
    match driver.cleanup(spec.vm_id).await {
        Err(HypervisorError::Busy { .. }) => {}
        other => return Err(format!("cleaning up a living machine: {other:?}")),
    }
    ensure_running(&*driver, &spec).await?;
    s.settle(&*driver, spec.vm_id).await
}

async fn kill(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    match found(&*driver, spec.vm_id).await? {
        Some(Found::Running { .. }) => return Err("it is found running after the kill".to_owned()),
        Some(Found::Unknown { reason, .. }) => return Err(format!("it cannot be told: {reason}")),
        Some(Found::Partial { .. }) | None => {}
    }
    vm.kill(s.step).await.map_err(|e| format!("killing a dead machine: {}", words(&e)))?;
    s.settle(&*driver, spec.vm_id).await
}

async fn exited(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let vm = Arc::clone(&vm);
        waiters.spawn(async move { vm.exited().await });
    }
    tokio::task::yield_now().await;
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    for _ in 0..5 {
        let waited = timeout(s.step, waiters.join_next()).await;
        ensure(waited.is_ok(), || "somebody still waits for the end".to_owned())?;
    }
    let late = timeout(s.step, vm.exited()).await;
    ensure(late.is_ok(), || "the end is not told to who asks after it".to_owned())?;
    s.settle(&*driver, spec.vm_id).await
}

async fn terminate(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    vm.terminate().await.map_err(|e| words(&e))?;
    let ended = timeout(s.step, vm.exited()).await;
    ensure(ended.is_ok(), || format!("it lives {} s after being asked", s.step.as_secs_f64()))?;
    s.settle(&*driver, spec.vm_id).await
}

async fn cleanup(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, vm) = s.running().await?;
    vm.kill(s.step).await.map_err(|e| words(&e))?;
    for time in ["first", "second"] {
        driver.cleanup(spec.vm_id).await.map_err(|e| format!("the {time} clean-up: {}", words(&e)))?;
        let left = found(&*driver, spec.vm_id).await?;
        ensure(left.is_none(), || format!("left after the {time} clean-up: {left:?}"))?;
    }
    Ok(())
}

async fn cleanup_unknown(s: DriverSubject) -> Result<(), String> {
    (s.open)().cleanup(s.spec().vm_id).await.map_err(|e| words(&e))
}

async fn again(s: DriverSubject) -> Result<(), String> {
    let (driver, spec, _vm) = s.running().await?;
    s.settle(&*driver, spec.vm_id).await?;
    let next = s.spec_of(spec.vm_id, 2);
    s.bring_up(&*driver, &next).await?;
    ensure_running(&*driver, &next).await?;
    s.settle(&*driver, spec.vm_id).await
}

async fn home(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    let mut spec = s.spec();
    spec.home = spec.home.or(Some(crate::units::Mebibytes(16)));
    let first = driver.prepare(&spec).await.map_err(|e| words(&e))?;
    ensure(first.storage.is_some(), || "it keeps homes, but names none".to_owned())?;
    s.mark_home(spec.vm_id);
    s.settle(&*driver, spec.vm_id).await?;
    s.ensure_home(spec.vm_id, "the clean-up")?;
    for recorded in [None, first.storage.clone()] {
        let mut next = s.spec_of(spec.vm_id, 2);
        next.home = spec.home;
        next.storage = recorded;
        let prepared = (s.open)().prepare(&next).await.map_err(|e| words(&e))?;
        ensure(prepared.storage == first.storage, || {
            format!("first {:?}, then {:?}", first.storage, prepared.storage)
        })?;
        s.ensure_home(spec.vm_id, "the next prepare")?;
        let vm = driver.launch(&next).await.map_err(|e| words(&e))?;
        s.ensure_home(spec.vm_id, "a launch")?;
        vm.kill(s.step).await.map_err(|e| words(&e))?;
        s.settle(&*driver, spec.vm_id).await?;
        s.ensure_home(spec.vm_id, "a run")?;
    }
    for nth in 0..MOST_AWAITS {
        let mut next = s.spec_of(spec.vm_id, 3);
        next.home = spec.home;
        let done = drop_at_await(driver.prepare(&next), nth).await;
        s.settle(&*driver, spec.vm_id).await?;
        s.ensure_home(spec.vm_id, &format!("a prepare that was dropped at await {nth}"))?;
        if done.is_some() {
            break;
        }
    }
    Ok(())
}

async fn adopt(s: DriverSubject) -> Result<(), String> {
    let (first, spec, launched) = s.running().await?;
    let second = (s.open)();
    let adopted = ensure_running(&*second, &spec).await?;
    ensure(adopted.endpoint() == launched.endpoint(), || {
        format!("launched at {}, adopted at {}", launched.endpoint(), adopted.endpoint())
    })?;
    drop(first);
    adopted.kill(s.step).await.map_err(|e| words(&e))?;
    for (vm, whose) in [(adopted, "adopted"), (launched, "launched")] {
        let told = timeout(s.step, vm.exited()).await;
        ensure(told.is_ok(), || format!("the {whose} handle does not tell the end"))?;
    }
    s.settle(&*second, spec.vm_id).await
}

async fn parallel(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (s, driver) = (s.clone(), Arc::clone(&driver));
        tasks.spawn(async move {
            let spec = s.spec();
            let vm = s.bring_up(&*driver, &spec).await?;
            Ok::<_, String>((spec, vm))
        });
    }
    let mut running = Vec::new();
    while let Some(task) = tasks.join_next().await {
        running.push(task.map_err(|e| e.to_string())??);
    }
    while let Some((spec, vm)) = running.pop() {
        vm.kill(s.step).await.map_err(|e| words(&e))?;
        s.settle(&*driver, spec.vm_id).await?;
        for (other, _) in &running {
            ensure_running(&*driver, other)
                .await
                .map_err(|e| format!("after the end of {}: {e}", spec.vm_id))?;
        }
    }
    Ok(())
}

async fn odd_names(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    for name in
        ["a b", "a,b=c", "-rf", "../../etc", "ñandú 😀", "a\nb", "%s$(id)`id`;&|", &"x".repeat(300), ""]
    {
        let mut spec = s.spec();
        name.clone_into(&mut spec.name);
        s.bring_up(&*driver, &spec).await.map_err(|e| format!("named {name:?}: {e}"))?;
        s.settle(&*driver, spec.vm_id).await?;
    }
    Ok(())
}

async fn cancel_prepare(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    for nth in 0..MOST_AWAITS {
        let spec = s.spec();
        let done = drop_at_await(driver.prepare(&spec), nth).await;
        let at = |problem: String| format!("dropped at await {nth}: {problem}");
        if let Some(Err(error)) = &done {
            return Err(at(words(error)));
        }
        s.settle(&*driver, spec.vm_id).await.map_err(at)?;
        let next = s.spec_of(spec.vm_id, 2);
        driver.prepare(&next).await.map_err(|e| at(format!("the next run: {}", words(&e))))?;
        s.settle(&*driver, spec.vm_id).await.map_err(at)?;
        if done.is_some() {
            return Ok(());
        }
    }
    Err(never_done())
}

async fn cancel_launch(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    for nth in 0..MOST_AWAITS {
        let spec = s.spec();
        let at = |problem: String| format!("dropped at await {nth}: {problem}");
        driver.prepare(&spec).await.map_err(|e| at(words(&e)))?;
        let done = drop_at_await(driver.launch(&spec), nth).await.map(|launched| launched.map(drop));
        if let Some(Err(error)) = &done {
            return Err(at(words(error)));
        }
        s.settle(&*driver, spec.vm_id).await.map_err(at)?;
        let next = s.spec_of(spec.vm_id, 2);
        s.bring_up(&*driver, &next).await.map_err(|e| at(format!("the next run: {e}")))?;
        ensure_running(&*driver, &next).await.map_err(at)?;
        s.settle(&*driver, spec.vm_id).await.map_err(at)?;
        if done.is_some() {
            return Ok(());
        }
    }
    Err(never_done())
}

async fn cancel_cleanup(s: DriverSubject) -> Result<(), String> {
    let driver = (s.open)();
    for nth in 0..MOST_AWAITS {
        let spec = s.spec();
        let at = |problem: String| format!("dropped at await {nth}: {problem}");
        let vm = s.bring_up(&*driver, &spec).await.map_err(at)?;
        vm.kill(s.step).await.map_err(|e| at(words(&e)))?;
        let done = drop_at_await(driver.cleanup(spec.vm_id), nth).await;
        if let Some(Err(error)) = &done {
            return Err(at(words(error)));
        }
        s.settle(&*driver, spec.vm_id).await.map_err(at)?;
        if done.is_some() {
            return Ok(());
        }
    }
    Err(never_done())
}

/// A law about every await has not been tried when there are more of them.
fn never_done() -> String {
    format!("it is not done after {MOST_AWAITS} awaits")
}
