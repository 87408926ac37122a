//! The shell of the connect machine: performs its actions against the database, the agent and the desktop, and
//! reports what came of them, until the desktop is connected or the client is refused.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qvd_core::auth::Identity;
use qvd_core::error::chain;
use qvd_core::hypervisor::Endpoint;
use qvd_core::model::{Vm, VmRuntime};
use qvd_core::state::VmState;
use qvd_core::vma::{Params, Vma, VmaError};
use qvd_core::{HostId, Secret, SessionId, UserId};
use qvd_db::{Channel as Wire, HostCounter};
use qvd_vma::client::VmaClient;

use crate::broker::{Action, Event, Failure, Limits, Machine, Refusal};
use crate::front::{Channel, Reply};
use crate::progress::Reason;
use crate::random;
use crate::session::Session;
use crate::sessions::{Order, Ticket};
use crate::shared::Shared;
use crate::stream::{ClientStream, DesktopStream};
use crate::{place, progress, takeover};

/// A connect request whose checks have passed.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) vm: Vm,
    pub(crate) row: VmRuntime,
    pub(crate) identity: Identity,
    pub(crate) user: UserId,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) router: HostId,
    pub(crate) peer: SocketAddr,
}

/// The session, unless the connect was refused; then the connection is closed.
pub(crate) async fn bring_up(
    shared: Arc<Shared>,
    channel: Channel<ClientStream>,
    request: Connect,
) -> Option<Session> {
    let (session, slave_key) = match (random::bytes(), random::slave_key()) {
        (Ok(bytes), Ok(key)) => (SessionId::from_random(bytes), key),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("{error}");
            channel.answer_last(&Reply::Internal).await;
            return None;
        }
    };
    let ticket = shared.sessions.enter(request.vm.id, session);
    let limits = Limits::from_config(&shared.config());
    let shell = Shell {
        machine: Machine::new(request.vm.id, session, limits),
        row: request.row.clone(),
        dial_limit: limits.x_start,
        shared,
        channel,
        request,
        slave_key,
        ticket,
        begun: Instant::now(),
        desktop: None,
        effect: None,
        effect_writes: false,
        dialled: Arc::default(),
        client_lost: false,
        switched: false,
    };
    shell.run().await
}

/// What an effect brings back.
enum Outcome {
    Event(Event),
    Dialled(DesktopStream),
}

type Effect = Pin<Box<dyn Future<Output = Outcome> + Send>>;

struct Shell {
    machine: Machine,
    shared: Arc<Shared>,
    channel: Channel<ClientStream>,
    request: Connect,
    /// The row as last seen.
    row: VmRuntime,
    slave_key: Secret<String>,
    ticket: Ticket,
    dial_limit: Duration,
    begun: Instant,
    desktop: Option<DesktopStream>,
    effect: Option<Effect>,
    /// The effect may change the row even when it is dropped.
    effect_writes: bool,
    /// The effect is a dial that began, and may have reached the desktop.
    dialled: Arc<AtomicBool>,
    /// A write to the client failed; reported as the next event.
    client_lost: bool,
    /// The client was sent the 101; reported as the next event.
    switched: bool,
}

impl Shell {
    async fn run(mut self) -> Option<Session> {
        self.shared.metrics.connects_total.add(1);
        let vm = self.request.vm.id;
        let mut changes = self.shared.db.subscribe(&[Wire::VmState]).only_vm(vm);
        let mut event = match self.ticket.order() {
            Some(order) => order.into(),
            None => Event::Begin,
        };
        loop {
            for action in self.machine.step(event, Instant::now()) {
                self.perform(action).await;
            }
            if self.machine.is_over() {
                self.close().await;
                return None;
            }
            if self.machine.is_forwarding() {
                return self.into_session().await;
            }
            event = self.next_event(&mut changes).await;
        }
    }

    /// Waits for the next event; orders and the client's end come first.
    async fn next_event(&mut self, changes: &mut qvd_db::Subscription) -> Event {
        if std::mem::take(&mut self.client_lost) {
            return Event::ClientGone;
        }
        // A client that has the 101 has a session, however soon it leaves, and an order then ends that.
        if std::mem::take(&mut self.switched) {
            return Event::Switched;
        }
        let deadline = self.machine.deadline();
        let effect = async {
            match self.effect.as_mut() {
                Some(effect) => effect.await,
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            order = self.ticket.ordered() => return order.into(),
            () = self.channel.closed() => return Event::ClientGone,
            outcome = effect => outcome,
            _ = changes.next() => return Event::Woken,
            () = timer => return Event::Deadline,
        };
        self.effect = None;
        self.effect_writes = false;
        self.dialled = Arc::default();
        match outcome {
            Outcome::Dialled(stream) => {
                self.desktop = Some(stream);
                Event::Dialled
            }
            Outcome::Event(event) => {
                if let Event::Acquired(row) | Event::Claimed(row) | Event::Row(row) = &event {
                    self.row = (**row).clone();
                }
                event
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        let vm = self.request.vm.id;
        match action {
            Action::Tell(step) => {
                tracing::info!(vm = %vm, session = %self.ticket.id(), "{}", step.text(vm));
                self.client_lost |= self.channel.tell(step, vm).await.is_err();
            }
            Action::TellFailure(words) => {
                let text = progress::last_failure(&words);
                tracing::info!(vm = %vm, session = %self.ticket.id(), "{text}");
                self.client_lost |= self.channel.remark(&text).await.is_err();
            }
            Action::CountNxAttempt => {
                self.shared.counters.count(self.request.router, HostCounter::NxAttempts)
            }
            Action::CountNxOk => self.shared.counters.count(self.request.router, HostCounter::NxOk),
            Action::Refuse(refusal) => self.refuse(refusal).await,
            Action::Abandon => self.log_failure("client gone"),
            Action::CallOff => self.call_off().await,
            Action::Acquire => {
                self.ticket.owes();
                let event = takeover::acquire(self.shared.db.clone(), self.claimed());
                self.write(event);
            }
            Action::AskAbort(other) => self.write(takeover::ask_abort(self.shared.db.clone(), vm, other)),
            Action::RunHook => {
                let (shared, identity) = (self.shared.clone(), self.request.identity.clone());
                self.ask(async move {
                    match shared.chain.before_connect(&identity, vm).await {
                        Ok(()) => Event::HookPassed,
                        Err(error) => {
                            tracing::error!(vm = %vm, "connect refused: {}", chain(&error));
                            Event::Failed(Failure::Hook)
                        }
                    }
                });
            }
            Action::Claim => {
                let (db, balancer) = (self.shared.db.clone(), self.shared.balancer());
                self.write(place::claim(db, balancer, self.request.vm.clone(), self.row.clone()));
            }
            Action::Look => {
                let db = self.shared.db.clone();
                self.ask(async move {
                    match db.vms().runtime(vm).await {
                        Ok(Some(row)) => Event::Row(Box::new(row)),
                        Ok(None) => Event::RowGone,
                        Err(error) => {
                            tracing::warn!(vm = %vm, "row not read: {}", chain(&error));
                            Event::RowUnread
                        }
                    }
                });
            }
            Action::AskXState => match self.agent() {
                Ok(agent) => self.ask(async move {
                    match agent.x_state().await {
                        Ok(state) => Event::XState(state),
                        Err(error) => {
                            tracing::debug!(vm = %vm, "{}", chain(&error));
                            Event::XStateUnknown
                        }
                    }
                }),
                Err(_) => self.ask(async { Event::XStateUnknown }),
            },
            Action::AskXFailure => match self.agent() {
                Ok(agent) => self.ask(async move {
                    // It is worth no more than one question: without an answer there are no words.
                    Event::XFailure(agent.x_failure().await.unwrap_or_else(|error| {
                        tracing::debug!(vm = %vm, "{}", chain(&error));
                        None
                    }))
                }),
                Err(_) => self.ask(async { Event::XFailure(None) }),
            },
            Action::StartX => self.start_x(),
            Action::Dial => self.dial().await,
            Action::Commit => self.write(takeover::commit(self.shared.db.clone(), vm, self.ticket.id())),
            Action::Switch => {
                self.switched = self.channel.switch(self.slave_key.expose()).await.is_ok();
                self.client_lost |= !self.switched;
            }
        }
    }

    fn ask(&mut self, event: impl Future<Output = Event> + Send + 'static) {
        self.effect = Some(Box::pin(async { Outcome::Event(event.await) }));
        self.effect_writes = false;
    }

    fn write(&mut self, event: impl Future<Output = Event> + Send + 'static) {
        self.ask(event);
        self.effect_writes = true;
    }

    fn claimed(&self) -> takeover::Claimed {
        takeover::Claimed {
            vm: self.request.vm.id,
            session: self.ticket.id(),
            router: self.request.router,
            instance: self.shared.instance.id(),
            user: self.request.user,
            peer: self.request.peer.ip(),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let address = self.row.vm_address.as_deref().ok_or("it has no address yet")?;
        Endpoint::from_row(address, self.row.vm_vma_port, self.row.vm_x_port).map_err(|e| e.to_string())
    }

    fn agent(&self) -> Result<VmaClient, String> {
        let limit = self.shared.config().seconds("internal.l7r.timeout.vma");
        Ok(VmaClient::new(self.endpoint()?, limit))
    }

    fn start_x(&mut self) {
        let agent = match self.agent() {
            Ok(agent) => agent,
            Err(problem) => return self.ask(async { Event::XRefused(problem) }),
        };
        let (db, row, vm) = (self.shared.db.clone(), self.row.clone(), self.request.vm.id);
        let mut params = self.request.params.clone();
        let (identity, key, limit) = (self.request.identity.clone(), self.slave_key.clone(), self.dial_limit);
        self.ask(async move {
            let away = || Event::XRefused("the database does not answer".to_owned());
            let stored = match tokio::time::timeout(limit, db.properties().merged_for_vm(&row)).await {
                Ok(Ok(stored)) => stored,
                Ok(Err(error)) => {
                    tracing::warn!(vm = %vm, "properties not read: {}", chain(&error));
                    return away();
                }
                Err(_) => {
                    tracing::warn!(vm = %vm, "properties not read within {} s", limit.as_secs());
                    return away();
                }
            };
            params.extend(stored);
            params.extend(identity.params().clone());
            params.push(("qvd.slave.key".to_owned(), key.expose().clone()));
            match agent.x_start(&later_wins(params)).await {
                Ok(()) => Event::XStarted,
                Err(VmaError::Refused { message, .. }) => Event::XRefused(message),
                Err(error) => {
                    tracing::warn!(vm = %vm, "{}", chain(&error));
                    Event::XSilent
                }
            }
        });
    }

    /// A machine that went down ends its session by the same order as a contender does; its user is not told of a
    /// contender that there never was.
    async fn true_reason(&mut self, reason: Reason) -> Reason {
        if reason != Reason::Aborted || self.effect_writes {
            return reason;
        }
        // A read that nobody polls any more may hold the connection that this one needs.
        self.effect = None;
        let look = self.shared.db.vms();
        match tokio::time::timeout(DATABASE_LIMIT, look.runtime(self.request.vm.id)).await {
            Ok(Ok(Some(row))) if row.vm_state == VmState::Stopped => Reason::NotStarted,
            Ok(Ok(_) | Err(_)) | Err(_) => reason,
        }
    }

    /// Says to the agent that nobody comes. What goes wrong here costs the next client a wait, no more.
    async fn call_off(&mut self) {
        if self.dialled.load(Ordering::Relaxed) {
            return;
        }
        // A call on its way is given up first, so that this one is the last that the agent hears.
        self.effect = None;
        let Ok(agent) = self.agent() else { return };
        let vm = self.request.vm.id;
        match tokio::time::timeout(CALL_OFF_LIMIT, agent.x_suspend()).await {
            Ok(Ok(state)) => tracing::debug!(vm = %vm, state = %state, "desktop called off"),
            Ok(Err(error)) => tracing::debug!(vm = %vm, "desktop not called off: {}", chain(&error)),
            Err(_) => tracing::debug!(vm = %vm, "desktop not called off: no answer"),
        }
    }

    /// The first connection that the desktop accepts is the session, so a client that left is noticed before.
    async fn dial(&mut self) {
        if self.client_lost || self.channel.is_closed().await {
            return self.ask(async { Event::ClientGone });
        }
        let (endpoint, limit) = (self.endpoint(), self.dial_limit);
        self.effect_writes = false;
        let begun = self.dialled.clone();
        self.effect = Some(Box::pin(async move {
            let endpoint = match endpoint {
                Ok(endpoint) => endpoint,
                Err(problem) => return Outcome::Event(Event::NotDialled(problem)),
            };
            // Not before: an effect that is never polled has reached nobody.
            begun.store(true, Ordering::Relaxed);
            match DesktopStream::dial(&endpoint, limit).await {
                Ok(stream) => Outcome::Dialled(stream),
                Err(error) => Outcome::Event(Event::NotDialled(error.to_string())),
            }
        }));
    }

    async fn refuse(&mut self, refusal: Refusal) {
        let reply = match refusal {
            Refusal::Unavailable(reason) => {
                let reason = self.true_reason(reason).await;
                self.log_failure(&reason.to_string());
                if reason == Reason::Aborted {
                    self.shared.metrics.aborted_total.add(1);
                }
                Reply::NotAvailable(self.request.vm.id, reason)
            }
            Refusal::Internal => {
                self.log_failure("a hook failed");
                Reply::Internal
            }
        };
        let _ = self.channel.answer(&reply).await;
    }

    fn log_failure(&self, reason: &str) {
        self.shared.metrics.connect_failures_total.add(1);
        tracing::info!(vm = %self.request.vm.id, user = %self.request.user, session = %self.ticket.id(),
            client = %self.request.peer, seconds = self.begun.elapsed().as_secs_f32(), "connect failed: {reason}");
    }

    /// Gives the row back and closes.
    async fn close(mut self) {
        // The desktop's stream goes before the row: who takes the session next finds the desktop left.
        drop(self.desktop.take());
        let (db, ticket) = (self.shared.db.clone(), self.ticket);
        let turns = self.shared.settling.clone();
        let write = self.effect.take().filter(|_| self.effect_writes);
        let settle = async move {
            // A write on its way could land behind the giving back.
            if let Some(write) = write
                && tokio::time::timeout(DATABASE_LIMIT, write).await.is_err()
            {
                // It may land even later. Dropped as it is, the ticket leaves the row owed, and it is given back
                // once more in a while.
                takeover::give_back(&db, ticket.vm(), ticket.id()).await;
                return;
            }
            takeover::settle(db, turns, ticket).await;
        };
        tokio::join!(settle, self.channel.close());
    }

    async fn into_session(mut self) -> Option<Session> {
        let Some(desktop) = self.desktop.take() else {
            self.close().await;
            return None;
        };
        self.shared.metrics.connect_seconds.saw(self.begun.elapsed());
        let (client, prefix) = self.channel.into_parts();
        Some(Session {
            shared: self.shared,
            client,
            desktop,
            prefix,
            ticket: self.ticket,
            vm: self.request.vm.id,
            user: self.request.user,
            router: self.request.router,
            peer: self.request.peer,
        })
    }
}

impl From<Order> for Event {
    fn from(order: Order) -> Self {
        match order {
            Order::Abort => Self::Aborted,
            Order::Stop => Self::Stopping,
        }
    }
}

/// One value per name, the last one, sorted by name.
fn later_wins(pairs: Params) -> Params {
    pairs.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

/// How long an agent may take to hear that nobody comes; whoever comes next waits for it.
const CALL_OFF_LIMIT: Duration = Duration::from_secs(2);

/// How long the end of a connect waits for the database: for a write of its own that is still on its way, or for the
/// reason that it is told of.
const DATABASE_LIMIT: Duration = Duration::from_secs(5);
