//! The life of one virtual machine on this host: what happened in, what to do out. One machine for all drivers.
//!
//! It reads no clock, draws no random number and performs nothing; `hkd::vm_task` does. The states are
//! those of the row; the finer [`Phase`]s exist here alone. A test holds this diagram against the code.
//!
//! ```text
//!     [start] --> starting
//!     [adopt] --> starting
//!     [adopt] --> running
//!     [adopt] --> debugging
//!     [adopt] --> stopping
//!     [adopt] --> zombie
//!     starting --> running        agent answers
//!     starting --> debugging      agent silent, debugging wanted
//!     starting --> stopping       failure, stop
//!     starting --> zombie         old remains stay, or the row was taken away
//!     starting --> stopped        the row was taken away before anything was touched
//!     running --> stopping        stop, expiry, agent silent, end
//!     running --> debugging       agent silent, debugging wanted
//!     running --> zombie          the row was taken away
//!     debugging --> running       agent answers
//!     debugging --> stopping      stop, end
//!     debugging --> zombie        the row was taken away
//!     stopping --> stopped        clean and cleared
//!     stopping --> zombie         it lives on
//!     zombie --> stopping         reaped; the row is being cleared
//!     zombie --> stopped          reaped, the row belongs to somebody else; or given up at the node's end
//! ```
//!
//! Rules:
//! * what others see is saved before it is acted upon, but no kill waits for a write;
//! * a row is cleared only after the driver's clean-up succeeded, which it refuses while anything lives;
//! * a lost guard means the row is somebody else's: kill here, write nothing more;
//! * a home that somebody else holds is nobody's failure: the start waits without slots and tries again;
//! * a run that never lived has nothing in a home that somebody else holds, so it may end beside it.

mod answers;
mod news;
mod orders;
mod phase;
mod vocabulary;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod table;

use std::time::{Duration, Instant};

use qvd_core::hook::HookKind;
use qvd_core::state::{VmPhase, VmState};

pub use phase::{Phase, Watch};
pub use vocabulary::{Action, Event, Failure, Limits, Outcome, Past, Traits, Write, Wrote};

/// Slots that this machine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    HeavyAndStarting,
    Heavy,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct VmMachine {
    phase: Phase,
    limits: Limits,
    traits: Traits,
    /// The row is ours.
    owned: bool,
    held: Held,
    /// An effect is in flight.
    busy: bool,
    monitored: Option<Watch>,
    /// The agent has answered, so asking it to power off makes sense.
    agent_seen: bool,
    /// A stop came while a launch was in flight.
    stop_wanted: bool,
    /// The node is going: nothing is tried twice any more.
    leaving: bool,
    /// Pieces of this run exist.
    prepared: bool,
    /// Something of this run may have come to life.
    launched: bool,
    /// Attempts that found the home in use.
    home_waits: u32,
    /// Kills that did not help.
    vain_kills: u32,
    /// What the row was last ordered to show.
    shown: Option<(VmState, Option<VmPhase>)>,
    deadline: Option<Instant>,
    /// End of the whole block that began with the power-off or with the driver's polite request.
    block_end: Option<Instant>,
    actions: Vec<Action>,
}

impl VmMachine {
    /// A machine that waits for [`Event::Start`] or [`Event::Adopt`].
    pub fn new(limits: Limits) -> Self {
        Self {
            phase: Phase::Idle,
            limits,
            traits: Traits { has_agent: true, polite_stop: true },
            owned: true,
            held: Held::Nothing,
            busy: false,
            monitored: None,
            agent_seen: false,
            stop_wanted: false,
            leaving: false,
            prepared: false,
            launched: false,
            home_waits: 0,
            vain_kills: 0,
            shown: None,
            deadline: None,
            block_end: None,
            actions: Vec::new(),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Until when to sleep if nothing happens; then feed [`Event::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the row is still ours.
    pub fn owned(&self) -> bool {
        self.owned
    }

    /// Uses other limits from the next phase on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes in what happened and tells what to do, in order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Start => self.start(now),
            Event::Adopt(past, traits) => self.adopt(past, traits, now),
            Event::FoundDead { booting, exit, traits } => self.found_dead(booting, exit, traits, now),
            Event::Loaded(traits) => self.loaded(traits, now),
            Event::Done => self.done(now),
            Event::Failed(failure) => self.failed(failure, now),
            Event::HomeInUse(text) => self.home_in_use(text, now),
            Event::Written(what) => self.written(what, now),
            Event::WriteFailed(what, text) => self.write_failed(what, text, now),
            Event::GuardLost => self.guard_lost(now),
            Event::Alive => self.alive(now),
            Event::Dead(text) => self.dead(text, now),
            Event::Exited(exit) => self.exited(&exit, now),
            Event::Deadline => self.deadline_passed(now),
            Event::Stop => self.stop(now),
            Event::Kill => self.kill(now),
            Event::Alert => self.alert(),
        }
        std::mem::take(&mut self.actions)
    }

    /// Down by the agent's help if it was ever heard, with the slots at hand.
    fn shut_down(&mut self, now: Instant) {
        if self.held == Held::Nothing {
            self.go(Phase::StopPermit, now);
        } else {
            self.stop_with_permit(now);
        }
    }

    fn stop_with_permit(&mut self, now: Instant) {
        if self.agent_seen && self.traits.has_agent {
            self.block_end = Some(now + self.limits.shutdown);
            self.go(Phase::PoweringOff, now);
        } else {
            self.end_politely(now);
        }
    }

    /// Down by the driver's polite request, or by a kill where there is none.
    fn end_politely(&mut self, now: Instant) {
        self.block_end = Some(now + self.limits.stop);
        let next = if self.traits.polite_stop { Phase::Terminating } else { Phase::Killing };
        self.go(next, now);
    }

    /// It could not be ended or cleaned; later again, unless the node is going.
    fn reap_later(&mut self, now: Instant) {
        self.vain_kills = self.vain_kills.saturating_add(1);
        if self.leaving {
            self.show(VmState::Zombie, Some(VmPhase::Zombie2));
            self.finish(Outcome::Left);
        } else {
            self.go(Phase::ReapDelay, now);
        }
    }

    /// Ends a start that waits for something; an attempt before may have left pieces.
    fn call_off(&mut self, now: Instant) {
        match (self.prepared, self.owned) {
            (false, _) => self.leave(now),
            (true, true) => self.go(Phase::CleaningUp, now),
            (true, false) => self.go(Phase::ReapCleaning, now),
        }
    }

    /// Nothing of it is left here.
    fn leave(&mut self, now: Instant) {
        if self.owned {
            self.go(Phase::Clearing, now);
        } else {
            self.finish(Outcome::Disowned);
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.abandon();
        self.phase = Phase::Finished;
        self.deadline = None;
        self.unwatch();
        self.release();
        self.actions.push(Action::Finish(outcome));
    }

    /// Enters a phase: ends what the old one had in flight, begins what the new one is about, shows it in the row.
    fn go(&mut self, phase: Phase, now: Instant) {
        self.abandon();
        self.phase = phase;
        self.deadline = match phase {
            // The rest of the block that began with the request.
            Phase::ShuttingDown => self.block_end,
            _ => self.limit(phase).map(|limit| now + limit),
        };
        if phase.watch().is_none() {
            self.unwatch();
        }
        match phase {
            Phase::Loading => self.effect(Action::Load),
            Phase::StartPermit => self.effect(Action::TakeStartPermit),
            Phase::CleaningOld | Phase::CleaningUp | Phase::ReapCleaning => self.effect(Action::Cleanup),
            Phase::Preparing => self.effect(Action::Prepare),
            Phase::PreStart => self.effect(Action::RunHook(HookKind::PreStart)),
            Phase::Launching => {
                self.launched = true;
                self.effect(Action::Launch);
            }
            Phase::SavingEndpoint => {
                self.write(Write::Endpoint);
                self.watch(phase);
            }
            Phase::PostStart => {
                self.write(Write::Success);
                self.actions.push(Action::CountSuccess);
                self.effect(Action::RunHook(HookKind::PostStart));
            }
            Phase::AwaitingAgent | Phase::Monitoring | Phase::Debugging => self.watch(phase),
            Phase::StopPermit => self.effect(Action::TakeStopPermit),
            Phase::PoweringOff => self.effect(Action::Poweroff),
            Phase::Terminating => self.effect(Action::Terminate),
            Phase::Killing | Phase::ReapKilling => {
                let limit = self.kill_limit(now);
                self.effect(Action::Kill { limit });
            }
            Phase::PostStop => self.effect(Action::RunHook(HookKind::PostStop)),
            Phase::Clearing => self.write(Write::Clear),
            Phase::HomeWait | Phase::ReapDelay => self.release(),
            Phase::Idle
            | Phase::SavingSetup
            | Phase::SavingRunning
            | Phase::ShuttingDown
            | Phase::ClearWait
            | Phase::Finished => {}
        }
        self.settle_slots();
        if phase != Phase::Clearing {
            self.show(phase.vm_state(), phase.vm_phase(self.vain_kills > 0));
        }
    }

    fn limit(&self, phase: Phase) -> Option<Duration> {
        let limits = &self.limits;
        match phase {
            Phase::Loading => Some(limits.load),
            Phase::StartPermit => Some(limits.start_permit),
            Phase::Preparing => Some(limits.prepare),
            Phase::PreStart | Phase::PostStart | Phase::PostStop => Some(limits.hook),
            Phase::Launching => Some(limits.launch),
            Phase::StopPermit | Phase::PoweringOff => Some(limits.shutdown),
            Phase::Terminating => Some(limits.terminate.min(limits.stop)),
            Phase::Killing | Phase::ReapKilling => Some(limits.kill + KILL_MARGIN),
            Phase::CleaningOld | Phase::CleaningUp | Phase::ReapCleaning => Some(limits.cleanup),
            Phase::Clearing if self.leaving => Some(LAST_WRITE),
            Phase::ClearWait => Some(limits.clear_retry),
            Phase::HomeWait => Some(doubled(limits.home_wait, self.home_waits).min(limits.home_wait_max)),
            Phase::ReapDelay => Some(doubled(limits.reap_delay, self.vain_kills).min(limits.reap_delay_max)),
            // The database, the monitor or somebody's order ends these. With the database away a write is
            // repeated until it is back; a node that is cut off from it for too long is fenced as a whole.
            Phase::Idle
            | Phase::SavingSetup
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::SavingRunning
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::ShuttingDown
            | Phase::Clearing
            | Phase::Finished => None,
        }
    }

    /// A kill at the end of the polite block has what is left of the block, at least a second.
    fn kill_limit(&self, now: Instant) -> Duration {
        let rest =
            self.block_end.map(|end| end.saturating_duration_since(now)).filter(|rest| !rest.is_zero());
        rest.unwrap_or(self.limits.kill)
            .clamp(Duration::from_secs(1), self.limits.kill.max(Duration::from_secs(1)))
    }

    fn effect(&mut self, action: Action) {
        debug_assert!(action.is_effect() && !self.busy);
        self.busy = true;
        self.actions.push(action);
    }

    fn abandon(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.actions.push(Action::Abandon);
        }
    }

    fn watch(&mut self, phase: Phase) {
        let watch = phase.watch().filter(|_| self.traits.has_agent);
        if let Some(watch) = watch.filter(|watch| self.monitored != Some(*watch)) {
            self.monitored = Some(watch);
            self.actions.push(Action::StartMonitor(watch));
        }
    }

    fn unwatch(&mut self) {
        if self.monitored.take().is_some() {
            self.actions.push(Action::StopMonitor);
        }
    }

    /// The starting slot is kept while `starting`, the heavy one until it settled.
    fn settle_slots(&mut self) {
        if matches!(self.phase, Phase::Monitoring | Phase::Debugging) {
            self.release();
        } else if self.held == Held::HeavyAndStarting && self.phase.vm_state() != VmState::Starting {
            self.held = Held::Heavy;
            self.actions.push(Action::ReleaseStarting);
        }
    }

    fn release(&mut self) {
        if self.held != Held::Nothing {
            self.held = Held::Nothing;
            self.actions.push(Action::ReleasePermits);
        }
    }

    fn record(&mut self, failure: Failure, failed_start: bool) {
        self.write(Write::Failure { failure, failed_start });
    }

    fn show(&mut self, state: VmState, phase: Option<VmPhase>) {
        if state != VmState::Stopped && self.shown != Some((state, phase)) {
            self.shown = Some((state, phase));
            self.write(Write::State(state, phase));
        }
    }

    fn write(&mut self, write: Write) {
        if self.owned {
            self.actions.push(Action::Write(write));
        }
    }
}

/// How long the last write of a node that is going may take.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// What a driver gets beyond the limit that it was told, before it counts as hung.
const KILL_MARGIN: Duration = Duration::from_secs(5);

/// A pause after the `nth` attempt: twice as long each time.
fn doubled(first: Duration, nth: u32) -> Duration {
    first.saturating_mul(1 << nth.saturating_sub(1).min(16))
}
