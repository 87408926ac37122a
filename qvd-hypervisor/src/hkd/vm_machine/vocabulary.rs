//! What goes into the machine and what comes out of it.

use std::time::Duration;

use qvd_core::hook::HookKind;
use qvd_core::hypervisor::{Blame, Capabilities, ExitInfo};
use qvd_core::state::{VmPhase, VmState};

use super::phase::Watch;

/// What the machine must know of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// There is an agent to wait for and to ask.
    pub has_agent: bool,
    /// The driver can ask the guest to end.
    pub polite_stop: bool,
}

impl From<Capabilities> for Traits {
    fn from(capabilities: Capabilities) -> Self {
        Self { has_agent: capabilities.has_agent, polite_stop: capabilities.polite_stop }
    }
}

/// What was found of a virtual machine that this daemon did not start itself, beside what its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Past {
    /// It lives; the row says `starting`.
    Starting,
    /// It lives; the row says `running`.
    Running,
    /// It lives; the row says `debugging`.
    Debugging,
    /// It lives; the row says `stopping`.
    Stopping,
    /// It lives; the row says `zombie`.
    Zombie,
    /// Nothing of it lives; at most pieces are left.
    Gone,
    /// What there is of it could not be told.
    Unknown,
    /// It lives and no row is about this run.
    Foreign,
}

impl Past {
    /// Every value.
    pub const ALL: &'static [Past] = &[
        Past::Starting,
        Past::Running,
        Past::Debugging,
        Past::Stopping,
        Past::Zombie,
        Past::Gone,
        Past::Unknown,
        Past::Foreign,
    ];
}

/// Why something failed and at whose door it is laid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who is at fault.
    pub blame: Blame,
    /// What went wrong, one line, with all causes.
    pub text: String,
}

impl Failure {
    /// A failure of the host.
    pub fn host(text: impl Into<String>) -> Self {
        Self { blame: Blame::Host, text: text.into() }
    }

    /// A failure of the virtual machine.
    pub fn vm(text: impl Into<String>) -> Self {
        Self { blame: Blame::Vm, text: text.into() }
    }

    /// Nobody's failure.
    pub fn nobody(text: impl Into<String>) -> Self {
        Self { blame: Blame::Nobody, text: text.into() }
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The start was accepted.
    Start,
    /// A virtual machine of a past life, or a row without one.
    Adopt(Past, Traits),
    /// It ended while no daemon watched; its row still says that it lives.
    FoundDead {
        /// The row says `starting`.
        booting: bool,
        /// How, when that was written down.
        exit: Option<ExitInfo>,
        /// What the machine must know of the driver.
        traits: Traits,
    },
    /// The load is done; this is the driver.
    Loaded(Traits),
    /// The effect in flight is done.
    Done,
    /// The effect in flight failed.
    Failed(Failure),
    /// The effect in flight failed because somebody else holds the lock of the home; the text tells who.
    HomeInUse(String),
    /// A write reached the database.
    Written(Wrote),
    /// A write was refused for good (an outage is not reported: the writer tries on).
    WriteFailed(Wrote, String),
    /// A guarded write found that the row is no longer ours.
    GuardLost,
    /// The agent answered.
    Alive,
    /// The agent is silent beyond the limits; the text tells how long.
    Dead(String),
    /// The virtual machine ended.
    Exited(ExitInfo),
    /// The limit named by [`deadline`](super::VmMachine::deadline) has passed.
    Deadline,
    /// Somebody wants it stopped, with time to shut down.
    Stop,
    /// The node wants it gone now.
    Kill,
    /// Its soft expiry has passed: tell the user.
    Alert,
}

/// A write to the row, as ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Public state and phase.
    State(VmState, Option<VmPhase>),
    /// Where the agent and the desktop are.
    Endpoint,
    /// What went wrong.
    Failure {
        /// What.
        failure: Failure,
        /// Whether it is a failed start, which [`failure`](crate::hkd::failure) counts.
        failed_start: bool,
    },
    /// A start worked: earlier failures are forgiven.
    Success,
    /// Nothing of it is left: idle values everywhere.
    Clear,
}

/// A [`Write`] that came to its end, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrote {
    /// A state.
    State(VmState, Option<VmPhase>),
    /// The endpoint.
    Endpoint,
    /// A failure or success.
    Record,
    /// The clearing.
    Clear,
}

impl Write {
    /// How its end is reported.
    pub fn kind(&self) -> Wrote {
        match self {
            Self::State(state, phase) => Wrote::State(*state, *phase),
            Self::Endpoint => Wrote::Endpoint,
            Self::Failure { .. } | Self::Success => Wrote::Record,
            Self::Clear => Wrote::Clear,
        }
    }
}

/// Something to do. Effects are answered by [`Event::Done`], [`Event::Loaded`] or [`Event::Failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop the effect in flight; its answer must not arrive any more.
    Abandon,
    /// Effect: read what to run, resolve its image in the row, choose the driver.
    Load,
    /// Effect: a heavy and a starting slot.
    TakeStartPermit,
    /// Effect: a heavy slot, before all starts.
    TakeStopPermit,
    /// Effect: the driver's `prepare`.
    Prepare,
    /// Effect: a hook of this host.
    RunHook(HookKind),
    /// Effect: the driver's `launch`; watch the end of what it gives.
    Launch,
    /// Effect: the agent's `poweroff`.
    Poweroff,
    /// Effect: the driver's polite request.
    Terminate,
    /// Effect: kill, by the handle or by what the driver finds; done only when verified dead.
    Kill {
        /// How long it may take.
        limit: Duration,
    },
    /// Effect: the driver's `cleanup`.
    Cleanup,
    /// Count a heavy and a starting slot as taken: an earlier daemon began this start.
    KeepPermits,
    /// Give the starting slot back, keep the heavy one.
    ReleaseStarting,
    /// Give every slot back.
    ReleasePermits,
    /// Ask the agent until it answers or is given up.
    StartMonitor(Watch),
    /// Stop asking.
    StopMonitor,
    /// Ask the agent to tell the user of the expiry; nobody waits for the outcome.
    Alert,
    /// Count a start.
    CountAttempt,
    /// Count a start that worked.
    CountSuccess,
    /// Write to the row, after all writes ordered before; a state still waiting is replaced by a newer one.
    Write(Write),
    /// Forget all writes that did not reach the database.
    DropWrites,
    /// This task is over.
    Finish(Outcome),
}

impl Action {
    /// Whether the machine waits for an answer to it.
    pub fn is_effect(&self) -> bool {
        match self {
            Self::Load
            | Self::TakeStartPermit
            | Self::TakeStopPermit
            | Self::Prepare
            | Self::RunHook(_)
            | Self::Launch
            | Self::Poweroff
            | Self::Terminate
            | Self::Kill { .. }
            | Self::Cleanup => true,
            Self::Abandon
            | Self::KeepPermits
            | Self::ReleaseStarting
            | Self::ReleasePermits
            | Self::StartMonitor(_)
            | Self::StopMonitor
            | Self::Alert
            | Self::CountAttempt
            | Self::CountSuccess
            | Self::Write(_)
            | Self::DropWrites
            | Self::Finish(_) => false,
        }
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing of it is left and the row says so.
    Stopped,
    /// Nothing of it is left here; the row belongs to somebody else.
    Disowned,
    /// Given up at the node's end; the row still tells, the next daemon takes over.
    Left,
}

/// How long each wait may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Reading what to run.
    pub load: Duration,
    /// For the slots to start in.
    pub start_permit: Duration,
    /// Disks, home and network, unpacking of images included.
    pub prepare: Duration,
    /// One hook.
    pub hook: Duration,
    /// The launch.
    pub launch: Duration,
    /// Of a launch, once somebody wants the machine stopped.
    pub launch_stop: Duration,
    /// Before the second attempt to get a home that somebody else holds; doubles each time.
    pub home_wait: Duration,
    /// The longest pause between two of these attempts.
    pub home_wait_max: Duration,
    /// From asking the agent to power off until the machine is gone.
    pub shutdown: Duration,
    /// From the driver's polite request until the machine is gone, the kill included.
    pub stop: Duration,
    /// Of these, before the kill.
    pub terminate: Duration,
    /// One kill.
    pub kill: Duration,
    /// One clean-up.
    pub cleanup: Duration,
    /// Before the second attempt to reap; doubles each time.
    pub reap_delay: Duration,
    /// The longest pause between two attempts to reap.
    pub reap_delay_max: Duration,
    /// Before the next attempt to clear a row.
    pub clear_retry: Duration,
    /// A machine whose agent never answers is kept for the administrator.
    pub debug: bool,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            load: seconds(60),
            start_permit: seconds(600),
            prepare: seconds(1800),
            hook: seconds(60),
            launch: seconds(120),
            launch_stop: seconds(5),
            home_wait: seconds(2),
            home_wait_max: seconds(60),
            shutdown: seconds(180),
            stop: seconds(120),
            terminate: seconds(30),
            kill: seconds(60),
            cleanup: seconds(120),
            reap_delay: seconds(60),
            reap_delay_max: seconds(600),
            clear_retry: seconds(60),
            debug: false,
        }
    }
}
