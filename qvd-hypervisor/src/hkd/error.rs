//! Why the daemon could not begin, or had to end.

use std::path::PathBuf;

use qvd_core::ErrorKind;

/// Why the daemon could not begin, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another daemon works on this node.
    #[error("another qvd-hkd of this node is running: it holds '{}'; stop it first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock cannot be taken for another reason.
    #[error("cannot use the lock file '{}'", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database knows no host of this name.
    #[error("the database knows no host '{name}'; add it with: qa host add name={name} address=…")]
    UnknownHost {
        /// The configured `nodename`.
        name: String,
    },
    /// A setting is missing.
    #[error("{problem}")]
    Setting {
        /// Which, and what to do.
        problem: String,
    },
    /// The database refused something without which the daemon cannot go on.
    #[error("cannot {operation}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The database's answer.
        #[source]
        source: qvd_db::Error,
    },
    /// A step of the start or of the end failed.
    #[error("{text}")]
    Failed {
        /// What, with all causes.
        text: String,
    },
    /// The host's row was taken away: another daemon has it, or it counts as lost. Everything here was killed.
    #[error("this host was taken away ({reason}); its virtual machines here were killed")]
    Lost {
        /// How that was learnt.
        reason: String,
    },
}

impl Error {
    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } | Self::Lost { .. } => ErrorKind::Conflict,
            Self::Lock { .. } | Self::Failed { .. } => ErrorKind::Internal,
            Self::UnknownHost { .. } => ErrorKind::NotFound,
            Self::Setting { .. } => ErrorKind::Invalid,
            Self::Database { source, .. } => source.kind(),
        }
    }

    /// Whether starting again may help without any change.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

/// Result of the daemon.
pub type Result<T, E = Error> = std::result::Result<T, E>;
