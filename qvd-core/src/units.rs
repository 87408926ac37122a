//! Quantities with their unit in the type. Durations are [`std::time::Duration`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of memory or storage in units of 1,048,576 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mebibytes(pub u64);

impl Mebibytes {
    /// The same amount in bytes; saturates at the largest integer.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }

    /// The smallest amount that holds this many bytes.
    pub const fn from_bytes_rounded_up(bytes: u64) -> Self {
        Self(bytes.div_ceil(1 << 20))
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_up_to_whole_mebibytes() {
        assert_eq!(Mebibytes::from_bytes_rounded_up(0), Mebibytes(0));
        assert_eq!(Mebibytes::from_bytes_rounded_up(1), Mebibytes(1));
        assert_eq!(Mebibytes::from_bytes_rounded_up(1 << 20), Mebibytes(1));
        assert_eq!(Mebibytes(u64::MAX).bytes(), u64::MAX);
    }
}
