//! What keeps a router from starting or serving.

use std::net::SocketAddr;
use std::path::PathBuf;

use qvd_core::ErrorKind;

/// A failure of the router itself; what goes wrong in one connection ends in an answer, not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key has a value that this router cannot use.
    #[error("{key}: {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what would do.
        problem: String,
    },
    /// The database was asked for something that the router cannot go on without.
    #[error("cannot {operation}")]
    Database {
        /// What was asked.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: qvd_db::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate: {problem}; set another one with 'qa config ssl'")]
    Certificate {
        /// What is wrong.
        problem: String,
    },
    /// The port cannot be listened on.
    #[error("cannot listen on {address}{}", if source.kind() == std::io::ErrorKind::AddrInUse { " (is another router running?)" } else { "" })]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file that shows that this router lives cannot be made.
    #[error("cannot make the lock file {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The hand-over between two routers failed.
    #[error("cannot {operation} at {}", path.display())]
    Succession {
        /// What was tried.
        operation: &'static str,
        /// The unix socket of the hand-over.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The listening socket broke.
    #[error("cannot accept connections")]
    Accept {
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The system gave no randomness.
    #[error("cannot draw random numbers: {problem}")]
    Random {
        /// What it said.
        problem: String,
    },
}

/// Result of the router's own operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// How a caller should take it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } | Self::Certificate { .. } => ErrorKind::Invalid,
            Self::Database { source, .. } => source.kind(),
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                ErrorKind::Conflict
            }
            Self::Bind { .. } | Self::Lock { .. } | Self::Succession { .. } | Self::Accept { .. } => {
                ErrorKind::Unavailable
            }
            Self::Random { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}
