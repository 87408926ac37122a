//! What a waiting client is told: the texts of the 102 answers and of the final refusal (protocol page §2.7, §2.9).
//!
//! The texts are literal: clients and scripts match on them.

use std::fmt;

use qvd_core::VmId;
use qvd_core::state::{UserState, XState};

/// A step that the client is told of by a 102 answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Another session has the machine and is told to go.
    Aborting,
    /// The session is ours.
    Acquired,
    /// A host is being chosen.
    Assigning,
    /// The host was told to start it.
    StartingVm,
    /// It boots.
    WaitingForVm,
    /// The desktop is being started or resumed.
    StartingX,
    /// The desktop comes up.
    WaitingForX,
    /// The desktop is being dialled.
    Connecting,
    /// The desktop answered.
    Established,
    /// The host was told to stop it.
    StoppingVm,
    /// It goes down.
    WaitingForStop,
}

impl Step {
    /// The text for the client.
    pub fn text(self, vm: VmId) -> String {
        match self {
            Self::Aborting => format!("Aborting contending session for VM_ID: {vm}"),
            Self::Acquired => format!("Session acquired for VM_ID: {vm}"),
            Self::Assigning => format!("Assigning VM {vm} to host"),
            Self::StartingVm => "Starting virtual machine".to_owned(),
            Self::WaitingForVm => "Waiting for VM to reach state 'running'".to_owned(),
            Self::StartingX => format!("Starting X session at VM {vm}"),
            Self::WaitingForX => format!("Waiting for X session to come up on VM {vm}"),
            Self::Connecting => format!("Connecting X session for VM_ID: {vm}"),
            Self::Established => "Connection established".to_owned(),
            Self::StoppingVm => "Stopping virtual machine".to_owned(),
            Self::WaitingForStop => "Waiting for VM to reach state 'stopped'".to_owned(),
        }
    }
}

/// The text of a 102 that tells how the desktop ended that the user had before; the words are the agent's.
pub fn last_failure(words: &str) -> String {
    one_line(&format!("The last X session ended: {words}"))
}

/// Why a connect failed after its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The other session did not go.
    Contended,
    /// A contending session, or an administrator, ended this one.
    Aborted,
    /// The session's row is no longer ours.
    UserStateWentTo(UserState),
    /// No host may take it.
    NoHost,
    /// Hosts were there and none of them could be claimed.
    NotAssigned,
    /// The row was changed by somebody else while a host was chosen.
    StateChanged,
    /// It did not come up, or went down.
    NotStarted,
    /// It took too long to come up.
    VmTimeout,
    /// The agent refused for as long as was tried.
    XRefused(String),
    /// The desktop took too long to come up.
    XTimeout,
    /// The desktop went elsewhere instead of coming up.
    XStateWentTo(XState),
    /// The desktop ended while it came up, with the agent's words for it.
    XFailed(String),
    /// The desktop did not take the connection.
    NotDialled(String),
    /// The database does not answer.
    Database,
    /// The router is being stopped.
    Stopping,
}

impl Reason {
    /// The reason's text, one line.
    pub fn text(&self, vm: VmId) -> String {
        let text = match self {
            Self::Contended => "Unable to acquire VM, close other clients".to_owned(),
            Self::Aborted => format!("Aborted by contending session VM VM_ID: {vm}"),
            Self::UserStateWentTo(state) => format!("User state unexpectedly went to {state}"),
            Self::NoHost => "Unable to assign vm to host, there is no host available".to_owned(),
            Self::NotAssigned => format!("Unable to start VM {vm}, can't assign to any host"),
            Self::StateChanged => format!("Unable to start VM {vm}, state changed unexpectedly"),
            Self::NotStarted => format!("Unable to start VM {vm}"),
            Self::VmTimeout => "VM didn't reach state 'running'. Timeout".to_owned(),
            Self::XRefused(words) | Self::XFailed(words) => {
                format!("Unable to start X session on VM {vm}: {words}")
            }
            Self::XTimeout => format!("Unable to start X session on VM {vm}, operation timed out!"),
            Self::XStateWentTo(state) => {
                format!("Unable to start X session on VM {vm}, state went to {state}")
            }
            Self::NotDialled(error) => format!("Unable to connect to X server on VM VM_ID: {vm}: {error}"),
            Self::Database => "The database does not answer".to_owned(),
            Self::Stopping => "Server is stopping".to_owned(),
        };
        one_line(&text)
    }

    /// The body of the 503 answer.
    pub fn body(&self, vm: VmId) -> String {
        format!("The requested virtual machine is not available: {}, retry later", self.text(vm))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For logs, where the machine is a field of its own.
        match self {
            Self::XRefused(words) => write!(f, "agent refused: {}", one_line(words)),
            Self::XFailed(words) => write!(f, "desktop ended: {}", one_line(words)),
            Self::NotDialled(error) => write!(f, "desktop not reached: {}", one_line(error)),
            Self::UserStateWentTo(state) => write!(f, "user state went to {state}"),
            Self::XStateWentTo(state) => write!(f, "desktop went to {state}"),
            Self::Contended => f.write_str("the other session did not go"),
            Self::Aborted => f.write_str("aborted"),
            Self::NoHost => f.write_str("no host available"),
            Self::NotAssigned => f.write_str("no host could be claimed"),
            Self::StateChanged => f.write_str("row changed while a host was chosen"),
            Self::NotStarted => f.write_str("virtual machine did not come up"),
            Self::VmTimeout => f.write_str("virtual machine took too long to come up"),
            Self::XTimeout => f.write_str("desktop took too long to come up"),
            Self::Database => f.write_str("database away"),
            Self::Stopping => f.write_str("router stopping"),
        }
    }
}

/// Control characters would break a header or a body that clients read by line; a long text helps nobody. What
/// reads like a status line would be taken for one by a client that searches whole records.
fn one_line(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    flat.replace("HTTP/1.1", "HTTP").trim().to_owned()
}

/// Longest reason, in characters.
const LONGEST: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_and_never_looks_like_an_answer() {
        let reason = Reason::XRefused("hook failed\r\nHTTP/1.1 404 gone\n".into());
        assert_eq!(
            reason.body(VmId::new(7)),
            "The requested virtual machine is not available: \
             Unable to start X session on VM 7: hook failed  HTTP 404 gone, retry later"
        );
    }

    #[test]
    fn the_texts_are_those_of_the_protocol() {
        let vm = VmId::new(3);
        assert_eq!(Step::Aborting.text(vm), "Aborting contending session for VM_ID: 3");
        assert_eq!(Step::WaitingForVm.text(vm), "Waiting for VM to reach state 'running'");
        assert_eq!(Reason::XTimeout.text(vm), "Unable to start X session on VM 3, operation timed out!");
        assert_eq!(
            Reason::XFailed("it crashed".into()).text(vm),
            "Unable to start X session on VM 3: it crashed"
        );
        assert_eq!(last_failure("killed\r\nby signal 9"), "The last X session ended: killed  by signal 9");
        assert_eq!(Reason::Contended.text(vm), "Unable to acquire VM, close other clients");
    }
}
