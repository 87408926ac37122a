//! The router's own plugins obey the contracts that everybody's must.

#![allow(clippy::unwrap_used, reason = "a broken expectation is how a test fails")]

use std::sync::Arc;

use qvd_core::TenantId;
use qvd_core::balance::Weighted;
use qvd_core::config::Config;
use qvd_core::testkit::conformance::{self, AuthenticatorSubject, Finding};
use qvd_db::{Backend, Db, password};
use qvd_l7r::auth;

#[tokio::test]
async fn the_authenticator_of_the_database() {
    let db = Db::open(&Backend::SqliteMemory).await.unwrap();
    let hash = password::hash("wonder:länd".as_bytes()).unwrap();
    db.users().add(TenantId::DEFAULT, "alice", Some(hash.expose())).await.unwrap();
    let subject = AuthenticatorSubject::new(Arc::new(auth::Default::new(db, &Config::defaults())));
    let report = conformance::authenticator(subject.user("alice", "wonder:länd".as_bytes())).await;
    assert!(report.findings().iter().all(|(_, finding)| *finding == Finding::Kept), "{report}");
}

/// These know nobody: what they do, they do beside another one.
#[tokio::test]
async fn the_authenticators_that_only_add() {
    let db = Db::open(&Backend::SqliteMemory).await.unwrap();
    let config = Config::builder().set("auth.auto.osf_id", "1").build().unwrap();
    conformance::authenticator(AuthenticatorSubject::new(Arc::new(auth::AuthTester))).await;
    let auto = auth::Auto::from_config(db.clone(), &config).unwrap();
    conformance::authenticator(AuthenticatorSubject::new(Arc::new(auto))).await;
    let totp = auth::Totp::from_config(db, &config).unwrap();
    conformance::authenticator(AuthenticatorSubject::new(Arc::new(totp))).await;
}

#[tokio::test]
async fn the_balancer_with_every_kind_of_weight() {
    for (ram, cpu, random) in [(1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 1e300, f64::MAX)] {
        conformance::load_balancer(Arc::new(Weighted::new(ram, cpu, random))).await;
    }
    conformance::load_balancer(Arc::new(Weighted::from_config(&Config::defaults()))).await;
}
