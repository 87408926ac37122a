//! One task per virtual machine: it owns the machine, an inbox, and what is in flight.
//!
//! ```text
//! select { inbox, effect finished, write finished, agent's news, end of the VM, deadline } → step → start effects
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use qvd_core::hypervisor::{ExitInfo, Hypervisor, RunningVm, VmSpec};
use qvd_core::vma::Params;
use qvd_core::{RunId, VmId};
use qvd_db::VmCounter;
use tokio::sync::{mpsc, watch};

use super::adopt::{Foundling, Story};
use super::effects::{self, Answer};
use super::monitor::{AgentMonitor, LivenessLimits, News};
use super::node::Node;
use super::rows::RowWriter;
use super::settings::vm_limits;
use super::slots::Permit;
use super::vm_machine::{Action, Event, Failure, Outcome, Phase, VmMachine, Watch, Write};

/// What the daemon tells a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Stop,
    Kill,
    GuardLost,
    /// The soft limit passed: tell the user, with these limits.
    Alert(Params),
    /// The configuration changed.
    Reconfigure,
}

/// How a task begins.
pub(crate) enum Beginning {
    /// The start was accepted.
    Start,
    /// Something is there already, or a row claims it.
    Adopt(Foundling),
}

/// How a task ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) vm: VmId,
    pub(crate) outcome: Outcome,
}

/// The daemon's end of a task.
#[derive(Debug)]
pub(crate) struct TaskHandle {
    pub(crate) run: RunId,
    orders: mpsc::UnboundedSender<Order>,
    phase: watch::Receiver<Phase>,
}

impl TaskHandle {
    /// Tells the task; one that is ending does not listen any more, and need not.
    pub(crate) fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// A way to tell it later.
    pub(crate) fn orders(&self) -> mpsc::UnboundedSender<Order> {
        self.orders.clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

/// Makes a task; the future runs it to its end.
pub(crate) fn task(
    node: Arc<Node>,
    vm: VmId,
    run: RunId,
    beginning: Beginning,
) -> (TaskHandle, impl Future<Output = Ended> + Send) {
    let (orders, inbox) = mpsc::unbounded_channel();
    let (phase, phase_seen) = watch::channel(Phase::Idle);
    let handle = TaskHandle { run, orders, phase: phase_seen };
    let task = VmTask {
        machine: VmMachine::new(vm_limits(&node.config.get(), "lxc")),
        writer: RowWriter::new(Arc::clone(&node), vm, run),
        node,
        vm,
        run,
        phase,
        spec: VmSpec::new(vm, run, "", ""),
        driver: None,
        handle: None,
        permit: None,
        effect: None,
        exit: None,
        monitor: None,
        boot_age: Duration::ZERO,
        alert: Params::new(),
        outcome: None,
    };
    (handle, task.run(inbox, beginning))
}

struct VmTask {
    node: Arc<Node>,
    vm: VmId,
    run: RunId,
    machine: VmMachine,
    writer: RowWriter,
    phase: watch::Sender<Phase>,
    spec: VmSpec,
    driver: Option<Arc<dyn Hypervisor>>,
    handle: Option<Arc<dyn RunningVm>>,
    permit: Option<Permit>,
    effect: Option<BoxFuture<'static, Answer>>,
    exit: Option<BoxFuture<'static, ExitInfo>>,
    monitor: Option<BoxFuture<'static, (AgentMonitor, News)>>,
    boot_age: Duration,
    alert: Params,
    outcome: Option<Outcome>,
}

impl VmTask {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>, beginning: Beginning) -> Ended {
        let first = self.begin(beginning);
        self.feed(first).await;
        let outcome = loop {
            if let Some(outcome) = self.outcome {
                break outcome;
            }
            let event = self.wait(&mut inbox).await;
            self.feed(event).await;
        };
        tracing::debug!(vm = %self.vm, run = %self.run, ?outcome, "vm task ended");
        Ended { vm: self.vm, outcome }
    }

    fn begin(&mut self, beginning: Beginning) -> Event {
        match beginning {
            Beginning::Start => Event::Start,
            Beginning::Adopt(Foundling { story, driver, handle, age, .. }) => {
                let traits = driver.capabilities().into();
                self.use_driver(driver);
                self.boot_age = age;
                if let Some(handle) = handle {
                    self.use_handle(handle);
                }
                match story {
                    Story::Past(past) => Event::Adopt(past, traits),
                    Story::Ended { booting, exit } => Event::FoundDead { booting, exit, traits },
                }
            }
        }
    }

    /// Waits for the next thing to happen.
    async fn wait(&mut self, inbox: &mut mpsc::UnboundedReceiver<Order>) -> Event {
        let deadline = self.machine.deadline();
        tokio::select! {
            biased;
            order = inbox.recv() => match order {
                Some(order) => self.obey(order),
                // The daemon is gone without a word: as if the process had ended here.
                None => std::future::pending().await,
            },
            exit = finished(&mut self.exit) => Event::Exited(exit),
            answer = finished(&mut self.effect) => self.take(answer),
            event = self.writer.next() => event,
            (monitor, news) = finished(&mut self.monitor) => {
                self.monitor = Some(monitor.next().boxed());
                match news {
                    News::Alive => Event::Alive,
                    News::Dead(text) => Event::Dead(text),
                }
            }
            () = sleep_until(deadline) => Event::Deadline,
        }
    }

    fn obey(&mut self, order: Order) -> Event {
        match order {
            Order::Stop => Event::Stop,
            Order::Kill => Event::Kill,
            Order::GuardLost => Event::GuardLost,
            Order::Alert(limits) => {
                self.alert = limits;
                Event::Alert
            }
            Order::Reconfigure => {
                if let Some(driver) = &self.driver {
                    self.machine.set_limits(vm_limits(&self.node.config.get(), driver.name()));
                }
                // Changes nothing by itself.
                Event::Written(super::vm_machine::Wrote::Record)
            }
        }
    }

    /// Keeps what an effect brought and tells the machine.
    fn take(&mut self, answer: Answer) -> Event {
        match answer {
            Answer::Done => Event::Done,
            Answer::Loaded(loaded) => {
                self.spec = loaded.spec;
                let traits = loaded.driver.capabilities().into();
                self.use_driver(loaded.driver);
                Event::Loaded(traits)
            }
            Answer::Permit(permit) => {
                self.permit = Some(permit);
                Event::Done
            }
            Answer::Launched(handle) => {
                self.use_handle(handle);
                Event::Done
            }
            Answer::Failed(failure) => {
                tracing::warn!(vm = %self.vm, phase = ?self.machine.phase(), error = %failure.text, "step failed");
                Event::Failed(failure)
            }
            Answer::HomeInUse(text) => {
                tracing::error!(
                    vm = %self.vm, phase = ?self.machine.phase(), error = %text,
                    "home in use: find out who holds its lock and why"
                );
                Event::HomeInUse(text)
            }
            Answer::GuardLost => Event::GuardLost,
        }
    }

    fn use_driver(&mut self, driver: Arc<dyn Hypervisor>) {
        self.machine.set_limits(vm_limits(&self.node.config.get(), driver.name()));
        self.driver = Some(driver);
    }

    fn use_handle(&mut self, handle: Arc<dyn RunningVm>) {
        let watched = Arc::clone(&handle);
        self.exit = Some(async move { watched.exited().await }.boxed());
        self.handle = Some(handle);
    }

    async fn feed(&mut self, event: Event) {
        let before = self.machine.phase();
        let actions = self.machine.step(event, now());
        let after = self.machine.phase();
        if before != after {
            tracing::debug!(vm = %self.vm, run = %self.run, from = ?before, to = ?after, "vm phase");
            self.phase.send_replace(after);
        }
        for action in actions {
            if action.is_effect() {
                self.node.reached(self.vm, &step_name(&action)).await;
            }
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Abandon => self.effect = None,
            Action::Load => {
                self.effect = Some(effects::load(Arc::clone(&self.node), self.vm, self.run).boxed());
            }
            Action::TakeStartPermit => {
                let (slots, user) = (self.node.slots.clone(), self.spec.user_id);
                self.effect = Some(async move { Answer::Permit(slots.start(user).await) }.boxed());
            }
            Action::TakeStopPermit => {
                let slots = self.node.slots.clone();
                self.effect = Some(async move { Answer::Permit(slots.stop().await) }.boxed());
            }
            Action::Prepare => {
                let (node, spec) = (Arc::clone(&self.node), self.spec.clone());
                self.with_driver(|driver| effects::prepare(node, driver, spec).boxed());
            }
            Action::RunHook(kind) => {
                let params = effects::hook_params(kind, &self.spec);
                self.effect = Some(effects::run_hook(Arc::clone(&self.node), kind, params).boxed());
            }
            Action::Launch => {
                let spec = self.spec.clone();
                self.with_driver(|driver| effects::launch(driver, spec).boxed());
            }
            Action::Poweroff => self.power_off(),
            Action::Terminate => {
                self.effect = Some(match self.handle.clone() {
                    Some(handle) => effects::terminate(handle).boxed(),
                    None => failed("nothing to ask"),
                });
            }
            Action::Kill { limit } => {
                let (node, handle, vm) = (Arc::clone(&self.node), self.handle.clone(), self.vm);
                self.with_driver(|driver| effects::kill(node, driver, handle, vm, limit).boxed());
            }
            Action::Cleanup => {
                let vm = self.vm;
                self.with_driver(|driver| effects::cleanup(driver, vm).boxed());
            }
            Action::KeepPermits => self.permit = Some(self.node.slots.keep()),
            Action::ReleaseStarting => {
                if let Some(permit) = &mut self.permit {
                    permit.release_starting();
                }
            }
            Action::ReleasePermits => self.permit = None,
            Action::StartMonitor(watch) => self.start_monitor(watch),
            Action::StopMonitor => self.monitor = None,
            Action::Alert => self.alert_user(),
            Action::CountAttempt => self.count(VmCounter::RunAttempts),
            Action::CountSuccess => self.count(VmCounter::RunOk),
            Action::Write(write) => {
                let endpoint = match (&write, &self.handle) {
                    (Write::Endpoint, Some(handle)) => Some(handle.endpoint()),
                    _ => None,
                };
                self.writer.push(write, endpoint);
            }
            Action::DropWrites => self.writer.clear(),
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    fn with_driver(&mut self, effect: impl FnOnce(Arc<dyn Hypervisor>) -> BoxFuture<'static, Answer>) {
        self.effect = Some(match self.driver.clone() {
            Some(driver) => effect(driver),
            None => failed("no driver was chosen"),
        });
    }

    fn power_off(&mut self) {
        let Some(handle) = &self.handle else {
            self.effect = Some(failed("nobody to ask"));
            return;
        };
        let config = self.node.config.get();
        let retries = u32::try_from(config.integer("internal.hkd.agent.rpc.retry.count")).unwrap_or(0);
        let pause = config.seconds("internal.hkd.agent.rpc.retry.delay");
        let agent = self.node.agent(&handle.endpoint());
        self.effect = Some(effects::poweroff(agent, retries, pause).boxed());
    }

    fn start_monitor(&mut self, watch: Watch) {
        // The boot of an adopted machine began under an earlier daemon; whatever is watched later begins now.
        let age = std::mem::take(&mut self.boot_age);
        self.monitor = self.handle.as_ref().map(|handle| {
            let limits = LivenessLimits::from_config(&self.node.config.get(), watch);
            AgentMonitor::new(self.node.agent(&handle.endpoint()), limits, age).next().boxed()
        });
    }

    /// Nobody waits for it: an agent that does not answer is the monitor's business.
    fn alert_user(&self) {
        if let Some(handle) = &self.handle {
            let (agent, limits, vm) = (self.node.agent(&handle.endpoint()), self.alert.clone(), self.vm);
            tokio::spawn(async move {
                if let Err(error) = agent.expire(&limits).await {
                    tracing::debug!(%vm, error = %qvd_core::error::chain(&error), "expiry not told");
                }
            });
        }
    }

    /// Nobody waits for it either; a lost count is not worth a delay.
    fn count(&self, counter: VmCounter) {
        let (db, vm) = (self.node.db.clone(), self.vm);
        tokio::spawn(async move {
            if let Err(error) = db.counters().vm(vm, counter).await {
                tracing::debug!(%vm, error = %qvd_core::error::chain(&error), "not counted");
            }
        });
    }
}

/// Waits for what is in flight; for ever when nothing is. What ended is taken out.
async fn finished<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = slot else { return std::future::pending().await };
    let value = future.await;
    *slot = None;
    value
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn failed(text: &str) -> BoxFuture<'static, Answer> {
    let failure = Failure::host(text);
    async move { Answer::Failed(failure) }.boxed()
}

fn step_name(action: &Action) -> String {
    let name = format!("{action:?}");
    name.split([' ', '{']).next().unwrap_or_default().to_owned()
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
