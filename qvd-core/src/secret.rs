//! Values that must not reach a log, an error or a debug print.

use std::fmt;

/// A value that does not show itself: its `Debug` is `*****`, it has neither `Display` nor `Serialize`.
///
/// ```
/// use qvd_core::Secret;
/// let password = Secret::new("s3cret".to_owned());
/// assert_eq!(format!("{password:?}"), "*****");
/// assert_eq!(password.expose(), "s3cret");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; the call is what a reviewer looks for.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*****")
    }
}

/// Names without their values: the `Debug` of pairs among which there may be a secret.
pub(crate) struct Names<I>(pub(crate) I);

impl<'a, I: Iterator<Item = &'a str> + Clone> fmt::Debug for Names<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.clone()).finish()
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}
