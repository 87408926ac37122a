//! Connections that come to stay and not to log in, from as many addresses as one likes: they leave room for users.

use std::sync::Arc;

use qvd_core::auth::{Attempt, AuthError, Authenticator, Chain, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::{Client, Options, PASSWORD, World, basic, config, eventually, logged, request, soon};

const LIST: &str = "/qvd/list_of_vm";

/// So many that do nothing, or send a crumb of a hello.
async fn silent(world: &World, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        if number % 2 == 1 {
            // It may have been closed already.
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
        }
        all.push(stream);
    }
    all
}

async fn accepted(world: &World, count: u64) {
    eventually("all are in", async || world.handle.metrics().accepted_total >= count).await;
}

#[tokio::test]
async fn users_log_in_during_a_flood_and_those_who_did_stay() {
    const MOST: usize = 8;
    let options = Options::default()
        .set("l7r.limit.connections", "12")
        .set("l7r.limit.connections.unauthenticated", MOST.to_string());
    let world = World::with(options).await;
    let auth = basic("alice", PASSWORD);
    let mut early = world.client().await;
    assert_eq!(early.ask(LIST, &[&auth]).await.status(), 200);
    assert_eq!(world.handle.metrics().unauthenticated, 0, "who is known is none of them");

    let mut flood = silent(&world, 100).await;
    accepted(&world, 101).await;
    let metrics = world.handle.metrics();
    assert_eq!((metrics.unauthenticated, metrics.unauthenticated_closed_total), (MOST as u64, 92));
    for gone in &mut flood[..92] {
        let end = soon(gone.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }

    // A user comes, and more of the flood before a word was said.
    let user = TcpStream::connect(world.address).await.unwrap();
    let _more = silent(&world, MOST - 1).await;
    accepted(&world, 101 + MOST as u64).await;
    let mut user =
        Client::over(user, "localhost", config(&[])).await.expect("there was time for a handshake");
    assert_eq!(user.ask(LIST, &[&auth]).await.status(), 200);

    let _still_more = silent(&world, 50).await;
    accepted(&world, 151 + MOST as u64).await;
    for user in [&mut early, &mut user] {
        assert_eq!(user.ask(LIST, &[&auth]).await.status(), 200, "not touched by any of it");
    }
    assert_eq!(world.handle.metrics().unauthenticated, MOST as u64);
    let lines = logged().matches("connection closed before a login: others came").count();
    assert!((1..=20).contains(&lines), "told, but not each time: {lines}");
}

/// Does not know yet.
#[derive(Debug)]
struct Undecided {
    asked: Semaphore,
    decided: Semaphore,
}

#[async_trait::async_trait]
impl Authenticator for Undecided {
    fn name(&self) -> &str {
        "undecided"
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        self.asked.add_permits(1);
        self.decided.acquire().await.unwrap().forget();
        Ok(Verdict::NotMine)
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_pushed_out() {
    let undecided = Arc::new(Undecided { asked: Semaphore::new(0), decided: Semaphore::new(0) });
    let chain = Chain::builder().plugin(undecided.clone()).build();
    let options = Options { chain: Some(chain), ..Options::default() };
    let world = World::with(options.set("l7r.limit.connections.unauthenticated", "2")).await;
    let mut asking = Vec::new();
    for _ in 0..2 {
        let mut client = world.client().await;
        client.send(request(LIST, &[&basic("alice", "guess")])).await;
        soon(undecided.asked.acquire()).await.unwrap().forget();
        asking.push(client);
    }
    assert!(Client::try_connect(world.address, config(&[])).await.is_err(), "there is no place now");
    assert_eq!(world.handle.metrics().unauthenticated_closed_total, 1);
    assert!(logged().contains("the requests of 2 others without a login are being answered"));

    undecided.decided.add_permits(2);
    for client in &mut asking {
        assert_eq!(client.response().await.status(), 401);
    }
    // They are waited for again, and a newcomer is let in at the expense of the first.
    let mut newcomer = world.client().await;
    assert_eq!(newcomer.ask("/qvd/ping", &[]).await.status(), 200);
    assert_eq!(asking[0].record().await, None);
    assert_eq!(asking[1].ask("/qvd/ping", &[]).await.status(), 200);
}
