//! Where a virtual machine is between `start` and `cleared`, finer than its row tells.

use qvd_core::state::{VmPhase, VmState};

/// One step of the machine. At most one *effect* (load, prepare, launch, …) is in flight in any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing was decided yet.
    Idle,

    /// Effect: read what to run and resolve its image.
    Loading,
    /// Effect: wait for a heavy and a starting slot.
    StartPermit,
    /// Effect: remove what an earlier run left behind.
    CleaningOld,
    /// Waits until the row says that set-up began; proves once more that the row is ours.
    SavingSetup,
    /// Effect: disks, home, network.
    Preparing,
    /// Effect: the hook that may veto.
    PreStart,
    /// Effect: launch.
    Launching,
    /// Waits until the row tells where the agent is; the monitor asks it already.
    SavingEndpoint,
    /// The guest boots; the monitor asks its agent.
    AwaitingAgent,
    /// Somebody else holds the lock of its home; tries again later, without slots.
    HomeWait,

    /// Waits until the row says `running`.
    SavingRunning,
    /// Effect: the hook after the start.
    PostStart,
    /// It runs; the monitor asks its agent now and then.
    Monitoring,

    /// Its agent is silent and it is kept for the administrator.
    Debugging,

    /// Effect: wait for a heavy slot to stop in.
    StopPermit,
    /// Effect: ask the agent to power off.
    PoweringOff,
    /// The agent agreed; waits for the end.
    ShuttingDown,
    /// Effect: ask through the driver; waits for the end.
    Terminating,
    /// Effect: kill.
    Killing,
    /// Effect: remove what the run left behind.
    CleaningUp,
    /// Effect: the hook after the end.
    PostStop,
    /// Waits until the row is cleared.
    Clearing,
    /// The row could not be cleared; tries again later.
    ClearWait,

    /// Effect: kill something that would not die, or that nobody holds a handle to.
    ReapKilling,
    /// Effect: remove what is left of it.
    ReapCleaning,
    /// It would not die; tries again later.
    ReapDelay,

    /// The end: this task has nothing left to do.
    Finished,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: &'static [Phase] = &[
        Phase::Idle,
        Phase::Loading,
        Phase::StartPermit,
        Phase::CleaningOld,
        Phase::SavingSetup,
        Phase::Preparing,
        Phase::PreStart,
        Phase::Launching,
        Phase::SavingEndpoint,
        Phase::AwaitingAgent,
        Phase::HomeWait,
        Phase::SavingRunning,
        Phase::PostStart,
        Phase::Monitoring,
        Phase::Debugging,
        Phase::StopPermit,
        Phase::PoweringOff,
        Phase::ShuttingDown,
        Phase::Terminating,
        Phase::Killing,
        Phase::CleaningUp,
        Phase::PostStop,
        Phase::Clearing,
        Phase::ClearWait,
        Phase::ReapKilling,
        Phase::ReapCleaning,
        Phase::ReapDelay,
        Phase::Finished,
    ];

    /// The state that the row shows in this phase. [`Phase::Idle`] counts as `starting`: the start was accepted.
    pub const fn vm_state(self) -> VmState {
        use Phase::*;
        match self {
            Idle | Loading | StartPermit | CleaningOld | SavingSetup | Preparing | PreStart | Launching
            | SavingEndpoint | AwaitingAgent | HomeWait => VmState::Starting,
            SavingRunning | PostStart | Monitoring => VmState::Running,
            Debugging => VmState::Debugging,
            StopPermit | PoweringOff | ShuttingDown | Terminating | Killing | CleaningUp | PostStop
            | Clearing | ClearWait => VmState::Stopping,
            ReapKilling | ReapCleaning | ReapDelay => VmState::Zombie,
            Finished => VmState::Stopped,
        }
    }

    /// The finer step that the row shows; `reaped` tells whether a kill was already tried in vain.
    pub const fn vm_phase(self, reaped: bool) -> Option<VmPhase> {
        use Phase::*;
        match self {
            Idle | Loading | StartPermit | CleaningOld | HomeWait => Some(VmPhase::Starting1),
            SavingSetup | Preparing | PreStart | Launching | SavingEndpoint | AwaitingAgent => {
                Some(VmPhase::Starting2)
            }
            SavingRunning | PostStart | Monitoring | Debugging | Finished => None,
            StopPermit | PoweringOff => Some(VmPhase::Stopping1),
            ShuttingDown | Terminating | Killing | CleaningUp | PostStop | Clearing | ClearWait => {
                Some(VmPhase::Stopping2)
            }
            ReapKilling | ReapCleaning | ReapDelay if reaped => Some(VmPhase::Zombie2),
            ReapKilling | ReapCleaning | ReapDelay => Some(VmPhase::Zombie1),
        }
    }

    /// Whether the monitor asks the agent in this phase, and with which limits.
    pub const fn watch(self) -> Option<Watch> {
        use Phase::*;
        match self {
            SavingEndpoint | AwaitingAgent | Debugging => Some(Watch::Starting),
            Monitoring => Some(Watch::Running),
            Idle | Loading | StartPermit | CleaningOld | SavingSetup | Preparing | PreStart | Launching
            | HomeWait | SavingRunning | PostStart | StopPermit | PoweringOff | ShuttingDown
            | Terminating | Killing | CleaningUp | PostStop | Clearing | ClearWait | ReapKilling
            | ReapCleaning | ReapDelay | Finished => None,
        }
    }
}

/// Which limits the agent monitor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Watch {
    /// While it boots: asks often.
    Starting,
    /// While it runs: asks seldom.
    Running,
}
