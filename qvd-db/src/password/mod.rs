//! Stored passwords: argon2id in PHC string form, and the digests that older installations left behind.
//!
//! | stored text | what it is | after a right password |
//! |---|---|---|
//! | `$argon2id$v=19$m=…` with today's cost | current | [`Check::Right`] |
//! | `$argon2…` with another cost | older choice | [`Check::Outdated`] |
//! | 43 characters of base64 | SHA-256(salt ‖ password), one salt per installation | [`Check::Outdated`] |
//! | anything else | nobody's password | [`Check::Wrong`] |
//!
//! Both functions keep a processor busy for tens of milliseconds and take 19 MiB while they do: call them from
//! a thread that may block, and not from too many at once. The memory is kept for the next one, see `memory`.

mod memory;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use qvd_core::{ErrorKind, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Longest password that is looked at, in bytes; longer ones are wrong.
pub const MAX_LENGTH: usize = 4096;

/// A hash that no password has, at today's cost: checking an unknown user against it takes as long as a known one.
pub const DECOY: &str = concat!(
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGtub3dzIGl0$",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
);

/// What a password is to a stored text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Not the password.
    Wrong,
    /// The password, stored as it should be.
    Right,
    /// The password, stored in a weaker form: store [`hash`] of it instead.
    Outdated,
}

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// The empty password and passwords above [`MAX_LENGTH`] are refused.
    #[error("a password has 1 to {MAX_LENGTH} bytes")]
    Length,
    /// The system gave no randomness or memory.
    #[error("cannot hash the password: {0}")]
    Failed(String),
}

impl HashError {
    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Length => ErrorKind::Invalid,
            Self::Failed(_) => ErrorKind::Internal,
        }
    }
}

/// Hashes a password with a fresh salt, for `users.password_hash`.
///
/// # Errors
///
/// [`HashError`].
///
/// ```
/// use qvd_db::password::{hash, verify, Check};
/// let stored = hash(b"s3cret").unwrap();
/// assert_eq!(verify(stored.expose(), b"s3cret", b""), Check::Right);
/// assert_eq!(verify(stored.expose(), b"secret", b""), Check::Wrong);
/// ```
pub fn hash(password: &[u8]) -> Result<Secret<String>, HashError> {
    if password.is_empty() || password.len() > MAX_LENGTH {
        return Err(HashError::Length);
    }
    let failed = |e: &dyn std::fmt::Display| HashError::Failed(e.to_string());
    let mut salt = [0; Salt::RECOMMENDED_LENGTH];
    getrandom::fill(&mut salt).map_err(|e| failed(&e))?;
    let (version, params) = (Version::default(), Params::default());
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(Algorithm::default(), version, params.clone());
    memory::hash_into(&argon2, &params, password, &salt, &mut output).map_err(|e| failed(&e))?;
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params).map_err(|e| failed(&e))?,
        salt: Some(Salt::new(&salt).map_err(|e| failed(&e))?),
        hash: Some(Output::new(&output).map_err(|e| failed(&e))?),
    };
    Ok(Secret::new(hash.to_string()))
}

/// Compares a password with a stored text. `legacy_salt` is the installation's `l7r.auth.plugin.default.salt`.
///
/// The comparison itself takes the same time wherever the difference is, and as long for a digest or for a text that is
/// nobody's password as for a hash at today's cost. The empty password is always wrong.
pub fn verify(stored: &str, password: &[u8], legacy_salt: &[u8]) -> Check {
    if password.is_empty() || password.len() > MAX_LENGTH {
        return Check::Wrong;
    }
    let hashed = verify_phc(stored, password);
    if !hashed.is_some_and(|hashed| hashed.is_current) {
        // A digest is compared in microseconds, a cheaper hash in less than it should take: who measures would learn
        // which logins were brought along from an older installation. The answer takes at least as long as that for a
        // login of today, or for none.
        let _ = verify_phc(DECOY, password);
    }
    let legacy = || legacy_digest(legacy_salt, password).as_bytes().ct_eq(stored.as_bytes()).into();
    match hashed {
        Some(Hashed { fits: true, is_current: true }) => Check::Right,
        Some(Hashed { fits: true, is_current: false }) => Check::Outdated,
        None if legacy() => Check::Outdated,
        Some(Hashed { fits: false, .. }) | None => Check::Wrong,
    }
}

/// The digest that 3.5 stores: base64 without padding of SHA-256(salt ‖ password).
///
/// ```
/// use qvd_db::password::legacy_digest;
/// assert_eq!(legacy_digest(b"qvd1234", b"s3cret"), "zmbH9pH/ERecFVO09sse2sLtkWZM2v5yhkc9FNPF0yU");
/// ```
pub fn legacy_digest(salt: &[u8], password: &[u8]) -> String {
    STANDARD_NO_PAD.encode(Sha256::new().chain_update(salt).chain_update(password).finalize())
}

/// What a password is to a text in PHC form.
#[derive(Clone, Copy)]
struct Hashed {
    fits: bool,
    /// At today's cost.
    is_current: bool,
}

/// None when the text is no such hash, which is found without computing one.
fn verify_phc(stored: &str, password: &[u8]) -> Option<Hashed> {
    let parsed = PasswordHash::new(stored).ok()?;
    let algorithm = Algorithm::new(parsed.algorithm).ok()?;
    let params = Params::try_from(&parsed).ok()?;
    let version = parsed.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let (salt, expected) = (parsed.salt?, parsed.hash?);
    #[cfg(test)]
    tests::WORK.with(|work| work.set(work.get() + params.m_cost() * params.t_cost()));
    // The parameters of the stored text decide, not today's.
    let mut output = [0; Output::MAX_LENGTH];
    let output = &mut output[..expected.len()];
    let argon2 = Argon2::new(algorithm, version, params.clone());
    let hashed = memory::hash_into(&argon2, &params, password, &salt, output);
    let fits = hashed.is_ok() && bool::from(output.ct_eq(expected.as_bytes()));
    let is_current = algorithm == Algorithm::default() && same_cost(&params, &Params::default());
    Some(Hashed { fits, is_current })
}

fn same_cost(a: &Params, b: &Params) -> bool {
    (a.m_cost(), a.t_cost(), a.p_cost()) == (b.m_cost(), b.t_cost(), b.p_cost())
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordHasher;

    use super::*;

    #[test]
    fn a_cheaper_hash_verifies_and_asks_to_be_replaced() {
        let cheap =
            Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let stored = cheap.hash_password(b"s3cret").unwrap().to_string();
        assert_eq!(verify(&stored, b"s3cret", b""), Check::Outdated);
        assert_eq!(verify(&stored, b"s3creT", b""), Check::Wrong);
    }

    #[test]
    fn digests_of_older_installations_verify_with_their_salt_only() {
        let stored = legacy_digest(b"qvd1234", b"s3cret");
        assert_eq!(verify(&stored, b"s3cret", b"qvd1234"), Check::Outdated);
        assert_eq!(verify(&stored, b"s3cret", b"other"), Check::Wrong);
        assert_eq!(verify(&stored, b"", b"qvd1234"), Check::Wrong);
    }

    #[test]
    fn texts_that_are_no_hash_match_nothing() {
        for stored in ["", "$", "$argon2id$", "s3cret", "$6$salt$hash", "*"] {
            assert_eq!(verify(stored, b"s3cret", b""), Check::Wrong, "{stored}");
        }
    }

    thread_local! {
        /// Blocks that were filled for hashes on this thread.
        pub(super) static WORK: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    fn work(stored: &str) -> u32 {
        let before = WORK.get();
        assert_eq!(verify(stored, b"a guess", b"salt"), Check::Wrong, "{stored}");
        WORK.get() - before
    }

    #[test]
    fn a_guess_costs_as_much_for_a_login_that_was_brought_along_as_for_one_of_today() {
        let cheap =
            Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let cheap = cheap.hash_password(b"s3cret").unwrap().to_string();
        let today = work(hash(b"s3cret").unwrap().expose());
        assert!(today > 0);
        for stored in [&legacy_digest(b"salt", b"s3cret")[..], &cheap, "*", "$6$salt$hash", "$argon2id$"] {
            assert!(work(stored) >= today, "{stored}");
        }
    }

    #[test]
    fn the_empty_password_and_giants_are_refused() {
        assert_eq!(hash(b"").unwrap_err().kind(), ErrorKind::Invalid);
        assert!(hash(&[b'x'; MAX_LENGTH + 1]).is_err());
    }

    #[test]
    fn the_decoy_costs_what_a_real_hash_costs_and_fits_nobody() {
        let decoy = PasswordHash::new(DECOY).unwrap();
        let real = hash(b"x").unwrap();
        let real = PasswordHash::new(real.expose()).unwrap();
        assert_eq!(
            (decoy.algorithm, decoy.version, &decoy.params),
            (real.algorithm, real.version, &real.params)
        );
        assert_eq!(decoy.hash.unwrap().len(), real.hash.unwrap().len());
        assert_eq!(verify(DECOY, b"nobody knows it", b""), Check::Wrong);
    }
}
