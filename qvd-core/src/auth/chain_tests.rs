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

/// Knows one token, which is for one machine.
#[derive(Debug)]
struct Doorman {
    whose: Option<&'static str>,
    broken: bool,
}

#[async_trait]
impl Authenticator for Doorman {
    fn name(&self) -> &str {
        "doorman"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn authenticate_token(&self, _: &Attempt, token: &Secret<String>) -> Result<Verdict, AuthError> {
        if self.broken {
            return Err(AuthError::new("doorman", "check a token", "asleep"));
        }
        if token.expose() != "ticket" {
            return Ok(Verdict::NotMine);
        }
        let mut login = Login::new().with_user(ALICE);
        login.canonical_login = self.whose.map(str::to_owned);
        login.only_vm = Some(VmId::new(7));
        login.delegated = true;
        Ok(Verdict::Accepted(login))
    }

    async fn access(&self, _: &Identity, _: VmId) -> Result<Access, AuthError> {
        Ok(Access::Grant)
    }
}

async fn show(chain: &Chain, token: &str) -> Result<Identity, Denial> {
    chain.authenticate_token(Attempt::new("", ""), &Secret::new(token.to_owned())).await
}

#[tokio::test]
async fn whoever_knows_a_token_says_whose_it_is_and_all_complete_the_login() {
    let password = knows("a", "one").with_second_factor("123456");
    let doorman = Arc::new(Doorman { whose: Some("alice"), broken: false });
    let chain = chain(&[&password]).followed_by(doorman);
    let identity = show(&chain, "ticket").await.unwrap();
    assert_eq!((identity.login(), identity.user_id()), ("alice", Some(ALICE)));
    assert_eq!(identity.params().get("qvd.vm.user.name").map(String::as_str), Some("alice"));
    assert!(identity.is_delegated());
    assert_eq!(password.calls(), [AuthCall::AfterLogin], "neither password nor second factor");
    assert!(matches!(show(&chain, "other").await, Err(Denial::Rejected)));
    assert!(!login(&chain, "one123456").await.unwrap().is_delegated());
}

#[tokio::test]
async fn a_login_for_one_machine_opens_no_other_whoever_owns_it_or_grants() {
    let chain = Chain::builder().plugin(Arc::new(Doorman { whose: Some("alice"), broken: false })).build();
    let identity = show(&chain, "ticket").await.unwrap();
    let bob = UserId::new(2);
    for (vm, owner, allowed) in [(7, ALICE, true), (7, bob, true), (8, ALICE, false), (8, bob, false)] {
        assert_eq!(chain.allows(&identity, VmId::new(vm), owner).await.unwrap(), allowed, "{vm} {owner}");
        assert_eq!(identity.is_for(VmId::new(vm)), vm == 7);
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_checked_or_is_nobodys_is_no_denial() {
    let asleep = Chain::builder().plugin(Arc::new(Doorman { whose: Some("alice"), broken: true })).build();
    assert!(matches!(show(&asleep, "ticket").await, Err(Denial::Undecided(_))));
    for whose in [None, Some("")] {
        let chain = Chain::builder().plugin(Arc::new(Doorman { whose, broken: false })).build();
        assert!(matches!(show(&chain, "ticket").await, Err(Denial::Incomplete(_))), "{whose:?}");
    }
}
