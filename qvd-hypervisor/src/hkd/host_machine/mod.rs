//! How a node comes up and goes down: what happened in, what to do out. Pure.
//!
//! ```text
//!     idle → locking → loading → taking over → checking drivers → adopting → saving `running` → running
//!     running → saving `stopping` → stopping VMs → (killing VMs) → saving `stopped` → finished
//!     running → killing VMs, saving `stopping` beside it → saving `stopped` → finished
//!     checking drivers, adopting → adopting, bounded → one of the two ways above
//!     running → saving `starting` → finished                       (leaves its virtual machines to the next daemon)
//!     any, once taken over → disowning → finished                  (the row was taken away)
//! ```
//!
//! Nothing is written before the take-over. While it goes down an error only leads to the next step.

use std::time::{Duration, Instant};

use qvd_core::state::HostState;

mod vocabulary;

pub use vocabulary::{End, HostAction, HostEvent, HostLimits, HostPhase, Shutdown};

/// The machine.
#[derive(Clone, Debug)]
pub struct HostMachine {
    phase: HostPhase,
    limits: HostLimits,
    busy: bool,
    left: usize,
    /// What runs here is known, so that "nothing is left" can be said.
    inspected: bool,
    /// A stop or an abort came before what runs here was known.
    wanted: Option<Shutdown>,
    /// The last word on how to end.
    asked: Shutdown,
    failure: Option<String>,
    deadline: Option<Instant>,
    actions: Vec<HostAction>,
}

impl HostMachine {
    /// A machine that waits for [`HostEvent::Begin`].
    pub fn new(limits: HostLimits) -> Self {
        Self {
            phase: HostPhase::Idle,
            limits,
            busy: false,
            left: 0,
            inspected: false,
            wanted: None,
            asked: Shutdown::Stop,
            failure: None,
            deadline: None,
            actions: Vec::new(),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> HostPhase {
        self.phase
    }

    /// Until when to sleep if nothing happens; then feed [`HostEvent::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Uses other limits from the next phase on.
    pub fn set_limits(&mut self, limits: HostLimits) {
        self.limits = limits;
    }

    /// Takes in what happened and tells what to do, in order.
    pub fn step(&mut self, event: HostEvent, now: Instant) -> Vec<HostAction> {
        match event {
            HostEvent::Begin => {
                if self.phase == HostPhase::Idle {
                    self.go(HostPhase::Locking, now);
                }
            }
            HostEvent::Done => self.done(now),
            HostEvent::PartlyDone => self.partly_done(now),
            HostEvent::Inspected => self.inspected = true,
            HostEvent::Failed(text) => self.failed(text, now),
            HostEvent::Shutdown(how) => self.shutdown(how, now),
            HostEvent::Lost(text) => self.lost(text, now),
            HostEvent::Empty { left } => self.empty(left, now),
            HostEvent::Deadline => self.deadline_passed(now),
        }
        std::mem::take(&mut self.actions)
    }

    fn done(&mut self, now: Instant) {
        let was_busy = std::mem::take(&mut self.busy);
        match self.phase {
            HostPhase::Locking => self.go(HostPhase::LoadingHost, now),
            HostPhase::LoadingHost => self.go(HostPhase::TakingOver, now),
            HostPhase::TakingOver => {
                self.actions.push(HostAction::StartTicker);
                self.go(HostPhase::CheckingDrivers, now);
            }
            HostPhase::CheckingDrivers => self.go(HostPhase::Adopting, now),
            HostPhase::Adopting => {
                self.inspected = true;
                self.adopted(now);
            }
            HostPhase::SavingRunning => self.go(HostPhase::Running, now),
            HostPhase::SavingStopping => self.go(HostPhase::StoppingVms, now),
            HostPhase::SavingStopped => self.finish_stopped(),
            HostPhase::SavingKept => self.finish(End::Asked(Shutdown::KeepVms)),
            // The state that an abort saves beside its kills; nobody waits for it.
            HostPhase::KillingVms => {}
            HostPhase::Idle
            | HostPhase::AdoptWait
            | HostPhase::Running
            | HostPhase::StoppingVms
            | HostPhase::Disowning
            | HostPhase::Finished => self.busy = was_busy,
        }
    }

    /// A driver that cannot look holds up neither the others nor the node. `stopped` is not said before it could.
    fn partly_done(&mut self, now: Instant) {
        if self.phase == HostPhase::Adopting {
            self.busy = false;
            self.adopted(now);
        }
    }

    fn adopted(&mut self, now: Instant) {
        match self.wanted {
            None => self.go(HostPhase::SavingRunning, now),
            Some(Shutdown::Abort) => self.abort(now),
            Some(Shutdown::Stop | Shutdown::KeepVms) => self.go(HostPhase::SavingStopping, now),
        }
    }

    fn failed(&mut self, text: String, now: Instant) {
        self.busy = false;
        match self.phase {
            HostPhase::Locking | HostPhase::LoadingHost | HostPhase::TakingOver => {
                self.finish(End::Failed(text));
            }
            HostPhase::Adopting if self.wanted.is_some() => {
                self.failure = Some(text);
                self.adopted(now);
            }
            HostPhase::Adopting => self.go(HostPhase::AdoptWait, now),
            HostPhase::CheckingDrivers | HostPhase::SavingRunning => {
                self.failure = Some(text);
                self.go(HostPhase::SavingStopping, now);
            }
            HostPhase::SavingStopping => self.go(HostPhase::StoppingVms, now),
            // The database is there and says no: something here is not stopped.
            HostPhase::SavingStopped => {
                self.failure.get_or_insert(text);
                self.finish_stopped();
            }
            HostPhase::SavingKept => self.finish(End::Asked(Shutdown::KeepVms)),
            HostPhase::Idle
            | HostPhase::AdoptWait
            | HostPhase::Running
            | HostPhase::StoppingVms
            | HostPhase::KillingVms
            | HostPhase::Disowning
            | HostPhase::Finished => {}
        }
    }

    fn shutdown(&mut self, how: Shutdown, now: Instant) {
        match self.phase {
            HostPhase::Idle | HostPhase::Locking | HostPhase::LoadingHost | HostPhase::TakingOver => {
                self.finish(End::Asked(how));
            }
            HostPhase::CheckingDrivers | HostPhase::Adopting | HostPhase::AdoptWait
                if how != Shutdown::KeepVms =>
            {
                self.look_and_end(how, now);
            }
            HostPhase::CheckingDrivers
            | HostPhase::Adopting
            | HostPhase::AdoptWait
            | HostPhase::SavingRunning
            | HostPhase::Running => {
                self.actions.push(HostAction::StopObeying);
                match how {
                    Shutdown::Stop => self.go(HostPhase::SavingStopping, now),
                    Shutdown::KeepVms => self.go(HostPhase::SavingKept, now),
                    Shutdown::Abort => self.abort(now),
                }
            }
            HostPhase::SavingStopping | HostPhase::StoppingVms if how == Shutdown::Abort => self.abort(now),
            // On its way.
            HostPhase::SavingStopping
            | HostPhase::StoppingVms
            | HostPhase::KillingVms
            | HostPhase::SavingStopped
            | HostPhase::SavingKept
            | HostPhase::Disowning
            | HostPhase::Finished => {}
        }
    }

    /// What runs here can be neither stopped nor killed before it is known; a driver that hangs is not waited for.
    fn look_and_end(&mut self, how: Shutdown, now: Instant) {
        if self.wanted != Some(Shutdown::Abort) {
            self.wanted = Some(how);
        }
        if self.phase != HostPhase::Adopting {
            self.go(HostPhase::Adopting, now);
        }
        let soon = now + self.limits.last_look;
        self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
    }

    /// Kills first; what the row says is saved beside it.
    fn abort(&mut self, now: Instant) {
        self.asked = Shutdown::Abort;
        let told = self.phase == HostPhase::StoppingVms;
        self.go(HostPhase::KillingVms, now);
        if !told {
            self.act(HostAction::Save(HostState::Stopping));
        }
    }

    fn lost(&mut self, text: String, now: Instant) {
        match self.phase {
            // Nothing is ours yet.
            HostPhase::Idle | HostPhase::Locking | HostPhase::LoadingHost => {}
            HostPhase::TakingOver
            | HostPhase::CheckingDrivers
            | HostPhase::Adopting
            | HostPhase::AdoptWait
            | HostPhase::SavingRunning
            | HostPhase::Running
            | HostPhase::SavingStopping
            | HostPhase::StoppingVms
            | HostPhase::KillingVms => {
                self.failure = Some(text);
                self.actions.push(HostAction::StopObeying);
                self.go(HostPhase::Disowning, now);
            }
            HostPhase::SavingStopped | HostPhase::SavingKept => self.finish(End::Lost(text)),
            HostPhase::Disowning | HostPhase::Finished => {}
        }
    }

    fn empty(&mut self, left: usize, now: Instant) {
        match self.phase {
            HostPhase::StoppingVms | HostPhase::KillingVms => {
                self.left = left;
                if left == 0 && self.inspected {
                    self.go(HostPhase::SavingStopped, now);
                } else {
                    // `stopped` would claim that nothing is left here.
                    self.finish_stopped();
                }
            }
            HostPhase::Disowning => self.finish_lost(),
            HostPhase::Idle
            | HostPhase::Locking
            | HostPhase::LoadingHost
            | HostPhase::TakingOver
            | HostPhase::CheckingDrivers
            | HostPhase::Adopting
            | HostPhase::AdoptWait
            | HostPhase::SavingRunning
            | HostPhase::Running
            | HostPhase::SavingStopping
            | HostPhase::SavingStopped
            | HostPhase::SavingKept
            | HostPhase::Finished => {}
        }
    }

    fn deadline_passed(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.phase {
            HostPhase::Adopting => {
                self.abandon();
                self.failed("finding what runs here took too long".to_owned(), now);
            }
            HostPhase::AdoptWait => self.go(HostPhase::Adopting, now),
            HostPhase::SavingStopping => self.go(HostPhase::StoppingVms, now),
            HostPhase::StoppingVms | HostPhase::KillingVms => self.go(HostPhase::KillingVms, now),
            HostPhase::SavingStopped => self.finish_stopped(),
            HostPhase::SavingKept => self.finish(End::Asked(Shutdown::KeepVms)),
            HostPhase::Disowning => self.finish_lost(),
            HostPhase::Idle
            | HostPhase::Locking
            | HostPhase::LoadingHost
            | HostPhase::TakingOver
            | HostPhase::CheckingDrivers
            | HostPhase::SavingRunning
            | HostPhase::Running
            | HostPhase::Finished => {}
        }
    }

    fn go(&mut self, phase: HostPhase, now: Instant) {
        self.abandon();
        self.phase = phase;
        self.deadline = self.limit(phase).map(|limit| now + limit);
        match phase {
            HostPhase::Locking => self.act(HostAction::Lock),
            HostPhase::LoadingHost => self.act(HostAction::LoadHost),
            HostPhase::TakingOver => self.act(HostAction::TakeOver),
            HostPhase::CheckingDrivers => self.act(HostAction::CheckDrivers),
            HostPhase::Adopting => self.act(HostAction::Adopt),
            HostPhase::SavingRunning => self.act(HostAction::Save(HostState::Running)),
            HostPhase::Running => self.act(HostAction::Obey),
            HostPhase::SavingStopping => self.act(HostAction::Save(HostState::Stopping)),
            HostPhase::StoppingVms => self.act(HostAction::StopVms),
            HostPhase::KillingVms => self.act(HostAction::KillVms),
            HostPhase::SavingStopped => self.act(HostAction::Save(HostState::Stopped)),
            HostPhase::SavingKept => {
                self.act(HostAction::DetachVms);
                self.act(HostAction::Save(HostState::Starting));
            }
            HostPhase::Disowning => self.act(HostAction::DisownVms),
            HostPhase::Idle | HostPhase::AdoptWait | HostPhase::Finished => {}
        }
    }

    fn limit(&self, phase: HostPhase) -> Option<Duration> {
        match phase {
            HostPhase::Adopting => Some(self.limits.adopt),
            HostPhase::AdoptWait => Some(self.limits.adopt_retry),
            HostPhase::SavingStopping | HostPhase::SavingStopped | HostPhase::SavingKept => {
                Some(self.limits.last_write)
            }
            HostPhase::StoppingVms => Some(self.limits.stop_vms),
            HostPhase::KillingVms => Some(self.limits.kill_retry),
            HostPhase::Disowning => Some(self.limits.fence),
            HostPhase::Idle
            | HostPhase::Locking
            | HostPhase::LoadingHost
            | HostPhase::TakingOver
            | HostPhase::CheckingDrivers
            | HostPhase::SavingRunning
            | HostPhase::Running
            | HostPhase::Finished => None,
        }
    }

    fn finish_stopped(&mut self) {
        let end = match (self.failure.take(), self.left) {
            (Some(text), _) => End::Failed(text),
            (None, _) if !self.inspected => {
                End::Failed("what runs on this host could not be found out".into())
            }
            (None, 0) => End::Asked(self.asked),
            (None, left) => End::Failed(format!(
                "{left} virtual machines could not be stopped; the next start of this daemon goes on with them"
            )),
        };
        self.finish(end);
    }

    fn finish_lost(&mut self) {
        let text = self.failure.take().unwrap_or_default();
        self.finish(End::Lost(text));
    }

    fn finish(&mut self, end: End) {
        self.abandon();
        self.phase = HostPhase::Finished;
        self.deadline = None;
        self.actions.push(HostAction::Finish(end));
    }

    fn act(&mut self, action: HostAction) {
        self.busy |= action.is_effect();
        self.actions.push(action);
    }

    fn abandon(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.actions.push(HostAction::Abandon);
        }
    }
}

#[cfg(test)]
mod tests;
