//! What an authenticator sees of the environment that clients share, and what it may do with it.
//!
//! `AuthTester` shows each attempt: login, how long the password is, the shared variables. It accepts nobody, so that it
//! may stand in any chain. `Site` takes one variable and hands it to the desktop, once somebody else has accepted: a
//! variable is the client's word, and never says who somebody is.
//!
//! A client shares what `client.auth_env_share.list.N` names; this program plays one, and asks the chain as a router
//! does for each login. The router's own `authtester` (`l7r.auth.plugins=authtester,default`) writes the same into its
//! log.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use qvd_core::TenantId;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Denial, Identity, Login, Verdict};
use qvd_core::config::Config;
use qvd_db::{Backend, Db, password};
use qvd_l7r::auth;

/// Shows attempts.
#[derive(Debug)]
struct AuthTester;

impl AuthTester {
    /// What there is to show of an attempt; not its password.
    fn describe(attempt: &Attempt) -> String {
        let mut text = format!(
            "login {:?} as {:?}, a password of {} bytes",
            attempt.login,
            attempt.normalized_login,
            attempt.password.expose().len()
        );
        for (name, value) in &attempt.environment {
            text.push_str(&format!(", {name}={:?}", String::from_utf8_lossy(value)));
        }
        text
    }
}

#[async_trait::async_trait]
impl Authenticator for AuthTester {
    fn name(&self) -> &str {
        "auth-tester"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        println!("{}", Self::describe(attempt));
        Ok(Verdict::NotMine)
    }
}

/// Tells the desktop at which site its user sits.
#[derive(Debug)]
struct Site;

#[async_trait::async_trait]
impl Authenticator for Site {
    fn name(&self) -> &str {
        "site"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        let Some(site) = attempt.environment.get("SITE") else { return Ok(()) };
        // Only what is known: hooks in the desktop get this as an argument.
        if let Some(known) = ["madrid", "berlin"].iter().find(|known| known.as_bytes() == site.as_slice()) {
            login.params.insert("custom.site".to_owned(), (*known).to_owned());
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let chain = chain().await?;
    for site in ["berlin", "; rm -rf /"] {
        let identity = login(&chain, site).await.map_err(|denial| anyhow::anyhow!("refused: {denial:?}"))?;
        println!("{} is in; the desktop is told {:?}", identity.login(), identity.params());
    }
    Ok(())
}

/// Shown first, then the password, then the site.
async fn chain() -> Result<Chain> {
    let db = Db::open(&Backend::SqliteMemory).await?;
    db.users().add(TenantId::DEFAULT, "alice", Some(password::hash(b"wonderland")?.expose())).await?;
    let passwords = auth::Default::new(db, &Config::defaults());
    Ok(Chain::builder()
        .plugin(Arc::new(AuthTester))
        .plugin(Arc::new(passwords))
        .plugin(Arc::new(Site))
        .build())
}

/// As a client that shares `SITE`.
async fn login(chain: &Chain, site: &str) -> Result<Identity, Denial> {
    let environment = BTreeMap::from([("SITE".to_owned(), site.as_bytes().to_vec())]);
    chain.authenticate(Attempt::new("Alice", "wonderland").with_environment(environment)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::testkit::conformance::{self, AuthenticatorSubject};

    #[tokio::test]
    async fn both_obey_the_contract() {
        conformance::authenticator(AuthenticatorSubject::new(Arc::new(AuthTester))).await;
        conformance::authenticator(AuthenticatorSubject::new(Arc::new(Site))).await;
    }

    #[tokio::test]
    async fn a_known_site_reaches_the_desktop_and_nothing_else_does() {
        let chain = chain().await.unwrap();
        let site = async |said: &str| login(&chain, said).await.unwrap().params().get("custom.site").cloned();
        assert_eq!(site("berlin").await.as_deref(), Some("berlin"));
        for unknown in ["", "Berlin", "; rm -rf /"] {
            assert_eq!(site(unknown).await, None, "{unknown}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let environment = BTreeMap::from([("MYNAME".to_owned(), b"Alice Doe".to_vec())]);
        let shown = AuthTester::describe(&Attempt::new("alice", "wonderland").with_environment(environment));
        assert_eq!(shown, r#"login "alice" as "alice", a password of 10 bytes, MYNAME="Alice Doe""#);
    }
}
