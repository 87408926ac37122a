//! How a program ends.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use qvd_core::ErrorKind;
use qvd_core::error::chain;

/// Why a program cannot go on: what was tried, its kind, and what went wrong beneath.
#[derive(Debug)]
pub struct Failure {
    kind: ErrorKind,
    text: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with the operation and its subject in `text`.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// The exit code for an error: that of the first [`Failure`] or database error in its chain, else 1.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return ExitCode::from(failure.kind().exit_code());
        }
        #[cfg(feature = "database")]
        if let Some(database) = error.downcast_ref::<qvd_db::Error>() {
            return ExitCode::from(database.kind().exit_code());
        }
        next = error.source();
    }
    ExitCode::FAILURE
}

/// Prints `program: the whole chain` to standard error, once, and gives the exit code.
pub fn report(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("{program}: {}", chain(error));
    exit_code(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_sentence_and_the_kind_decides_the_code() {
        let failure = Failure::new(ErrorKind::Unavailable, "cannot open the database")
            .because(std::io::Error::other("connection refused"));
        assert_eq!(chain(&failure).to_string(), "cannot open the database: connection refused");
        assert_eq!(format!("{:?}", exit_code(&failure)), format!("{:?}", ExitCode::from(7)));
        let other = std::io::Error::other("x");
        assert_eq!(format!("{:?}", exit_code(&other)), format!("{:?}", ExitCode::FAILURE));
    }
}
