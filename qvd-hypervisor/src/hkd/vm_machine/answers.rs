//! How effects and writes ended.

use std::time::Instant;

use qvd_core::state::{VmPhase, VmState};

use super::{Action, Failure, Held, Outcome, Phase, Traits, VmMachine, Wrote};

impl VmMachine {
    pub(super) fn loaded(&mut self, traits: Traits, now: Instant) {
        if self.phase == Phase::Loading {
            self.busy = false;
            self.traits = traits;
            self.actions.push(Action::CountAttempt);
            self.go(Phase::StartPermit, now);
        }
    }

    pub(super) fn done(&mut self, now: Instant) {
        let was_busy = std::mem::take(&mut self.busy);
        match self.phase {
            Phase::StartPermit => {
                self.held = Held::HeavyAndStarting;
                self.go(Phase::CleaningOld, now);
            }
            Phase::CleaningOld => {
                self.prepared = false;
                self.go(Phase::SavingSetup, now);
            }
            Phase::Preparing => {
                self.prepared = true;
                self.go(Phase::PreStart, now);
            }
            Phase::PreStart => self.go(Phase::Launching, now),
            Phase::Launching if self.stop_wanted => self.end_politely(now),
            Phase::Launching => self.go(Phase::SavingEndpoint, now),
            Phase::PostStart => self.go(Phase::Monitoring, now),
            Phase::StopPermit => {
                self.held = Held::Heavy;
                self.stop_with_permit(now);
            }
            Phase::PoweringOff => self.go(Phase::ShuttingDown, now),
            Phase::Killing => self.go(Phase::CleaningUp, now),
            Phase::CleaningUp => self.go(Phase::PostStop, now),
            Phase::PostStop => self.leave(now),
            Phase::ReapKilling => self.go(Phase::ReapCleaning, now),
            Phase::ReapCleaning => self.leave(now),
            // The request was taken; the end or the deadline comes next.
            Phase::Terminating => {}
            // No effect of these is answered so.
            Phase::Idle
            | Phase::Loading
            | Phase::SavingSetup
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::HomeWait
            | Phase::SavingRunning
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::ShuttingDown
            | Phase::Clearing
            | Phase::ClearWait
            | Phase::ReapDelay
            | Phase::Finished => self.busy = was_busy,
        }
    }

    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        self.busy = false;
        match self.phase {
            Phase::Loading | Phase::StartPermit => {
                self.record(failure, true);
                self.call_off(now);
            }
            Phase::CleaningOld => {
                self.record(failure, true);
                self.go(Phase::ReapKilling, now);
            }
            Phase::Preparing | Phase::PreStart => {
                self.record(failure, true);
                self.go(Phase::CleaningUp, now);
            }
            Phase::Launching => {
                // Clean-up refuses if something lives after all; then it is reaped.
                self.record(failure, true);
                self.go(Phase::CleaningUp, now);
            }
            Phase::PostStart => {
                self.record(failure, false);
                self.shut_down(now);
            }
            Phase::StopPermit => self.stop_with_permit(now),
            Phase::PoweringOff => self.end_politely(now),
            Phase::Terminating => self.go(Phase::Killing, now),
            Phase::Killing => self.reap_later(now),
            Phase::CleaningUp => self.go(Phase::ReapKilling, now),
            Phase::PostStop => self.leave(now),
            // What could not be killed, or not be seen, may be gone all the same: clean-up refuses if it lives.
            Phase::ReapKilling if !self.leaving => self.go(Phase::ReapCleaning, now),
            Phase::ReapKilling | Phase::ReapCleaning => self.reap_later(now),
            // Nothing is in flight in these.
            Phase::Idle
            | Phase::SavingSetup
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::HomeWait
            | Phase::SavingRunning
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::ShuttingDown
            | Phase::Clearing
            | Phase::ClearWait
            | Phase::ReapDelay
            | Phase::Finished => {}
        }
    }

    /// Somebody else holds the home. A start waits for it; what ends a run is repeated like any other failure.
    pub(super) fn home_in_use(&mut self, text: String, now: Instant) {
        match self.phase {
            Phase::Launching if self.stop_wanted => {
                self.busy = false;
                self.launched = false;
                self.go(Phase::CleaningUp, now);
            }
            // Nothing of this run is in there, and what it prepared beside it is cleaned by the next start here.
            Phase::CleaningUp | Phase::ReapCleaning if !self.launched => self.done(now),
            Phase::CleaningOld | Phase::Preparing | Phase::Launching => {
                self.busy = false;
                self.launched = false;
                self.record(Failure::nobody(text), false);
                self.home_waits = self.home_waits.saturating_add(1);
                self.go(Phase::HomeWait, now);
            }
            Phase::Idle
            | Phase::Loading
            | Phase::StartPermit
            | Phase::SavingSetup
            | Phase::PreStart
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::HomeWait
            | Phase::SavingRunning
            | Phase::PostStart
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::StopPermit
            | Phase::PoweringOff
            | Phase::ShuttingDown
            | Phase::Terminating
            | Phase::Killing
            | Phase::CleaningUp
            | Phase::PostStop
            | Phase::Clearing
            | Phase::ClearWait
            | Phase::ReapKilling
            | Phase::ReapCleaning
            | Phase::ReapDelay
            | Phase::Finished => self.failed(Failure::nobody(text), now),
        }
    }

    pub(super) fn written(&mut self, what: Wrote, now: Instant) {
        match (self.phase, what) {
            (Phase::SavingSetup, Wrote::State(VmState::Starting, Some(VmPhase::Starting2))) => {
                self.go(Phase::Preparing, now);
            }
            (Phase::SavingEndpoint, Wrote::Endpoint) if self.traits.has_agent && !self.agent_seen => {
                self.go(Phase::AwaitingAgent, now);
            }
            (Phase::SavingEndpoint, Wrote::Endpoint) => self.go(Phase::SavingRunning, now),
            (Phase::SavingRunning, Wrote::State(VmState::Running, None)) => self.go(Phase::PostStart, now),
            (Phase::Clearing, Wrote::Clear) => self.finish(Outcome::Stopped),
            // Nobody waits for these.
            (_, Wrote::State(..) | Wrote::Endpoint | Wrote::Record | Wrote::Clear) => {}
        }
    }

    pub(super) fn write_failed(&mut self, what: Wrote, text: String, now: Instant) {
        match (self.phase, what) {
            (Phase::SavingSetup, Wrote::State(..)) => {
                self.record(Failure::host(text), true);
                self.go(Phase::CleaningUp, now);
            }
            (Phase::SavingEndpoint, Wrote::Endpoint) => {
                self.record(Failure::host(text), true);
                self.end_politely(now);
            }
            (Phase::SavingRunning, Wrote::State(..)) => {
                self.record(Failure::host(text), true);
                self.shut_down(now);
            }
            (Phase::Clearing, Wrote::Clear) if self.leaving => self.finish(Outcome::Left),
            (Phase::Clearing, Wrote::Clear) => self.go(Phase::ClearWait, now),
            // A later write makes up for it, or nobody needs it.
            (_, Wrote::State(..) | Wrote::Endpoint | Wrote::Record | Wrote::Clear) => {}
        }
    }
}
