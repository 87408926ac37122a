//! Ends of routers: in order, and not (rows 70, 71, 117).

use qvd_core::state::UserState;
use tokio::io::AsyncWriteExt;

use crate::support::{Answer, Client, Options, World, eventually};

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
