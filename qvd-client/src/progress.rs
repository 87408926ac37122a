//! What a person who waits wants to know.

use std::fmt;

/// A step that begins, or a word of the server about one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Opening a connection to this server.
    Dialling(String),
    /// The connection stands; credentials are sent and the list is asked for.
    LoggingIn,
    /// The login was accepted; this many virtual machines are on the list.
    Listed(usize),
    /// The chosen virtual machine is stopped first.
    Stopping(i64),
    /// The desktop of this virtual machine is asked for.
    Connecting(i64),
    /// The server's words, literally.
    Server(String),
    /// The server switched to the desktop's stream.
    Switched,
    /// The first bytes of the desktop went to the screen.
    FirstBytes,
    /// The desktop is on the screen.
    Started,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialling(server) => write!(f, "Connecting to {server}"),
            Self::LoggingIn => f.write_str("Logging in"),
            Self::Listed(1) => f.write_str("Logged in, 1 virtual machine"),
            Self::Listed(count) => write!(f, "Logged in, {count} virtual machines"),
            Self::Stopping(vm) => write!(f, "Stopping virtual machine {vm}"),
            Self::Connecting(vm) => write!(f, "Connecting to virtual machine {vm}"),
            Self::Server(text) => f.write_str(text),
            Self::Switched => f.write_str("Connected"),
            Self::FirstBytes => f.write_str("Receiving the desktop"),
            Self::Started => f.write_str("Desktop started"),
        }
    }
}
