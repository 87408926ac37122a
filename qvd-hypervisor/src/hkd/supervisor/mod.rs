//! The shell around [`HostMachine`](super::host_machine): one loop that owns it, the tasks, and what is in flight.
//!
//! It waits for nothing but events: a query of the database, an inspection, a write are futures beside the loop.

mod expired;
mod looks;
mod tasks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use qvd_core::VmId;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::state::HostCommand;
use qvd_db::{Channel, Hint, Subscription};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};

use self::looks::{Looked, Looks};
use super::adopt::Inspection;
use super::error::{Error, Result};
use super::host_machine::{End, HostAction, HostEvent, HostMachine, Shutdown};
use super::lock::HkdLock;
use super::node::{LiveConfig, Node};
use super::reconcile::Findings;
use super::settings::{Control, HkdSettings, host_limits};
use super::sight::Sight;
use super::slots::Slots;
use super::start_up::{self, KnownHost, TakenOver};
use super::ticker::{Confirmation, Rhythm, tick_until_lost};
use super::usable::Usable;
use super::vm_task::{Beginning, Ended, Order, TaskHandle};

/// What an effect of the host machine brought.
enum Brought {
    Nothing,
    Lock(HkdLock),
    Host(Box<KnownHost>),
    TakenOver(TakenOver),
    /// Whether every driver told what it lacks.
    Drivers(bool),
    Inspection(Inspection),
}

type Effect = BoxFuture<'static, Result<Brought>>;
type Read<T> = std::result::Result<T, qvd_db::Error>;

/// What woke the loop.
enum Wake {
    Effect(Result<Brought>),
    Ended(Ended),
    Broken(JoinError),
    Lost(String),
    Looked(Looked),
    Hint(Hint),
    Control(Control),
    Shutdown(Shutdown),
    Deadline,
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
    /// What every task was told; waiting for the last one to end.
    draining: Option<Order>,
    /// Told to stop by their hard limit; whether to start them again.
    expired: HashMap<VmId, Arc<AtomicBool>>,

    /// A driver could not look the last time. Rows without a task wait until it can.
    blind: bool,
    /// Rows without a task are about to be looked into.
    orphaned: bool,
    /// An inspection that ended during a scan: what the scan accepts is no orphan, so it comes first.
    inspection: Option<Result<Inspection>>,

    subscription: Option<Subscription>,
    ticker: Option<BoxFuture<'static, String>>,
    looks: Looks,
    obeying: bool,
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
            draining: None,
            expired: HashMap::new(),
            blind: false,
            orphaned: false,
            inspection: None,
            subscription: None,
            ticker: None,
            looks: Looks::default(),
            obeying: false,
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
        tokio::select! {
            biased;
            outcome = finished(&mut self.effect) => Wake::Effect(outcome),
            reason = finished(&mut self.ticker) => Wake::Lost(reason),
            Some(ended) = self.running.join_next_with_id() => match ended {
                Ok((_, ended)) => Wake::Ended(ended),
                Err(error) => Wake::Broken(error),
            },
            looked = self.looks.next() => Wake::Looked(looked),
            hint = next_hint(&mut self.subscription) => Wake::Hint(hint),
            control = next_control(&mut self.controls) => Wake::Control(control),
            () = sleep_until(deadline) => Wake::Deadline,
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
            Wake::Looked(Looked::Rows(outcome)) => self.scanned(outcome),
            Wake::Looked(Looked::Limits(outcome)) => self.expire(outcome),
            Wake::Looked(Looked::Config(outcome)) => self.reloaded(outcome),
            Wake::Looked(Looked::Inspection(outcome)) => self.inspected(outcome),
            Wake::Looked(Looked::Drivers(outcome)) => self.drivers_checked(outcome),
            Wake::Looked(Looked::Journal(Ok(removed))) => tracing::debug!(removed, "journal tidied"),
            Wake::Looked(Looked::Journal(Err(error))) => {
                tracing::warn!(error = %chain(&error), "cannot remove what is too old from the journal");
            }
            Wake::Looked(Looked::Routers(Ok(0)) | Looked::Due) => {}
            Wake::Looked(Looked::Routers(Ok(sessions))) => {
                tracing::info!(sessions, "sessions of a dead router ended");
            }
            Wake::Looked(Looked::Routers(Err(error))) => {
                tracing::warn!(error = %chain(&error), "cannot end the sessions of dead routers");
            }
            Wake::Hint(hint) => self.hinted(hint),
            Wake::Control(Control::Reload) => self.looks.reload_at(now()),
            Wake::Control(Control::Report) => self.report(),
            Wake::Shutdown(how) | Wake::Control(Control::Shutdown(how)) => {
                tracing::info!(?how, "told to end");
                self.feed(HostEvent::Shutdown(how));
            }
            Wake::Deadline => self.feed(HostEvent::Deadline),
        }
        if let Some(node) = &self.node {
            let runs = self.tasks.iter().map(|(vm, (_, task))| (*vm, task.run));
            self.looks.begin_due(node, runs, now());
        }
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
                async move { start_up::publish(&node).await.map(Brought::Drivers) }.boxed()
            }),
            HostAction::Adopt => self.with_node(|node| {
                async move {
                    let inspection = looks::everything(&node, &HashMap::new()).await?;
                    if !inspection.blind.is_empty() {
                        // Before the row says `running`: nothing more is to be sent to them.
                        start_up::announce(&node).await?;
                    }
                    Ok(Brought::Inspection(inspection))
                }
                .boxed()
            }),
            HostAction::Save(state) => {
                self.with_node(move |node| {
                    async move { start_up::save_state(&node, state).await.map(|()| Brought::Nothing) }.boxed()
                });
            }
            HostAction::Obey => {
                self.obeying = true;
                self.looks.obey(now());
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(());
                }
            }
            HostAction::StopObeying => {
                self.obeying = false;
                self.expired.clear();
                self.looks.stop_obeying();
            }
            HostAction::StopVms => self.drain(&Order::Stop),
            HostAction::KillVms => {
                // A scan may have accepted starts, so it comes to its end; one that hangs holds up one round.
                match self.draining {
                    Some(Order::Kill) => self.drop_looks(),
                    _ => self.drop_inspection(),
                }
                self.drain(&Order::Kill);
            }
            HostAction::DisownVms => {
                self.drop_looks();
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
            Brought::Drivers(answered) => self.ask_again_unless(answered),
            Brought::Inspection(inspection) => {
                if !self.take_in(inspection) {
                    return self.feed(HostEvent::PartlyDone);
                }
            }
        }
        self.feed(HostEvent::Done);
    }

    /// Adopts what was found. Tells whether every driver could look; until then they are asked again and again.
    fn take_in(&mut self, inspection: Inspection) -> bool {
        let Inspection { foundlings, blind } = inspection;
        foundlings.into_iter().for_each(|found| self.adopt(found));
        for error in &blind {
            tracing::error!(%error, "what it may run stays as it is and is looked for again");
        }
        if !blind.is_empty() {
            self.looks.inspect_at(self.soon());
        }
        self.blind = !blind.is_empty();
        blind.is_empty()
    }

    /// When what failed is tried again.
    fn soon(&self) -> Instant {
        now() + host_limits(&self.config.get()).adopt_retry
    }

    fn ask_again_unless(&mut self, answered: bool) {
        if !answered {
            self.looks.check_at(self.soon());
        }
    }

    fn drivers_checked(&mut self, outcome: Result<bool>) {
        match outcome {
            Ok(answered) => self.ask_again_unless(answered),
            Err(Error::Lost { reason }) => self.on(Wake::Lost(reason)),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "drivers not published again");
                self.looks.check_at(self.soon());
            }
        }
    }

    fn inspected(&mut self, outcome: Result<Inspection>) {
        if self.looks.scans() {
            self.inspection = Some(outcome);
            return;
        }
        self.orphaned = false;
        let was_blind = self.blind;
        match outcome {
            Ok(inspection) => {
                if self.take_in(inspection) {
                    self.feed(HostEvent::Inspected);
                }
                // A stop may wait for what has a task only now.
                self.looks.scan_at(now());
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot tell what runs here");
                self.blind = true;
                self.looks.inspect_at(self.soon());
            }
        }
        if was_blind != self.blind {
            // A driver that can look again may work again as well; one that cannot any more gets nothing to run.
            self.looks.check_at(now());
        }
        self.tell_when_empty();
    }

    fn drop_inspection(&mut self) {
        self.looks.drop_inspection();
        (self.inspection, self.orphaned) = (None, false);
    }

    fn drop_looks(&mut self) {
        self.looks.drop_scan();
        self.drop_inspection();
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
            sight: Sight::default(),
            usable: Usable::default(),
            vma: settings.vma,
            hooks: settings.hooks,
            slots: Slots::new(heavy, starting),
            probe: settings.probe,
            config: Arc::clone(&self.config),
        }));
        self.looks.watch_routers(now());
        self.looks.tidy(now());
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

    fn hinted(&mut self, hint: Hint) {
        let at = now();
        match hint {
            Hint::Notified(Channel::ConfigChanged) => self.looks.reload_at(at),
            Hint::Notified(Channel::VmCommands(_) | Channel::HostCommands(_)) => self.looks.scan_at(at),
            Hint::Notified(Channel::UserCommands(_) | Channel::VmState) => {}
            Hint::Rescan => {
                self.looks.reload_at(at);
                self.looks.scan_at(at);
            }
        }
    }

    fn scanned(&mut self, outcome: Read<Findings>) {
        match outcome {
            Ok(findings) => self.obey(findings),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot read what is to be done");
                self.looks.scan_at(now() + self.config.get().seconds("internal.hkd.agent.config.delay"));
            }
        }
        if let Some(inspection) = self.inspection.take() {
            self.inspected(inspection);
        }
        self.tell_when_empty();
    }

    /// Tells the tasks what the rows want. Rows without a task are looked into beside, however long that takes.
    fn obey(&mut self, findings: Findings) {
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
        if !findings.orphans.is_empty() && !self.blind {
            self.orphaned = true;
            self.looks.inspect_at(now());
        }
        if findings.command == Some(HostCommand::Stop) {
            tracing::info!("told to stop by a command in the database");
            self.feed(HostEvent::Shutdown(Shutdown::Stop));
        }
    }

    fn reloaded(&mut self, outcome: Read<Vec<(String, String)>>) {
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot reload the configuration");
                let delay = self.config.get().seconds("internal.hkd.agent.config.delay");
                self.looks.reload_at(now() + delay);
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
}

fn slot_counts(config: &Config) -> (usize, usize) {
    let count = |key: &str| usize::try_from(config.integer(key)).unwrap_or(1);
    (count("internal.hkd.max_heavy"), count("hkd.vm.starting.max"))
}

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
