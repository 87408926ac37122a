//! The steps of a session.

use std::fmt;

use qvd_core::state::XState;

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
