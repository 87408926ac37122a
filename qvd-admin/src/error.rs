//! What can go wrong with an operation, in the words of the administrator.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use qvd_core::ErrorKind;

use crate::at::InvalidTime;
use crate::filter::FilterError;

/// Result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation. The text is one sentence for a person; [`Error::code`] is for programs and stays the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database answered with an error.
    #[error(transparent)]
    Database(#[from] qvd_db::Error),
    /// Not a filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Not a time.
    #[error(transparent)]
    Time(#[from] InvalidTime),
    /// A password that cannot be stored.
    #[error(transparent)]
    Password(#[from] qvd_db::password::HashError),
    /// A value that cannot be taken.
    #[error("{message}")]
    Invalid {
        /// The argument, when it is one.
        field: Option<&'static str>,
        /// What is wrong with it.
        message: String,
    },
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// A name or address is taken.
    #[error("{message}")]
    Exists {
        /// The argument that is taken.
        field: &'static str,
        /// Which value.
        message: String,
    },
    /// Something else depends on it.
    #[error("{0}")]
    InUse(String),
    /// Its present state forbids it.
    #[error("{0}")]
    InvalidState(String),
    /// A fixed tag moves for nobody.
    #[error("There is a DI with the tag {0} fixed")]
    TagFixed(String),
    /// Every address of the range is taken.
    #[error("No free IP addresses")]
    NoFreeAddress,
    /// A file cannot be read, copied or written.
    #[error("{what}")]
    File {
        /// The operation with the file's name and the system's reason.
        what: String,
        /// What the system said, for its kind.
        reason: io::ErrorKind,
    },
    /// Some of it was done and some could not be; each reason was told.
    #[error("{0}")]
    Incomplete(String),
    /// Not in this version.
    #[error("{0}")]
    Unsupported(String),
    /// There is no database to work on.
    #[error("there is no database to work on")]
    Connect {
        /// Whether it may work later.
        kind: ErrorKind,
        /// What went wrong.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field: Some(field), message: message.into() }
    }

    /// `PATH: REASON`, the reason without the system's number.
    pub(crate) fn file(path: impl Into<PathBuf>, source: &io::Error) -> Self {
        Self::File { what: format!("{}: {}", path.into().display(), reason(source)), reason: source.kind() }
    }

    /// How a caller should take it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database(e) => e.kind(),
            Self::Password(e) => e.kind(),
            Self::Filter(_) | Self::Time(_) | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Exists { .. } | Self::InUse(_) | Self::InvalidState(_) | Self::TagFixed(_) => {
                ErrorKind::Conflict
            }
            Self::NoFreeAddress | Self::Incomplete(_) => ErrorKind::Unavailable,
            Self::File { reason: io::ErrorKind::NotFound, .. } => ErrorKind::NotFound,
            Self::File { reason: io::ErrorKind::PermissionDenied, .. } => ErrorKind::Denied,
            Self::File { .. } => ErrorKind::Invalid,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Connect { kind, .. } => *kind,
        }
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(e) => e.is_retryable(),
            Self::Connect { kind, .. } => kind.is_retryable(),
            _ => false,
        }
    }

    /// A short name of the failure that programs can match on; never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Filter(_) => "bad_filter",
            Self::Exists { .. } => "exists",
            Self::InUse(_) => "in_use",
            Self::InvalidState(_) => "invalid_state",
            Self::TagFixed(_) => "tag_fixed",
            Self::NoFreeAddress => "no_free_ip",
            Self::Database(qvd_db::Error::Duplicate { .. }) => "exists",
            Self::Database(qvd_db::Error::InUse { .. }) => "in_use",
            _ => match self.kind() {
                ErrorKind::Invalid => "invalid_value",
                ErrorKind::Denied => "forbidden",
                ErrorKind::NotFound => "not_found",
                ErrorKind::Conflict => "conflict",
                ErrorKind::Timeout | ErrorKind::Unavailable => "database_unavailable",
                ErrorKind::Unsupported => "unsupported",
                _ => "internal",
            },
        }
    }

    /// The argument that is to blame, when it is one.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { field, .. } => *field,
            Self::Exists { field, .. } => Some(field),
            _ => None,
        }
    }
}

/// What the system said, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}
