//! Public states, commands and the moves that are legal between them.
//!
//! The text forms are those of the database and of the wire. Finer phases exist beside a
//! [`VmState`] for people to read; no part decides on them.
//!
//! A test holds this list against the code:
//!
//! ```text
//! vm    stopped       → starting
//! vm    starting      → running, debugging, stopping, zombie, stopped
//! vm    running       → stopping, debugging, zombie, stopped
//! vm    debugging     → running, stopping, zombie, stopped
//! vm    stopping      → stopped, zombie
//! vm    zombie        → running, stopping, stopped
//! user  disconnected  → connecting
//! user  connecting    → connected, disconnected
//! user  connected     → disconnected
//! host  stopped       → starting
//! host  starting      → running, stopping, stopped, lost
//! host  running       → starting, stopping, stopped, lost
//! host  stopping      → starting, stopped, lost
//! host  lost          → starting
//! x     stopped       → starting
//! x     starting      → provisioning, listening, connected, suspending, suspended, stopping, stopped
//! x     provisioning  → starting, stopped
//! x     listening     → connected, suspending, suspended, stopping, stopped
//! x     connected     → suspending, suspended, stopping, stopped
//! x     suspending    → connected, suspended, stopping, stopped
//! x     suspended     → starting, listening, connected, suspending, stopping, stopped
//! x     stopping      → stopped
//! ```
//!
//! The short way is the rule. The others come from failures: a virtual machine becomes `stopped` from anywhere when its
//! row is taken from a host that is gone, a zombie `running` when a restarted daemon finds that it lives; a host goes
//! back to `starting` when its next daemon takes it over, and to `stopped` at once when `stopping` could not be written;
//! nxagent's own words move a desktop, whatever was asked of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is none of the legal values of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what} (one of: {legal})")]
pub struct UnknownValue {
    what: &'static str,
    text: String,
    legal: String,
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The text form used in the database and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownValue;

            fn from_str(text: &str) -> Result<Self, UnknownValue> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err(UnknownValue {
                        what: $what,
                        text: text.to_owned(),
                        legal: [$($text),*].join(", "),
                    }),
                }
            }
        }
    };
}

text_enum! {
    /// Life cycle of a virtual machine, as the database shows it.
    VmState, "VM state" {
        /// Nothing of it runs anywhere.
        Stopped = "stopped",
        /// A host accepted the start and works on it.
        Starting = "starting",
        /// Its agent answers.
        Running = "running",
        /// It is on its way down.
        Stopping = "stopping",
        /// Something of it may still run and cannot be controlled.
        Zombie = "zombie",
        /// Its agent never came up and it is kept alive for the administrator.
        Debugging = "debugging",
    }
}

impl VmState {
    /// Whether the move is one of the list on the [module page](self). Staying is not a move.
    pub const fn may_become(self, next: VmState) -> bool {
        use VmState::*;
        match self {
            Stopped => matches!(next, Starting),
            Starting => matches!(next, Running | Stopping | Zombie | Debugging | Stopped),
            Running => matches!(next, Stopping | Debugging | Zombie | Stopped),
            Stopping => matches!(next, Stopped | Zombie),
            Zombie => matches!(next, Stopped | Running | Stopping),
            Debugging => matches!(next, Running | Stopping | Zombie | Stopped),
        }
    }

    /// Whether this command may be written while the machine is in this state.
    pub const fn admits(self, command: VmCommand) -> bool {
        match command {
            VmCommand::Start => matches!(self, Self::Stopped),
            VmCommand::Stop => matches!(self, Self::Starting | Self::Running | Self::Debugging),
        }
    }
}

text_enum! {
    /// What a router or an administrator wants of a virtual machine.
    VmCommand, "VM command" {
        /// Bring it up; legal only from `stopped`.
        Start = "start",
        /// Bring it down; legal from `starting`, `running`, `debugging`.
        Stop = "stop",
    }
}

text_enum! {
    /// The finer step within a state, for people; always carries its state's prefix.
    VmPhase, "VM phase" {
        /// Waiting for resources.
        Starting1 = "starting_1",
        /// Set up and booting.
        Starting2 = "starting_2",
        /// The agent was asked to power off.
        Stopping1 = "stopping_1",
        /// The agent agreed, or is no longer asked.
        Stopping2 = "stopping_2",
        /// Told to terminate.
        Zombie1 = "zombie_1",
        /// Killed, not gone yet.
        Zombie2 = "zombie_2",
    }
}

impl VmPhase {
    /// The state that the phase belongs to.
    pub const fn state(self) -> VmState {
        match self {
            Self::Starting1 | Self::Starting2 => VmState::Starting,
            Self::Stopping1 | Self::Stopping2 => VmState::Stopping,
            Self::Zombie1 | Self::Zombie2 => VmState::Zombie,
        }
    }
}

text_enum! {
    /// State of the one user session a virtual machine can carry.
    UserState, "user state" {
        /// Nobody is connected.
        Disconnected = "disconnected",
        /// A router owns the session and is bringing the desktop up.
        Connecting = "connecting",
        /// Bytes flow.
        Connected = "connected",
    }
}

impl UserState {
    /// Whether the move is one of the list on the [module page](self). Staying is not a move.
    pub const fn may_become(self, next: UserState) -> bool {
        use UserState::*;
        match self {
            Disconnected => matches!(next, Connecting),
            Connecting => matches!(next, Connected | Disconnected),
            Connected => matches!(next, Disconnected),
        }
    }

    /// Whether `command` may be written in this state.
    pub const fn admits(self, command: UserCommand) -> bool {
        match command {
            UserCommand::Abort => !matches!(self, Self::Disconnected),
        }
    }
}

text_enum! {
    /// What a contending router or an administrator wants of a user session.
    UserCommand, "user command" {
        /// End it; the next connection waits for that.
        Abort = "abort",
    }
}

text_enum! {
    /// Life cycle of a host, as the database shows it.
    HostState, "host state" {
        /// Its daemon does not run and nothing of it is left.
        Stopped = "stopped",
        /// Its daemon is coming up.
        Starting = "starting",
        /// It serves.
        Running = "running",
        /// It is shutting down.
        Stopping = "stopping",
        /// It did not report for too long; others may take over what it ran.
        Lost = "lost",
    }
}

impl HostState {
    /// Whether the move is one of the list on the [module page](self). Staying is not a move.
    pub const fn may_become(self, next: HostState) -> bool {
        use HostState::*;
        match self {
            Stopped => matches!(next, Starting),
            Starting => matches!(next, Running | Stopping | Stopped | Lost),
            Running => matches!(next, Starting | Stopping | Stopped | Lost),
            Stopping => matches!(next, Stopped | Starting | Lost),
            Lost => matches!(next, Starting),
        }
    }
}

text_enum! {
    /// What an administrator wants of a host's daemon.
    HostCommand, "host command" {
        /// Stop it and what it runs.
        Stop = "stop",
    }
}

text_enum! {
    /// State of the desktop inside a virtual machine, as the agent reports it.
    XState, "X session state" {
        /// No agent process.
        Stopped = "stopped",
        /// Being launched or woken.
        Starting = "starting",
        /// The account or home directory is being made.
        Provisioning = "provisioning",
        /// Waiting for the one connection that is the session.
        Listening = "listening",
        /// A user looks at it.
        Connected = "connected",
        /// On the way to suspended.
        Suspending = "suspending",
        /// Programs live on, nobody looks.
        Suspended = "suspended",
        /// On the way to stopped.
        Stopping = "stopping",
    }
}

impl XState {
    /// Whether the desktop of an agent may make this move. Staying is not a move. Who asks from time to time sees some
    /// of the states only.
    pub const fn may_become(self, next: XState) -> bool {
        use XState::*;
        match self {
            Stopped => matches!(next, Starting),
            Starting => !matches!(next, Starting),
            Provisioning => matches!(next, Starting | Stopped),
            Listening => matches!(next, Connected | Suspending | Suspended | Stopping | Stopped),
            Connected => matches!(next, Suspending | Suspended | Stopping | Stopped),
            Suspending => matches!(next, Connected | Suspended | Stopping | Stopped),
            Suspended => !matches!(next, Suspended | Provisioning),
            Stopping => matches!(next, Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn moves<S: Copy + fmt::Display>(all: &[S], may: impl Fn(S, S) -> bool) -> BTreeSet<(String, String)> {
        let pairs = all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to)));
        pairs.filter(|(from, to)| may(*from, *to)).map(|(f, t)| (f.to_string(), t.to_string())).collect()
    }

    #[test]
    fn the_list_on_the_page_is_that_of_the_code() {
        let listed = |machine: &str| -> BTreeSet<(String, String)> {
            include_str!("state.rs")
                .lines()
                .filter_map(|line| line.strip_prefix("//! ")?.strip_prefix(machine)?.split_once(" → "))
                .flat_map(|(from, to)| to.split(", ").map(move |to| (from.trim().to_owned(), to.to_owned())))
                .collect()
        };
        assert_eq!(listed("vm  "), moves(VmState::ALL, VmState::may_become));
        assert_eq!(listed("user  "), moves(UserState::ALL, UserState::may_become));
        assert_eq!(listed("host  "), moves(HostState::ALL, HostState::may_become));
        assert_eq!(listed("x  "), moves(XState::ALL, XState::may_become));
    }

    #[test]
    fn every_text_form_reads_back() {
        for s in VmState::ALL {
            assert_eq!(s.as_str().parse::<VmState>().unwrap(), *s);
        }
        for s in XState::ALL {
            assert_eq!(s.to_string().parse::<XState>().unwrap(), *s);
        }
        let e = "up".parse::<UserState>().unwrap_err();
        assert_eq!(e.to_string(), "'up' is not a user state (one of: disconnected, connecting, connected)");
    }

    #[test]
    fn a_phase_carries_the_prefix_of_its_state() {
        for p in VmPhase::ALL {
            assert!(p.as_str().starts_with(p.state().as_str()), "{p}");
        }
    }

    #[test]
    fn nothing_is_a_move_to_itself() {
        assert!(VmState::ALL.iter().all(|s| !s.may_become(*s)));
        assert!(UserState::ALL.iter().all(|s| !s.may_become(*s)));
        assert!(HostState::ALL.iter().all(|s| !s.may_become(*s)));
        assert!(XState::ALL.iter().all(|s| !s.may_become(*s)));
    }

    #[test]
    fn every_live_vm_state_can_reach_stopped() {
        for start in VmState::ALL {
            let mut reached = vec![*start];
            while let Some(next) = VmState::ALL
                .iter()
                .find(|n| !reached.contains(n) && reached.iter().any(|r| r.may_become(**n)))
            {
                reached.push(*next);
            }
            assert!(reached.contains(&VmState::Stopped), "{start} never stops");
        }
    }

    #[test]
    fn the_command_matrix_is_that_of_the_administration_manual() {
        let start: Vec<_> = VmState::ALL.iter().filter(|s| s.admits(VmCommand::Start)).collect();
        assert_eq!(start, [&VmState::Stopped]);
        let stop: Vec<_> = VmState::ALL.iter().filter(|s| s.admits(VmCommand::Stop)).collect();
        assert_eq!(stop, [&VmState::Starting, &VmState::Running, &VmState::Debugging]);
        assert!(!UserState::Disconnected.admits(UserCommand::Abort));
        assert!(UserState::Connected.admits(UserCommand::Abort));
    }
}
