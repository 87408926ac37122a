//! What goes into the machine and what comes out: phases, events, actions, limits.

use std::time::Duration;

use qvd_core::state::HostState;

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Stop every virtual machine of this node first.
    Stop,
    /// Leave them running; the next daemon of this node adopts them.
    KeepVms,
    /// Kill every virtual machine of this node at once, also those that have begun to stop.
    Abort,
}

/// One step of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostPhase {
    /// Nothing was done yet.
    Idle,
    /// Effect: the lock that lets one daemon alone work here.
    Locking,
    /// Effect: database, configuration, the host's row.
    LoadingHost,
    /// Effect: the row becomes ours.
    TakingOver,
    /// Effect: what each driver finds on this machine; capacity.
    CheckingDrivers,
    /// Effect: what an earlier daemon left running.
    Adopting,
    /// The inspection failed; tries again soon.
    AdoptWait,
    /// Effect: the row says `running`.
    SavingRunning,
    /// Obeys commands.
    Running,
    /// Effect: the row says `stopping`.
    SavingStopping,
    /// Virtual machines shut down.
    StoppingVms,
    /// They had their time.
    KillingVms,
    /// Effect: the row says `stopped`.
    SavingStopped,
    /// Effect: the row says `starting`, virtual machines go on.
    SavingKept,
    /// The row was taken away: everything here is killed.
    Disowning,
    /// The end.
    Finished,
}

impl HostPhase {
    /// Every phase.
    pub const ALL: &'static [HostPhase] = &[
        HostPhase::Idle,
        HostPhase::Locking,
        HostPhase::LoadingHost,
        HostPhase::TakingOver,
        HostPhase::CheckingDrivers,
        HostPhase::Adopting,
        HostPhase::AdoptWait,
        HostPhase::SavingRunning,
        HostPhase::Running,
        HostPhase::SavingStopping,
        HostPhase::StoppingVms,
        HostPhase::KillingVms,
        HostPhase::SavingStopped,
        HostPhase::SavingKept,
        HostPhase::Disowning,
        HostPhase::Finished,
    ];
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The daemon begins.
    Begin,
    /// The effect in flight is done.
    Done,
    /// The inspection in flight is done, but for drivers that could not look.
    PartlyDone,
    /// By now every driver could look.
    Inspected,
    /// The effect in flight failed; the text tells all.
    Failed(String),
    /// Somebody wants it to end.
    Shutdown(Shutdown),
    /// The row belongs to somebody else, or the lease ran out.
    Lost(String),
    /// No virtual machine is worked on any more; so many were left as they are.
    Empty {
        /// Those that would not end.
        left: usize,
    },
    /// The limit has passed.
    Deadline,
}

/// Something to do. Effects are answered by [`HostEvent::Done`] or [`HostEvent::Failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAction {
    /// Drop the effect in flight.
    Abandon,
    /// Effect: take the lock.
    Lock,
    /// Effect: read what this node is.
    LoadHost,
    /// Effect: take the row over.
    TakeOver,
    /// Begin to tick.
    StartTicker,
    /// Effect: ask the drivers, publish capacity.
    CheckDrivers,
    /// Effect: one task per virtual machine found by row or by inspection; does not wait for them.
    Adopt,
    /// Effect: write the host's state.
    Save(HostState),
    /// Begin to obey commands.
    Obey,
    /// Obey no more.
    StopObeying,
    /// Tell every task to stop; answered by [`HostEvent::Empty`].
    StopVms,
    /// Tell every task to kill; answered by [`HostEvent::Empty`].
    KillVms,
    /// Tell every task that its row is lost; answered by [`HostEvent::Empty`].
    DisownVms,
    /// Let go of every task without touching its virtual machine.
    DetachVms,
    /// The daemon ends.
    Finish(End),
}

impl HostAction {
    pub(super) fn is_effect(&self) -> bool {
        match self {
            Self::Lock
            | Self::LoadHost
            | Self::TakeOver
            | Self::CheckDrivers
            | Self::Adopt
            | Self::Save(_) => true,
            Self::Abandon
            | Self::StartTicker
            | Self::Obey
            | Self::StopObeying
            | Self::StopVms
            | Self::KillVms
            | Self::DisownVms
            | Self::DetachVms
            | Self::Finish(_) => false,
        }
    }
}

/// How the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Asked(Shutdown),
    /// It could not go on.
    Failed(String),
    /// The host was taken away from it.
    Lost(String),
}

/// How long each wait may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// For virtual machines to shut down.
    pub stop_vms: Duration,
    /// Between two rounds of killing them.
    pub kill_retry: Duration,
    /// For killing everything after the row was lost.
    pub fence: Duration,
    /// For one write while going down.
    pub last_write: Duration,
    /// For finding what runs here.
    pub adopt: Duration,
    /// The same, once somebody wants the node stopped.
    pub last_look: Duration,
    /// Between two attempts to find what runs here.
    pub adopt_retry: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            stop_vms: seconds(300),
            kill_retry: seconds(100),
            fence: seconds(60),
            last_write: seconds(5),
            adopt: seconds(60),
            last_look: seconds(5),
            adopt_retry: seconds(10),
        }
    }
}
