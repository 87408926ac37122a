//! SHA-256 fingerprints and their text.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// SHA-256 of a certificate's DER form; printed as upper-case hex pairs joined by colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Fingerprint of these bytes.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-256 fingerprint (32 pairs of hex digits, with or without colons)")]
pub struct InvalidFingerprint(String);

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    /// Reads hex digits of any case, with or without colons, after an optional `sha256:`, `sha256$` or the like.
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let invalid = || InvalidFingerprint(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits = match lower.strip_prefix("sha256") {
            Some(rest) => rest.rsplit_once(['$', '=', ' ']).map_or(rest, |(_, digits)| digits),
            None => lower.as_str(),
        };
        let digits: Vec<u8> = digits.bytes().filter(|b| *b != b':').collect();
        if digits.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(invalid);
            // Two digits below 16 fit into a byte.
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_way_to_write_it_reads() {
        let fingerprint = Fingerprint::of(b"x");
        let text = fingerprint.to_string();
        assert!(text.starts_with("2D:71:16:42"), "{text}");
        let plain = text.replace(':', "").to_lowercase();
        for form in [
            text.clone(),
            plain.clone(),
            format!("sha256${text}"),
            format!("sha256:{plain}"),
            format!("SHA256 Fingerprint={text}\n"),
        ] {
            assert_eq!(form.parse(), Ok(fingerprint), "{form}");
        }
        for bad in ["", "2D:71", &plain[1..], &plain.replace('2', "g")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
