//! An authenticator of your own, beside the built-in one.
//!
//! `Badges` knows people by the number on their badge; it could as well ask a directory or a token server. A chain
//! asks it first, and the built-in authenticator (passwords of the database) after it. A router takes the chain with
//! `Router::builder(…).authenticators(chain)`; this program asks the chain itself, as a router does for each login.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Denial, Login, Verdict};
use qvd_core::config::Config;
use qvd_core::{Secret, TenantId};
use qvd_db::{Backend, Db, password};
use qvd_l7r::auth;
use subtle::ConstantTimeEq as _;

/// Logins, and the badges of those people.
#[derive(Debug)]
struct Badges(BTreeMap<String, Secret<String>>);

#[async_trait::async_trait]
impl Authenticator for Badges {
    fn name(&self) -> &str {
        "badges"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        let Some(badge) = self.0.get(&attempt.normalized_login) else { return Ok(Verdict::NotMine) };
        // How long it takes must not tell how much was right.
        let right = attempt.password.expose().ct_eq(badge.expose().as_bytes());
        // A wrong badge may still be a right password: then the next authenticator accepts.
        Ok(if right.into() { Verdict::Accepted(Login::new()) } else { Verdict::NotMine })
    }
}

fn badges() -> Badges {
    Badges(BTreeMap::from([("alice".to_owned(), Secret::new("4711-0815".to_owned()))]))
}

#[tokio::main]
async fn main() -> Result<()> {
    let chain = chain().await?;
    for (words, secret) in
        [("her badge", "4711-0815"), ("her password", "wonderland"), ("a wrong badge", "4711-0816")]
    {
        match chain.authenticate(Attempt::new("Alice", secret)).await {
            Ok(identity) => println!("{words}: welcome, {}", identity.login()),
            Err(Denial::Rejected) => println!("{words}: refused"),
            // An outage is not a denial: a router answers 503 then, not 401.
            Err(outage) => anyhow::bail!("{words}: undecided: {outage:?}"),
        }
    }
    Ok(())
}

/// Badges first, then passwords.
async fn chain() -> Result<Chain> {
    let db = Db::open(&Backend::SqliteMemory).await?;
    db.users().add(TenantId::DEFAULT, "alice", Some(password::hash(b"wonderland")?.expose())).await?;
    let passwords = auth::Default::new(db, &Config::defaults());
    Ok(Chain::builder().plugin(Arc::new(badges())).plugin(Arc::new(passwords)).build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::testkit::conformance::{self, AuthenticatorSubject};

    #[tokio::test]
    async fn it_obeys_the_contract() {
        let subject = AuthenticatorSubject::new(Arc::new(badges())).user("alice", b"4711-0815");
        conformance::authenticator(subject).await;
    }

    #[tokio::test]
    async fn badge_and_password_open_and_nothing_else_does() {
        let chain = chain().await.unwrap();
        for right in ["4711-0815", "wonderland"] {
            assert_eq!(chain.authenticate(Attempt::new("Alice", right)).await.unwrap().login(), "alice");
        }
        for wrong in ["4711-0816", "4711-081", "Wonderland", ""] {
            let denied = chain.authenticate(Attempt::new("alice", wrong)).await;
            assert!(matches!(denied, Err(Denial::Rejected)), "{wrong}");
        }
    }
}
