//! Users of real identity providers, by the tokens that these sign.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qvd_core::TenantId;
use qvd_core::config::Config;
use qvd_core::testkit::conformance::{self, AuthenticatorSubject};
use qvd_l7r::auth::Oidc;

use crate::support::{
    AUDIENCE, Client, Glewlwyd, NodeIssuer, OTHER_CLIENT, OUR_CLIENT, Options, PASSWORD, World, basic,
    logged, request, user,
};

const LIST: &str = "/qvd/list_of_vm";
const CREATE: &str = "/qvd/create_auth_token";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn status(world: &World, token: &str) -> u16 {
    world.client().await.ask(LIST, &[&bearer(token)]).await.status()
}

/// A token whose claims are another's.
fn mixed(signature_of: &str, claims_of: &str) -> String {
    let part = |token: &str, number| token.split('.').nth(number).unwrap().to_owned();
    [part(signature_of, 0), part(claims_of, 1), part(signature_of, 2)].join(".")
}

#[tokio::test]
async fn it_obeys_the_contract() {
    let Some(glewlwyd) = Glewlwyd::start().await else { return };
    let keys = glewlwyd.keys(Options::default()).set;
    let config = keys.into_iter().fold(Config::builder(), |config, (key, value)| config.set(key, value));
    let oidc = Oidc::from_config(&config.build().unwrap()).unwrap();
    conformance::authenticator(AuthenticatorSubject::new(Arc::new(oidc))).await;
}

#[tokio::test]
async fn a_token_lists_connects_and_stops_and_passwords_do_as_before() {
    let Some(glewlwyd) = Glewlwyd::start().await else { return };
    let world = World::with(glewlwyd.keys(Options::default())).await;
    let mut desktop = world.running().await;
    let token = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;

    let listed = world.client().await.ask(LIST, &[&bearer(&token)]).await;
    let expected = format!(r#"[{{"id":{},"name":"desk","state":"running","blocked":0}}]"#, world.vm);
    assert_eq!(listed.body, expected);
    world.until_counted("a login", |c| (c.http_requests, c.auth_attempts, c.auth_ok) == (1, 1, 1)).await;
    let mut client = world.client().await;
    client.send(request(&format!("/qvd/connect_to_vm?id={}", world.vm), &[&bearer(&token), UPGRADE])).await;
    client.switched().await;
    let mut session = desktop.session().await;
    client.talks_with(&mut session).await;
    assert_eq!(desktop.x_start().get("qvd.vm.user.name").map(String::as_str), Some("alice"));
    assert_eq!(world.row().await.real_user_id, Some(world.alice));
    client.close().await;

    let mut client = world.client().await;
    client.send(request(&format!("/qvd/stop_vm?id={}", world.vm), &[&bearer(&token)])).await;
    assert!(client.text().await.contains("102 Processing"), "it is obeyed");

    let mut client = world.client().await;
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
    assert_eq!(client.ask(LIST, &[&basic("alice", "wrong")]).await.status(), 401);
    assert_eq!(client.ask(LIST, &[&basic("alice", &token)]).await.status(), 401, "a token is no password");
    let text = logged();
    for part in token.split('.') {
        assert!(!text.contains(part), "a part of the token is in the log");
    }
}

#[tokio::test]
async fn what_was_made_for_others_is_not_taken() {
    let Some(mut glewlwyd) = Glewlwyd::start().await else { return };
    glewlwyd.add_user("bob").await;
    let world = World::with(glewlwyd.keys(Options::default())).await;
    let ours = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    let bobs = glewlwyd.id_token("rsa", OUR_CLIENT, "bob").await;
    assert_eq!(status(&world, &ours).await, 200);
    let refused = |why: &str| logged().matches(&format!("not taken: {why}")).count();
    for (why, token) in [
        ("it is meant for neither", glewlwyd.id_token("rsa", OTHER_CLIENT, "alice").await),
        ("it is an access token", glewlwyd.access_token("rsa", OUR_CLIENT, "alice").await),
        ("its signature is wrong", mixed(&bobs, &ours)),
        ("its signature is wrong", ours[..ours.len() - 2].to_owned()),
    ] {
        let before = refused(why);
        assert_eq!(status(&world, &token).await, 401, "{why}");
        assert_eq!(refused(why), before + 1, "{why}");
    }
    for (what, token) in [
        ("another issuer's", glewlwyd.id_token("ec", OUR_CLIENT, "alice").await),
        ("of a user without a row", bobs),
        ("two parts", ours.rsplit_once('.').unwrap().0.to_owned()),
    ] {
        assert_eq!(status(&world, &token).await, 401, "{what}");
    }
    let _ = world.db.users().set_blocked(world.alice, true).await.unwrap();
    assert_eq!(status(&world, &ours).await, 401, "blocked here");
}

#[tokio::test]
async fn elliptic_keys_and_configured_audiences_do_too() {
    let Some(glewlwyd) = Glewlwyd::start().await else { return };
    // Glewlwyd's audience of an access token for no resource is its scopes.
    let options = glewlwyd.keys(Options::default()).set("auth.oidc.issuer", glewlwyd.issuer("ec"));
    let world =
        World::with(options.set("auth.oidc.audience", "openid").set("auth.oidc.login_claim", "sub")).await;
    let access = glewlwyd.access_token("ec", OUR_CLIENT, "alice").await;
    assert_eq!(status(&world, &access).await, 401, "its subject is nobody here");
    let subject = subject(&access);
    user(&world.db, &subject.to_lowercase()).await;
    assert_eq!(status(&world, &access).await, 200);
    assert_eq!(status(&world, &glewlwyd.id_token("ec", OUR_CLIENT, "alice").await).await, 200);
}

fn subject(token: &str) -> String {
    let read = qvd_core::proto::jwt::parse(token).unwrap();
    read.claims.others["sub"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn known_keys_serve_while_the_issuer_is_away_and_without_any_it_is_503() {
    let Some(mut glewlwyd) = Glewlwyd::start().await else { return };
    let world = World::with(glewlwyd.keys(Options::default())).await;
    let token = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    assert_eq!(status(&world, &token).await, 200);
    glewlwyd.stop();
    assert_eq!(status(&world, &token).await, 200);
    let restarted = world.second_router().await;
    let mut client = Client::connect(restarted.address).await;
    assert_eq!(client.ask(LIST, &[&bearer(&token)]).await.status(), 503);
    assert_eq!(client.ask(LIST, &[&bearer("0123456789abcdef")]).await.status(), 401, "needs no issuer");
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_one_that_was_withdrawn_no_longer_counts() {
    let Some(mut glewlwyd) = Glewlwyd::start().await else { return };
    let world = World::with(glewlwyd.keys(Options::default())).await;
    let old = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    assert_eq!(status(&world, &old).await, 200);
    glewlwyd.rotate().await;
    let new = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    assert_eq!(status(&world, &new).await, 200);
    assert_eq!(status(&world, &old).await, 401);
    assert_eq!(status(&world, &new).await, 200);
}

#[tokio::test]
async fn an_issuer_that_is_not_who_it_says_is_not_believed() {
    let Some(glewlwyd) = Glewlwyd::start().await else { return };
    let token = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    let dir = tempfile::tempdir().unwrap();
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
    let file = dir.path().join("stranger.pem");
    std::fs::write(&file, stranger).unwrap();
    let options = glewlwyd.keys(Options::default()).set("auth.oidc.cafile", file.display().to_string());
    assert_eq!(status(&World::with(options).await, &token).await, 503);
    assert!(logged().contains("no keys from the identity provider: no answer from https://127.0.0.1"));
}

#[tokio::test]
async fn a_short_token_that_stands_on_one_ends_with_it() {
    let Some(glewlwyd) = Glewlwyd::start().await else { return };
    let world = World::with(glewlwyd.keys(Options::default())).await;
    let token = glewlwyd.id_token("rsa", OUR_CLIENT, "alice").await;
    let answer = world.client().await.ask(CREATE, &[&bearer(&token)]).await;
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let (short, rest) = answer.body.strip_prefix(r#"{"auth_token":""#).unwrap().split_once('"').unwrap();
    let seconds: u64 = rest.strip_prefix(r#","expires_in":"#).unwrap().trim_end_matches('}').parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "an hour is the token's: {seconds}");
    assert_eq!(status(&world, short).await, 200);
}

#[tokio::test]
async fn who_comes_for_the_first_time_is_provisioned() {
    let Some(mut glewlwyd) = Glewlwyd::start().await else { return };
    glewlwyd.add_user("newcomer").await;
    let options = glewlwyd.keys(Options::default()).set("l7r.auth.plugins", "oidc,auto");
    let world = World::with(options.set("auth.auto.osf_id", "1")).await;
    let token = glewlwyd.id_token("rsa", OUR_CLIENT, "newcomer").await;
    let answer = world.client().await.ask(LIST, &[&bearer(&token)]).await;
    assert!(answer.body.contains(r#""name":"newcomer-1""#), "{}", answer.body);
    assert!(world.db.users().by_login(TenantId::DEFAULT, "newcomer").await.unwrap().is_some());
}

#[tokio::test]
async fn another_providers_tokens_of_every_algorithm_are_taken() {
    let Some(issuer) = NodeIssuer::start() else { return };
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let world = World::with(issuer.keys(Options::default(), algorithm)).await;
        let (id, access) = issuer.tokens(algorithm, "alice").await;
        assert_eq!(status(&world, &id).await, 200, "{algorithm}");
        assert_eq!(status(&world, &access).await, 401, "{algorithm}");
        let narrow = issuer.keys(Options::default(), algorithm).set("auth.oidc.algs", "RS384");
        assert_eq!(status(&World::with(narrow).await, &id).await, 401, "{algorithm} is not allowed");
    }
}

#[tokio::test]
async fn another_providers_access_tokens_are_taken_for_the_configured_audience() {
    let Some(mut issuer) = NodeIssuer::start() else { return };
    let (id, access) = issuer.tokens("RS256", "alice").await;
    let (other, _) = issuer.tokens("PS256", "alice").await;
    let options =
        |audience: &str| issuer.keys(Options::default(), "RS256").set("auth.oidc.audience", audience);
    let world = World::with(options(AUDIENCE)).await;
    assert_eq!(status(&world, &access).await, 200);
    assert_eq!(status(&world, &id).await, 200);
    assert_eq!(status(&world, &other).await, 401, "another client's");
    let elsewhere = World::with(options("https://elsewhere.example")).await;
    assert_eq!(status(&elsewhere, &access).await, 401);
    issuer.stop();
    assert_eq!(status(&world, &access).await, 200, "its keys are known");
    let restarted = world.second_router().await;
    let mut client = Client::connect(restarted.address).await;
    assert_eq!(client.ask(LIST, &[&bearer(&access)]).await.status(), 503);
}

#[tokio::test]
async fn a_wrong_signed_token_is_no_guess_at_a_short_one() {
    let first = Duration::from_millis(200);
    let world = World::with(Options { failed_login_delay: Some(first), ..Options::default() }).await;
    let (signed, short) = ("e30.e30.c2ln", "0123456789abcdefghijklmnopqrstuv");
    let mut client = world.client().await;
    let mut wait = async |token: &str| {
        let begun = Instant::now();
        assert_eq!(client.ask(LIST, &[&bearer(token)]).await.status(), 401);
        begun.elapsed()
    };
    for doublings in 0..3 {
        assert!(wait(signed).await >= first * 2u32.pow(doublings));
    }
    let waited = wait(short).await;
    assert!(waited >= first && waited < 8 * first, "not the fourth: {waited:?}");
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n";
