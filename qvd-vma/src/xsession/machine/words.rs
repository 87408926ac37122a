//! What goes into the machine and what comes out: limits, events, actions.

use std::time::Duration;

use qvd_core::state::XState;

use super::phase::Phase;
use crate::xsession::output::Report;

/// How long each step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connect hook and files before a first start.
    pub preparing: Duration,
    /// From the launch, or from a resume, until the agent waits for its client.
    pub initiating: Duration,
    /// Waiting for the client.
    pub listening: Duration,
    /// From the client's connection until its screen is set up: many round trips, and all of it goes over its link.
    pub connecting: Duration,
    /// From the first sign of a suspend to its end.
    pub suspending: Duration,
    /// Between SIGTERM and SIGKILL, and between two of the latter.
    pub stopping: Duration,
    /// After a suspend, before the agent may be woken: an earlier HUP can get lost.
    pub settle: Duration,
    /// A signal without any reaction is sent again after this time.
    pub retry: Duration,
    /// The same for an agent that somebody looks at: it may be busy.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            preparing: Duration::from_secs(320),
            initiating: Duration::from_secs(20),
            listening: Duration::from_secs(10),
            connecting: Duration::from_secs(120),
            suspending: Duration::from_secs(20),
            stopping: Duration::from_secs(20),
            settle: Duration::from_millis(200),
            retry: Duration::from_secs(1),
            patience: Duration::from_secs(5),
        }
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
    /// No client came while the agent waited for one.
    NobodyCame,
    /// A client came, and its screen was not set up in time.
    TooSlow,
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
