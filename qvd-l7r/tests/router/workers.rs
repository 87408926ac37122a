//! Who carries desktops.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Options, Worker, World, eventually, soon};

#[tokio::test]
async fn a_desktop_is_carried_by_its_worker_and_all_else_is_not() {
    let mut worker = Worker::idle();
    let world = World::with(Options { workers: Some(vec![worker.handle()]), ..Options::default() }).await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    session.write_all(b"hello").await.unwrap();
    // Requests, logins and 101s are answered beside a worker that is not to be had.
    let mut other = world.client().await;
    assert_eq!(other.ask("/qvd/ping", &[]).await.status(), 200);
    assert_eq!(world.handle.metrics().sessions, 0);

    worker.run();
    assert_eq!(user.record().await.unwrap(), b"hello");
    assert_eq!(world.handle.metrics().sessions, 1);
    user.send("and back").await;
    let mut back = [0; 8];
    soon(session.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"and back");
    drop(session);
    user.expect_end().await;
    drop(user);
    eventually("no session", async || world.handle.metrics().sessions == 0).await;
}

#[tokio::test]
async fn without_workers_the_router_carries_desktops_itself() {
    let world = World::with(Options { workers: Some(Vec::new()), ..Options::default() }).await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    session.write_all(b"hello").await.unwrap();
    assert_eq!(user.record().await.unwrap(), b"hello");
    drop(user);
    assert_eq!(soon(session.read(&mut [0; 8])).await.unwrap(), 0);
    eventually("no session", async || world.handle.metrics().sessions == 0).await;
}
