//! The authenticator named `totp`: a one-time password behind the password (protocol page §7.5, RFC 6238).
//!
//! It accepts nobody by itself: another one of the chain checks what stands before the token. A token is good more than
//! once within its time: some clients log in twice with it.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Verdict};
use qvd_core::config::Config;
use qvd_core::{Secret, TenantId};
use qvd_db::{Db, Owner};
use subtle::ConstantTimeEq as _;
use totp_rs::{Algorithm, Builder, Totp as Generator};

use crate::error::{Error, Result};

/// The user's property that holds the secret, in base32.
pub const SECRET_PROPERTY: &str = "l7r.auth.plugin.totp.secret32";

/// Checks the digits at the end of each password.
///
/// A password is split whatever its end looks like, so that leaving the digits off does not leave the check out.
#[derive(Debug)]
pub struct Totp {
    db: Db,
    settings: Settings,
}

impl Totp {
    /// An authenticator with the keys `l7r.auth.plugin.totp.*`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the key that cannot be used.
    pub fn from_config(db: Db, config: &Config) -> Result<Self> {
        Ok(Self::new(db, Settings::from_config(config)?))
    }

    pub(super) fn new(db: Db, settings: Settings) -> Self {
        Self { db, settings }
    }

    async fn secret(&self, login: &str) -> Result<Option<Secret<String>>, qvd_db::Error> {
        let Some(user) = self.db.users().by_login(TenantId::DEFAULT, login).await? else { return Ok(None) };
        let mut properties = self.db.properties().get(Owner::User(user.id)).await?;
        Ok(properties.remove(SECRET_PROPERTY).map(Secret::new))
    }
}

#[async_trait]
impl Authenticator for Totp {
    fn name(&self) -> &str {
        NAME
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        let (password, token) = split(password, usize::from(self.settings.digits));
        Some((password.to_vec(), Secret::new(token)))
    }

    async fn verify_second_factor(&self, login: &str, token: &Secret<String>) -> Result<bool, AuthError> {
        let secret =
            self.secret(login).await.map_err(|e| AuthError::new(NAME, "load the user's secret", e))?;
        let Some(secret) = secret else { return Ok(false) };
        let Some(generator) = self.settings.generator(&secret) else {
            tracing::warn!(login, "the user's property {SECRET_PROPERTY} is not base32");
            return Ok(false);
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Ok(self.settings.fits(&generator, token, now))
    }
}

/// Lengths, times and tolerances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    digits: u8,
    interval: u64,
    t0: i64,
    leeway: i64,
    leeway_before: i64,
}

impl Settings {
    pub(super) fn from_config(config: &Config) -> Result<Self> {
        let digits = within(config, "l7r.auth.plugin.totp.token_size", 6..=8)?;
        let interval = config.seconds("l7r.auth.plugin.totp.interval").as_secs();
        if interval == 0 {
            let problem = "must be one second or more".to_owned();
            return Err(Error::Setting { key: "l7r.auth.plugin.totp.interval", problem });
        }
        Ok(Self {
            digits: u8::try_from(digits).unwrap_or(6),
            interval,
            t0: config.integer("l7r.auth.plugin.totp.t0"),
            leeway: within(config, "l7r.auth.plugin.totp.leeway", 0..=MOST_LEEWAY)?,
            leeway_before: within(config, "l7r.auth.plugin.totp.leeway_before", 0..=MOST_LEEWAY)?,
        })
    }

    fn generator(&self, secret: &Secret<String>) -> Option<Generator> {
        // As people write it: in groups, in lower case, with padding.
        let base32: String = secret
            .expose()
            .chars()
            .filter(|c| !matches!(c, ' ' | '-' | '='))
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let secret = totp_rs::Secret::try_from_base32(base32).ok().filter(|s| !s.as_bytes().is_empty())?;
        let builder = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(self.digits);
        // Secrets shorter than the RFC wants are in use. A step of one: the counter is ours.
        Some(builder.with_step_duration(1).with_secret(secret).build_noncompliant())
    }

    /// Whether a token is one of those of the moment. Each is compared, so that the time taken does not tell which.
    fn fits(&self, generator: &Generator, token: &Secret<String>, now: u64) -> bool {
        self.counters(now).fold(false, |fits, counter| {
            let right = generator.generate(counter).to_string();
            fits | bool::from(right.as_bytes().ct_eq(token.expose().as_bytes()))
        })
    }

    /// From `leeway` periods ago to `leeway_before` periods ahead.
    fn counters(&self, now: u64) -> RangeInclusive<u64> {
        let since = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(self.t0);
        let counter = since.div_euclid(i64::try_from(self.interval).unwrap_or(i64::MAX));
        let at = |counter: i64| u64::try_from(counter).unwrap_or(0);
        at(counter.saturating_sub(self.leeway))..=at(counter.saturating_add(self.leeway_before))
    }
}

fn within(config: &Config, key: &'static str, range: RangeInclusive<i64>) -> Result<i64> {
    let value = config.integer(key);
    if range.contains(&value) {
        return Ok(value);
    }
    let problem = format!("{value} is not from {} to {}", range.start(), range.end());
    Err(Error::Setting { key, problem })
}

/// The password and the token behind it, which has so many characters, or all there are.
fn split(password: &[u8], size: usize) -> (&[u8], String) {
    match std::str::from_utf8(password) {
        Ok(text) => {
            let at = text.char_indices().rev().take(size).last().map_or(text.len(), |(at, _)| at);
            (&password[..at], text[at..].to_owned())
        }
        Err(_) => {
            let (password, token) = password.split_at(password.len().saturating_sub(size));
            (password, token.iter().map(|b| char::from(*b)).collect())
        }
    }
}

const NAME: &str = "totp";

/// Periods on either side; more are as good as no clock at all.
const MOST_LEEWAY: i64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B: `12345678901234567890`.
    const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn settings(set: &[(&str, &str)]) -> Result<Settings> {
        let config = set.iter().fold(Config::builder(), |config, (key, value)| {
            config.set(format!("l7r.auth.plugin.totp.{key}"), *value)
        });
        Settings::from_config(&config.build().unwrap())
    }

    fn fits(settings: &Settings, secret: &str, token: &str, now: u64) -> bool {
        let generator = settings.generator(&Secret::new(secret.to_owned())).unwrap();
        settings.fits(&generator, &Secret::new(token.to_owned()), now)
    }

    #[test]
    fn the_vectors_of_the_rfc() {
        let eight = settings(&[("token_size", "8"), ("leeway", "0")]).unwrap();
        for (time, token) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert!(fits(&eight, SECRET, token, time), "{time}");
            assert!(!fits(&eight, SECRET, "00000000", time));
        }
        assert!(fits(&settings(&[]).unwrap(), SECRET, "287082", 59), "six digits are the last six");
    }

    #[test]
    fn a_token_is_good_for_its_period_and_the_leeway() {
        let good = |set: &[(&str, &str)]| {
            let settings = settings(set).unwrap();
            // Of the period from 30 to 59.
            (0..5)
                .map(|n| n * 30 + 15)
                .filter(|now| fits(&settings, SECRET, "287082", *now))
                .collect::<Vec<_>>()
        };
        assert_eq!(good(&[]), [45, 75], "one period late by default, none early");
        assert_eq!(good(&[("leeway", "0")]), [45]);
        assert_eq!(good(&[("leeway", "0"), ("leeway_before", "1")]), [15, 45]);
        assert_eq!(good(&[("leeway", "0"), ("t0", "60")]), [105]);
        assert_eq!(good(&[("leeway", "0"), ("interval", "60")]), [75, 105]);
    }

    #[test]
    fn secrets_are_read_as_people_write_them() {
        let settings = settings(&[]).unwrap();
        assert!(fits(&settings, "gezd gnbv-gy3t qojq gezd gnbv gy3t qojq====", "287082", 59));
        for bad in ["", "====", "not base 32!", "GEZ1"] {
            assert!(settings.generator(&Secret::new(bad.to_owned())).is_none(), "{bad}");
        }
    }

    #[test]
    fn every_password_is_split_so_that_none_gets_around_the_token() {
        assert_eq!(split(b"s3cret123456", 6), (&b"s3cret"[..], "123456".to_owned()));
        assert_eq!(split("señal".as_bytes(), 6), (&b""[..], "señal".to_owned()));
        assert_eq!(split("señalññññññ".as_bytes(), 6), ("señal".as_bytes(), "ññññññ".to_owned()));
        assert_eq!(split(b"", 6), (&b""[..], String::new()));
        assert_eq!(split(b"se\xf1al123456", 6), (&b"se\xf1al"[..], "123456".to_owned()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (key, value) in [
            ("token_size", "5"),
            ("token_size", "9"),
            ("interval", "0"),
            ("leeway", "-1"),
            ("leeway_before", "101"),
        ] {
            let error = settings(&[(key, value)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("l7r.auth.plugin.totp.{key}: ")), "{error}");
        }
    }
}
