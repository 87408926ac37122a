//! Credentials and the list (rows 7–22, 81, 82, 112, 115, 116).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qvd_core::TenantId;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Login, Verdict};
use qvd_db::password::{self, Check};

use crate::support::{Options, PASSWORD, World, basic, eventually, logged, machine, user};

const LIST: &str = "/qvd/list_of_vm";

#[tokio::test]
async fn row_07_08_without_credentials_nobody_is_asked_and_the_connection_goes_on() {
    let world = World::new().await;
    let mut client = world.client().await;
    let denied = client.ask(LIST, &[]).await;
    assert_eq!(denied.status(), 401);
    world.until_counted("the request", |c| c.http_requests == 1).await;
    assert_eq!(world.counts().await.auth_attempts, 0);
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
    world.until_counted("the login", |c| (c.auth_attempts, c.auth_ok, c.http_requests) == (1, 1, 2)).await;
}

#[tokio::test]
async fn row_09_10_a_wrong_password_is_an_attempt_and_colons_and_umlauts_are_part_of_a_right_one() {
    let world = World::new().await;
    let mut client = world.client().await;
    assert_eq!(client.ask(LIST, &[&basic("alice", "wrong")]).await.status(), 401);
    world.until_counted("the attempt", |c| (c.auth_attempts, c.auth_ok) == (1, 0)).await;
    assert!(PASSWORD.contains(':') && !PASSWORD.is_ascii());
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
}

#[tokio::test]
async fn row_11_12_13_what_is_no_attempt_and_what_is_a_wrong_one() {
    let world = World::new().await;
    let mut client = world.client().await;
    for header in [
        "Authorization: Basic OnNlY3JldA==\r\n",
        "Authorization: Basic YWxpY2U=\r\n",
        "Authorization: Digest x\r\n",
    ] {
        assert_eq!(client.ask(LIST, &[header]).await.status(), 401, "{header}");
    }
    assert_eq!(client.ask(LIST, &[&basic("alice", "")]).await.status(), 401);
    world
        .until_counted("the empty password", |c| (c.http_requests, c.auth_attempts, c.auth_ok) == (4, 1, 0))
        .await;
}

#[tokio::test]
async fn row_14_logins_are_trimmed_and_folded() {
    let world = World::new().await;
    assert_eq!(world.client().await.ask(LIST, &[&basic(" ALICE ", PASSWORD)]).await.status(), 200);
    let strict = World::with(Options::default().set("model.user.login.case-sensitive", "1")).await;
    let mut client = strict.client().await;
    assert_eq!(client.ask(LIST, &[&basic("ALICE", PASSWORD)]).await.status(), 401);
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
}

#[tokio::test]
async fn row_15_16_17_credentials_are_remembered_for_the_connection_alone() {
    let world = World::new().await;
    let bob = user(&world.db, "bob").await;
    let his = machine(&world.db, "his", bob, world.osf).await;
    let mut client = world.client().await;
    let (alice, bob) = (basic("alice", PASSWORD), basic("bob", PASSWORD));
    for _ in 0..3 {
        assert_eq!(client.ask(LIST, &[&alice]).await.status(), 200);
    }
    world.until_counted("three requests", |c| c.http_requests == 3).await;
    assert_eq!(world.counts().await.auth_attempts, 1);
    let list = client.ask(LIST, &[&bob]).await.body;
    assert_eq!(list, format!(r#"[{{"id":{his},"name":"his","state":"stopped","blocked":0}}]"#));

    assert_eq!(client.ask(LIST, &[&alice]).await.status(), 200);
    let other = password::hash(b"changed").unwrap();
    let _ = world.db.users().set_password_hash(world.alice, None, other.expose()).await.unwrap();
    assert_eq!(client.ask(LIST, &[&alice]).await.status(), 200, "remembered");
    assert_eq!(world.client().await.ask(LIST, &[&alice]).await.status(), 401, "a new connection asks again");
    assert_eq!(client.ask(LIST, &[&basic("alice", "wrong")]).await.status(), 401);
    assert_eq!(client.ask(LIST, &[&alice]).await.status(), 200, "a failure does not forget");
}

#[tokio::test]
async fn row_18_19_20_the_list_is_ascii_json_with_integers() {
    let world = World::new().await;
    let carol = user(&world.db, "carol").await;
    let mut client = world.client().await;
    let empty = client.ask(LIST, &[&basic("carol", PASSWORD)]).await;
    assert_eq!(empty.body, "[]");
    assert!(empty.head.contains("\r\nContent-Type: application/json\r\n"));
    let (one, two) = (
        machine(&world.db, "señal", carol, world.osf).await,
        machine(&world.db, "b", carol, world.osf).await,
    );
    let _ = world.db.vms().set_blocked(two, true, qvd_db::BlockedBy::Admin, None).await.unwrap();
    let list = client.ask("/qvd/list_of_vm?file_name=x", &[&basic("carol", PASSWORD)]).await.body;
    assert_eq!(
        list,
        format!(
            r#"[{{"id":{one},"name":"se\u00f1al","state":"stopped","blocked":0}},{{"id":{two},"name":"b","state":"stopped","blocked":1}}]"#
        )
    );
}

#[tokio::test]
async fn row_21_a_blocked_host_refuses_work_behind_the_login() {
    let world = World::new().await;
    let _ = world.db.hosts().set_blocked(world.host, true).await.unwrap();
    let mut client = world.client().await;
    assert_eq!(client.ask(LIST, &[&basic("alice", "wrong")]).await.status(), 401);
    let refused = client.ask(LIST, &[&basic("alice", PASSWORD)]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (503, "Server is blocked"));
}

#[tokio::test]
async fn row_112_digests_of_older_installations_are_replaced_at_login() {
    let world = World::new().await;
    let stored =
        || async { world.db.users().load(world.alice).await.unwrap().unwrap().password_hash.unwrap() };
    assert!(!stored().await.expose().starts_with('$'));
    assert_eq!(world.client().await.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
    let new = stored().await;
    assert!(new.expose().starts_with("$argon2id$"));
    assert_eq!(password::verify(new.expose(), PASSWORD.as_bytes(), b""), Check::Right);
    assert_eq!(world.client().await.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
}

#[tokio::test]
async fn blocked_users_and_users_without_a_password_are_refused() {
    let world = World::new().await;
    world.db.users().add(TenantId::DEFAULT, "ldapper", None).await.unwrap();
    let _ = world.db.users().set_blocked(world.alice, true).await.unwrap();
    let mut client = world.client().await;
    for login in ["alice", "ldapper", "nobody"] {
        assert_eq!(client.ask(LIST, &[&basic(login, PASSWORD)]).await.status(), 401, "{login}");
    }
}

/// Accepts nobody's password and knows what it was asked.
#[derive(Debug, Default)]
struct Listening {
    attempts: Mutex<Vec<Attempt>>,
    broken: bool,
}

#[async_trait::async_trait]
impl Authenticator for Listening {
    fn name(&self) -> &str {
        "listening"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        self.attempts.lock().unwrap().push(attempt.clone());
        match self.broken {
            true => Err(AuthError::new("listening", "ask the directory", "away")),
            false => Ok(Verdict::Accepted(Login::default())),
        }
    }
}

#[tokio::test]
async fn row_81_82_shared_environment_reaches_authenticators_and_users_are_found_by_login() {
    let plugin = Arc::new(Listening::default());
    let chain = Chain::builder().plugin(plugin.clone()).build();
    let world = World::with(Options { chain: Some(chain), ..Options::default() }).await;
    let mut client = world.client().await;
    let headers = ["Auth-4d59: QQ==\r\n", "Auth-zz: QQ==\r\n", "Auth-4d5: QQ==\r\n", &basic("Alice", "any")];
    assert_eq!(client.ask(LIST, &headers).await.status(), 200);
    {
        let attempts = plugin.attempts.lock().unwrap();
        assert_eq!(attempts[0].environment, [("MY".to_owned(), b"A".to_vec())].into());
        assert_eq!(attempts[0].peer, Some([127, 0, 0, 1].into()));
    }
    // The authenticator knows no rows: the user is found by login, or not.
    assert_eq!(client.ask(LIST, &[&basic("stranger", "any")]).await.status(), 401);
    let many: Vec<String> = (0..1000).map(|i| format!("Auth-{i:08x}: QQ==\r\n")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(client.ask(LIST, &many).await.status(), 431);
}

#[tokio::test]
async fn an_outage_is_not_a_denial() {
    let plugin = Arc::new(Listening { broken: true, ..Listening::default() });
    let chain = Chain::builder().plugin(plugin).build();
    let world = World::with(Options { chain: Some(chain), ..Options::default() }).await;
    assert_eq!(world.client().await.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 503);
    world.until_counted("the attempt", |c| (c.auth_attempts, c.auth_ok) == (1, 0)).await;
}

#[tokio::test]
async fn row_115_a_database_that_is_away_is_503_without_its_words() {
    let world = World::new().await;
    world.db.close().await;
    let answer = world.client().await.ask(LIST, &[&basic("alice", PASSWORD)]).await;
    assert_eq!(answer.status(), 503);
    let body = answer.body.to_lowercase();
    assert!(!body.contains("sql") && !body.contains("select") && !body.contains("pool"), "{body}");
}

#[tokio::test]
async fn a_flood_of_wrong_logins_is_counted_in_full_and_logged_in_part() {
    let world = World::with(Options { failed_login_delay: Some(Duration::ZERO), ..Options::default() }).await;
    let mut guesser = world.client().await;
    for guess in 0..30 {
        let wrong = basic("flood", &format!("guess{guess}"));
        assert_eq!(guesser.ask(LIST, &[&wrong]).await.status(), 401);
    }
    let counts = world.handle.metrics();
    assert_eq!((counts.auth_passwords_refused_total, counts.auth_tokens_refused_total), (30, 0));
    assert_eq!(logged().matches(r#"login refused: "flood""#).count(), 10);

    let plugin = Arc::new(Listening { broken: true, ..Listening::default() });
    let chain = Chain::builder().plugin(plugin).build();
    let broken = World::with(Options { chain: Some(chain), ..Options::default() }).await;
    let mut user = broken.client().await;
    for _ in 0..30 {
        assert_eq!(user.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 503);
    }
    assert_eq!(broken.handle.metrics().auth_undecided_total, 30);
    // Other tests of this process may write such lines, too.
    let lines = logged().matches("login undecided: ").count();
    assert!((10..30).contains(&lines), "{lines}");
}

#[tokio::test]
async fn an_unknown_authenticator_is_a_refusal_to_start() {
    let db = qvd_db::Db::open(&qvd_db::Backend::SqliteMemory).await.unwrap();
    let config =
        qvd_core::config::Config::builder().set("l7r.auth.plugins", "default,kerberos").build().unwrap();
    let error = qvd_l7r::Router::builder(db, "node1").config(config).build().unwrap_err();
    assert!(
        error.to_string().contains("l7r.auth.plugins") && error.to_string().contains("kerberos"),
        "{error}"
    );
}

#[tokio::test]
async fn failures_are_answered_later_but_right_credentials_at_once() {
    let first = Duration::from_millis(300);
    let world = World::with(Options { failed_login_delay: Some(first), ..Options::default() }).await;
    let mut client = world.client().await;
    // Of one user, however it is written; and the answer takes no shorter for having been refused sooner.
    for (login, password, least) in
        [("alice", "wrong", first), (" ALICE ", "", 2 * first), ("Alice", "wrong", 4 * first)]
    {
        let begun = Instant::now();
        assert_eq!(client.ask(LIST, &[&basic(login, password)]).await.status(), 401);
        let took = begun.elapsed();
        assert!(took >= least && took < least + first, "{login:?}: {took:?}");
    }
    let begun = Instant::now();
    assert_eq!(world.client().await.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
    assert!(begun.elapsed() < 4 * first, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn hashed_passwords_are_counted_and_so_is_what_waits_for_that() {
    let world = World::new().await;
    let before = world.handle.metrics().passwords_hashed_total;
    assert_eq!(world.client().await.ask(LIST, &[&basic("alice", "wrong")]).await.status(), 401);
    let metrics = world.handle.metrics();
    assert!(metrics.passwords_hashed_total > before);
    assert_eq!(metrics.passwords_refused_total, 0);
}

#[tokio::test]
async fn row_116_passwords_are_not_logged_at_any_level() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.client().await;
    assert_eq!(client.ask(LIST, &[&basic("alice", "wr0ngsecret")]).await.status(), 401);
    assert_eq!(client.ask(LIST, &[&basic("alice", PASSWORD)]).await.status(), 200);
    client.send(world.connect_request("")).await;
    let (_, slave_key) = client.switched().await;
    desktop.session().await;
    client.close().await;
    eventually("ended", async || world.handle.sessions() == 0).await;
    // All tests of this process write here.
    eventually("the last line", async || logged().contains("session ended")).await;
    let text = logged();
    assert!(text.contains("logged in") && text.contains("TRACE"), "it was listened to");
    let encoded = basic("alice", PASSWORD);
    for secret in [
        PASSWORD,
        "wr0ngsecret",
        "Authorization",
        slave_key.as_str(),
        encoded.trim().rsplit(' ').next().unwrap(),
    ] {
        assert!(!text.contains(secret), "{secret} in the log");
    }
}
