//! What is wrong with a configuration, in words for the person who wrote it.

use std::fmt;

use super::layers::Source;
use crate::ErrorKind;

/// One thing that is wrong. Prints as one line: `node.conf:12: l7r.port: '84x3' is not a port number (1-65535)`.
///
/// Secrets are shown as `*****`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    origin: Option<Source>,
    key: Option<String>,
    message: String,
}

impl Problem {
    /// A problem without a place.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { origin: None, key: None, message: message.into() }
    }

    pub(super) fn at(mut self, origin: &Source) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    pub(super) fn of(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// The same without its place, for an answer to the one who has just typed the value.
    pub(super) fn without_origin(mut self) -> Self {
        self.origin = None;
        self
    }

    /// The key it is about, when it is about one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Where the value stands.
    pub const fn origin(&self) -> Option<&Source> {
        self.origin.as_ref()
    }

    /// What is wrong, without place and key.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Always [`ErrorKind::Invalid`].
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that cannot be used, with everything that is wrong with it: one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) const fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Everything that is wrong; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Always [`ErrorKind::Invalid`].
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// Always false: somebody has to change the configuration first.
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
