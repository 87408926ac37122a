//! The shell of the connect machine: performs its actions against the database, the agent and the desktop, and
//! reports what came of them, until the desktop is connected or the client is refused.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qvd_core::auth::Identity;
use qvd_core::error::chain;
use qvd_core::hypervisor::Endpoint;
use qvd_core::model::{Vm, VmRuntime};
use qvd_core::state::VmState;
use qvd_core::vma::{Params, Vma, VmaError};
use qvd_core::{HostId, SessionId, UserId};
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
use crate::{place, takeover};

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

/// Carries a connect to its end, the desktop's stream included. The connection is closed afterwards.
pub(crate) async fn run(shared: Arc<Shared>, mut channel: Channel<ClientStream>, request: Connect) {
    let (session, slave_key) = match (random::bytes(), random::slave_key()) {
        (Ok(bytes), Ok(key)) => (SessionId::from_random(bytes), key),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("{error}");
            let _ = channel.answer(&Reply::Internal).await;
            return channel.close().await;
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
        dialling: false,
        client_lost: false,
    };
    shell.run().await;
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
    slave_key: String,
    ticket: Ticket,
    dial_limit: Duration,
    begun: Instant,
    desktop: Option<DesktopStream>,
    effect: Option<Effect>,
    /// The effect may change the row even when it is dropped.
    effect_writes: bool,
    /// The effect is a dial, which may have reached the desktop.
    dialling: bool,
    /// A write to the client failed; reported as the next event.
    client_lost: bool,
}

impl Shell {
    async fn run(mut self) {
        self.shared.metrics.connects_total.add(1);
        let vm = self.request.vm.id;
        let mut changes = self.shared.db.subscribe(&[Wire::VmState]).only_vm(vm);
        let mut event = Event::Begin;
        loop {
            for action in self.machine.step(event, Instant::now()) {
                self.perform(action).await;
            }
            if self.machine.is_over() {
                return self.close().await;
            }
            if self.machine.is_forwarding() {
                return self.forward().await;
            }
            event = self.next_event(&mut changes).await;
        }
    }

    /// Waits for the next event; orders and the client's end come first.
    async fn next_event(&mut self, changes: &mut qvd_db::Subscription) -> Event {
        if std::mem::take(&mut self.client_lost) {
            return Event::ClientGone;
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
            order = self.ticket.ordered() => return match order {
                Order::Abort => Event::Aborted,
                Order::Stop => Event::Stopping,
            },
            () = self.channel.closed() => return Event::ClientGone,
            outcome = effect => outcome,
            _ = changes.next() => return Event::Woken,
            () = timer => return Event::Deadline,
        };
        self.effect = None;
        self.effect_writes = false;
        self.dialling = false;
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
                let within = 3 * self.shared.config().seconds("internal.hkd.agent.ticker.delay");
                self.write(place::claim(db, balancer, within, self.request.vm.clone(), self.row.clone()));
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
            Action::StartX => self.start_x(),
            Action::Dial => self.dial().await,
            Action::Commit => self.write(takeover::commit(self.shared.db.clone(), vm, self.ticket.id())),
            Action::Switch => {
                let event = match self.channel.switch(&self.slave_key).await {
                    Ok(()) => Event::Switched,
                    Err(_) => Event::ClientGone,
                };
                self.ask(async { event });
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
        let (identity, key) = (self.request.identity.clone(), self.slave_key.clone());
        self.ask(async move {
            let stored = match db.properties().merged_for_vm(&row).await {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::warn!(vm = %vm, "properties not read: {}", chain(&error));
                    return Event::XRefused("the database does not answer".to_owned());
                }
            };
            params.extend(stored);
            params.extend(identity.params().clone());
            params.push(("qvd.slave.key".to_owned(), key));
            match agent.x_start(&later_wins(params)).await {
                Ok(()) => Event::XStarted,
                Err(VmaError::Refused { message, .. }) => Event::XRefused(message),
                Err(error) => Event::XSilent(chain(&error).to_string()),
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
        match self.shared.db.vms().runtime(self.request.vm.id).await {
            Ok(Some(row)) if row.vm_state == VmState::Stopped => Reason::NotStarted,
            Ok(_) | Err(_) => reason,
        }
    }

    /// Says to the agent that nobody comes. What goes wrong here costs the next client a wait, no more.
    async fn call_off(&mut self) {
        if self.dialling {
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
        self.dialling = true;
        self.effect = Some(Box::pin(async move {
            let endpoint = match endpoint {
                Ok(endpoint) => endpoint,
                Err(problem) => return Outcome::Event(Event::NotDialled(problem)),
            };
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
            Refusal::Internal => Reply::Internal,
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
        // A write on its way could land behind the giving back.
        if let Some(effect) = self.effect.take().filter(|_| self.effect_writes) {
            let _ = tokio::time::timeout(WRITE_LIMIT, effect).await;
        }
        // The desktop's stream goes before the row: who takes the session next finds the desktop left.
        drop(self.desktop.take());
        let (db, vm) = (self.shared.db.clone(), self.request.vm.id);
        if self.ticket.is_owing() && takeover::give_back(&db, vm, self.ticket.id()).await {
            self.ticket.settled();
        }
        drop(self.ticket);
        self.channel.close().await;
    }

    async fn forward(mut self) {
        let Some(desktop) = self.desktop.take() else { return self.close().await };
        let (client, prefix) = self.channel.into_parts();
        Session {
            shared: self.shared,
            client,
            desktop,
            prefix,
            ticket: self.ticket,
            vm: self.request.vm.id,
            user: self.request.user,
            router: self.request.router,
            peer: self.request.peer,
        }
        .run()
        .await;
    }
}

/// One value per name, the last one, sorted by name.
fn later_wins(pairs: Params) -> Params {
    pairs.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

/// How long an agent may take to hear that nobody comes; whoever comes next waits for it.
const CALL_OFF_LIMIT: Duration = Duration::from_secs(2);

/// How long the end of a connect waits for a write of its own that is still on its way.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
