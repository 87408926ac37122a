//! Amounts of memory and disk as people write them: `512`, `2048M`, `1 gb`.

use qvd_core::units::Mebibytes;

/// A plain number below this is meant as megabytes: no home fits into less than one.
const SMALLEST_IN_BYTES: u64 = 1 << 20;

/// A size of a home volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HomeSize {
    pub(super) size: Mebibytes,
    /// The plain number that was taken as megabytes.
    pub(super) assumed_megabytes: Option<u64>,
}

/// Reads a size of a home volume: a suffix `k`, `m`, `g` (with or without `b`, in any case) or a plain number, which
/// is bytes unless it is so small that it must be megabytes.
pub(super) fn home(text: &str) -> Option<HomeSize> {
    let (number, unit) = split(text)?;
    match unit {
        Some(unit) => Some(HomeSize { size: rounded_up(number, unit)?, assumed_megabytes: None }),
        None => {
            let plain = number.parse::<u64>().ok()?;
            if plain < SMALLEST_IN_BYTES {
                return Some(HomeSize { size: Mebibytes(plain), assumed_megabytes: Some(plain) });
            }
            Some(HomeSize { size: Mebibytes::from_bytes_rounded_up(plain), assumed_megabytes: None })
        }
    }
}

/// Reads an amount of memory: megabytes, or any of the suffixes.
pub(super) fn memory(text: &str) -> Option<Mebibytes> {
    let (number, unit) = split(text)?;
    match unit {
        Some(unit) => rounded_up(number, unit),
        None => number.parse().ok().map(Mebibytes),
    }
}

/// Number and unit in bytes, blanks removed.
fn split(text: &str) -> Option<(String, Option<u64>)> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => None,
        "k" | "kb" => Some(1 << 10),
        "m" | "mb" => Some(1 << 20),
        "g" | "gb" => Some(1 << 30),
        _ => return None,
    };
    Some((digits.to_owned(), unit))
}

fn rounded_up(number: String, unit: u64) -> Option<Mebibytes> {
    if let Ok(whole) = number.parse::<u64>() {
        return Some(Mebibytes::from_bytes_rounded_up(whole.checked_mul(unit)?));
    }
    let is_decimal = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let bytes = number.parse::<f64>().ok().filter(|_| is_decimal)? * unit as f64;
    (bytes < u64::MAX as f64).then(|| Mebibytes::from_bytes_rounded_up(bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, expected) in [("2048M", 2048), ("2 GB", 2048), ("1.5g", 1536), ("1024k", 1), ("1025kb", 2)]
        {
            let home = home(text).unwrap();
            assert_eq!((home.size, home.assumed_megabytes), (Mebibytes(expected), None), "{text}");
            assert_eq!(memory(text), Some(Mebibytes(expected)), "{text}");
        }
    }

    #[test]
    fn a_plain_number_is_bytes_for_a_home_and_megabytes_for_memory() {
        assert_eq!(home("2147483648").unwrap().size, Mebibytes(2048));
        assert_eq!(home("2147483649").unwrap().size, Mebibytes(2049));
        assert_eq!(home("2048"), Some(HomeSize { size: Mebibytes(2048), assumed_megabytes: Some(2048) }));
        assert_eq!(memory("256"), Some(Mebibytes(256)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "m", "-1", "1t", "1e9g", "inf g", "99999999999999999999", "99999999999999999g", "1.5"]
        {
            assert_eq!(home(text), None, "{text}");
        }
    }
}
