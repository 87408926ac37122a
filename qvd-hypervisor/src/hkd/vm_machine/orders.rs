//! What others want: a start, a stop, a kill, the row itself.

use std::time::Instant;

use qvd_core::hypervisor::ExitInfo;
use qvd_core::state::{VmPhase, VmState};

use super::{Action, Failure, Held, LAST_WRITE, Outcome, Past, Phase, Traits, VmMachine};

impl VmMachine {
    pub(super) fn start(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            // The acceptance of the start wrote this.
            self.shown = Some((VmState::Starting, Some(VmPhase::Starting1)));
            self.go(Phase::Loading, now);
        }
    }

    pub(super) fn adopt(&mut self, past: Past, traits: Traits, now: Instant) {
        if self.phase != Phase::Idle {
            return;
        }
        self.traits = traits;
        self.launched = true;
        match past {
            Past::Starting => {
                self.held = Held::HeavyAndStarting;
                self.actions.push(Action::KeepPermits);
                self.go(Phase::SavingEndpoint, now);
            }
            Past::Running => {
                self.agent_seen = true;
                self.shown = Some((VmState::Running, None));
                self.go(Phase::Monitoring, now);
            }
            Past::Debugging => {
                self.shown = Some((VmState::Debugging, None));
                self.go(Phase::Debugging, now);
            }
            Past::Stopping => {
                self.agent_seen = true;
                self.go(Phase::StopPermit, now);
            }
            Past::Gone => self.go(Phase::CleaningUp, now),
            Past::Zombie | Past::Unknown => self.go(Phase::ReapKilling, now),
            Past::Foreign => {
                self.owned = false;
                self.go(Phase::ReapKilling, now);
            }
        }
    }

    /// What its end leads to, as if it had been seen; an end that nobody wrote down is charged to nobody.
    pub(super) fn found_dead(&mut self, booting: bool, exit: Option<ExitInfo>, traits: Traits, now: Instant) {
        if self.phase != Phase::Idle {
            return;
        }
        self.traits = traits;
        self.launched = true;
        match exit {
            Some(exit) => self.record_end(&exit, booting),
            None if booting => {
                self.record(Failure::nobody("its start was cut off by the end of the node's daemon"), false);
            }
            None => self.record(Failure::nobody("it was gone when the node's daemon came back"), false),
        }
        self.go(Phase::CleaningUp, now);
    }

    pub(super) fn guard_lost(&mut self, now: Instant) {
        if !self.owned || self.phase == Phase::Finished {
            return;
        }
        self.owned = false;
        self.actions.push(Action::DropWrites);
        match self.phase {
            Phase::Idle | Phase::Loading | Phase::StartPermit | Phase::HomeWait => self.call_off(now),
            Phase::Clearing | Phase::ClearWait => self.leave(now),
            Phase::CleaningOld | Phase::SavingSetup | Phase::Preparing | Phase::PreStart => {
                self.go(Phase::ReapCleaning, now);
            }
            Phase::Launching
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::SavingRunning
            | Phase::PostStart
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::StopPermit
            | Phase::PoweringOff
            | Phase::ShuttingDown
            | Phase::Terminating
            | Phase::ReapDelay => self.go(Phase::ReapKilling, now),
            // Already as fast as it can be.
            Phase::Killing
            | Phase::CleaningUp
            | Phase::PostStop
            | Phase::ReapKilling
            | Phase::ReapCleaning
            | Phase::Finished => {}
        }
    }

    pub(super) fn stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle | Phase::Loading | Phase::StartPermit | Phase::HomeWait => self.call_off(now),
            Phase::CleaningOld | Phase::SavingSetup | Phase::Preparing | Phase::PreStart => {
                self.go(Phase::CleaningUp, now);
            }
            // Cutting a launch in two is worse than waiting for its end, when that is near.
            Phase::Launching => {
                self.stop_wanted = true;
                let soon = now + self.limits.launch_stop;
                self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
            }
            Phase::SavingEndpoint | Phase::AwaitingAgent | Phase::SavingRunning | Phase::PostStart => {
                self.shut_down(now)
            }
            Phase::Monitoring | Phase::Debugging => self.go(Phase::StopPermit, now),
            // On its way.
            Phase::StopPermit
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
            | Phase::Finished => {}
        }
    }

    pub(super) fn kill(&mut self, now: Instant) {
        self.leaving = true;
        match self.phase {
            Phase::Idle | Phase::Loading | Phase::StartPermit | Phase::HomeWait => self.call_off(now),
            Phase::CleaningOld | Phase::SavingSetup | Phase::Preparing | Phase::PreStart => {
                self.go(Phase::CleaningUp, now);
            }
            Phase::Launching
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::SavingRunning
            | Phase::PostStart
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::StopPermit
            | Phase::PoweringOff
            | Phase::ShuttingDown
            | Phase::Terminating => self.go(Phase::Killing, now),
            // The row tells the truth; the next daemon goes on from there.
            Phase::ClearWait | Phase::ReapDelay => self.finish(Outcome::Left),
            Phase::Clearing => self.deadline = Some(now + LAST_WRITE),
            // As fast as it can be; see `reap_later` for what follows a failure.
            Phase::Killing
            | Phase::CleaningUp
            | Phase::PostStop
            | Phase::ReapKilling
            | Phase::ReapCleaning
            | Phase::Finished => {}
        }
    }

    pub(super) fn alert(&mut self) {
        if self.phase == Phase::Monitoring {
            self.actions.push(Action::Alert);
        }
    }
}
