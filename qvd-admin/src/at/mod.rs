//! The time language of `expire-soft` and `expire-hard`, like that of `at(1)`.
//!
//! ```text
//! spec   = base [ incdec ]                       now + 2 days
//! base   = date | time [ date ]                  5 pm friday
//! time   = HHMM | H[:MM] [am|pm] | noon | midnight | teatime, each with an optional "utc"
//! date   = Aug 5 [, 2014] | 5 Aug [2014] | [next] friday | today | tomorrow | now
//!        | 05.08.2013 | 2013-08-05 | 08/05/2013 | 080513 | next week
//! incdec = (+|-) N (minute|min|hour|day|week|month|year)[s]
//! ```
//!
//! Besides, beyond the 3.5 language: RFC 3339 (`2013-08-10T12:00:00Z`) and `YYYY-MM-DD HH:MM[:SS]`.
//!
//! Pure: what time it is and in which zone comes in as an argument.

mod grammar;
mod resolve;

use jiff::{Timestamp, Zoned};

/// A text that is not in the time language, or that names no existing moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid datetime specification '{text}'")]
pub struct InvalidTime {
    text: String,
}

/// The moment that `text` names, seen from `now` (its seconds do not count) in `now`'s zone.
///
/// # Errors
///
/// When the text is not in the language, or no such moment exists (`31.02.2014`).
///
/// ```
/// let now: jiff::Zoned = "2013-08-05T23:34:00[UTC]".parse().unwrap();
/// let soon = qvd_admin::at::parse("5 pm friday + 1 week", &now).unwrap();
/// assert_eq!(soon.to_string(), "2013-08-16T17:00:00Z");
/// assert!(qvd_admin::at::parse("tomorrow noon", &now).is_err());
/// ```
pub fn parse(text: &str, now: &Zoned) -> Result<Timestamp, InvalidTime> {
    exact(text, now)
        .or_else(|| grammar::readings(text).find_map(|spec| resolve::resolve(&spec, now)))
        .ok_or_else(|| InvalidTime { text: text.to_owned() })
}

/// The two forms that leave nothing to interpret.
fn exact(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"].iter().find_map(|format| {
        let local = jiff::civil::DateTime::strptime(format, text).ok()?;
        Some(local.to_zoned(now.time_zone().clone()).ok()?.timestamp())
    })
}

#[cfg(test)]
mod tests;
