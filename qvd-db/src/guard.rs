//! What became of a write that applies only while a row still is what the writer believed.

/// Outcome of a guarded write.
///
/// ```
/// use qvd_db::Guard;
/// let outcome = Guard::Unchanged("taken by another");
/// assert!(!outcome.is_updated());
/// assert_eq!(outcome.row(), Some(&"taken by another"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a guarded write may not have happened"]
pub enum Guard<T> {
    /// The write happened; the row as it is now.
    Updated(T),
    /// The row exists and no longer is what the writer believed; nothing was written. The row as it was found.
    Unchanged(T),
    /// There is no such row.
    NotFound,
}

impl<T> Guard<T> {
    /// Whether the write happened.
    pub const fn is_updated(&self) -> bool {
        matches!(self, Self::Updated(_))
    }

    /// The row after the write, if it happened.
    pub fn updated(self) -> Option<T> {
        match self {
            Self::Updated(row) => Some(row),
            Self::Unchanged(_) | Self::NotFound => None,
        }
    }

    /// The row as it is, whether written or not.
    pub const fn row(&self) -> Option<&T> {
        match self {
            Self::Updated(row) | Self::Unchanged(row) => Some(row),
            Self::NotFound => None,
        }
    }

    /// The same outcome with another row.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Guard<U> {
        match self {
            Self::Updated(row) => Guard::Updated(f(row)),
            Self::Unchanged(row) => Guard::Unchanged(f(row)),
            Self::NotFound => Guard::NotFound,
        }
    }
}
