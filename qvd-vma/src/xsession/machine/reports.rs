//! What the agent's own words do to the machine. They are the truth: a surprising one is followed.

use std::time::Instant;

use super::{Action, Failure, Machine, Phase, Sleep, StartAnswer};
use crate::xsession::output::Report;

impl Machine {
    pub(super) fn reported(&mut self, report: Report, now: Instant) -> Vec<Action> {
        match report {
            // Told by the launch itself.
            Report::Starting => Vec::new(),
            Report::Waiting => self.reported_waiting(now),
            Report::Accepted => self.reported_accepted(now),
            Report::Started => self.reported_started(),
            Report::Resuming => self.reported_resuming(now),
            Report::Resumed => self.reported_resumed(),
            Report::Suspending => self.reported_suspending(now),
            Report::Suspended => self.reported_suspended(now),
            Report::Terminating | Report::Terminated => self.reported_end(None, now),
            Report::Aborting | Report::Aborted => self.reported_end(Some(Failure::Aborted), now),
        }
    }

    fn reported_waiting(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Waking if self.unwanted => self.back_to_sleep_from_wait(now),
            Phase::Waking => {
                self.failed_wakes = 0;
                self.unanswered = None;
                self.sleep = Sleep::Waiting;
                self.enter(Phase::ListeningAgain, Some(now + self.limits.listening));
                self.start_connect_hook()
            }
            Phase::Reconsulting => {
                self.sleep = Sleep::Waiting;
                Vec::new()
            }
            Phase::WokenUnasked | Phase::Suspended => self.back_to_sleep_from_wait(now),
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::ListeningAgain
            | Phase::Stopping => Vec::new(),
        }
    }

    /// The wait proves that every HUP so far was acted upon.
    fn back_to_sleep_from_wait(&mut self, now: Instant) -> Vec<Action> {
        self.unanswered = None;
        self.back_to_sleep(now)
    }

    /// From here on it is the link that takes its time, not a client that does not come.
    fn reported_accepted(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Listening | Phase::ListeningAgain) {
            self.accepted = true;
            self.deadline = Some(now + self.limits.connecting);
        }
        Vec::new()
    }

    fn reported_started(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Listening => {
                self.enter(Phase::Connected, None);
                vec![Action::StartSession]
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping => Vec::new(),
        }
    }

    fn reported_resuming(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Waking => {
                self.unanswered = None;
                self.sleep = Sleep::Rising;
                self.deadline = self.give_up_at;
                self.start_connect_hook()
            }
            Phase::Reconsulting => {
                self.unanswered = None;
                self.sleep = Sleep::Rising;
                Vec::new()
            }
            Phase::Suspended | Phase::Suspending => {
                self.unanswered = None;
                self.woken_unasked(now);
                Vec::new()
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping => Vec::new(),
        }
    }

    fn reported_resumed(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Suspending
            | Phase::Suspended
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked => {
                self.failed_wakes = 0;
                self.enter(Phase::Connected, None);
                Vec::new()
            }
            Phase::Reconsulting => {
                self.enter(Phase::Connected, None);
                let mut actions = vec![Action::CancelEffect];
                actions.extend(self.answer_start(StartAnswer::Refused(self.state())));
                actions
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening
            | Phase::Connected
            | Phase::Stopping => Vec::new(),
        }
    }

    fn reported_suspending(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Listening | Phase::Connected | Phase::ListeningAgain | Phase::WokenUnasked => {
                self.unanswered = None;
                self.enter_limited(Phase::Suspending, now, self.limits.suspending);
            }
            Phase::Suspending => {
                self.unanswered = None;
                self.deadline = self.give_up_at;
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::Stopping => {}
        }
        Vec::new()
    }

    fn reported_suspended(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::ListeningAgain
            | Phase::WokenUnasked => {
                self.fell_asleep(now);
                self.enter(Phase::Suspended, None);
                Vec::new()
            }
            Phase::Suspended | Phase::Reconsulting => {
                self.fell_asleep(now);
                Vec::new()
            }
            // The resume came to nothing; it is tried again as long as there is time.
            Phase::Waking if self.unwanted => {
                self.fell_asleep(now);
                self.enter(Phase::Suspended, None);
                Vec::new()
            }
            Phase::Waking => {
                self.fell_asleep(now);
                self.wake(now)
            }
            // An agent that waits after a resume gives up that wait for a TERM, and nothing more.
            Phase::Stopping => {
                self.sent(now);
                self.await_answer();
                vec![Action::Term]
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching => Vec::new(),
        }
    }

    fn fell_asleep(&mut self, now: Instant) {
        self.unanswered = None;
        self.sleep = Sleep::Asleep;
        self.suspended_at = Some(now);
    }

    fn reported_end(&mut self, failure: Option<Failure>, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked => {
                let mut actions: Vec<_> =
                    failure.map(|failure| Action::RecordFailure(self.phase, failure)).into_iter().collect();
                actions.extend(self.stopping(now, StartAnswer::Failed));
                actions
            }
            Phase::Stopping => {
                self.unanswered = None;
                self.deadline = self.give_up_at;
                Vec::new()
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching => Vec::new(),
        }
    }
}
