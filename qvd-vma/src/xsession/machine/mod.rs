//! What is to be done about the one X session of this machine: pure, without clock or IO.
//!
//! The shell feeds [`Event`]s and performs the [`Action`]s; it sleeps until [`Machine::deadline`] and feeds
//! [`Event::Deadline`] then. [`XState`] is what callers see, [`Phase`] the finer step.
//!
//! The moves between phases (a test compares this list with the code):
//!
//! ```text
//! stopped         → consulting
//! consulting      → stopped, preparing
//! preparing       → provisioning, launching, stopped
//! provisioning    → launching, stopped
//! launching       → listening, stopping, stopped
//! listening       → connected, suspending, suspended, stopping, stopped
//! connected       → suspending, suspended, stopping, stopped
//! suspending      → suspended, connected, woken-unasked, stopping, stopped
//! suspended       → reconsulting, connected, woken-unasked, suspending, stopping, stopped
//! reconsulting    → suspended, woken-unasked, waking, listening-again, connected, consulting, stopping
//! waking          → listening-again, connected, suspended, suspending, stopping, stopped
//! listening-again → connected, suspending, suspended, stopping, stopped
//! woken-unasked   → suspending, suspended, connected, stopping, stopped
//! stopping        → stopped
//! ```
//!
//! The agent takes SIGHUP as a toggle: connected → suspend, suspended → wait for a client, waiting after a
//! resume → suspended. One that crosses the agent's own suspend therefore wakes it. So a HUP is sent only while
//! none is outstanding, a resuming one not before the agent has settled and again when nothing follows, and an
//! agent that woke without being asked is put back to sleep as soon as it waits. A session that somebody has
//! looked at is never ended because nobody came: only an agent that no longer reacts is.
//!
//! SIGTERM ends the agent unless it waits after a resume: then it ends that wait, and a second one is due when the
//! agent is suspended again.
//!
//! Signals get lost: nxagent looks for them when its `select` is interrupted, so that one that comes just before a
//! `select` lies there until something else wakes the agent; the wait for a client sleeps 20 s at a time. Whatever
//! is not answered by a word is sent again. Two that the agent has not yet acted upon are one to it.

use std::time::{Duration, Instant};

use qvd_core::state::XState;

mod asked;
mod phase;
mod reports;
mod words;

pub use phase::Phase;
pub use words::{Action, Event, Failure, Limits, StartAnswer};

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    phase: Phase,
    deadline: Option<Instant>,
    /// When an agent that is told to sleep, to wake or to end is given up.
    give_up_at: Option<Instant>,
    /// The last signal, while no line of the agent has answered it.
    unanswered: Option<Sent>,
    /// What the agent does while the phase is suspended-like or waking.
    sleep: Sleep,
    /// When the agent became suspended.
    suspended_at: Option<Instant>,
    /// Resumes in a row that the agent did not react to.
    failed_wakes: u32,
    /// A caller of `StartAsked` has no answer yet.
    start_pending: bool,
    /// The connect hook of this resume has been started.
    hook_started: bool,
    /// Nobody comes any more, or the connect hook of this resume failed: an agent that resumes goes back to sleep, a
    /// new one ends.
    unwanted: bool,
    /// A client of the wait that the phase is has been accepted.
    accepted: bool,
}

/// A signal that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    at: Instant,
    /// How often in a row.
    times: u32,
}

/// Whether a suspended agent sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Asleep,
    Rising,
    Waiting,
}

impl Machine {
    /// A machine without a session.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Stopped,
            deadline: None,
            give_up_at: None,
            unanswered: None,
            sleep: Sleep::Asleep,
            suspended_at: None,
            failed_wakes: 0,
            start_pending: false,
            hook_started: false,
            unwanted: false,
            accepted: false,
        }
    }

    /// The step it is in.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What callers see.
    pub fn state(&self) -> XState {
        self.phase.public()
    }

    /// When to feed [`Event::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes one event; the result is what to do now, in order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let before = self.state();
        let mut actions = match event {
            Event::StartAsked => self.start_asked(now),
            Event::SuspendAsked => self.suspend_asked(now),
            Event::StopAsked => self.stop_asked(now),
            Event::Consulted => self.consulted(now),
            Event::ConsultFailed => self.consult_failed(now),
            Event::ProvisioningBegan => self.provisioning_began(),
            Event::LaunchBegan => self.launch_began(now),
            Event::Launched => self.launched(now),
            Event::LaunchFailed => self.launch_failed(),
            Event::ConnectHookPassed => self.answer_start(StartAnswer::Starting),
            Event::ConnectHookFailed => self.connect_hook_failed(now),
            Event::Output(report) => self.reported(report, now),
            Event::SessionEnded => self.session_ended(now),
            Event::AgentGone => self.agent_gone(),
            Event::Deadline if self.deadline.is_some_and(|at| now >= at) => self.deadline_passed(now),
            Event::Deadline => Vec::new(),
        };
        if self.state() != before {
            actions.insert(0, Action::Publish(self.state()));
        }
        actions
    }

    fn agent_gone(&mut self) -> Vec<Action> {
        let died_in = self.phase;
        let mut actions = Vec::new();
        match died_in {
            // No agent was there, or its launch reports its end.
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching => {
                return actions;
            }
            Phase::Stopping => {}
            Phase::Listening
            | Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked => actions.push(Action::RecordFailure(died_in, Failure::Died)),
        }
        actions.extend([Action::EndSession, Action::Cleanup]);
        if died_in == Phase::Reconsulting {
            // The hook still decides, now on a start from nothing.
            self.rest();
            self.start_pending = true;
            self.enter(Phase::Consulting, None);
        } else {
            if self.start_pending {
                actions.push(Action::CancelEffect);
            }
            actions.extend(self.answer_start(StartAnswer::Failed));
            self.rest();
        }
        actions
    }

    fn deadline_passed(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Preparing | Phase::Launching => {
                let failure = Action::RecordFailure(self.phase, Failure::TimedOut);
                self.rest();
                vec![Action::CancelEffect, failure, Action::Cleanup]
            }
            // Nobody came to a new desktop: nothing of it is worth keeping.
            Phase::Listening => {
                let mut actions = vec![self.unvisited()];
                actions.extend(self.terminate(now, StartAnswer::Failed));
                actions
            }
            Phase::ListeningAgain => {
                let mut actions = vec![self.unvisited()];
                actions.extend(self.back_to_sleep(now));
                actions
            }
            Phase::Connected => self.suspend_again(now),
            Phase::Suspending | Phase::WokenUnasked if self.is_over(now) => self.give_up(now),
            Phase::Suspending | Phase::WokenUnasked => self.send_again(Action::Hup, now),
            Phase::Waking => self.wake(now),
            Phase::Stopping if self.is_over(now) => {
                self.unanswered = None;
                self.limit(now, self.limits.stopping);
                vec![Action::Kill]
            }
            Phase::Stopping => self.send_again(Action::Term, now),
            Phase::Stopped
            | Phase::Consulting
            | Phase::Provisioning
            | Phase::Suspended
            | Phase::Reconsulting => {
                self.deadline = None;
                Vec::new()
            }
        }
    }

    /// Somebody still looks at a desktop that is to be suspended. One whose agent stays deaf is left to them; the
    /// next caller tries again.
    fn suspend_again(&mut self, now: Instant) -> Vec<Action> {
        self.deadline = None;
        match self.unanswered {
            Some(sent) if sent.times < DEAF_AFTER => {
                self.sent(now);
                self.deadline = Some(now + self.limits.patience);
                vec![Action::Hup]
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether this phase has taken all the time that it has.
    fn is_over(&self, now: Instant) -> bool {
        self.give_up_at.is_none_or(|at| now >= at)
    }

    /// Gives the phase so long, from now on.
    fn limit(&mut self, now: Instant, limit: Duration) {
        self.give_up_at = Some(now + limit);
        self.deadline = self.give_up_at;
    }

    /// Sends the signal again if it was due, and says when the next is.
    fn send_again(&mut self, signal: Action, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.unanswered.is_some_and(|sent| now >= sent.at + self.limits.retry) {
            self.sent(now);
            actions.push(signal);
        }
        self.await_answer();
        actions
    }

    /// The next move is a repeated signal where one is unanswered, else giving up.
    fn await_answer(&mut self) {
        let again = self.unanswered.map(|sent| sent.at + self.limits.retry);
        self.deadline = [again, self.give_up_at].into_iter().flatten().min();
    }

    fn sent(&mut self, now: Instant) {
        let times = self.unanswered.map_or(0, |sent| sent.times);
        self.unanswered = Some(Sent { at: now, times: times.saturating_add(1) });
    }

    /// Why a wait for a client was in vain.
    fn unvisited(&self) -> Action {
        let failure = if self.accepted { Failure::TooSlow } else { Failure::NobodyCame };
        Action::RecordFailure(self.phase, failure)
    }

    /// One move of waking the agent: HUP when due, again when nothing followed, the end when it stays deaf.
    fn wake(&mut self, now: Instant) -> Vec<Action> {
        if self.is_over(now) {
            self.failed_wakes += 1;
            if self.failed_wakes >= DEAF_AFTER {
                return self.give_up(now);
            }
            let mut actions = self.answer_start(StartAnswer::Failed);
            if self.sleep == Sleep::Asleep {
                self.enter(Phase::Suspended, None);
            } else {
                actions.extend(self.back_to_sleep(now));
            }
            return actions;
        }
        if self.sleep != Sleep::Asleep {
            self.deadline = self.give_up_at;
            return self.start_connect_hook();
        }
        let due = match self.unanswered {
            Some(sent) => sent.at + self.limits.retry,
            None => self.suspended_at.map_or(now, |at| at + self.limits.settle),
        };
        if now < due {
            self.deadline = self.give_up_at.map(|at| at.min(due));
            return Vec::new();
        }
        self.sent(now);
        self.await_answer();
        let mut actions = vec![Action::Hup];
        actions.extend(self.start_connect_hook());
        actions
    }

    fn start_connect_hook(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.hook_started, true) {
            return Vec::new();
        }
        vec![Action::RunConnectHook]
    }

    /// Suspends an agent that waits after a resume.
    fn back_to_sleep(&mut self, now: Instant) -> Vec<Action> {
        self.enter_limited(Phase::Suspending, now, self.limits.suspending);
        self.hup_a_waiting_agent(now)
    }

    fn woken_unasked(&mut self, now: Instant) {
        self.enter_limited(Phase::WokenUnasked, now, self.limits.suspending);
    }

    /// HUP, unless one may still be on its way; until it is answered.
    fn hup_a_waiting_agent(&mut self, now: Instant) -> Vec<Action> {
        if self.unanswered.is_none() {
            self.sent(now);
            self.await_answer();
            return vec![Action::Hup];
        }
        self.send_again(Action::Hup, now)
    }

    /// HUP to an agent that somebody looks at, unless one may still be on its way: it may be busy.
    fn hup_a_connected_agent(&mut self, now: Instant) -> Vec<Action> {
        if self.unanswered.is_some_and(|sent| now < sent.at + self.limits.patience) {
            return Vec::new();
        }
        self.unanswered = Some(Sent { at: now, times: 1 });
        self.deadline = Some(now + self.limits.patience);
        vec![Action::Hup]
    }

    /// Ends an agent that does not react.
    fn give_up(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = vec![Action::RecordFailure(self.phase, Failure::TimedOut)];
        actions.extend(self.terminate(now, StartAnswer::Failed));
        actions
    }

    fn terminate(&mut self, now: Instant, answer: StartAnswer) -> Vec<Action> {
        let mut actions = vec![Action::Term];
        actions.extend(self.stopping(now, answer));
        self.sent(now);
        self.await_answer();
        actions
    }

    fn stopping(&mut self, now: Instant, answer: StartAnswer) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.start_pending {
            actions.push(Action::CancelEffect);
        }
        actions.extend(self.answer_start(answer));
        self.unanswered = None;
        self.enter_limited(Phase::Stopping, now, self.limits.stopping);
        actions
    }

    fn answer_start(&mut self, answer: StartAnswer) -> Vec<Action> {
        if std::mem::take(&mut self.start_pending) { vec![Action::AnswerStart(answer)] } else { Vec::new() }
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        self.phase = phase;
        self.deadline = deadline;
        self.accepted = false;
    }

    fn enter_limited(&mut self, phase: Phase, now: Instant, limit: Duration) {
        self.enter(phase, None);
        self.limit(now, limit);
    }

    /// Back to nothing; only the question whether a caller waits is not touched.
    fn rest(&mut self) {
        *self = Self { start_pending: self.start_pending, ..Self::new(self.limits) };
    }
}

/// An agent that did not react to so many resumes in a row is ended, so that a new desktop can be had; one that is
/// looked at gets so many signals for one suspend.
const DEAF_AFTER: u32 = 3;

#[cfg(test)]
mod tests;
