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
//! launching       → listening, stopped
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

use std::fmt;
use std::time::{Duration, Instant};

use qvd_core::state::XState;

use super::output::Report;

/// How long each step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connect hook and files before a first start.
    pub preparing: Duration,
    /// From the launch, or from a resume, until the agent waits for its client.
    pub initiating: Duration,
    /// Waiting for the client.
    pub listening: Duration,
    /// From the first sign of a suspend to its end.
    pub suspending: Duration,
    /// Between SIGTERM and SIGKILL, and between two of the latter.
    pub stopping: Duration,
    /// After a suspend, before the agent may be woken: an earlier HUP can get lost.
    pub settle: Duration,
    /// A resuming HUP without any reaction is sent again after this time.
    pub retry: Duration,
    /// A suspending HUP without any reaction counts as lost after this time.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            preparing: Duration::from_secs(320),
            initiating: Duration::from_secs(20),
            listening: Duration::from_secs(10),
            suspending: Duration::from_secs(20),
            stopping: Duration::from_secs(20),
            settle: Duration::from_millis(200),
            retry: Duration::from_secs(1),
            patience: Duration::from_secs(5),
        }
    }
}

/// The step that a session is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No agent, nothing asked.
    Stopped,
    /// No agent; the hook that may refuse a start runs.
    Consulting,
    /// Hooks and files before the launch.
    Preparing,
    /// The account or the home directory is being made.
    Provisioning,
    /// The agent runs and does not wait for its client yet.
    Launching,
    /// First wait for a client.
    Listening,
    /// Somebody looks at the desktop.
    Connected,
    /// On the way to suspended.
    Suspending,
    /// Nobody looks.
    Suspended,
    /// Suspended; the hook that may refuse a resume runs.
    Reconsulting,
    /// Resume accepted; the agent is being woken.
    Waking,
    /// Wait for a client after a resume.
    ListeningAgain,
    /// The agent woke although nobody asked; it is put back to sleep.
    WokenUnasked,
    /// Told to end.
    Stopping,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 14] = [
        Self::Stopped,
        Self::Consulting,
        Self::Preparing,
        Self::Provisioning,
        Self::Launching,
        Self::Listening,
        Self::Connected,
        Self::Suspending,
        Self::Suspended,
        Self::Reconsulting,
        Self::Waking,
        Self::ListeningAgain,
        Self::WokenUnasked,
        Self::Stopping,
    ];

    /// What callers see.
    pub const fn public(self) -> XState {
        match self {
            Self::Stopped | Self::Consulting => XState::Stopped,
            Self::Preparing | Self::Launching | Self::Waking => XState::Starting,
            Self::Provisioning => XState::Provisioning,
            Self::Listening | Self::ListeningAgain => XState::Listening,
            Self::Connected => XState::Connected,
            Self::Suspending | Self::WokenUnasked => XState::Suspending,
            Self::Suspended | Self::Reconsulting => XState::Suspended,
            Self::Stopping => XState::Stopping,
        }
    }

    /// The name in the diagram of the module page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Consulting => "consulting",
            Self::Preparing => "preparing",
            Self::Provisioning => "provisioning",
            Self::Launching => "launching",
            Self::Listening => "listening",
            Self::Connected => "connected",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Reconsulting => "reconsulting",
            Self::Waking => "waking",
            Self::ListeningAgain => "listening-again",
            Self::WokenUnasked => "woken-unasked",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller wants the desktop.
    StartAsked,
    /// A caller wants it suspended, and the hook agreed.
    SuspendAsked,
    /// A caller wants it ended, and the hook agreed.
    StopAsked,
    /// The pre-connect hook agreed; for a resume the session's files are written too.
    Consulted,
    /// The pre-connect hook or those files failed.
    ConsultFailed,
    /// An account or home directory is missing and is being made.
    ProvisioningBegan,
    /// The agent is about to be launched.
    LaunchBegan,
    /// The agent waits for its first client.
    Launched,
    /// Anything on the way there failed; no agent is left.
    LaunchFailed,
    /// The connect hook of a resume succeeded.
    ConnectHookPassed,
    /// It failed.
    ConnectHookFailed,
    /// The agent said so.
    Output(Report),
    /// The desktop's own program ended: the user logged out.
    SessionEnded,
    /// The agent's process is gone.
    AgentGone,
    /// The deadline passed.
    Deadline,
}

/// What the shell is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Callers now see this state: record it, run its hooks.
    Publish(XState),
    /// Run the pre-connect hook, and for a resume write the session's files.
    Consult {
        /// An agent is there and is to be resumed.
        resume: bool,
    },
    /// Make account and home if missing, run the connect hook, write the files, launch the agent.
    Prepare,
    /// Run the connect hook of a resume.
    RunConnectHook,
    /// Stop what [`Consult`](Self::Consult), [`Prepare`](Self::Prepare) or
    /// [`RunConnectHook`](Self::RunConnectHook) began, an unfinished launch included.
    CancelEffect,
    /// Send the agent SIGHUP.
    Hup,
    /// Send the agent SIGTERM.
    Term,
    /// Send the agent SIGKILL.
    Kill,
    /// Start the desktop's own program.
    StartSession,
    /// End the desktop's own program and what it started.
    EndSession,
    /// Remove the files of this session.
    Cleanup,
    /// Keep, for people, that the session failed in this phase.
    RecordFailure(Phase, Failure),
    /// Answer the caller of this [`Event::StartAsked`]; outside of one, the caller whose start is pending.
    AnswerStart(StartAnswer),
    /// Answer the caller of [`Event::SuspendAsked`]: whether anything was done.
    AnswerSuspend(bool),
    /// Answer the caller of [`Event::StopAsked`]: whether anything was done.
    AnswerStop(bool),
}

/// Why a session did not live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The agent's process ended by itself.
    Died,
    /// The agent said that it gives up.
    Aborted,
    /// A limit passed.
    TimedOut,
}

/// How a start is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartAnswer {
    /// It has begun.
    Starting,
    /// Not possible in this state.
    Refused(XState),
    /// Somebody looks at it: being suspended, ask again.
    SuspendingFirst,
    /// A hook or the agent failed; the shell knows the words.
    Failed,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    phase: Phase,
    deadline: Option<Instant>,
    /// Time of a HUP that no line of the agent has answered yet.
    hup_sent: Option<Instant>,
    /// What the agent does while the phase is suspended-like or waking.
    sleep: Sleep,
    /// When the agent became suspended.
    suspended_at: Option<Instant>,
    /// When waking is given up.
    wake_until: Option<Instant>,
    /// Resumes in a row that the agent did not react to.
    failed_wakes: u32,
    /// A caller of `StartAsked` has no answer yet.
    start_pending: bool,
    /// The connect hook of this resume has been started.
    hook_started: bool,
    /// The connect hook of this resume failed: the agent goes back to sleep.
    unwanted: bool,
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
            hup_sent: None,
            sleep: Sleep::Asleep,
            suspended_at: None,
            wake_until: None,
            failed_wakes: 0,
            start_pending: false,
            hook_started: false,
            unwanted: false,
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

    fn start_asked(&mut self, now: Instant) -> Vec<Action> {
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
                let mut actions = self.hup_unless_outstanding(now);
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

    fn suspend_asked(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Connected => {
                let mut actions = self.hup_unless_outstanding(now);
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            Phase::ListeningAgain => {
                let mut actions = self.back_to_sleep(now);
                actions.push(Action::AnswerSuspend(true));
                actions
            }
            // In its first wait an agent has nothing to suspend and would end.
            Phase::Listening
            | Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::WokenUnasked
            | Phase::Stopping => vec![Action::AnswerSuspend(false)],
        }
    }

    fn stop_asked(&mut self, now: Instant) -> Vec<Action> {
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

    fn consulted(&mut self, now: Instant) -> Vec<Action> {
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
                self.hup_sent = None;
                match self.sleep {
                    Sleep::Asleep | Sleep::Rising => {
                        self.enter(Phase::Waking, None);
                        self.wake_until = Some(now + self.limits.initiating);
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

    fn consult_failed(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Consulting => {
                self.rest();
                self.answer_start(StartAnswer::Failed)
            }
            Phase::Reconsulting => {
                let mut actions = self.answer_start(StartAnswer::Failed);
                match self.sleep {
                    Sleep::Asleep => self.enter(Phase::Suspended, None),
                    Sleep::Rising => self.woken_unasked(now),
                    Sleep::Waiting => {
                        self.woken_unasked(now);
                        actions.extend(self.hup_unless_outstanding(now));
                    }
                }
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

    fn provisioning_began(&mut self) -> Vec<Action> {
        if self.phase == Phase::Preparing {
            self.enter(Phase::Provisioning, None);
        }
        Vec::new()
    }

    fn launch_began(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Preparing | Phase::Provisioning) {
            self.enter(Phase::Launching, Some(now + self.limits.initiating));
        }
        Vec::new()
    }

    fn launched(&mut self, now: Instant) -> Vec<Action> {
        if self.phase == Phase::Launching {
            self.hup_sent = None;
            self.failed_wakes = 0;
            self.enter(Phase::Listening, Some(now + self.limits.listening));
        }
        Vec::new()
    }

    fn launch_failed(&mut self) -> Vec<Action> {
        if !matches!(self.phase, Phase::Preparing | Phase::Provisioning | Phase::Launching) {
            return Vec::new();
        }
        self.rest();
        vec![Action::Cleanup]
    }

    fn connect_hook_failed(&mut self, now: Instant) -> Vec<Action> {
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

    fn session_ended(&mut self, now: Instant) -> Vec<Action> {
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
            Phase::Listening => self.terminate(now, StartAnswer::Failed),
            Phase::ListeningAgain => self.back_to_sleep(now),
            Phase::Suspending | Phase::WokenUnasked => self.give_up(now),
            Phase::Waking => self.wake(now),
            Phase::Stopping => {
                self.deadline = Some(now + self.limits.stopping);
                vec![Action::Kill]
            }
            Phase::Stopped
            | Phase::Consulting
            | Phase::Provisioning
            | Phase::Connected
            | Phase::Suspended
            | Phase::Reconsulting => {
                self.deadline = None;
                Vec::new()
            }
        }
    }

    /// One move of waking the agent: HUP when due, again when nothing followed, the end when it stays deaf.
    fn wake(&mut self, now: Instant) -> Vec<Action> {
        let until = self.wake_until.unwrap_or(now);
        if now >= until {
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
            self.deadline = Some(until);
            return self.start_connect_hook();
        }
        let due = match self.hup_sent {
            Some(sent) => sent + self.limits.retry,
            None => self.suspended_at.map_or(now, |at| at + self.limits.settle),
        };
        if now < due {
            self.deadline = Some(due.min(until));
            return Vec::new();
        }
        self.hup_sent = Some(now);
        self.deadline = Some((now + self.limits.retry).min(until));
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
        self.enter(Phase::Suspending, Some(now + self.limits.suspending));
        self.hup_unless_outstanding(now)
    }

    fn woken_unasked(&mut self, now: Instant) {
        self.enter(Phase::WokenUnasked, Some(now + self.limits.suspending));
    }

    /// HUP, unless one may still be on its way.
    fn hup_unless_outstanding(&mut self, now: Instant) -> Vec<Action> {
        if self.hup_sent.is_some_and(|sent| now < sent + self.limits.patience) {
            return Vec::new();
        }
        self.hup_sent = Some(now);
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
        actions
    }

    fn stopping(&mut self, now: Instant, answer: StartAnswer) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.start_pending {
            actions.push(Action::CancelEffect);
        }
        actions.extend(self.answer_start(answer));
        self.enter(Phase::Stopping, Some(now + self.limits.stopping));
        actions
    }

    fn answer_start(&mut self, answer: StartAnswer) -> Vec<Action> {
        if std::mem::take(&mut self.start_pending) { vec![Action::AnswerStart(answer)] } else { Vec::new() }
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        self.phase = phase;
        self.deadline = deadline;
    }

    /// Back to nothing; only the question whether a caller waits is not touched.
    fn rest(&mut self) {
        *self = Self { start_pending: self.start_pending, ..Self::new(self.limits) };
    }
}

/// An agent that did not react to so many resumes in a row is ended, so that a new desktop can be had.
const DEAF_AFTER: u32 = 3;

mod reports;

#[cfg(test)]
mod tests;
