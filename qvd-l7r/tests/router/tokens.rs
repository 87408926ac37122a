//! Short tokens that stand for a login made earlier (protocol page §8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Login, Verdict};
use qvd_core::model::Properties;
use qvd_core::{Secret, VmId};
use qvd_db::NewToken;

use crate::support::{
    Client, DIRECTORY_PASSWORD, Options, PASSWORD, Response, Slapd, World, basic, logged, machine, request,
    user,
};

const LIST: &str = "/qvd/list_of_vm";
const CREATE: &str = "/qvd/create_auth_token";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The token of an answer, whose form is checked.
fn token(answer: &Response, lifetime: std::ops::RangeInclusive<u64>) -> String {
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert!(answer.head.contains("\r\nContent-Type: application/json\r\n"), "{}", answer.head);
    let (token, rest) = answer.body.strip_prefix(r#"{"auth_token":""#).unwrap().split_once('"').unwrap();
    let seconds = rest.strip_prefix(r#","expires_in":"#).and_then(|rest| rest.strip_suffix('}')).unwrap();
    assert!(lifetime.contains(&seconds.parse().unwrap()), "{seconds}");
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_alphanumeric()), "{token}");
    token.to_owned()
}

/// A new token of Alice's.
async fn made(world: &World, query: &str) -> String {
    let answer = world.client().await.ask(&format!("{CREATE}{query}"), &[&basic("alice", PASSWORD)]).await;
    token(&answer, 28_800..=28_800)
}

async fn list(world: &World, token: &str) -> Response {
    world.client().await.ask(LIST, &[&bearer(token)]).await
}

/// A client that asked to connect with a token, as the C client writes it.
async fn connecting(world: &World, vm: VmId, token: &str) -> Client {
    let text = request(
        &format!("/qvd/connect_to_vm?id={vm}&qvd.client.os=linux&qvd.client.geometry=1024x768"),
        &[&bearer(token), "Connection: Upgrade\r\n", "Upgrade: QVD/1.0\r\n"],
    );
    assert!(text.len() < 1024);
    let mut client = world.client().await;
    client.send(text).await;
    client
}

#[tokio::test]
async fn a_user_who_is_logged_in_gets_a_token_that_lists_connects_and_stops() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let token = made(&world, "").await;
    world.until_counted("the login", |c| (c.http_requests, c.auth_attempts, c.auth_ok) == (1, 1, 1)).await;

    let expected = format!(r#"[{{"id":{},"name":"desk","state":"running","blocked":0}}]"#, world.vm);
    assert_eq!(list(&world, &token).await.body, expected);
    let mut client = connecting(&world, world.vm, &token).await;
    client.switched().await;
    let mut session = desktop.session().await;
    client.talks_with(&mut session).await;
    assert_eq!(world.row().await.real_user_id, Some(world.alice));
    client.close().await;
    world.until_counted("two tokens", |c| (c.http_requests, c.auth_attempts, c.auth_ok) == (3, 3, 3)).await;

    let mut client = world.client().await;
    client.send(request(&format!("/qvd/stop_vm?id={}", world.vm), &[&bearer(&token)])).await;
    assert!(client.text().await.contains("102 Processing"), "it is obeyed");
}

#[tokio::test]
async fn what_is_no_token_is_401_as_a_wrong_password_is_and_as_late() {
    let first = Duration::from_millis(300);
    let world = World::with(Options { failed_login_delay: Some(first), ..Options::default() }).await;
    let mut client = world.client().await;
    for none in
        ["Authorization: Bearer \r\n", "Authorization: Bearer a b\r\n", "Authorization: Bearer \u{e4}\r\n"]
    {
        assert_eq!(client.ask(LIST, &[none]).await.status(), 401, "{none}");
    }
    world.until_counted("no attempt", |c| (c.http_requests, c.auth_attempts) == (3, 0)).await;
    let refused = client.ask(LIST, &[&basic("alice", "wrong")]).await;
    // Other guesses are the same guesser's.
    for (guess, least) in [("0123456789abcdefghijklmnopqrstuv", first), ("x", 2 * first), ("y.z", 4 * first)]
    {
        let begun = Instant::now();
        let answer = client.ask(LIST, &[&bearer(guess)]).await;
        assert!(begun.elapsed() >= least, "{guess}: {:?}", begun.elapsed());
        assert_eq!((answer.head, answer.body), (refused.head.clone(), refused.body.clone()));
    }
    world.until_counted("the attempts", |c| (c.auth_attempts, c.auth_ok) == (4, 0)).await;
    let begun = Instant::now();
    assert_eq!(list(&world, &made(&world, "").await).await.status(), 200);
    assert!(begun.elapsed() < 4 * first, "a right one is not kept waiting: {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_checks_before_a_token_are_those_of_a_list() {
    let world = World::with(Options { unregistered: true, ..Options::default() }).await;
    let mut client = world.client().await;
    let refused = client.ask(CREATE, &[]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (503, "Host is not registered in the database"));

    let world = World::new().await;
    let _ = world.db.hosts().set_blocked(world.host, true).await.unwrap();
    let mut client = world.client().await;
    assert_eq!(client.ask(CREATE, &[]).await.status(), 401);
    assert_eq!(client.ask(CREATE, &[&basic("alice", "wrong")]).await.status(), 401);
    let refused = client.ask(CREATE, &[&basic("alice", PASSWORD)]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (503, "Server is blocked"));
    world.until_counted("all of it", |c| (c.http_requests, c.auth_attempts, c.auth_ok) == (3, 2, 1)).await;
    assert!(world.db.user_tokens().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_does_not_get_another_one() {
    let world = World::new().await;
    let token = made(&world, "").await;
    let mut client = world.client().await;
    assert_eq!(client.ask(CREATE, &[&bearer(&token)]).await.status(), 403);
    assert_eq!(world.db.user_tokens().list().await.unwrap().len(), 1);
    assert_eq!(client.ask(LIST, &[&bearer(&token)]).await.status(), 200, "and is none the worse for it");
}

/// Knows a token of a kind of its own, as an issuer of long ones does: Alice's, for another hour.
#[derive(Debug)]
struct Issuer;

#[async_trait::async_trait]
impl Authenticator for Issuer {
    fn name(&self) -> &str {
        "issuer"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn authenticate_token(&self, _: &Attempt, token: &Secret<String>) -> Result<Verdict, AuthError> {
        if token.expose() != "long.long.token" {
            return Ok(Verdict::NotMine);
        }
        let mut login = Login::new();
        login.canonical_login = Some("alice".to_owned());
        login.expires_at = Some(SystemTime::now() + Duration::from_secs(3600));
        Ok(Verdict::Accepted(login))
    }
}

#[tokio::test]
async fn a_short_token_lasts_no_longer_than_the_login_that_it_stands_on() {
    let chain = Chain::builder().plugin(Arc::new(Issuer)).build();
    let world = World::with(Options { chain: Some(chain), ..Options::default() }).await;
    let answer = world.client().await.ask(CREATE, &[&bearer("long.long.token")]).await;
    let short = token(&answer, 3500..=3600);
    assert_eq!(list(&world, &short).await.status(), 200, "whatever the list of authenticators is");
    assert_eq!(list(&world, "long.long").await.status(), 401);
    assert_eq!(world.client().await.ask(CREATE, &[&bearer(&short)]).await.status(), 403);
}

#[tokio::test]
async fn a_token_for_one_machine_is_for_that_one_alone() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let other = machine(&world.db, "other", world.alice, world.osf).await;
    let bob = user(&world.db, "bob").await;
    let his = machine(&world.db, "his", bob, world.osf).await;
    let mut client = world.client().await;
    for (id, status) in [(his.to_string(), 403), ("4711".to_owned(), 404), ("x".to_owned(), 404)] {
        let answer = client.ask(&format!("{CREATE}?id={id}"), &[&basic("alice", PASSWORD)]).await;
        assert_eq!(answer.status(), status, "{id}");
    }
    let token = made(&world, &format!("?id={}", world.vm)).await;
    let expected = format!(r#"[{{"id":{},"name":"desk","state":"running","blocked":0}}]"#, world.vm);
    assert_eq!(list(&world, &token).await.body, expected);
    let (_, refused) = connecting(&world, other, &token).await.refused().await;
    assert_eq!(refused.status(), 403);
    let stop = world.client().await.ask(&format!("/qvd/stop_vm?id={other}"), &[&bearer(&token)]).await;
    assert_eq!(stop.status(), 403);
    let mut client = connecting(&world, world.vm, &token).await;
    client.switched().await;
    desktop.session().await;
}

#[tokio::test]
async fn a_token_for_one_use_lists_and_connects_on_two_connections() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let token = made(&world, "?multi_use=0").await;
    assert_eq!(list(&world, &token).await.status(), 200);
    let listed = world.db.user_tokens().list().await.unwrap();
    assert!(!listed[0].multi_use && listed[0].used_at.is_some());
    let mut client = connecting(&world, world.vm, &token).await;
    client.switched().await;
    desktop.session().await;
}

#[tokio::test]
async fn what_is_revoked_ended_or_a_blocked_users_counts_at_once_on_old_connections_too() {
    let world = World::new().await;
    let token = made(&world, "").await;
    let mut client = world.client().await;
    let mut status = async |token: &str| client.ask(LIST, &[&bearer(token)]).await.status();
    assert_eq!(status(&token).await, 200);
    assert!(world.db.users().set_blocked(world.alice, true).await.unwrap().is_updated());
    assert_eq!(status(&token).await, 401);
    assert!(world.db.users().set_blocked(world.alice, false).await.unwrap().is_updated());
    assert_eq!(status(&token).await, 200);
    assert_eq!(world.db.user_tokens().revoke(&[world.alice]).await.unwrap(), 1);
    assert_eq!(status(&token).await, 401);
    let ended = NewToken {
        user: world.alice,
        vm: None,
        multi_use: true,
        lifetime: Duration::ZERO,
        params: Properties::new(),
    };
    world.db.user_tokens().add(&Secret::new("ended".to_owned()), &ended).await.unwrap();
    assert_eq!(status("ended").await, 401);
}

#[tokio::test]
async fn a_database_that_is_away_is_503_not_401() {
    let world = World::new().await;
    let token = made(&world, "").await;
    world.db.close().await;
    assert_eq!(list(&world, &token).await.status(), 503);
}

#[tokio::test]
async fn what_a_directory_gave_the_session_a_token_gives_too_without_the_directory() {
    const SAID: &str = "qvd.auth.ldap.racf_detailed_error";
    let Some(mut slapd) = Slapd::start().await else { return };
    let options = slapd.unix(Options::default());
    let options = options.set("auth.ldap.base", "o=racf").set("auth.ldap.racf_allowregex", "^R004109 ");
    let mut world = World::with(options).await;
    let expired = user(&world.db, "expired").await;
    world.vm = machine(&world.db, "theirs", expired, world.osf).await;
    let mut desktop = world.running().await;
    let answer = world.client().await.ask(CREATE, &[&basic("expired", DIRECTORY_PASSWORD)]).await;
    let token = token(&answer, 28_800..=28_800);
    slapd.stop();
    // The directory is asked each time; the token is its own authentication.
    let mut client = world.client().await;
    assert_eq!(client.ask(LIST, &[&basic("expired", DIRECTORY_PASSWORD)]).await.status(), 503);
    let mut client = connecting(&world, world.vm, &token).await;
    client.switched().await;
    desktop.session().await;
    let params: BTreeMap<String, String> = desktop.x_start();
    assert_eq!(params.get("qvd.vm.user.name").map(String::as_str), Some("expired"));
    assert!(params.get(SAID).is_some_and(|said| said.starts_with("R004109 ")), "{params:?}");
}

#[tokio::test]
async fn tokens_are_not_logged_at_any_level() {
    let world = World::new().await;
    let token = made(&world, "").await;
    assert_eq!(list(&world, &token).await.status(), 200);
    assert_eq!(list(&world, "wr0ngt0ken").await.status(), 401);
    let text = logged();
    assert!(text.contains("token made") && text.contains("token refused") && text.contains("TRACE"));
    for secret in [token.as_str(), "wr0ngt0ken", "Bearer"] {
        assert!(!text.contains(secret), "{secret} in the log");
    }
}
