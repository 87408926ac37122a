//! The shell around [`HostMachine`](super::host_machine): one loop that owns it, the tasks, and what is in flight.
//!
//! It waits for nothing but events: a query of the database, an inspection, a write are futures beside the loop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::state::{HostCommand, UserState, VmState};
use qvd_core::{RunId, TenantId, VmId};
use qvd_db::{Channel, Claimant, Hint, Subscription};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};

use super::adopt::Foundling;
use super::error::{Error, Result};
use super::expiry::{self, Due};
use super::host_machine::{End, HostAction, HostEvent, HostMachine, Shutdown};
use super::lock::HkdLock;
use super::looks::{self, Scanned};
use super::node::{LiveConfig, Node};
use super::settings::{Control, HkdSettings, host_limits};
use super::slots::Slots;
use super::start_up::{self, KnownHost, TakenOver};
use super::ticker::{Confirmation, Rhythm, tick_until_lost};
use super::vm_machine::Outcome;
use super::vm_task::{self, Beginning, Ended, Order, TaskHandle};

/// What an effect of the host machine brought.
enum Brought {
    Nothing,
    Lock(HkdLock),
    Host(Box<KnownHost>),
    TakenOver(TakenOver),
    Foundlings(Vec<Foundling>),
}

type Effect = BoxFuture<'static, Result<Brought>>;
type Read<T> = std::result::Result<T, qvd_db::Error>;

/// What woke the loop.
enum Wake {
    Effect(Result<Brought>),
    Ended(Ended),
    Broken(JoinError),
    Lost(String),
    Scanned(Read<Scanned>),
    Expiry(Read<Vec<qvd_db::Expiring>>),
    Reloaded(Read<Vec<(String, String)>>),
    Buried(Read<usize>),
    Hint(Hint),
    Control(Control),
    Shutdown(Shutdown),
    Deadline,
    Timer,
}

/// The daemon while it lives.
pub(crate) struct Supervisor {
    machine: HostMachine,
    settings: Option<HkdSettings>,
    file_config: Config,
    config: Arc<LiveConfig>,
    controls: Option<mpsc::Receiver<Control>>,
    ready: Option<oneshot::Sender<()>>,
    lock: Option<HkdLock>,
    known: Option<KnownHost>,
    /// When the last confirmed sign of life before the ticker's was sent.
    confirmed: Option<Instant>,
    node: Option<Arc<Node>>,
    effect: Option<Effect>,
    failed: Option<Error>,
    end: Option<End>,

    tasks: HashMap<VmId, (Id, TaskHandle)>,
    running: JoinSet<Ended>,
    left: usize,
    /// Waiting for the last task to end.
    draining: bool,
    /// Told to stop by their hard limit; whether to start them again.
    expired: HashMap<VmId, Arc<AtomicBool>>,

    subscription: Option<Subscription>,
    ticker: Option<BoxFuture<'static, String>>,
    scan: Option<BoxFuture<'static, Read<Scanned>>>,
    expiry: Option<BoxFuture<'static, Read<Vec<qvd_db::Expiring>>>>,
    reload: Option<BoxFuture<'static, Read<Vec<(String, String)>>>>,
    burial: Option<BoxFuture<'static, Read<usize>>>,
    obeying: bool,
    scan_at: Option<Instant>,
    expiry_at: Option<Instant>,
    reload_at: Option<Instant>,
    burial_at: Option<Instant>,
    forgotten_at: Option<Instant>,
}

impl Supervisor {
    pub(crate) fn new(mut settings: HkdSettings) -> Self {
        let config = settings.config.clone();
        Self {
            machine: HostMachine::new(host_limits(&config)),
            controls: settings.controls.take(),
            ready: settings.ready.take(),
            settings: Some(settings),
            config: Arc::new(LiveConfig::new(config.clone())),
            file_config: config,
            lock: None,
            known: None,
            confirmed: None,
            node: None,
            effect: None,
            failed: None,
            end: None,
            tasks: HashMap::new(),
            running: JoinSet::new(),
            left: 0,
            draining: false,
            expired: HashMap::new(),
            subscription: None,
            ticker: None,
            scan: None,
            expiry: None,
            reload: None,
            burial: None,
            obeying: false,
            scan_at: None,
            expiry_at: None,
            reload_at: None,
            burial_at: None,
            forgotten_at: None,
        }
    }

    /// Lives until the end.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = Shutdown>) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown.fuse());
        self.feed(HostEvent::Begin);
        loop {
            if let Some(end) = self.end.take() {
                return self.finish(end);
            }
            let wake = tokio::select! {
                biased;
                how = &mut shutdown => Wake::Shutdown(how),
                wake = self.wait() => wake,
            };
            self.on(wake);
        }
    }

    fn finish(mut self, end: End) -> Result<()> {
        match end {
            End::Asked(how) => {
                tracing::info!(?how, "qvd-hkd ends");
                Ok(())
            }
            End::Failed(text) => Err(self.failed.take().unwrap_or(Error::Failed { text })),
            End::Lost(reason) => Err(Error::Lost { reason }),
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.machine.deadline();
        let timer = [self.scan_at, self.expiry_at, self.reload_at, self.burial_at, self.forgotten_at];
        let timer = timer.into_iter().flatten().min();
        tokio::select! {
            biased;
            outcome = finished(&mut self.effect) => Wake::Effect(outcome),
            reason = finished(&mut self.ticker) => Wake::Lost(reason),
            Some(ended) = self.running.join_next_with_id() => match ended {
                Ok((_, ended)) => Wake::Ended(ended),
                Err(error) => Wake::Broken(error),
            },
            outcome = finished(&mut self.scan) => Wake::Scanned(outcome),
            outcome = finished(&mut self.expiry) => Wake::Expiry(outcome),
            outcome = finished(&mut self.reload) => Wake::Reloaded(outcome),
            outcome = finished(&mut self.burial) => Wake::Buried(outcome),
            hint = next_hint(&mut self.subscription) => Wake::Hint(hint),
            control = next_control(&mut self.controls) => Wake::Control(control),
            () = sleep_until(deadline) => Wake::Deadline,
            () = sleep_until(timer) => Wake::Timer,
        }
    }

    fn on(&mut self, wake: Wake) {
        match wake {
            Wake::Effect(Ok(brought)) => self.keep(brought),
            Wake::Effect(Err(Error::Lost { reason })) => self.on(Wake::Lost(reason)),
            Wake::Effect(Err(error)) => {
                let text = chain(&error).to_string();
                tracing::error!(error = %text, phase = ?self.machine.phase(), "host step failed");
                self.failed = Some(error);
                self.feed(HostEvent::Failed(text));
            }
            Wake::Ended(ended) => self.task_ended(ended),
            Wake::Broken(error) => self.task_broke(&error),
            Wake::Lost(reason) => {
                tracing::error!(%reason, "this host was taken away: killing what runs here");
                self.feed(HostEvent::Lost(reason));
            }
            Wake::Scanned(outcome) => self.scanned(outcome),
            Wake::Expiry(outcome) => self.expire(outcome),
            Wake::Reloaded(outcome) => self.reloaded(outcome),
            Wake::Buried(outcome) => match outcome {
                Ok(0) => {}
                Ok(sessions) => tracing::info!(sessions, "sessions of a dead router ended"),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot end the sessions of dead routers")
                }
            },
            Wake::Hint(hint) => self.hinted(hint),
            Wake::Control(Control::Reload) => self.reload_at = Some(now()),
            Wake::Control(Control::Report) => self.report(),
            Wake::Shutdown(how) => {
                tracing::info!(?how, "told to end");
                self.feed(HostEvent::Shutdown(how));
            }
            Wake::Deadline => self.feed(HostEvent::Deadline),
            Wake::Timer => {}
        }
        self.begin_what_is_due();
    }

    fn feed(&mut self, event: HostEvent) {
        let before = self.machine.phase();
        let actions = self.machine.step(event, now());
        let after = self.machine.phase();
        if before != after {
            tracing::info!(from = ?before, to = ?after, "host phase");
        }
        for action in actions {
            self.perform(action);
        }
        self.tell_when_empty();
    }

    fn perform(&mut self, action: HostAction) {
        match action {
            HostAction::Abandon => self.effect = None,
            HostAction::Lock => {
                let path = self.file_config.path("internal.hkd.lock.path");
                self.effect = Some(async move { HkdLock::take(&path).map(Brought::Lock) }.boxed());
            }
            HostAction::LoadHost => self.load_host(),
            HostAction::TakeOver => self.take_over(),
            HostAction::StartTicker => self.start_ticker(),
            HostAction::CheckDrivers => self.with_node(|node| {
                async move { start_up::publish(&node).await.map(|()| Brought::Nothing) }.boxed()
            }),
            HostAction::Adopt => self.with_node(|node| {
                async move { looks::everything(&node).await.map(Brought::Foundlings) }.boxed()
            }),
            HostAction::Save(state) => {
                self.with_node(move |node| {
                    async move { start_up::save_state(&node, state).await.map(|()| Brought::Nothing) }.boxed()
                });
            }
            HostAction::Obey => {
                self.obeying = true;
                self.scan_at = Some(now());
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(());
                }
            }
            HostAction::StopObeying => {
                self.obeying = false;
                self.expired.clear();
                (self.scan_at, self.expiry_at) = (None, None);
            }
            HostAction::StopVms => self.drain(&Order::Stop),
            HostAction::KillVms => {
                // A query that hangs holds up nobody any more.
                self.scan = None;
                self.drain(&Order::Kill);
            }
            HostAction::DisownVms => {
                self.scan = None;
                self.drain(&Order::GuardLost);
            }
            HostAction::DetachVms => {
                self.running.abort_all();
                self.tasks.clear();
            }
            HostAction::Finish(end) => {
                (self.ticker, self.subscription) = (None, None);
                self.end = Some(end);
            }
        }
    }

    fn with_node(&mut self, effect: impl FnOnce(Arc<Node>) -> Effect) {
        self.effect = Some(match &self.node {
            Some(node) => effect(Arc::clone(node)),
            None => async { Err(Error::Failed { text: "the host was not taken over".to_owned() }) }.boxed(),
        });
    }

    /// Keeps what an effect brought and tells the machine that it is done.
    fn keep(&mut self, brought: Brought) {
        match brought {
            Brought::Nothing => {}
            Brought::Lock(lock) => self.lock = Some(lock),
            Brought::Host(host) => self.known = Some(*host),
            Brought::TakenOver(taken) => self.settle_in(taken),
            Brought::Foundlings(foundlings) => foundlings.into_iter().for_each(|found| self.adopt(found)),
        }
        self.feed(HostEvent::Done);
    }

    fn load_host(&mut self) {
        let Some(settings) = &self.settings else { return };
        let (db, config, name) = (settings.db.clone(), settings.config.clone(), settings.node_name.clone());
        let host = async move { start_up::load_host(&db, config, &name).await };
        self.effect = Some(host.map(|host| host.map(|host| Brought::Host(Box::new(host)))).boxed());
    }

    fn take_over(&mut self) {
        let (Some(settings), Some(lock), Some(known)) = (&self.settings, &self.lock, &self.known) else {
            return;
        };
        let (db, host, run_token) = (settings.db.clone(), known.id, lock.run_token());
        let rhythm = Rhythm::from_config(&known.config);
        let taken = async move { start_up::take_over(&db, host, run_token, rhythm).await };
        self.effect = Some(taken.map(|taken| taken.map(Brought::TakenOver)).boxed());
    }

    fn settle_in(&mut self, taken: TakenOver) {
        let (Some(settings), Some(known)) = (self.settings.take(), self.known.take()) else { return };
        let (host, incarnation, config) = (known.id, taken.incarnation, known.config);
        self.confirmed = Some(taken.sent);
        tracing::info!(name = %settings.node_name, %host, incarnation, "host taken over");
        let (heavy, starting) = slot_counts(&config);
        self.machine.set_limits(host_limits(&config));
        self.config.set(config);
        self.subscription = Some(settings.db.subscribe(&[
            Channel::VmCommands(host),
            Channel::HostCommands(host),
            Channel::ConfigChanged,
        ]));
        self.node = Some(Arc::new(Node {
            db: settings.db,
            host,
            incarnation,
            drivers: settings.hypervisors,
            vma: settings.vma,
            hooks: settings.hooks,
            slots: Slots::new(heavy, starting),
            probe: settings.probe,
            config: Arc::clone(&self.config),
        }));
        (self.burial_at, self.forgotten_at) = (Some(now()), Some(now()));
    }

    fn start_ticker(&mut self) {
        let Some(node) = self.node.clone() else { return };
        let (db, host, incarnation) = (node.db.clone(), node.host, node.incarnation);
        let config = Arc::clone(&self.config);
        let confirmation = Confirmation::new(self.confirmed.unwrap_or_else(now));
        let task = tokio::spawn(tick_until_lost(
            db,
            host,
            incarnation,
            confirmation,
            move || Rhythm::from_config(&config.get()),
            move || start_up::load(&node.slots),
        ));
        self.ticker = Some(start_up::AbortOnDrop::new(task).boxed());
    }

    fn adopt(&mut self, found: Foundling) {
        let Foundling { vm, run, past, driver, handle } = found;
        tracing::info!(%vm, %run, ?past, driver = driver.name(), "found");
        self.begin(vm, run, Beginning::Adopt { past, driver, handle });
    }

    fn begin(&mut self, vm: VmId, run: RunId, beginning: Beginning) {
        let Some(node) = self.node.clone() else { return };
        if self.tasks.contains_key(&vm) {
            return;
        }
        let (handle, task) = vm_task::task(node, vm, run, beginning);
        let id = self.running.spawn(task).id();
        self.tasks.insert(vm, (id, handle));
    }

    fn task_ended(&mut self, ended: Ended) {
        let Ended { vm, outcome } = ended;
        self.tasks.remove(&vm);
        self.left += usize::from(outcome == Outcome::Left);
        let again = self.expired.remove(&vm).is_some_and(|again| again.load(Ordering::Relaxed));
        if again && outcome == Outcome::Stopped {
            self.start_again(vm);
        }
        // A start may have waited for this end, and a row for another look.
        if self.obeying {
            self.scan_at = Some(now());
        }
        self.tell_when_empty();
    }

    /// A bug ended a task. Its row still tells, so the next scan finds an orphan and looks into it.
    fn task_broke(&mut self, error: &JoinError) {
        let Some(vm) = self.tasks.iter().find(|(_, (id, _))| *id == error.id()).map(|(vm, _)| *vm) else {
            return;
        };
        tracing::error!(%vm, %error, "the task of this VM broke");
        self.task_ended(Ended { vm, outcome: Outcome::Left });
    }

    /// After a hard limit: claimed like any other start, so every rule of claims holds.
    fn start_again(&self, vm: VmId) {
        let Some(node) = self.node.clone() else { return };
        tokio::spawn(async move {
            match node.db.vms().claim(vm, node.host, Claimant::Router).await {
                Ok(outcome) if outcome.is_updated() => tracing::info!(%vm, "expired VM starts again"),
                Ok(_) => tracing::info!(%vm, "expired VM stays stopped: it cannot be started here"),
                Err(error) => tracing::warn!(%vm, error = %chain(&error), "expired VM stays stopped"),
            }
        });
    }

    fn drain(&mut self, order: &Order) {
        self.draining = true;
        self.tasks.values().for_each(|(_, task)| task.tell(order.clone()));
    }

    fn tell_when_empty(&mut self) {
        if self.draining && self.tasks.is_empty() && self.end.is_none() && self.scan.is_none() {
            self.draining = false;
            self.feed(HostEvent::Empty { left: self.left });
        }
    }

    fn hinted(&mut self, hint: Hint) {
        let at = now();
        match hint {
            Hint::Notified(Channel::ConfigChanged) => self.reload_at = Some(at),
            Hint::Notified(Channel::VmCommands(_)) => self.look_again(at),
            Hint::Notified(Channel::HostCommands(_)) => self.scan_at = Some(at),
            Hint::Notified(Channel::UserCommands(_) | Channel::VmState) => {}
            Hint::Rescan => {
                self.reload_at = Some(at);
                self.look_again(at);
            }
        }
    }

    fn look_again(&mut self, at: Instant) {
        (self.scan_at, self.expiry_at) = (Some(at), Some(at));
    }

    /// Begins each look whose time has come, unless it is going on already.
    fn begin_what_is_due(&mut self) {
        let Some(node) = self.node.clone() else { return };
        let at = now();
        let config = self.config.get();
        let due = |time: &Option<Instant>| time.is_some_and(|time| time <= at);
        if !self.obeying {
            (self.scan_at, self.expiry_at) = (None, None);
        }
        if due(&self.scan_at) && self.scan.is_none() {
            self.scan_at = Some(at + config.seconds("internal.hkd.agent.vm_command_handler.delay"));
            self.scan = Some(looks::scan(Arc::clone(&node), self.runs()).boxed());
        }
        if due(&self.expiry_at) && self.expiry.is_none() {
            self.expiry_at = Some(at + config.seconds("internal.hkd.agent.expiration_monitor.delay"));
            let node = Arc::clone(&node);
            self.expiry = Some(async move { node.db.vms().expiring(node.host).await }.boxed());
        }
        if due(&self.reload_at) && self.reload.is_none() {
            self.reload_at = None;
            let node = Arc::clone(&node);
            self.reload = Some(async move { node.db.config().load(TenantId::DEFAULT).await }.boxed());
        }
        if due(&self.burial_at) && self.burial.is_none() {
            let forgotten = due(&self.forgotten_at);
            if forgotten {
                self.forgotten_at = Some(at + config.seconds("internal.hkd.agent.l7rmonitor.delay"));
            }
            self.burial_at = Some(at + BURIAL);
            let dir = config.path("path.run").join("l7r");
            self.burial = Some(looks::bury(node, dir, forgotten).boxed());
        }
    }

    fn runs(&self) -> HashMap<VmId, RunId> {
        self.tasks.iter().map(|(vm, (_, task))| (*vm, task.run)).collect()
    }

    fn scanned(&mut self, outcome: Read<Scanned>) {
        let Scanned { findings, foundlings } = match outcome {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot read what is to be done");
                if self.obeying {
                    self.scan_at = Some(now() + self.config.get().seconds("internal.hkd.agent.config.delay"));
                }
                self.tell_when_empty();
                return;
            }
        };
        for (vm, run) in findings.starts {
            self.begin(vm, run, Beginning::Start);
            // Accepted a moment before the node was told to end: it becomes a stop.
            if let (false, Some((_, task))) = (self.obeying, self.tasks.get(&vm)) {
                task.tell(Order::Stop);
            }
        }
        let tell = |vms: Vec<VmId>, order: Order| {
            vms.iter().filter_map(|vm| self.tasks.get(vm)).for_each(|(_, task)| task.tell(order.clone()));
        };
        tell(findings.stops, Order::Stop);
        tell(findings.disowned, Order::GuardLost);
        let adopted = !foundlings.is_empty();
        foundlings.into_iter().for_each(|found| self.adopt(found));
        if adopted && self.obeying {
            // A stop may wait for what has a task only now.
            self.scan_at = Some(now());
        }
        if findings.command == Some(HostCommand::Stop) {
            tracing::info!("told to stop by a command in the database");
            self.feed(HostEvent::Shutdown(Shutdown::Stop));
        }
        self.tell_when_empty();
    }

    fn expire(&mut self, outcome: Read<Vec<qvd_db::Expiring>>) {
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for expired VMs");
                return;
            }
        };
        let period = self.config.get().seconds("internal.hkd.agent.expiration_monitor.delay");
        for due in expiry::due(&rows, period) {
            match due {
                Due::Stop(vm) => self.stop_expired(vm),
                Due::Alert(vm, limits) => self.alert(vm, limits),
            }
        }
        if self.obeying {
            self.expiry_at = Some(now() + expiry::next_look(&rows, period));
        }
    }

    /// Whether it starts again is decided by who is connected at this moment, so that is read before the stop.
    fn stop_expired(&mut self, vm: VmId) {
        let (Some((_, task)), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
        if self.expired.contains_key(&vm) {
            return;
        }
        tracing::info!(%vm, "hard limit passed: stopping");
        let restart = Arc::new(AtomicBool::new(false));
        self.expired.insert(vm, Arc::clone(&restart));
        let policy = self.config.get().text("vm.expiration.hard.restart");
        let stopper = task.orders();
        tokio::spawn(async move {
            let again = match policy.as_str() {
                "never" => false,
                "always" => true,
                _ => {
                    let row = node.db.vms().runtime(vm).await.ok().flatten();
                    row.is_some_and(|row| row.user_state != UserState::Disconnected)
                }
            };
            restart.store(again, Ordering::Relaxed);
            let _ = stopper.send(Order::Stop);
        });
    }

    fn alert(&self, vm: VmId, limits: qvd_core::vma::Params) {
        let (Some((_, task)), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
        task.tell(Order::Alert(limits));
        let run = task.run;
        tokio::spawn(async move {
            if let Err(error) = node.db.vms().record_alert(vm, node.host, run).await {
                tracing::debug!(%vm, error = %chain(&error), "alert not recorded");
            }
        });
    }

    fn reloaded(&mut self, outcome: Read<Vec<(String, String)>>) {
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot reload the configuration");
                let delay = self.config.get().seconds("internal.hkd.agent.config.delay");
                self.reload_at = Some(now() + delay);
                return;
            }
        };
        let before = self.config.get();
        let (config, problems) = before.with_database(rows);
        for problem in problems {
            tracing::error!(%problem, "database configuration: the previous value stays");
        }
        let changed = config.changed_keys(&before);
        if changed.is_empty() {
            return;
        }
        tracing::info!(keys = changed.join(" "), "configuration reloaded");
        let (heavy, starting) = slot_counts(&config);
        self.machine.set_limits(host_limits(&config));
        self.config.set(config);
        if let Some(node) = &self.node {
            node.slots.resize(heavy, starting);
        }
        self.tasks.values().for_each(|(_, task)| task.tell(Order::Reconfigure));
    }

    fn report(&self) {
        let count =
            |state: VmState| self.tasks.values().filter(|(_, task)| task.phase().vm_state() == state).count();
        let counts: Vec<_> = VmState::ALL.iter().map(|state| format!("{state}={}", count(*state))).collect();
        let usage = self.node.as_ref().map(|node| node.slots.usage()).unwrap_or_default();
        tracing::info!(host = ?self.machine.phase(), vms = counts.join(" "), slots = ?usage, "report");
    }
}

fn slot_counts(config: &Config) -> (usize, usize) {
    let count = |key: &str| usize::try_from(config.integer(key)).unwrap_or(1);
    (count("internal.hkd.max_heavy"), count("hkd.vm.starting.max"))
}

/// Between two looks at the locks of this node's routers; touches the database only when one died.
const BURIAL: Duration = Duration::from_secs(1);

async fn finished<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = slot else { return std::future::pending().await };
    let value = future.await;
    *slot = None;
    value
}

async fn next_hint(subscription: &mut Option<Subscription>) -> Hint {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

async fn next_control(controls: &mut Option<mpsc::Receiver<Control>>) -> Control {
    match controls {
        Some(receiver) => match receiver.recv().await {
            Some(control) => control,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
