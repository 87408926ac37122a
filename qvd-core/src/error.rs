//! How failures are classified and printed, the same in every crate.

use std::error::Error;
use std::fmt;

/// What kind of failure it is: callers match on this, people read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input is wrong.
    Invalid,
    /// Identity unknown, or known but not permitted.
    Denied,
    /// No such thing, or not the caller's to know of.
    NotFound,
    /// The state moved first; read again and decide again.
    Conflict,
    /// Waited long enough.
    Timeout,
    /// A part that is needed is away (blocked host, no host, database, agent); may work later.
    Unavailable,
    /// The capability is absent.
    Unsupported,
    /// Our bug, or a broken invariant.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without any change by the caller.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Conflict | Self::Timeout | Self::Unavailable)
    }

    /// The exit code of command line tools for this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::Denied => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Timeout => 6,
            Self::Unavailable => 7,
            Self::Unsupported => 8,
        }
    }
}

/// Prints an error with all its sources on one line, outermost first: `a: b: c`.
///
/// No error text of this project repeats its source, so the chain reads as one sentence.
///
/// ```
/// use qvd_core::error::chain;
/// let e = std::io::Error::other("disk on fire");
/// assert_eq!(chain(&e).to_string(), "disk on fire");
/// ```
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

/// The [`fmt::Display`] form made by [`chain`].
#[derive(Debug)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open 'a'")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_prints_every_source_once() {
        let e = Outer(std::io::Error::other("no such file"));
        assert_eq!(chain(&e).to_string(), "cannot open 'a': no such file");
    }
}
