//! Tokens: short texts that stand for a login made earlier, for clients that cannot carry what that login showed
//! (protocol page §8).
//!
//! They are no name of `l7r.auth.plugins`: whoever was let in by the list may have one, whatever the list is.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Identity, Login, Verdict};
use qvd_core::proto::jwt;
use qvd_core::{Secret, UserId, VmId};
use qvd_db::{Db, NewToken};

use crate::error::{Error, Result};
use crate::random;

/// Accepts the tokens of the database, and no password.
///
/// A token is its own authentication: it is looked up each time, gives the session what its login gave, and neither
/// asks for a second factor nor leaves a proof behind.
#[derive(Debug)]
pub(crate) struct Tokens {
    db: Db,
}

impl Tokens {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Authenticator for Tokens {
    fn name(&self) -> &str {
        NAME
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn authenticate_token(&self, _: &Attempt, token: &Secret<String>) -> Result<Verdict, AuthError> {
        if jwt::has_form(token.expose()) {
            return Ok(Verdict::NotMine);
        }
        let redeemed = self.db.user_tokens().redeem(token).await;
        let Some(redeemed) = redeemed.map_err(|e| AuthError::new(NAME, "look a token up", e))? else {
            return Ok(Verdict::NotMine);
        };
        let mut login = Login::new().with_user(redeemed.user);
        login.canonical_login = Some(redeemed.login);
        login.params = redeemed.params;
        login.only_vm = redeemed.vm;
        login.expires_at = Some(redeemed.expires_at);
        login.delegated = true;
        Ok(Verdict::Accepted(login))
    }
}

/// What somebody who is logged in asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// The one machine that the token is to be for.
    pub(crate) vm: Option<VmId>,
    pub(crate) multi_use: bool,
}

/// A new token, and how long it is good for; none when the login that it would stand on has just ended.
pub(crate) async fn issue(
    db: &Db,
    identity: &Identity,
    user: UserId,
    wish: Wish,
) -> Result<Option<(Secret<String>, Duration)>> {
    let lifetime = lifetime(identity.expires_at(), SystemTime::now());
    if lifetime < Duration::from_secs(1) {
        return Ok(None);
    }
    let token = random::token()?;
    let Wish { vm, multi_use } = wish;
    let new = NewToken { user, vm, multi_use, lifetime, params: identity.params().clone() };
    let added = db.user_tokens().add(&token, &new).await;
    added.map_err(|source| Error::Database { operation: "store a token", source })?;
    Ok(Some((token, lifetime)))
}

/// The shorter of ours and the login's.
fn lifetime(login_ends: Option<SystemTime>, now: SystemTime) -> Duration {
    let left = login_ends.map_or(LONGEST, |end| end.duration_since(now).unwrap_or_default());
    left.min(LONGEST)
}

const NAME: &str = "token";

/// A working day.
const LONGEST: Duration = Duration::from_secs(8 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::testkit::conformance::{self, AuthenticatorSubject};
    use std::sync::Arc;

    #[test]
    fn a_token_lives_as_long_as_its_login_and_eight_hours_at_most() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hours = |n: u64| Duration::from_secs(n * 3600);
        assert_eq!(lifetime(None, now), hours(8));
        assert_eq!(lifetime(Some(now + hours(9)), now), hours(8));
        assert_eq!(lifetime(Some(now + hours(1)), now), hours(1));
        assert_eq!(lifetime(Some(now - hours(1)), now), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_an_issuer_signed_is_not_looked_up() {
        let db = Db::open(&qvd_db::Backend::SqliteMemory).await.unwrap();
        let tokens = Tokens::new(db.clone());
        db.close().await;
        let ask = async |token: &str| {
            tokens.authenticate_token(&Attempt::new("", ""), &Secret::new(token.to_owned())).await
        };
        assert_eq!(ask("e30.e30.c2ln").await.unwrap(), Verdict::NotMine);
        assert!(ask("0123456789abcdefghijklmnopqrstuv").await.is_err(), "the database is away");
    }

    #[tokio::test]
    async fn it_obeys_the_contract() {
        let db = Db::open(&qvd_db::Backend::SqliteMemory).await.unwrap();
        conformance::authenticator(AuthenticatorSubject::new(Arc::new(Tokens::new(db)))).await;
    }
}
