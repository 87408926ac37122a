//! The authenticator named `oidc`: users of an identity provider, who show a signed token of its (OpenID Connect).
//!
//! | step | where | otherwise |
//! |---|---|---|
//! | read the token | [`qvd_core::proto::jwt`] | not mine |
//! | issuer, audience, times, login | `claims` | not mine |
//! | algorithm allowed, and asymmetric | `keys` | not mine |
//! | the issuer's key | `keeper`, `cache`, `issuer` | not mine; undecided while the issuer is away |
//! | signature | `keys` | not mine |
//!
//! The token is all that is looked at: no password is, nobody is asked about the user, and nothing is kept but the
//! issuer's keys. A login ends when its token does. Keys are renewed after an hour, and serve a day without the issuer.

mod cache;
mod claims;
mod issuer;
mod keeper;
mod keys;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use jsonwebtoken::Algorithm;
use qvd_core::Secret;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
use qvd_core::config::Config;
use qvd_core::proto::jwt::{self, Jwt};

use claims::{Refusal, Rules, judge};
use keeper::Keeper;
use keys::{Signature, Wanted};
pub(super) use settings::Settings;

use crate::error::Result;
use crate::quota::Quota;

/// Takes the tokens of one identity provider.
#[derive(Debug)]
pub struct Oidc {
    rules: Rules,
    algorithms: Vec<Algorithm>,
    keeper: Arc<Keeper>,
    lines: Mutex<Quota>,
}

impl Oidc {
    /// An authenticator with the keys `auth.oidc.*`. The provider is asked when the first token comes.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`](crate::Error::Setting) names the key that cannot be used.
    pub fn from_config(config: &Config) -> Result<Self> {
        Ok(Self::new(Settings::from_config(config)?))
    }

    pub(super) fn new(settings: Settings) -> Self {
        let Settings { issuer, algorithms, rules } = settings;
        Self { rules, algorithms, keeper: Keeper::new(issuer), lines: Mutex::default() }
    }

    /// Why a token is refused, in some lines a minute; of the token itself nothing: nobody has vouched for a word of it.
    fn tell(&self, attempt: &Attempt, refusal: Refusal) {
        let told = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if let Some(untold) = told {
            let untold = (untold > 0).then_some(untold);
            let client = attempt.peer.map(tracing::field::display);
            tracing::info!(client, untold, "token of the identity provider not taken: {refusal}");
        }
    }

    async fn check(&self, jwt: &Jwt<'_>, now: SystemTime) -> Result<Result<Login, Refusal>, AuthError> {
        // What no signature could make right is not worth a question to the issuer.
        let login = match judge(&jwt.header, &jwt.claims, &self.rules, now) {
            Ok(login) => login,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(wanted) = Wanted::by(&jwt.header, &self.algorithms) else {
            return Ok(Err(Refusal::Algorithm));
        };
        let found = self.keeper.find(&wanted).await;
        let Some(keys) = found.map_err(|away| AuthError::new(NAME, "check a token", away))? else {
            return Ok(Err(Refusal::Key));
        };
        Ok(match keys.check(jwt, &wanted) {
            Signature::Good => Ok(login),
            Signature::Bad => Err(Refusal::Signature),
            Signature::Ambiguous => Err(Refusal::Ambiguous),
        })
    }
}

#[async_trait]
impl Authenticator for Oidc {
    fn name(&self) -> &str {
        NAME
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn authenticate_token(
        &self,
        attempt: &Attempt,
        token: &Secret<String>,
    ) -> Result<Verdict, AuthError> {
        let Ok(jwt) = jwt::parse(token.expose()) else { return Ok(Verdict::NotMine) };
        match self.check(&jwt, SystemTime::now()).await? {
            Ok(login) => Ok(Verdict::Accepted(login)),
            Err(Refusal::Issuer) => Ok(Verdict::NotMine),
            Err(refusal) => {
                self.tell(attempt, refusal);
                Ok(Verdict::NotMine)
            }
        }
    }
}

const NAME: &str = "oidc";
