//! What callers, and the effects that they set off, do to the machine.

use std::time::Instant;

use qvd_core::state::XState;

use super::{Action, Machine, Phase, Sleep, StartAnswer};

impl Machine {
    pub(super) fn start_asked(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Stopped => {
                self.start_pending = true;
                self.enter(Phase::Consulting, None);
                vec![Action::Consult { resume: false }]
            }
            Phase::Suspended => {
                self.start_pending = true;
                self.sleep = Sleep::Asleep;
                self.enter(Phase::Reconsulting, None);
                vec![Action::Consult { resume: true }]
            }
            // The hook of an earlier call runs: for the caller that is a start under way.
            Phase::Consulting | Phase::Reconsulting => {
                vec![Action::AnswerStart(StartAnswer::Refused(XState::Starting))]
            }
            Phase::Connected => {
                let mut actions = self.hup_a_connected_agent(now);
                actions.push(Action::AnswerStart(StartAnswer::SuspendingFirst));
                actions
            }
            Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Suspending
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping => vec![Action::AnswerStart(StartAnswer::Refused(self.state()))],
        }
    }

    pub(super) fn suspend_asked(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Connected => {
                let mut actions = self.hup_a_connected_agent(now);
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            Phase::ListeningAgain => {
                let mut actions = self.back_to_sleep(now);
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            // Nobody has been connected, so there is nothing to keep: the next start makes another.
            Phase::Listening => {
                let mut actions = self.terminate(now, StartAnswer::Failed);
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            // It ends as soon as it waits: an agent that is broken off while it starts is in the next one's way.
            Phase::Preparing | Phase::Provisioning | Phase::Launching => {
                self.unwanted = true;
                vec![Action::AnswerSuspend(true)]
            }
            Phase::Consulting => {
                let mut actions = vec![Action::CancelEffect];
                actions.extend(self.answer_start(StartAnswer::Refused(self.state())));
                self.rest();
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            Phase::Reconsulting => {
                let mut actions = vec![Action::CancelEffect];
                actions.extend(self.answer_start(StartAnswer::Refused(self.state())));
                actions.extend(self.leave_suspended(now));
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            Phase::Waking => self.stop_waking(),
            Phase::Stopped | Phase::Suspending | Phase::Suspended | Phase::WokenUnasked | Phase::Stopping => {
                vec![Action::AnswerSuspend(false)]
            }
        }
    }

    /// The resume is called off: at once when the agent knows nothing of it, else as soon as it waits.
    fn stop_waking(&mut self) -> Vec<Action> {
        if self.sleep != Sleep::Asleep || self.unanswered.is_some() {
            self.unwanted = true;
            return vec![Action::AnswerSuspend(true)];
        }
        let mut actions = self.answer_start(StartAnswer::Refused(XState::Suspended));
        self.enter(Phase::Suspended, None);
        actions.push(Action::AnswerSuspend(true));
        actions
    }

    pub(super) fn stop_asked(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Stopped | Phase::Stopping => vec![Action::AnswerStop(false)],
            Phase::Consulting => {
                let mut actions = vec![Action::CancelEffect];
                actions.extend(self.answer_start(StartAnswer::Refused(XState::Stopping)));
                self.rest();
                actions.push(Action::AnswerStop(true));
                actions
            }
            Phase::Preparing | Phase::Provisioning | Phase::Launching => {
                self.rest();
                vec![Action::CancelEffect, Action::Cleanup, Action::AnswerStop(true)]
            }
            Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked => {
                let mut actions = self.terminate(now, StartAnswer::Refused(XState::Stopping));
                actions.push(Action::AnswerStop(true));
                actions
            }
        }
    }

    pub(super) fn consulted(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Consulting => {
                self.enter(Phase::Preparing, Some(now + self.limits.preparing));
                let mut actions = self.answer_start(StartAnswer::Starting);
                actions.push(Action::Prepare);
                actions
            }
            Phase::Reconsulting => {
                self.unwanted = false;
                self.hook_started = false;
                self.unanswered = None;
                match self.sleep {
                    Sleep::Asleep | Sleep::Rising => {
                        self.enter_limited(Phase::Waking, now, self.limits.initiating);
                        self.wake(now)
                    }
                    Sleep::Waiting => {
                        self.enter(Phase::ListeningAgain, Some(now + self.limits.listening));
                        self.start_connect_hook()
                    }
                }
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping => Vec::new(),
        }
    }

    pub(super) fn consult_failed(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Consulting => {
                self.rest();
                self.answer_start(StartAnswer::Failed)
            }
            Phase::Reconsulting => {
                let mut actions = self.answer_start(StartAnswer::Failed);
                actions.extend(self.leave_suspended(now));
                actions
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping => Vec::new(),
        }
    }

    /// No resume comes of a question; an agent that woke meanwhile goes back to sleep.
    fn leave_suspended(&mut self, now: Instant) -> Vec<Action> {
        match self.sleep {
            Sleep::Asleep => self.enter(Phase::Suspended, None),
            Sleep::Rising => self.woken_unasked(now),
            Sleep::Waiting => {
                self.woken_unasked(now);
                return self.hup_a_waiting_agent(now);
            }
        }
        Vec::new()
    }

    pub(super) fn provisioning_began(&mut self) -> Vec<Action> {
        if self.phase == Phase::Preparing {
            self.enter(Phase::Provisioning, None);
        }
        Vec::new()
    }

    pub(super) fn launch_began(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Preparing | Phase::Provisioning) {
            self.enter(Phase::Launching, Some(now + self.limits.initiating));
        }
        Vec::new()
    }

    pub(super) fn launched(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::Launching {
            return Vec::new();
        }
        if self.unwanted {
            return self.terminate(now, StartAnswer::Failed);
        }
        self.unanswered = None;
        self.failed_wakes = 0;
        self.enter(Phase::Listening, Some(now + self.limits.listening));
        Vec::new()
    }

    pub(super) fn launch_failed(&mut self) -> Vec<Action> {
        if !matches!(self.phase, Phase::Preparing | Phase::Provisioning | Phase::Launching) {
            return Vec::new();
        }
        self.rest();
        vec![Action::Cleanup]
    }

    pub(super) fn connect_hook_failed(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = self.answer_start(StartAnswer::Failed);
        match self.phase {
            Phase::Waking => self.unwanted = true,
            Phase::ListeningAgain => actions.extend(self.back_to_sleep(now)),
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::WokenUnasked
            | Phase::Stopping => {}
        }
        actions
    }

    pub(super) fn session_ended(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked => self.terminate(now, StartAnswer::Refused(XState::Stopping)),
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Stopping => Vec::new(),
        }
    }
}
