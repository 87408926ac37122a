//! The combination rules, one by one.

use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::testkit::fakes::{AuthCall, ScriptedAuthenticator};

const ALICE: UserId = UserId::new(1);

fn knows(name: &str, password: &str) -> ScriptedAuthenticator {
    ScriptedAuthenticator::named(name).with_user("alice", password, Some(ALICE))
}

fn chain(plugins: &[&ScriptedAuthenticator]) -> Chain {
    plugins.iter().fold(Chain::builder(), |chain, plugin| chain.plugin(Arc::new((*plugin).clone()))).build()
}

async fn login(chain: &Chain, password: &str) -> Result<Identity, Denial> {
    chain.authenticate(Attempt::new(" Alice ", password)).await
}

#[tokio::test]
async fn the_first_that_accepts_is_the_last_that_is_asked_and_all_complete_the_login() {
    let (first, second, third) = (knows("a", "one"), knows("b", "two"), knows("c", "two"));
    let chain = chain(&[&first, &second, &third]);
    let identity = login(&chain, "two").await.unwrap();
    assert_eq!((identity.login(), identity.user_id()), ("alice", Some(ALICE)));
    assert_eq!(identity.params().get("qvd.vm.user.name").map(String::as_str), Some("alice"));
    assert_eq!(first.calls(), [AuthCall::Authenticate, AuthCall::AfterLogin]);
    assert_eq!(second.calls(), [AuthCall::Authenticate, AuthCall::AfterLogin]);
    assert_eq!(third.calls(), [AuthCall::AfterLogin]);
}

#[tokio::test]
async fn who_could_not_decide_is_passed_over_and_told_of_when_nobody_accepts() {
    let (first, second) = (knows("a", "one"), knows("b", "two"));
    let chain = chain(&[&first, &second]);
    first.fail_next(AuthCall::Authenticate, "away");
    assert!(login(&chain, "two").await.is_ok());
    first.fail_next(AuthCall::Authenticate, "away");
    assert!(matches!(login(&chain, "wrong").await, Err(Denial::Undecided(error)) if error.plugin == "a"));
    assert!(matches!(login(&chain, "wrong").await, Err(Denial::Rejected)));
}

#[tokio::test]
async fn a_second_factor_that_was_split_off_has_to_be_right_whoever_accepted() {
    let (second_factor, first, second) =
        (knows("a", "one").with_second_factor("123456"), knows("b", "one"), knows("c", "two"));
    let chain = chain(&[&first, &second_factor, &second]);
    assert!(login(&chain, "one123456").await.is_ok());
    // This one splits nothing off what is too short: then there is no second factor to ask for.
    assert!(login(&chain, "one").await.is_ok());
    for wrong in ["one654321", "two654321", "123456", "wrong123456"] {
        assert!(matches!(login(&chain, wrong).await, Err(Denial::Rejected)), "{wrong}");
    }
    second_factor.fail_next(AuthCall::SecondFactor, "away");
    assert!(matches!(login(&chain, "two123456").await, Err(Denial::Undecided(_))));
}

#[tokio::test]
async fn a_hook_that_fails_ends_the_login() {
    let (first, second) = (knows("a", "one"), knows("b", "two"));
    let chain = chain(&[&first, &second]);
    second.fail_next(AuthCall::AfterLogin, "no room");
    assert!(matches!(login(&chain, "one").await, Err(Denial::Incomplete(error)) if error.plugin == "b"));
}

/// A directory in which Alice is `a.doe`.
#[derive(Debug)]
struct Directory;

#[async_trait]
impl Authenticator for Directory {
    fn name(&self) -> &str {
        "directory"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        let mut login = Login::new();
        login.canonical_login = Some("a.doe".to_owned());
        Ok(Verdict::Accepted(login))
    }
}

/// Whose token is right, and who was provisioned.
#[derive(Debug)]
struct OnlyDoe;

#[async_trait]
impl Authenticator for OnlyDoe {
    fn name(&self) -> &str {
        "only-doe"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        Some((password.to_vec(), Secret::new(String::new())))
    }

    async fn verify_second_factor(&self, login: &str, _: &Secret<String>) -> Result<bool, AuthError> {
        Ok(login == "a.doe")
    }

    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        assert_eq!(attempt.normalized_login, "a.doe");
        login.params.insert("provisioned".to_owned(), attempt.normalized_login.clone());
        Ok(())
    }
}

#[tokio::test]
async fn the_directorys_name_counts_for_the_second_factor_and_everything_after() {
    let chain = Chain::builder().plugin(Arc::new(Directory)).plugin(Arc::new(OnlyDoe)).build();
    let identity = chain.authenticate(Attempt::new("alice", "any")).await.unwrap();
    assert_eq!(identity.login(), "a.doe");
    for key in ["qvd.vm.user.name", "provisioned"] {
        assert_eq!(identity.params().get(key).map(String::as_str), Some("a.doe"), "{key}");
    }
}
