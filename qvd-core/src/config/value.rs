//! Texts to values. Every function answers `None` for a text that is no such value.

use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" | "" => Some(false),
        _ => None,
    }
}

pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    decimal(digits)?;
    text.parse().ok()
}

/// Seconds with decimals, and a suffix for seconds, minutes, hours or days.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        None => (text, 1.0),
        Some(digits) => match text.as_bytes().last() {
            Some(b'm') => (digits, 60.0),
            Some(b'h') => (digits, 3600.0),
            Some(b'd') => (digits, 86_400.0),
            _ => (digits, 1.0),
        },
    };
    let seconds = decimal(digits)? * unit;
    // The bound keeps a sum with the current time far from the end of what a clock can hold.
    if seconds > CENTURY_SECONDS { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

pub(super) fn octal(text: &str) -> Option<u32> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(text, 8).ok().filter(|&mode| digits_only && mode <= 0o7777)
}

/// The prefix length of a network mask.
pub(super) fn netmask(text: &str) -> Option<u8> {
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        let bits = mask.to_bits();
        let prefix = bits.leading_ones();
        return if bits.count_ones() == prefix { u8::try_from(prefix).ok() } else { None };
    }
    text.parse::<u8>().ok().filter(|&prefix| prefix <= 32)
}

/// Width and height in pixels.
pub(super) fn geometry(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.split_once(['x', 'X'])?;
    let side = |digits: &str| digits.parse::<u16>().ok().filter(|&n| n > 0).map(u32::from);
    Some((side(width)?, side(height)?))
}

/// The parts between separators, without blanks around them and without empty ones.
pub(super) fn list(text: &str, separator: char) -> Vec<&str> {
    text.split(separator).map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Digits with at most one point among them, and nothing else a float parser might like.
fn decimal(digits: &str) -> Option<f64> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    digits.parse::<f64>().ok().filter(|value| plain && value.is_finite())
}

const CENTURY_SECONDS: f64 = 100.0 * 365.25 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_have_suffixes_and_decimals() {
        for (text, millis) in [
            ("0", 0),
            ("30", 30_000),
            ("0.2", 200),
            ("5s", 5_000),
            ("10m", 600_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0.5m", 30_000),
        ] {
            assert_eq!(seconds(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn masks_become_prefixes() {
        for (text, prefix) in
            [("0", 0), ("24", 24), ("255.255.0.0", 16), ("0.0.0.0", 0), ("255.255.255.255", 32)]
        {
            assert_eq!(netmask(text), Some(prefix), "{text}");
        }
        assert_eq!(netmask("255.0.255.0"), None);
    }

    #[test]
    fn lists_lose_blanks_and_empty_parts() {
        assert_eq!(list(" a, b ,,c,", ','), ["a", "b", "c"]);
        assert_eq!(list("", ','), [""; 0]);
    }

    #[test]
    fn modes_and_sizes() {
        assert_eq!(octal("0022"), Some(0o22));
        assert_eq!(geometry("1024x768"), Some((1024, 768)));
        assert_eq!(geometry("1024x768x24"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "[-+0-9.xsmhdeEnaif/ ]{0,12}|\\PC{0,12}") {
            let _ = (boolean(&text), number(&text), octal(&text), netmask(&text), geometry(&text));
            if let Some(time) = seconds(&text) {
                prop_assert!(std::time::Instant::now().checked_add(time).is_some());
            }
        }
    }
}
