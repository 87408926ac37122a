//! Ends of routers: in order, and not (rows 70, 71, 117).

use std::sync::Arc;
use std::time::{Duration, Instant};

use qvd_core::VmId;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Identity, Login, Verdict};
use qvd_core::state::UserState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::support::{Answer, Client, Options, PASSWORD, World, basic, eventually, logged, request, soon};

#[tokio::test]
async fn row_117_a_stop_tells_health_checks_closes_the_idle_and_lets_desktops_live() {
    let mut world = World::new().await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    let mut idle = world.client().await;
    assert_eq!(idle.ask("/qvd/ping", &[]).await.status(), 200);

    world.stop();
    idle.expect_end().await;
    let mut late = world.client().await;
    let answer = late.ask("/qvd/ping", &[]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (503, "Server is stopping"));
    // One that comes late and has nothing to say is not waited for.
    let mut silent = world.client().await;
    let begun = Instant::now();
    silent.expect_end().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    eventually("the port is given up", async || tokio::net::TcpStream::connect(world.address).await.is_err())
        .await;
    session.write_all(b"still here").await.unwrap();
    assert_eq!(user.record().await.unwrap(), b"still here");

    world.handle.end_sessions();
    user.expect_end().await;
    world.stopped().await;
    assert_eq!(world.row().await.user_state, UserState::Disconnected);
    assert_eq!(world.counts().await.short_sessions, 1, "counters are written before the end");
}

/// Never comes back to Bob's logins and to anybody's connects.
#[derive(Debug)]
struct Stuck {
    asked: Semaphore,
}

#[async_trait::async_trait]
impl Authenticator for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        if attempt.login == "bob" {
            return self.hang().await;
        }
        Ok(Verdict::Accepted(Login::default()))
    }

    async fn before_connect(&self, _: &Identity, _: VmId) -> Result<(), AuthError> {
        self.hang().await
    }
}

impl Stuck {
    async fn hang<T>(&self) -> T {
        self.asked.add_permits(1);
        std::future::pending().await
    }

    async fn is_asked(&self) {
        soon(self.asked.acquire()).await.unwrap().forget();
    }
}

#[tokio::test]
async fn row_117_a_connect_in_flight_is_refused_when_sessions_are_ended() {
    let plugin = Arc::new(Stuck { asked: Semaphore::new(0) });
    let chain = Chain::builder().plugin(plugin.clone()).build();
    let mut world = World::with(Options { chain: Some(chain), ..Options::default() }).await;
    let _desktop = world.running().await;
    // One has the row, another is not known to be a session yet.
    let mut holding = world.connecting().await;
    plugin.is_asked().await;
    let mut checked = world.client().await;
    let auth = basic("bob", PASSWORD);
    let upgrade = [auth.as_str(), "Connection: Upgrade\r\n", "Upgrade: QVD/1.0\r\n"];
    checked.send(request(&format!("/qvd/connect_to_vm?id={}", world.vm), &upgrade)).await;
    plugin.is_asked().await;
    world.stop();
    world.handle.end_sessions();
    let (_, answer) = holding.refused().await;
    assert_eq!(
        answer.body,
        "The requested virtual machine is not available: Server is stopping, retry later"
    );
    holding.expect_end().await;
    let answer = checked.response().await;
    assert_eq!((answer.status(), answer.body.as_str()), (503, "Server is stopping"));
    checked.expect_end().await;
    world.stopped().await;
    assert_eq!(world.row().await.user_state, UserState::Disconnected);
}

#[tokio::test]
async fn row_117_no_wait_of_a_connection_outlives_the_end_of_the_sessions() {
    let mut world = World::new().await;
    let _desktop = world.running().await;
    // Waits for a machine that nobody stops, for 270 s.
    let mut stopping = world.client().await;
    let auth = basic("alice", PASSWORD);
    stopping.send(request(&format!("/qvd/stop_vm?id={}", world.vm), &[&auth])).await;
    assert!(stopping.text().await.contains("Stopping virtual machine"));
    // Never says hello; the handshake may take 30 s.
    let mut mute = tokio::net::TcpStream::connect(world.address).await.unwrap();
    eventually("accepted", async || world.handle.metrics().connections == 2).await;
    world.stop();
    world.handle.end_sessions();
    let begun = Instant::now();
    let (_, answer) = stopping.refused().await;
    assert_eq!((answer.status(), answer.body.as_str()), (503, "Server is stopping"));
    assert_eq!(soon(mute.read(&mut [0; 8])).await.unwrap(), 0);
    world.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "nothing had to be cut: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_router_that_drains_ends_its_sessions_when_its_time_is_over() {
    let mut world = World::with(Options::default().set("l7r.drain.timeout", "0.2")).await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let _session = desktop.session().await;
    world.stop();
    user.expect_end().await;
    world.stopped().await;
    assert_eq!(world.row().await.user_state, UserState::Disconnected);
}

#[tokio::test]
async fn row_70_sessions_of_a_router_that_died_are_cleared_by_another_of_its_node() {
    let mut world = World::new().await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let _session = desktop.session().await;
    world.kill().await;
    assert_eq!(world.row().await.user_state, UserState::Connected, "nobody could give it back");

    let next = world.second_router().await;
    world.until_user_state(UserState::Disconnected).await;
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("listening")]);
    let mut again = Client::connect(next.address).await;
    again.send(world.connect_request("")).await;
    again.switched().await;
}

#[tokio::test]
async fn a_router_that_lives_keeps_its_sessions_beside_another() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    let next = world.second_router().await;
    // The second one has looked for dead routers once it has answered for a while.
    let mut rounds = tokio::time::interval(std::time::Duration::from_millis(500));
    for _ in 0..5 {
        rounds.tick().await;
        assert_eq!(Client::connect(next.address).await.ask("/qvd/ping", &[]).await.status(), 200);
    }
    assert_eq!(world.row().await.user_state, UserState::Connected);
    session.write_all(b"on").await.unwrap();
    assert_eq!(user.record().await.unwrap(), b"on");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let world = World::new().await;
    let run = tempfile::tempdir().unwrap();
    let config = qvd_core::config::Config::builder().set("path.run", run.path().display().to_string());
    let router = qvd_l7r::Router::builder(world.db.clone(), "node1")
        .config(config.build().unwrap())
        .listen(world.address)
        .build()
        .unwrap();
    let error = router.bind().await.unwrap_err();
    assert_eq!(error.kind(), qvd_core::ErrorKind::Conflict);
    assert!(error.to_string().contains(&world.address.to_string()), "{error}");
}

#[tokio::test]
async fn a_change_that_waits_for_the_next_start_is_told() {
    let world = World::new().await;
    let set = [("auth.ldap.base", "dc=elsewhere"), ("l7r.workers", "7"), ("l7r.limit.head.timeout", "61")];
    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
    world.db.config().set_all(&set).await.unwrap();
    for key in ["auth.ldap.base", "l7r.workers"] {
        eventually("it is told", async || logged().contains(&format!("restart needed for {key}"))).await;
    }
    assert!(!logged().contains("restart needed for l7r.limit.head.timeout"), "that counts at once");
}
