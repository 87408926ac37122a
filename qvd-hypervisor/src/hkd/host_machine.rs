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

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Stop every virtual machine of this node first.
    Stop,
    /// Leave them running; the next daemon of this node adopts them.
    KeepVms,
    /// Kill every virtual machine of this node at once, also those that have begun to stop.
    Abort,
}

/// One step of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostPhase {
    /// Nothing was done yet.
    Idle,
    /// Effect: the lock that lets one daemon alone work here.
    Locking,
    /// Effect: database, configuration, the host's row.
    LoadingHost,
    /// Effect: the row becomes ours.
    TakingOver,
    /// Effect: what each driver finds on this machine; capacity.
    CheckingDrivers,
    /// Effect: what an earlier daemon left running.
    Adopting,
    /// The inspection failed; tries again soon.
    AdoptWait,
    /// Effect: the row says `running`.
    SavingRunning,
    /// Obeys commands.
    Running,
    /// Effect: the row says `stopping`.
    SavingStopping,
    /// Virtual machines shut down.
    StoppingVms,
    /// They had their time.
    KillingVms,
    /// Effect: the row says `stopped`.
    SavingStopped,
    /// Effect: the row says `starting`, virtual machines go on.
    SavingKept,
    /// The row was taken away: everything here is killed.
    Disowning,
    /// The end.
    Finished,
}

impl HostPhase {
    /// Every phase.
    pub const ALL: &'static [HostPhase] = &[
        HostPhase::Idle,
        HostPhase::Locking,
        HostPhase::LoadingHost,
        HostPhase::TakingOver,
        HostPhase::CheckingDrivers,
        HostPhase::Adopting,
        HostPhase::AdoptWait,
        HostPhase::SavingRunning,
        HostPhase::Running,
        HostPhase::SavingStopping,
        HostPhase::StoppingVms,
        HostPhase::KillingVms,
        HostPhase::SavingStopped,
        HostPhase::SavingKept,
        HostPhase::Disowning,
        HostPhase::Finished,
    ];
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The daemon begins.
    Begin,
    /// The effect in flight is done.
    Done,
    /// The inspection in flight is done, but for drivers that could not look.
    PartlyDone,
    /// By now every driver could look.
    Inspected,
    /// The effect in flight failed; the text tells all.
    Failed(String),
    /// Somebody wants it to end.
    Shutdown(Shutdown),
    /// The row belongs to somebody else, or the lease ran out.
    Lost(String),
    /// No virtual machine is worked on any more; so many were left as they are.
    Empty {
        /// Those that would not end.
        left: usize,
    },
    /// The limit has passed.
    Deadline,
}

/// Something to do. Effects are answered by [`HostEvent::Done`] or [`HostEvent::Failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Drop the effect in flight.
    Abandon,
    /// Effect: take the lock.
    Lock,
    /// Effect: read what this node is.
    LoadHost,
    /// Effect: take the row over.
    TakeOver,
    /// Begin to tick.
    StartTicker,
    /// Effect: ask the drivers, publish capacity.
    CheckDrivers,
    /// Effect: one task per virtual machine found by row or by inspection; does not wait for them.
    Adopt,
    /// Effect: write the host's state.
    Save(HostState),
    /// Begin to obey commands.
    Obey,
    /// Obey no more.
    StopObeying,
    /// Tell every task to stop; answered by [`HostEvent::Empty`].
    StopVms,
    /// Tell every task to kill; answered by [`HostEvent::Empty`].
    KillVms,
    /// Tell every task that its row is lost; answered by [`HostEvent::Empty`].
    DisownVms,
    /// Let go of every task without touching its virtual machine.
    DetachVms,
    /// The daemon ends.
    Finish(End),
}

impl HostAction {
    fn is_effect(&self) -> bool {
        match self {
            Self::Lock
            | Self::LoadHost
            | Self::TakeOver
            | Self::CheckDrivers
            | Self::Adopt
            | Self::Save(_) => true,
            Self::Abandon
            | Self::StartTicker
            | Self::Obey
            | Self::StopObeying
            | Self::StopVms
            | Self::KillVms
            | Self::DisownVms
            | Self::DetachVms
            | Self::Finish(_) => false,
        }
    }
}

/// How the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Asked(Shutdown),
    /// It could not go on.
    Failed(String),
    /// The host was taken away from it.
    Lost(String),
}

/// How long each wait may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// For virtual machines to shut down.
    pub stop_vms: Duration,
    /// Between two rounds of killing them.
    pub kill_retry: Duration,
    /// For killing everything after the row was lost.
    pub fence: Duration,
    /// For one write while going down.
    pub last_write: Duration,
    /// For finding what runs here.
    pub adopt: Duration,
    /// The same, once somebody wants the node stopped.
    pub last_look: Duration,
    /// Between two attempts to find what runs here.
    pub adopt_retry: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            stop_vms: seconds(300),
            kill_retry: seconds(100),
            fence: seconds(60),
            last_write: seconds(5),
            adopt: seconds(60),
            last_look: seconds(5),
            adopt_retry: seconds(10),
        }
    }
}

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
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Story {
        machine: HostMachine,
        now: Instant,
    }

    impl Story {
        fn running() -> Self {
            let mut story = Self { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
            assert_eq!(story.tell(HostEvent::Begin), [HostAction::Lock]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::LoadHost]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::TakeOver]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::StartTicker, HostAction::CheckDrivers]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::Adopt]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::Save(HostState::Running)]);
            assert_eq!(story.tell(HostEvent::Done), [HostAction::Obey]);
            story
        }

        fn tell(&mut self, event: HostEvent) -> Vec<HostAction> {
            self.machine.step(event, self.now)
        }

        fn wait(&mut self, seconds: u64) -> Vec<HostAction> {
            self.now += Duration::from_secs(seconds);
            self.tell(HostEvent::Deadline)
        }
    }

    #[test]
    fn a_stop_gives_the_machines_their_time_then_kills_again_and_again() {
        let mut story = Story::running();
        assert_eq!(
            story.tell(HostEvent::Shutdown(Shutdown::Stop)),
            [HostAction::StopObeying, HostAction::Save(HostState::Stopping)]
        );
        assert_eq!(story.tell(HostEvent::Failed("database away".into())), [HostAction::StopVms]);
        assert!(story.wait(299).is_empty());
        assert_eq!(story.wait(1), [HostAction::KillVms]);
        assert_eq!(story.wait(100), [HostAction::KillVms]);
        assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::Stop))]);
    }

    #[test]
    fn what_would_not_end_keeps_the_host_from_saying_stopped() {
        let mut story = Story::running();
        story.tell(HostEvent::Shutdown(Shutdown::Stop));
        story.tell(HostEvent::Done);
        story.wait(300);
        let actions = story.tell(HostEvent::Empty { left: 2 });
        assert!(matches!(&actions[..], [HostAction::Finish(End::Failed(text))] if text.contains('2')));
    }

    #[test]
    fn an_abort_kills_at_once_and_saves_beside_it() {
        let mut story = Story::running();
        assert_eq!(
            story.tell(HostEvent::Shutdown(Shutdown::Abort)),
            [HostAction::StopObeying, HostAction::KillVms, HostAction::Save(HostState::Stopping)]
        );
        assert!(story.tell(HostEvent::Done).is_empty());
        assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::Abort))]);
    }

    #[test]
    fn an_abort_overtakes_a_stop() {
        let mut story = Story::running();
        story.tell(HostEvent::Shutdown(Shutdown::Stop));
        let mut saving = Story { machine: story.machine.clone(), now: story.now };
        assert_eq!(
            saving.tell(HostEvent::Shutdown(Shutdown::Abort)),
            [HostAction::Abandon, HostAction::KillVms, HostAction::Save(HostState::Stopping)]
        );
        story.tell(HostEvent::Done);
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty(), "asking twice changes nothing");
        assert_eq!(story.tell(HostEvent::Shutdown(Shutdown::Abort)), [HostAction::KillVms]);
    }

    fn adopting() -> Story {
        let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
            story.tell(event);
        }
        assert_eq!(story.machine.phase(), HostPhase::Adopting);
        story
    }

    #[test]
    fn a_driver_that_cannot_look_holds_up_the_word_stopped_alone() {
        let mut blind = adopting();
        assert_eq!(blind.tell(HostEvent::PartlyDone), [HostAction::Save(HostState::Running)]);
        blind.tell(HostEvent::Done);
        let mut seeing = Story { machine: blind.machine.clone(), now: blind.now };
        for story in [&mut blind, &mut seeing] {
            story.tell(HostEvent::Shutdown(Shutdown::Stop));
            story.tell(HostEvent::Done);
        }
        let end = blind.tell(HostEvent::Empty { left: 0 });
        assert!(matches!(&end[..], [HostAction::Finish(End::Failed(text))] if text.contains("could not")));
        assert!(seeing.tell(HostEvent::Inspected).is_empty());
        assert_eq!(seeing.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
    }

    #[test]
    fn an_inspection_that_hangs_is_given_up_sooner_when_the_node_is_to_stop() {
        let mut story = adopting();
        assert!(story.wait(59).is_empty());
        assert_eq!(story.wait(1), [HostAction::Abandon]);
        assert_eq!(story.wait(10), [HostAction::Adopt], "and begun anew");
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
        assert!(story.wait(4).is_empty());
        let actions = story.wait(1);
        assert_eq!(actions, [HostAction::Abandon, HostAction::Save(HostState::Stopping)]);

        let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
            story.tell(event);
        }
        assert_eq!(story.machine.phase(), HostPhase::CheckingDrivers);
        let actions = story.tell(HostEvent::Shutdown(Shutdown::Stop));
        assert_eq!(actions, [HostAction::Abandon, HostAction::Adopt], "whether they work matters no more");
    }

    #[test]
    fn a_stop_at_start_up_first_learns_what_runs_here() {
        let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
            story.tell(event);
        }
        assert_eq!(story.machine.phase(), HostPhase::Adopting);
        assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Save(HostState::Stopping)]);
    }

    #[test]
    fn an_abort_at_start_up_first_learns_what_runs_here_and_then_kills() {
        let kill = [HostAction::KillVms, HostAction::Save(HostState::Stopping)];
        for answer in [HostEvent::Done, HostEvent::PartlyDone] {
            let mut story = adopting();
            assert!(story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty());
            assert!(story.tell(HostEvent::Shutdown(Shutdown::Abort)).is_empty(), "the look goes on");
            assert!(
                story.tell(HostEvent::Shutdown(Shutdown::Stop)).is_empty(),
                "and the abort is remembered"
            );
            assert_eq!(story.tell(answer), kill);
        }

        let mut story = adopting();
        story.tell(HostEvent::Failed("cannot read /proc".into()));
        assert_eq!(story.machine.phase(), HostPhase::AdoptWait);
        assert_eq!(story.tell(HostEvent::Shutdown(Shutdown::Abort)), [HostAction::Adopt], "a last look");
        assert!(story.wait(4).is_empty());
        let late = story.wait(1);
        assert_eq!(late, [&[HostAction::Abandon], &kill[..]].concat());
        let end = story.tell(HostEvent::Empty { left: 0 });
        assert!(
            matches!(&end[..], [.., HostAction::Finish(End::Failed(_))]),
            "nobody knows what is left: {end:?}"
        );
    }

    #[test]
    fn a_stopped_that_is_refused_is_no_success() {
        let mut story = Story::running();
        story.tell(HostEvent::Shutdown(Shutdown::Stop));
        story.tell(HostEvent::Done);
        assert_eq!(story.tell(HostEvent::Empty { left: 0 }), [HostAction::Save(HostState::Stopped)]);
        let end = story.tell(HostEvent::Failed("VM 7 is not stopped".into()));
        assert_eq!(end, [HostAction::Finish(End::Failed("VM 7 is not stopped".into()))]);
    }

    #[test]
    fn keeping_touches_no_machine() {
        let mut story = Story::running();
        assert_eq!(
            story.tell(HostEvent::Shutdown(Shutdown::KeepVms)),
            [HostAction::StopObeying, HostAction::DetachVms, HostAction::Save(HostState::Starting)]
        );
        assert_eq!(story.tell(HostEvent::Done), [HostAction::Finish(End::Asked(Shutdown::KeepVms))]);
    }

    #[test]
    fn a_lost_row_ends_everything_without_a_write() {
        let mut story = Story::running();
        let actions = story.tell(HostEvent::Lost("taken over".into()));
        assert_eq!(actions, [HostAction::StopObeying, HostAction::DisownVms]);
        assert_eq!(
            story.tell(HostEvent::Empty { left: 0 }),
            [HostAction::Finish(End::Lost("taken over".into()))]
        );
    }

    #[test]
    fn a_failed_inspection_is_repeated_and_a_refused_lock_is_the_end() {
        let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        for event in [HostEvent::Begin, HostEvent::Done, HostEvent::Done, HostEvent::Done, HostEvent::Done] {
            story.tell(event);
        }
        assert!(story.tell(HostEvent::Failed("cannot read /proc".into())).is_empty());
        assert_eq!(story.wait(10), [HostAction::Adopt]);

        let mut story = Story { machine: HostMachine::new(HostLimits::default()), now: Instant::now() };
        story.tell(HostEvent::Begin);
        assert_eq!(
            story.tell(HostEvent::Failed("held".into())),
            [HostAction::Finish(End::Failed("held".into()))]
        );
    }

    fn event(kind: usize) -> HostEvent {
        match kind {
            0 => HostEvent::Begin,
            1 | 2 => HostEvent::Done,
            3 => HostEvent::Failed("x".into()),
            4 => HostEvent::Shutdown(Shutdown::Stop),
            5 => HostEvent::Shutdown(Shutdown::KeepVms),
            6 => HostEvent::Lost("x".into()),
            7 => HostEvent::Empty { left: 0 },
            8 => HostEvent::Empty { left: 1 },
            9 => HostEvent::Shutdown(Shutdown::Abort),
            10 => HostEvent::PartlyDone,
            11 => HostEvent::Inspected,
            _ => HostEvent::Deadline,
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_it_ends_once_and_never_acts_after_that(
            kinds in prop::collection::vec(0_usize..13, 0..60),
        ) {
            let mut machine = HostMachine::new(HostLimits::default());
            let mut now = Instant::now();
            let (mut taken, mut ended, mut in_flight) = (false, false, false);
            // What the row may say: a write that failed or was abandoned may have come through.
            let (mut row, mut writing) = (vec![HostState::Starting], None);
            let script = kinds.into_iter().map(event);
            let end = [HostEvent::Done, HostEvent::Done, HostEvent::Empty { left: 0 }];
            let finale = [HostEvent::Shutdown(Shutdown::Stop)].into_iter().chain(end.clone()).chain(end.clone()).chain(end);
            for event in script.chain(finale) {
                if event == HostEvent::Deadline {
                    now = machine.deadline().unwrap_or(now);
                }
                if matches!(event, HostEvent::Done | HostEvent::PartlyDone | HostEvent::Failed(_)) {
                    if !in_flight {
                        continue;
                    }
                    in_flight = false;
                    taken |= machine.phase() == HostPhase::TakingOver && event == HostEvent::Done;
                    if event == HostEvent::Done && writing.is_some() {
                        row.clear();
                    }
                    row.extend(writing.take());
                }
                for action in machine.step(event.clone(), now) {
                    prop_assert!(!ended, "{:?} after the end", action);
                    if action.is_effect() {
                        prop_assert!(!in_flight, "{:?} beside another", action);
                        in_flight = true;
                    }
                    match action {
                        HostAction::Abandon => {
                            in_flight = false;
                            row.extend(writing.take());
                        }
                        HostAction::Save(state) => {
                            prop_assert!(taken, "wrote before the take-over");
                            for before in &row {
                                prop_assert!(*before == state || before.may_become(state), "{before} → {state}");
                            }
                            writing = Some(state);
                        }
                        HostAction::Finish(_) => ended = true,
                        _ => {}
                    }
                }
            }
            prop_assert!(ended, "still {:?}", machine.phase());
        }
    }
}
