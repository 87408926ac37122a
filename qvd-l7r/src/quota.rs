//! How often something may be logged that others can make happen as often as they like.

use std::time::{Duration, Instant};

/// How many lines of a kind may still be written. Pure: times in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quota {
    since: Option<Instant>,
    written: u32,
    untold: u64,
}

impl Quota {
    /// Asks for a line. Some: write it, and so many were left out before it.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written >= LINES {
            self.untold += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// So many lines of one kind …
const LINES: u32 = 10;

/// … are written in this time.
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_was_left_out_is_told() {
        let (mut quota, begin) = (Quota::default(), Instant::now());
        let written = (0..1000).filter(|_| quota.take(begin).is_some()).count();
        assert_eq!(written, 10);
        let later = begin + WINDOW - Duration::from_millis(1);
        assert_eq!(quota.take(later), None);
        assert_eq!(quota.take(begin + WINDOW), Some(991), "the first line of the next minute tells");
        assert_eq!(quota.take(begin + WINDOW), Some(0));
    }
}
