//! The connect machine: what happens between a checked connect request and the first byte of the desktop.
//!
//! Pure: events in, actions out, time as an argument. Its shell is the private module `connect`.
//!
//! ```text
//! fresh ─▶ acquiring ⇄ displacing ─▶ contending ─┐
//!             │  ▲────────────────────────────────┘
//!             ▼
//!          preparing ─▶ assigning ─▶ booting ─▶ settling ─▶ starting ─▶ arriving ─▶ dialling ─▶ committing
//!              └───────(has a host)────▲          └▶ recalling ▲ (x_start)  └(x_state)─┴▶ explaining     │
//!                                                                                                        ▼
//!          over ◀── any failure: one final answer             forwarding ◀── switching (101) ◀───────────┘
//! ```
//!
//! Two rules keep desktops alive (protocol page §3.6). Before the first `x_start` the agent is asked for its state
//! and left alone while it still says `connected` or `suspending`: the displaced viewer's end and a second hang-up
//! would cross. And the desktop's port is never probed: the first connection that it accepts is the session, so
//! whether this session still is wanted is checked before, and then it is dialled once.

mod machine;

use std::time::{Duration, Instant};

use qvd_core::SessionId;
use qvd_core::config::Config;
use qvd_core::model::VmRuntime;
use qvd_core::state::XState;

pub use machine::Machine;

use crate::progress::{Reason, Step};

/// Waits and counts, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for a contending session (`internal.l7r.timeout.takeover`).
    pub takeover: Duration,
    /// Between looks at the virtual machine's row (`internal.l7r.poll_time.vm`).
    pub poll_vm: Duration,
    /// Longest wait for it to run (`internal.l7r.timeout.vm_start`).
    pub vm_start: Duration,
    /// Between questions to the agent, at most (`internal.l7r.poll_time.x`).
    pub poll_x: Duration,
    /// Tries of `x_start` after the first (`internal.l7r.retry.x_start`).
    pub x_start_retries: u32,
    /// Longest wait for the desktop, and for its port (`internal.l7r.timeout.x_start`).
    pub x_start: Duration,
    /// Longest wait for the displaced viewer to leave the desktop.
    pub settle: Duration,
    /// A waiting text is not repeated earlier.
    pub repeat: Duration,
}

impl Limits {
    /// Reads the keys.
    pub fn from_config(config: &Config) -> Self {
        Self {
            takeover: config.seconds("internal.l7r.timeout.takeover"),
            poll_vm: config.seconds("internal.l7r.poll_time.vm"),
            vm_start: config.seconds("internal.l7r.timeout.vm_start"),
            poll_x: config.seconds("internal.l7r.poll_time.x"),
            x_start_retries: u32::try_from(config.integer("internal.l7r.retry.x_start")).unwrap_or(0),
            x_start: config.seconds("internal.l7r.timeout.x_start"),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            takeover: Duration::from_secs(30),
            poll_vm: Duration::from_secs(2),
            vm_start: Duration::from_secs(270),
            poll_x: Duration::from_secs(1),
            x_start_retries: 20,
            x_start: Duration::from_secs(10),
            settle: Duration::from_secs(3),
            repeat: Duration::from_secs(60),
        }
    }
}

/// What the shell reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The checks passed.
    Begin,
    /// The session is ours; the row as written.
    Acquired(Box<VmRuntime>),
    /// The session is somebody else's, or may not be acquired; the row as found.
    NotAcquired(Box<VmRuntime>),
    /// The other session was told to go.
    AbortAsked,
    /// The other session was gone before it could be told.
    AlreadyGone,
    /// The authenticators' hooks passed.
    HookPassed,
    /// A host was claimed and told to start; the row as written.
    Claimed(Box<VmRuntime>),
    /// The row does not admit a claim any more; the row as found.
    NotClaimed(Box<VmRuntime>),
    /// No host may be used.
    NoHost,
    /// Every host was lost between the choice and the claim.
    NoHostClaimed,
    /// The row was read.
    Row(Box<VmRuntime>),
    /// The row is gone.
    RowGone,
    /// The row could not be read this time.
    RowUnread,
    /// The agent told the desktop's state.
    XState(XState),
    /// The agent did not tell the desktop's state.
    XStateUnknown,
    /// What the agent says about the last desktop that ended, if anything.
    XFailure(Option<String>),
    /// The agent began to start or resume the desktop.
    XStarted,
    /// The agent refused, with its words.
    XRefused(String),
    /// The agent did not answer to `x_start`; the start may have begun all the same.
    XSilent,
    /// The desktop took the connection.
    Dialled,
    /// It did not.
    NotDialled(String),
    /// The session is `connected`.
    Committed,
    /// It could not be made so; the row as found.
    NotCommitted(Box<VmRuntime>),
    /// The 101 is written.
    Switched,
    /// A step could not be done for a reason outside the machine.
    Failed(Failure),
    /// The client is gone.
    ClientGone,
    /// Somebody set `abort` on this session.
    Aborted,
    /// The router is being stopped, sessions and all.
    Stopping,
    /// Some row changed; maybe ours.
    Woken,
    /// The time of [`Machine::deadline`] has come.
    Deadline,
}

/// Why a step could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The database is away.
    Database,
    /// An authenticator's hook failed.
    Hook,
}

/// What the shell does; each of the second group answers with one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the client.
    Tell(Step),
    /// Tell the client how the last desktop ended, in the agent's words.
    TellFailure(String),
    /// Count a try to reach a desktop.
    CountNxAttempt,
    /// Count a desktop reached.
    CountNxOk,
    /// Answer for good, release the session and close.
    Refuse(Refusal),
    /// Release the session; there is nobody to answer.
    Abandon,
    /// Tell the agent that nobody comes to the desktop that it makes ready, before the session is released: else it
    /// waits for its own limit, and the next client with it. Not when a dial is on its way: it may have arrived, and
    /// then its end tells the desktop.
    CallOff,

    /// Acquire the session.
    Acquire,
    /// Tell the session that was seen to go.
    AskAbort(SessionId),
    /// Run the authenticators' hooks.
    RunHook,
    /// Choose a host, claim it and order the start.
    Claim,
    /// Read the row.
    Look,
    /// Ask the agent for the desktop's state.
    AskXState,
    /// Ask the agent how the last desktop ended.
    AskXFailure,
    /// Have the desktop started or resumed.
    StartX,
    /// Connect to the desktop.
    Dial,
    /// Make the session `connected`.
    Commit,
    /// Write the 101.
    Switch,
}

/// The final answer of a connect that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 503 with the reason.
    Unavailable(Reason),
    /// 500 with a generic text.
    Internal,
}

/// A point in time beyond any wait, for limits that do not end.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
}

#[cfg(test)]
mod tests;
