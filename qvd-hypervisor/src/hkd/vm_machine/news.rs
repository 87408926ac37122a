//! What happened to the virtual machine, or did not happen in time.

use std::time::Instant;

use qvd_core::hypervisor::ExitInfo;

use super::{Action, Failure, Outcome, Phase, VmMachine};

impl VmMachine {
    pub(super) fn alive(&mut self, now: Instant) {
        match self.phase {
            Phase::AwaitingAgent | Phase::Debugging => {
                self.agent_seen = true;
                self.go(Phase::SavingRunning, now);
            }
            // The row must say where it is before it says that it runs.
            Phase::SavingEndpoint | Phase::Monitoring => self.agent_seen = true,
            // Late news of a monitor that was stopped.
            Phase::Idle
            | Phase::Loading
            | Phase::StartPermit
            | Phase::CleaningOld
            | Phase::SavingSetup
            | Phase::Preparing
            | Phase::PreStart
            | Phase::Launching
            | Phase::HomeWait
            | Phase::SavingRunning
            | Phase::PostStart
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
            | Phase::Finished => {}
        }
    }

    pub(super) fn dead(&mut self, text: String, now: Instant) {
        match self.phase {
            Phase::SavingEndpoint | Phase::AwaitingAgent | Phase::Monitoring => {
                let booting = self.phase != Phase::Monitoring;
                self.record(Failure::vm(text), booting);
                self.agent_seen = false;
                if self.limits.debug {
                    self.go(Phase::Debugging, now);
                } else if booting {
                    self.end_politely(now);
                } else {
                    self.go(Phase::StopPermit, now);
                }
            }
            // The administrator looks at it.
            Phase::Debugging => {}
            // Late news of a monitor that was stopped.
            Phase::Idle
            | Phase::Loading
            | Phase::StartPermit
            | Phase::CleaningOld
            | Phase::SavingSetup
            | Phase::Preparing
            | Phase::PreStart
            | Phase::Launching
            | Phase::HomeWait
            | Phase::SavingRunning
            | Phase::PostStart
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
            | Phase::Finished => {}
        }
    }

    pub(super) fn exited(&mut self, exit: &ExitInfo, now: Instant) {
        match self.phase {
            Phase::SavingEndpoint | Phase::AwaitingAgent => {
                self.record_end(exit, true);
                self.go(Phase::CleaningUp, now);
            }
            Phase::SavingRunning | Phase::PostStart | Phase::Monitoring | Phase::Debugging => {
                self.record_end(exit, false);
                self.go(Phase::CleaningUp, now);
            }
            Phase::StopPermit | Phase::PoweringOff | Phase::ShuttingDown | Phase::Terminating => {
                self.go(Phase::CleaningUp, now);
            }
            // The kill in flight is answered by itself; before a launch and after the end nothing is watched.
            Phase::Killing
            | Phase::ReapKilling
            | Phase::ReapCleaning
            | Phase::ReapDelay
            | Phase::CleaningUp
            | Phase::PostStop
            | Phase::Clearing
            | Phase::ClearWait
            | Phase::Idle
            | Phase::Loading
            | Phase::StartPermit
            | Phase::CleaningOld
            | Phase::SavingSetup
            | Phase::Preparing
            | Phase::PreStart
            | Phase::Launching
            | Phase::HomeWait
            | Phase::Finished => {}
        }
    }

    /// Before its agent answered an end is a failed start; later it is told unless it ended well.
    pub(super) fn record_end(&mut self, exit: &ExitInfo, booting: bool) {
        if booting {
            self.record(Failure::vm(last_words("ended before its agent answered", exit)), true);
        } else if exit.code != Some(0) {
            self.record(Failure::nobody(last_words("ended by itself", exit)), false);
        }
    }

    pub(super) fn deadline_passed(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.phase {
            Phase::Loading => self.give_up(Failure::host("reading what to run took too long"), now),
            Phase::Preparing => self.give_up(Failure::host("preparing it took too long"), now),
            Phase::PreStart => self.give_up(Failure::host("the prestart hook took too long"), now),
            Phase::StartPermit => {
                self.give_up(Failure::nobody("no slot to start in became free in time"), now);
            }
            Phase::Launching => {
                if !self.stop_wanted {
                    self.record(Failure::host("the launch took too long"), true);
                }
                self.go(Phase::Killing, now);
            }
            Phase::HomeWait => self.go(Phase::StartPermit, now),
            Phase::PostStart => self.give_up(Failure::nobody("the poststart hook took too long"), now),
            Phase::StopPermit => {
                self.abandon();
                self.stop_with_permit(now);
            }
            Phase::PoweringOff | Phase::ShuttingDown => self.end_politely(now),
            Phase::Terminating => self.go(Phase::Killing, now),
            Phase::CleaningOld
            | Phase::Killing
            | Phase::CleaningUp
            | Phase::PostStop
            | Phase::ReapKilling
            | Phase::ReapCleaning => self.give_up(Failure::host("took too long"), now),
            Phase::Clearing => {
                self.actions.push(Action::DropWrites);
                self.finish(Outcome::Left);
            }
            Phase::ClearWait => self.go(Phase::Clearing, now),
            Phase::ReapDelay => self.go(Phase::ReapKilling, now),
            // These have no limit of their own: the monitor or the writer ends them.
            Phase::Idle
            | Phase::SavingSetup
            | Phase::SavingEndpoint
            | Phase::AwaitingAgent
            | Phase::SavingRunning
            | Phase::Monitoring
            | Phase::Debugging
            | Phase::Finished => {}
        }
    }

    /// An effect outlived its limit: as if it had failed.
    pub(super) fn give_up(&mut self, failure: Failure, now: Instant) {
        self.abandon();
        self.failed(failure, now);
    }
}

fn last_words(what: &str, exit: &ExitInfo) -> String {
    match exit.last_words.trim() {
        "" => format!("{what} ({exit})"),
        words => format!("{what} ({exit}): {words}"),
    }
}
