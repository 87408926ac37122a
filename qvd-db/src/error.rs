//! What can go wrong with the database, and how callers tell it apart.

use std::fmt;

use qvd_core::ErrorKind;

/// A failure of a database operation.
///
/// The text names the operation in words and never holds SQL; what the database said is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be reached or cannot serve; the outcome of a write is unknown.
    #[error("cannot {operation}: the database is away")]
    Away {
        /// What was to be done, to follow "cannot".
        operation: &'static str,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// Other writers kept getting in between, however often it was tried.
    #[error("cannot {operation}: other writers kept getting in between")]
    Contended {
        /// What was to be done, to follow "cannot".
        operation: &'static str,
        /// The last collision.
        #[source]
        source: sqlx::Error,
    },
    /// A value that must be unique is taken.
    #[error("{field} '{value}' already exists")]
    Duplicate {
        /// Which value, in words: `host name`, `user login`, `VM address`.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A thing cannot go while others refer to it.
    #[error("{subject} {relation}")]
    InUse {
        /// The thing, in words: `user 3 (rowan)`.
        subject: String,
        /// What refers to it, to follow the subject: `owns 2 VMs`.
        relation: String,
    },
    /// No such thing.
    #[error("{subject} not found")]
    Missing {
        /// The thing, in words: `DI 42`.
        subject: String,
    },
    /// The operation is not allowed in the present state; waiting does not change that.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do about it.
        reason: String,
    },
    /// A value that the schema does not take.
    #[error("{reason}")]
    Invalid {
        /// Which, and what is wrong with it.
        reason: String,
    },
    /// The database holds another schema than this program needs.
    #[error("{reason}")]
    Schema {
        /// What was found, and what to do about it.
        reason: String,
    },
    /// A setting with which no connection can be made.
    #[error("cannot use {what}")]
    Setting {
        /// What cannot be used, in words.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database refused a statement, or a row does not hold what it must: our bug, or a foreign hand.
    #[error("cannot {operation}")]
    Broken {
        /// What was to be done, to follow "cannot".
        operation: &'static str,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
}

/// Result of a database operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// How a caller should take it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Away { .. } | Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Duplicate { .. } | Self::InUse { .. } | Self::Refused { .. } => ErrorKind::Conflict,
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } | Self::Setting { .. } => ErrorKind::Invalid,
            Self::Schema { .. } => ErrorKind::Unsupported,
            Self::Broken { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Contended { .. })
    }

    /// Makes the error of a failed statement: away, contended or broken.
    pub(crate) fn of(operation: &'static str, source: sqlx::Error) -> Self {
        match fault(&source) {
            Fault::Away => Self::Away { operation, source },
            Fault::Contended => Self::Contended { operation, source },
            Fault::Other => Self::Broken { operation, source },
        }
    }

    /// Whether the database gave up waiting for a lock (`lock_timeout` of PostgreSQL, `busy_timeout` of SQLite), which
    /// takes seconds; other collisions are found at once.
    pub(crate) fn waited_for_lock(&self) -> bool {
        let Self::Contended { source: sqlx::Error::Database(e), .. } = self else { return false };
        matches!(e.code().as_deref(), Some("55P03" | "5"))
    }

    /// The unique constraint that a write ran into, as `(table, columns joined with _)`.
    fn unique(&self) -> Option<(String, String)> {
        let Self::Broken { source: sqlx::Error::Database(e), .. } = self else { return None };
        if !e.is_unique_violation() {
            return None;
        }
        match (e.table(), e.constraint()) {
            (Some(table), Some(constraint)) => {
                let columns = constraint.strip_prefix(table)?.strip_prefix('_')?.strip_suffix("_key")?;
                Some((table.to_owned(), columns.to_owned()))
            }
            _ => sqlite_unique(e.message()),
        }
    }

    /// Turns a unique violation of `(table, columns)` into [`Error::Duplicate`]; leaves the rest alone.
    pub(crate) fn or_duplicate(
        self,
        constraint: (&str, &str),
        field: &'static str,
        value: impl fmt::Display,
    ) -> Self {
        match self.unique() {
            Some((table, columns)) if (table.as_str(), columns.as_str()) == constraint => {
                Self::Duplicate { field, value: value.to_string() }
            }
            _ => self,
        }
    }

    /// Whether a write ran into the unique constraint `(table, columns)`.
    pub(crate) fn is_duplicate_of(&self, constraint: (&str, &str)) -> bool {
        self.unique().is_some_and(|(table, columns)| (table.as_str(), columns.as_str()) == constraint)
    }

    /// Turns a foreign key violation into `otherwise`; leaves the rest alone.
    pub(crate) fn or_referenced(self, otherwise: impl FnOnce() -> Self) -> Self {
        match &self {
            Self::Broken { source: sqlx::Error::Database(e), .. } if is_foreign_key(&**e) => otherwise(),
            _ => self,
        }
    }

    /// Turns a check violation into [`Error::Invalid`]; leaves the rest alone.
    pub(crate) fn or_invalid(self, reason: impl fmt::Display) -> Self {
        match &self {
            Self::Broken { source: sqlx::Error::Database(e), .. } if is_check(&**e) => {
                Self::Invalid { reason: reason.to_string() }
            }
            _ => self,
        }
    }

    pub(crate) fn missing(subject: impl Into<String>) -> Self {
        Self::Missing { subject: subject.into() }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

enum Fault {
    Away,
    Contended,
    Other,
}

fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Fault::Away,
        sqlx::Error::Database(e) => e.code().map_or(Fault::Other, |code| code_fault(&code)),
        _ => Fault::Other,
    }
}

/// PostgreSQL's codes have five characters, SQLite's are decimal numbers whose low byte is the class.
fn code_fault(code: &str) -> Fault {
    if code.len() == 5 {
        return match code {
            // Serialization failure, deadlock, lock not available.
            "40001" | "40P01" | "55P03" => Fault::Contended,
            // Shut down by the administrator or a crash, starting up, too many connections, read-only server,
            // disk or memory full, cancelled by a time-out, session ended while idle.
            "57P01" | "57P02" | "57P03" | "53300" | "25006" | "53100" | "53200" | "57014" | "25P03" => {
                Fault::Away
            }
            // Connection trouble; login refused; no such database.
            _ if code.starts_with("08") || code.starts_with("28") || code == "3D000" => Fault::Away,
            _ => Fault::Other,
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // BUSY, LOCKED.
        Ok(5 | 6) => Fault::Contended,
        // READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB.
        Ok(8 | 10 | 11 | 13 | 14 | 26) => Fault::Away,
        _ => Fault::Other,
    }
}

/// The extended codes of SQLite say which constraint it was; the driver's kind does for PostgreSQL.
fn is_foreign_key(e: &dyn sqlx::error::DatabaseError) -> bool {
    // SQLITE_CONSTRAINT_TRIGGER: what `on delete restrict` reports.
    e.is_foreign_key_violation() || matches!(e.code().as_deref(), Some("23001" | "1811"))
}

fn is_check(e: &dyn sqlx::error::DatabaseError) -> bool {
    e.is_check_violation()
}

/// Reads `UNIQUE constraint failed: users.tenant_id, users.login`.
fn sqlite_unique(message: &str) -> Option<(String, String)> {
    let (_, list) = message.split_once("UNIQUE constraint failed: ")?;
    let mut table = None;
    let mut columns = Vec::new();
    for column in list.split(", ") {
        let (of, name) = column.split_once('.')?;
        table = Some(of);
        columns.push(name);
    }
    Some((table?.to_owned(), columns.join("_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_name_a_unique_constraint_alike() {
        let of = sqlite_unique("UNIQUE constraint failed: users.tenant_id, users.login");
        assert_eq!(of, Some(("users".to_owned(), "tenant_id_login".to_owned())));
        assert_eq!(sqlite_unique("CHECK constraint failed: x"), None);
    }

    #[test]
    fn codes_are_told_apart() {
        for away in ["57P01", "08006", "28P01", "3D000", "14", "8", "2570"] {
            assert!(matches!(code_fault(away), Fault::Away), "{away}");
        }
        for contended in ["40001", "40P01", "5", "261", "517"] {
            assert!(matches!(code_fault(contended), Fault::Contended), "{contended}");
        }
        for other in ["23505", "42P01", "1", "2067", "19"] {
            assert!(matches!(code_fault(other), Fault::Other), "{other}");
        }
    }

    #[test]
    fn the_text_holds_no_sql_and_the_kind_tells_away_from_taken() {
        let away = Error::of("load a host", sqlx::Error::PoolTimedOut);
        assert_eq!(away.to_string(), "cannot load a host: the database is away");
        assert_eq!(away.kind(), ErrorKind::Unavailable);
        let taken = Error::Duplicate { field: "host name", value: "n1".to_owned() };
        assert_eq!(
            (taken.to_string().as_str(), taken.kind()),
            ("host name 'n1' already exists", ErrorKind::Conflict)
        );
    }
}
