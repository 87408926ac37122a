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
use qvd_core::{HostId, TenantId, VmId};
use qvd_db::{Channel, Claimant, Hint, Subscription};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::adopt::{self, Foundling};
use super::error::{Error, Result};
use super::expiry::{self, Due};
use super::host_machine::{End, HostAction, HostEvent, HostMachine, Shutdown};
use super::lock::HkdLock;
use super::node::{LiveConfig, Node};
use super::reconcile::{self, Findings};
use super::routers;
use super::settings::{Control, HkdSettings, host_limits};
use super::slots::Slots;
use super::start_up::{self, Prepared};
use super::ticker::{Confirmation, Rhythm, tick_until_lost};
use super::vm_machine::Outcome;
use super::vm_task::{self, Beginning, Ended, Order, TaskHandle};

/// What an effect of the host machine brought.
enum Brought {
    Nothing,
    Lock(HkdLock),
    Prepared(Box<Prepared>),
    Foundlings(Vec<Foundling>),
}

type Effect = BoxFuture<'static, std::result::Result<Brought, Error>>;

/// What woke the loop.
enum Wake {
    Effect(std::result::Result<Brought, Error>),
    Ended(Ended),
    Lost(String),
    Scanned(std::result::Result<(Findings, Vec<Foundling>), String>),
    Expiry(std::result::Result<Vec<qvd_db::Expiring>, qvd_db::Error>),
    Reloaded(std::result::Result<Vec<(String, String)>, qvd_db::Error>),
    Buried(std::result::Result<Vec<VmId>, qvd_db::Error>),
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
    node: Option<Arc<Node>>,
    effect: Option<Effect>,
    failed: Option<Error>,
    end: Option<End>,

    tasks: HashMap<VmId, TaskHandle>,
    running: JoinSet<Ended>,
    left: usize,
    /// Waiting for the last task to end.
    draining: bool,
    /// Told to stop by their hard limit; whether to start them again.
    expired: HashMap<VmId, Arc<AtomicBool>>,

    subscription: Option<Subscription>,
    ticker: Option<BoxFuture<'static, String>>,
    scan: Option<BoxFuture<'static, std::result::Result<(Findings, Vec<Foundling>), String>>>,
    expiry: Option<BoxFuture<'static, std::result::Result<Vec<qvd_db::Expiring>, qvd_db::Error>>>,
    reload: Option<BoxFuture<'static, std::result::Result<Vec<(String, String)>, qvd_db::Error>>>,
    burial: Option<BoxFuture<'static, std::result::Result<Vec<VmId>, qvd_db::Error>>>,
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
            Some(ended) = self.running.join_next() => match ended {
                Ok(ended) => Wake::Ended(ended),
                // Aborted by us, or a bug that has printed itself; the row tells and is looked into.
                Err(_) => Wake::Timer,
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
            Wake::Effect(Err(error)) => {
                let text = chain(&error).to_string();
                tracing::error!(error = %text, phase = ?self.machine.phase(), "host step failed");
                self.failed = Some(error);
                self.feed(HostEvent::Failed(text));
            }
            Wake::Ended(ended) => self.task_ended(ended),
            Wake::Lost(reason) => {
                tracing::error!(%reason, "this host was taken away: killing what runs here");
                self.feed(HostEvent::Lost(reason));
            }
            Wake::Scanned(outcome) => self.scanned(outcome),
            Wake::Expiry(outcome) => self.expire(outcome),
            Wake::Reloaded(outcome) => self.reloaded(outcome),
            Wake::Buried(outcome) => match outcome {
                Ok(vms) if vms.is_empty() => {}
                Ok(vms) => tracing::info!(sessions = vms.len(), "sessions of a dead router ended"),
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
            HostAction::LoadHost => {
                // Read together with the take-over, which is the next step; nothing is written before it.
                self.effect = Some(async { Ok(Brought::Nothing) }.boxed());
            }
            HostAction::TakeOver => self.take_over(),
            HostAction::StartTicker => self.start_ticker(),
            HostAction::CheckDrivers => self.with_node(|node| {
                async move { start_up::publish(&node).await.map(|()| Brought::Nothing) }.boxed()
            }),
            HostAction::Adopt => self.with_node(|node| async move { adopt_all(&node).await }.boxed()),
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
            HostAction::KillVms => self.drain(&Order::Kill),
            HostAction::DisownVms => self.drain(&Order::GuardLost),
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
            Brought::Prepared(prepared) => self.settle_in(*prepared),
            Brought::Foundlings(foundlings) => foundlings.into_iter().for_each(|found| self.adopt(found)),
        }
        self.feed(HostEvent::Done);
    }

    fn take_over(&mut self) {
        let (Some(settings), Some(lock)) = (&self.settings, &self.lock) else { return };
        let (db, config, name) = (settings.db.clone(), settings.config.clone(), settings.node_name.clone());
        let run_token = lock.run_token();
        let prepared = async move { start_up::take_over(db, config, &name, run_token).await };
        self.effect = Some(prepared.map(|p| p.map(|p| Brought::Prepared(Box::new(p)))).boxed());
    }

    fn settle_in(&mut self, prepared: Prepared) {
        let Some(settings) = self.settings.take() else { return };
        let Prepared { host, incarnation, config } = prepared;
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
        let confirmation = Confirmation::new(now());
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

    fn begin(&mut self, vm: VmId, run: qvd_core::RunId, beginning: Beginning) {
        let Some(node) = self.node.clone() else { return };
        if self.tasks.contains_key(&vm) {
            return;
        }
        let (handle, task) = vm_task::task(node, vm, run, beginning);
        self.tasks.insert(vm, handle);
        self.running.spawn(task);
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
        self.tasks.values().for_each(|task| task.tell(order.clone()));
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
            self.scan = Some(scan(Arc::clone(&node), self.runs()).boxed());
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
            self.burial = Some(bury(node, dir, forgotten).boxed());
        }
    }

    fn runs(&self) -> HashMap<VmId, qvd_core::RunId> {
        self.tasks.iter().map(|(vm, task)| (*vm, task.run)).collect()
    }

    fn scanned(&mut self, outcome: std::result::Result<(Findings, Vec<Foundling>), String>) {
        let (findings, foundlings) = match outcome {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot read what is to be done");
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
            if let (false, Some(task)) = (self.obeying, self.tasks.get(&vm)) {
                task.tell(Order::Stop);
            }
        }
        let tell = |vms: Vec<VmId>, order: Order| {
            vms.iter().filter_map(|vm| self.tasks.get(vm)).for_each(|task| task.tell(order.clone()));
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

    fn expire(&mut self, outcome: std::result::Result<Vec<qvd_db::Expiring>, qvd_db::Error>) {
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
        let (Some(task), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
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
        let (Some(task), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
        task.tell(Order::Alert(limits));
        let run = task.run;
        tokio::spawn(async move {
            if let Err(error) = node.db.vms().record_alert(vm, node.host, run).await {
                tracing::debug!(%vm, error = %chain(&error), "alert not recorded");
            }
        });
    }

    fn reloaded(&mut self, outcome: std::result::Result<Vec<(String, String)>, qvd_db::Error>) {
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
        self.tasks.values().for_each(|task| task.tell(Order::Reconfigure));
    }

    fn report(&self) {
        let count =
            |state: VmState| self.tasks.values().filter(|task| task.phase().vm_state() == state).count();
        let counts: Vec<_> = VmState::ALL.iter().map(|state| format!("{state}={}", count(*state))).collect();
        let usage = self.node.as_ref().map(|node| node.slots.usage()).unwrap_or_default();
        tracing::info!(host = ?self.machine.phase(), vms = counts.join(" "), slots = ?usage, "report");
    }
}

fn slot_counts(config: &Config) -> (usize, usize) {
    let count = |key: &str| usize::try_from(config.integer(key)).unwrap_or(1);
    (count("internal.hkd.max_heavy"), count("hkd.vm.starting.max"))
}

/// Everything that runs here or that a row tells of, at start-up.
async fn adopt_all(node: &Node) -> Result<Brought> {
    let rows = node.db.vms().of_host(node.host).await;
    let rows = rows.map_err(|source| Error::Database { operation: "list the VMs of this host", source })?;
    let found = adopt::inspect(node, &rows, &HashMap::new()).await;
    found.map(Brought::Foundlings).map_err(|text| Error::Failed { text })
}

/// One scan; rows without a task are looked into at once.
async fn scan(
    node: Arc<Node>,
    runs: HashMap<VmId, qvd_core::RunId>,
) -> std::result::Result<(Findings, Vec<Foundling>), String> {
    let findings = reconcile::scan(&node.db, node.host, node.incarnation, &runs).await;
    let mut findings = findings.map_err(|error| chain(&error).to_string())?;
    if findings.orphans.is_empty() {
        return Ok((findings, Vec::new()));
    }
    let orphans = std::mem::take(&mut findings.orphans);
    let mut busy = runs;
    busy.extend(findings.starts.iter().copied());
    match adopt::inspect(&node, &orphans, &busy).await {
        Ok(foundlings) => Ok((findings, foundlings)),
        Err(error) => {
            // What was accepted must not be lost; the rows stay and are found again.
            tracing::warn!(%error, "cannot look into VMs without a task");
            Ok((findings, Vec::new()))
        }
    }
}

async fn bury(
    node: Arc<Node>,
    dir: std::path::PathBuf,
    forgotten: bool,
) -> std::result::Result<Vec<VmId>, qvd_db::Error> {
    let host: HostId = node.host;
    let mut freed = routers::bury_dead(&node.db, host, &dir).await?;
    if forgotten {
        freed.extend(routers::bury_forgotten(&node.db, host, &dir).await?);
    }
    Ok(freed)
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
