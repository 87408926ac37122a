//! Randomness from the system.

use qvd_core::Secret;

use crate::error::{Error, Result};

/// A uniform number in `[0, 1)`; the middle when the system gives none, since it only weighs hosts.
pub(crate) fn fraction() -> f64 {
    // 53 bits are what a double holds exactly.
    getrandom::u64().map_or(0.5, |bits| (bits >> 11) as f64 / (1u64 << 53) as f64)
}

/// Random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Random { problem: e.to_string() })?;
    Ok(bytes)
}

/// A key of 64 letters and digits, all equally likely.
pub(crate) fn slave_key() -> Result<Secret<String>> {
    word(64)
}

/// A token of 32 letters and digits, which is 190 bits: a client whose whole request is below 1024 bytes can carry it.
pub(crate) fn token() -> Result<Secret<String>> {
    word(32)
}

fn word(length: usize) -> Result<Secret<String>> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut key = String::with_capacity(length);
    while key.len() < length {
        for byte in bytes::<96>()? {
            // 248 is the largest multiple of 62 in a byte: above it, some would come more often.
            if byte < 248 && key.len() < length {
                key.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    Ok(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_protocols_alphabet_and_differ() {
        let (a, b) = (slave_key().unwrap(), slave_key().unwrap());
        let key = a.expose();
        assert!(key.len() == 64 && key.bytes().all(|c| c.is_ascii_alphanumeric()), "{key}");
        assert!(a != b);
        let (a, b) = (token().unwrap(), token().unwrap());
        assert!(a.expose().len() == 32 && a.expose().bytes().all(|c| c.is_ascii_alphanumeric()) && a != b);
    }

    #[test]
    fn fractions_lie_below_one() {
        assert!((0..1000).map(|_| fraction()).all(|f| (0.0..1.0).contains(&f)));
    }
}
