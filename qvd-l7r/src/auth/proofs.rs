//! Passwords that were right a moment ago, so that a list and the connect behind it cost one hash.
//!
//! No password is kept, only a keyed hash of it together with the stored text that it fitted. The key is drawn by
//! this process and never leaves it; another stored text is another hash, so that a change of password ends a proof.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use qvd_core::UserId;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// Proofs of the last minute, one for each user.
pub(super) struct Proofs {
    /// None when the system gave no randomness: then nothing is remembered.
    keyed: Option<Hmac<Sha256>>,
    of_user: Mutex<HashMap<UserId, Proof>>,
}

struct Proof {
    tag: [u8; 32],
    given: Instant,
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs").finish_non_exhaustive()
    }
}

impl Proofs {
    pub(super) fn new() -> Self {
        let key = crate::random::bytes::<32>().ok();
        let keyed = key.and_then(|key| Hmac::new_from_slice(&key).ok());
        Self { keyed, of_user: Mutex::default() }
    }

    /// Notes that a password was found to fit what is stored for a user.
    pub(super) fn note(&self, user: UserId, stored: &str, password: &[u8], now: Instant) {
        let Some(tag) = self.tag(user, stored, password) else { return };
        let mut of_user = self.of_user.lock().unwrap_or_else(PoisonError::into_inner);
        of_user.retain(|_, proof| proof.holds(now));
        of_user.insert(user, Proof { tag, given: now });
    }

    /// Whether this password was found to fit this stored text of the user within the last minute.
    pub(super) fn hold(&self, user: UserId, stored: &str, password: &[u8], now: Instant) -> bool {
        let Some(tag) = self.tag(user, stored, password) else { return false };
        let of_user = self.of_user.lock().unwrap_or_else(PoisonError::into_inner);
        of_user.get(&user).is_some_and(|proof| proof.holds(now) && bool::from(proof.tag.ct_eq(&tag)))
    }

    fn tag(&self, user: UserId, stored: &str, password: &[u8]) -> Option<[u8; 32]> {
        let mut mac = self.keyed.clone()?;
        mac.update(&user.get().to_be_bytes());
        // Its length, so that nothing of the one can pass for the other.
        mac.update(&(stored.len() as u64).to_be_bytes());
        mac.update(stored.as_bytes());
        mac.update(password);
        Some(mac.finalize().into_bytes().into())
    }
}

impl Proof {
    fn holds(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.given) < MEMORY
    }
}

/// How long a proof holds.
const MEMORY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    #[test]
    fn a_proof_holds_for_its_user_its_stored_text_its_password_and_a_minute() {
        let (proofs, now) = (Proofs::new(), Instant::now());
        assert!(!proofs.hold(ALICE, "stored", b"wonder", now));
        proofs.note(ALICE, "stored", b"wonder", now);
        assert!(proofs.hold(ALICE, "stored", b"wonder", now));
        assert!(proofs.hold(ALICE, "stored", b"wonder", now + MEMORY - Duration::from_millis(1)));
        assert!(!proofs.hold(ALICE, "stored", b"wonder", now + MEMORY));
        assert!(!proofs.hold(BOB, "stored", b"wonder", now));
        assert!(!proofs.hold(ALICE, "changed", b"wonder", now));
        assert!(!proofs.hold(ALICE, "storedw", b"onder", now));
        for near in [&b"wonde"[..], b"wonder ", b"", b"Wonder"] {
            assert!(!proofs.hold(ALICE, "stored", near, now), "{near:?}");
        }
        assert!(!Proofs::new().hold(ALICE, "stored", b"wonder", now), "another process has another key");
    }

    #[test]
    fn using_a_proof_does_not_prolong_it_and_old_ones_are_forgotten() {
        let (proofs, now) = (Proofs::new(), Instant::now());
        proofs.note(ALICE, "stored", b"wonder", now);
        assert!(proofs.hold(ALICE, "stored", b"wonder", now + MEMORY / 2));
        assert!(!proofs.hold(ALICE, "stored", b"wonder", now + MEMORY));
        proofs.note(BOB, "stored", b"wonder", now + MEMORY);
        assert_eq!(proofs.of_user.lock().unwrap().len(), 1);
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let proofs = Proofs::new();
        proofs.note(ALICE, "stored", b"wonder", Instant::now());
        assert_eq!(format!("{proofs:?}"), "Proofs { .. }");
    }
}
