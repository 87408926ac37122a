//! A router takes the place of another one of its node, and nobody notices.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qvd_core::ErrorKind;
use qvd_core::state::UserState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Client, Options, PASSWORD, World, basic, eventually, serve, soon};

async fn world() -> World {
    World::with(Options { offers: true, ..Options::default() }).await
}

async fn pings(client: &mut Client) -> bool {
    let answer = client.ask("/qvd/ping", &[]).await;
    (answer.status(), answer.body.as_str()) == (200, "I am alive!\r\n")
}

/// The unix sockets in the run directory.
fn sockets(world: &World) -> Vec<String> {
    let names = fs::read_dir(world.run_dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[tokio::test]
async fn a_successor_accepts_and_the_one_before_serves_what_it_has_to_its_end() {
    let mut world = world().await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    let auth = basic("alice", PASSWORD);
    let mut passing = world.client().await;
    assert!(pings(&mut passing).await);
    let mut choosing = world.client().await;
    assert_eq!(choosing.ask("/qvd/list_of_vm", &[&auth]).await.status(), 200);
    let mut greeted = world.client().await;
    let mut accepted = TcpStream::connect(world.address).await.unwrap();
    eventually("all of them accepted", async || world.handle.metrics().connections == 5).await;

    let mut heir = world.heir().await.unwrap();
    let established = Arc::new(AtomicUsize::new(0));
    let counter = established.clone();
    heir.once_established(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(heir.local_addr(), world.address);
    assert_eq!(established.load(Ordering::Relaxed), 0);
    let heir = serve(heir);

    // Who loses nothing by it goes; all others stay and hear nothing of it.
    passing.expect_end().await;
    eventually("established", async || established.load(Ordering::Relaxed) == 1).await;
    assert!(pings(&mut greeted).await, "the address is served");
    greeted.expect_end().await;
    accepted.write_all(b"\x16\x03\x01").await.unwrap();
    assert_eq!(choosing.ask("/qvd/list_of_vm", &[&auth]).await.status(), 200);
    assert_eq!(choosing.ask("/qvd/list_of_vm", &[&auth]).await.status(), 200, "as often as it likes");
    session.write_all(b"still here").await.unwrap();
    assert_eq!(user.record().await.unwrap(), b"still here");

    // Whoever comes now comes to the other one.
    let before = heir.handle.metrics().accepted_total;
    let mut new = world.client().await;
    assert!(pings(&mut new).await && pings(&mut new).await);
    assert_eq!(heir.handle.metrics().accepted_total, before + 1);
    drop((passing, greeted));
    eventually("a session, a choice, a handshake are left", async || world.handle.metrics().connections == 3)
        .await;
    eventually("one place, the successor's", async || sockets(&world).len() == 1).await;

    user.close().await;
    choosing.close().await;
    drop(accepted);
    world.stopped().await;
    world.until_user_state(UserState::Disconnected).await;
    assert!(pings(&mut new).await);

    // And again, by the socket of the second.
    let third = serve(world.heir().await.unwrap());
    new.expect_end().await;
    soon(heir.serving).await.unwrap().unwrap();
    assert!(pings(&mut world.client().await).await);
    assert_eq!(third.handle.metrics().accepted_total, 1);
}

#[tokio::test]
async fn a_choice_made_before_is_connected_behind_the_hand_over() {
    let mut world = world().await;
    let mut desktop = world.running().await;
    let mut choosing = world.client().await;
    assert_eq!(choosing.ask("/qvd/list_of_vm", &[&basic("alice", PASSWORD)]).await.status(), 200);
    let heir = serve(world.heir().await.unwrap());
    eventually("the successor serves", async || {
        world.client().await.ask("/qvd/ping", &[]).await;
        heir.handle.metrics().accepted_total > 0
    })
    .await;
    choosing.send(world.connect_request("")).await;
    choosing.switched().await;
    let mut session = desktop.session().await;
    session.write_all(b"bytes").await.unwrap();
    assert_eq!(choosing.record().await.unwrap(), b"bytes");
    assert_eq!((world.handle.sessions(), heir.handle.sessions()), (1, 0));
    // A stop of the one before is one as ever.
    world.stop();
    session.write_all(b"on").await.unwrap();
    assert_eq!(choosing.record().await.unwrap(), b"on");
    world.handle.end_sessions();
    choosing.expect_end().await;
    world.stopped().await;
}

#[tokio::test]
async fn one_that_was_succeeded_and_is_told_to_end_sends_everybody_away_but_desktops() {
    let mut world = world().await;
    let mut choosing = world.client().await;
    assert_eq!(choosing.ask("/qvd/list_of_vm", &[&basic("alice", PASSWORD)]).await.status(), 200);
    let mut passing = world.client().await;
    assert!(pings(&mut passing).await);
    let _heir = serve(world.heir().await.unwrap());
    passing.expect_end().await;
    world.stop();
    choosing.expect_end().await;
    world.stopped().await;
    assert!(pings(&mut world.client().await).await, "the port is not the old one's to give up");
}

#[tokio::test]
async fn a_successor_that_dies_in_between_leaves_everything_as_it_was() {
    let world = world().await;
    let mut idle = world.client().await;
    assert!(pings(&mut idle).await);
    for _ in 0..3 {
        let heir = world.heir().await.unwrap();
        // What comes meanwhile is answered by the one that serves.
        assert!(pings(&mut world.client().await).await);
        drop(heir);
        assert!(pings(&mut world.client().await).await && pings(&mut idle).await);
    }
    assert_eq!(sockets(&world).len(), 1, "its own, and nothing of those that died");
    let heir = serve(world.heir().await.unwrap());
    idle.expect_end().await;
    assert!(pings(&mut world.client().await).await);
    assert_eq!(heir.handle.metrics().accepted_total, 1);
}

#[tokio::test]
async fn a_successor_that_dies_with_its_last_word_leaves_everything_as_it_was() {
    let world = world().await;
    let path = world.run_dir().join(&sockets(&world)[0]);
    let mut idle = world.client().await;
    assert!(pings(&mut idle).await);
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"qvd-l7r succession 1\n").await.unwrap();
        let mut said = [0; 8];
        soon(stream.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"sockets\n");
        // The router reads it when nobody is there to accept any more.
        stream.try_write(b"accepting\n").unwrap();
        drop(stream);
        assert!(pings(&mut world.client().await).await && pings(&mut idle).await);
    }
    let heir = serve(world.heir().await.unwrap());
    idle.expect_end().await;
    assert!(pings(&mut world.client().await).await);
    assert_eq!(heir.handle.metrics().accepted_total, 1);
}

#[tokio::test]
async fn a_router_that_dies_before_it_lets_go_is_succeeded_all_the_same() {
    let mut world = world().await;
    let heir = world.heir().await.unwrap();
    // Queued at the sockets, of which one process more has a hold.
    let mut early = TcpStream::connect(world.address).await.unwrap();
    world.kill().await;
    let mut waiting = tokio::spawn({
        let address = world.address;
        async move { pings(&mut Client::connect(address).await).await }
    });
    let heir = serve(heir);
    assert!(soon(&mut waiting).await.unwrap());
    assert!(pings(&mut world.client().await).await);
    early.write_all(b"no TLS").await.unwrap();
    let _ = soon(early.read_to_end(&mut Vec::new())).await;
    drop(heir.handle);
}

#[tokio::test]
async fn whoever_says_something_else_gets_no_sockets() {
    let world = world().await;
    let path = world.run_dir().join(&sockets(&world)[0]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(world.run_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"qvd-l7r succession 2\n").await.unwrap();
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "this router knows 'qvd-l7r succession 1' alone\n");
    // Half a talk, and none.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"qvd").await.unwrap();
    drop(stream);
    drop(UnixStream::connect(&path).await.unwrap());
    assert!(pings(&mut world.client().await).await);
    let _heir = serve(world.heir().await.unwrap());
}

#[tokio::test]
async fn nobody_succeeds_where_nobody_serves_and_a_directory_of_all_is_no_place() {
    let world = World::new().await;
    let error = world.heir().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("cannot get the sockets of the router that serves at "), "{error}");

    let offering = self::world().await;
    fs::set_permissions(offering.run_dir(), Permissions::from_mode(0o777)).unwrap();
    // A life that begins closes it again.
    assert!(offering.heir().await.is_ok());
    assert_eq!(fs::metadata(offering.run_dir()).unwrap().permissions().mode() & 0o777, 0o700);
}
