//! Who comes in: balancers and their clients, peers that say nothing, nonsense, or too slowly (limits of §2.2).

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Options, World, basic, config, eventually, logged, plain, request, soon};

const PING: &str = "GET /qvd/ping HTTP/1.1\r\nConnection: close\r\n\r\n";

fn behind_balancers() -> Options {
    Options::default().set("l7r.proxy_protocol", "127.0.0.0/8")
}

async fn connect(world: &World, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

/// Everything until the end; a reset is one, too.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

fn version_2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let fixed = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, 0x11, 0, 12]].concat();
    [fixed.as_slice(), &client, &[10, 0, 0, 1], &[0xc7, 0x38, 0x20, 0xfb]].concat()
}

#[tokio::test]
async fn a_balancers_header_comes_before_tls_in_both_versions() {
    let world = World::with(behind_balancers()).await;
    let line = b"PROXY TCP4 192.0.2.77 10.0.0.1 51000 8443\r\n".to_vec();
    for header in [line, version_2(0x21, [192, 0, 2, 78]), version_2(0x20, [0; 4])] {
        let mut stream = connect(&world, &header[..7]).await;
        stream.set_nodelay(true).unwrap();
        // In two pieces, the second one with the handshake in the same write or not, as the kernel likes it.
        stream.write_all(&header[7..]).await.unwrap();
        let mut client = Client::over(stream, "localhost", config(&[])).await.unwrap();
        assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
    }
    assert_eq!(world.handle.metrics().proxy_failures_total, 0);
}

#[tokio::test]
async fn what_follows_a_header_in_the_same_packet_is_the_clients() {
    let world = World::with(behind_balancers().set("l7r.use_ssl", "0")).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0x21, [192, 0, 2, 7])] {
        let answer = plain(world.address, &[header.as_slice(), PING.as_bytes()].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn the_address_in_the_header_is_the_one_that_counts() {
    let options = behind_balancers().set("l7r.use_ssl", "0").set("l7r.limit.connections.per.address", "1");
    let world = World::with(options).await;
    let first = b"PROXY TCP4 192.0.2.91 10.0.0.1 1 8443\r\n";
    let mut held = connect(&world, &[first.as_slice(), b"GET /qvd/ping HTTP/1.1\r\n\r\n"].concat()).await;
    assert_eq!(soon(held.read(&mut [0; 8])).await.unwrap(), 8, "the first is in");
    let second = rest(connect(&world, &[first.as_slice(), PING.as_bytes()].concat()).await).await;
    assert_eq!(second, "", "not a word");
    assert_eq!(world.handle.metrics().refused_connections_total, 1);
    assert!(logged().contains("client=192.0.2.91:1"), "it is logged by its own address");
    let other = [b"PROXY TCP4 192.0.2.92 10.0.0.1 1 8443\r\n".as_slice(), PING.as_bytes()].concat();
    assert!(
        rest(connect(&world, &other).await).await.starts_with("HTTP/1.1 200 "),
        "another has its own place"
    );
    drop(held);
}

/// How long a wrong password takes that comes behind this header.
async fn refusal(world: &World, header: &[u8]) -> Duration {
    let wrong = request("/qvd/list_of_vm", &[&basic("alice", "wrong"), "Connection: close\r\n"]);
    let begun = Instant::now();
    let answer = rest(connect(world, &[header, wrong.as_bytes()].concat()).await).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    begun.elapsed()
}

#[tokio::test]
async fn failed_logins_count_for_the_client_in_the_header_and_not_for_the_balancer() {
    let first = Duration::from_millis(300);
    let options = Options { failed_login_delay: Some(first), ..behind_balancers().set("l7r.use_ssl", "0") };
    let world = World::with(options).await;
    let guesser_1 = b"PROXY TCP4 192.0.2.21 10.0.0.1 51000 8443\r\n".as_slice();
    let guesser_2 = version_2(0x21, [192, 0, 2, 21]);
    // Each later than the one before, whichever version the balancer speaks and from whichever port he comes.
    for (header, least) in [(guesser_1, first), (&guesser_2, 2 * first), (guesser_1, 4 * first)] {
        let took = refusal(&world, header).await;
        assert!(took >= least, "{took:?} instead of {least:?}");
    }
    // Others behind the same balancer begin anew. Its own address would make them wait eight times as long.
    for other in
        [b"PROXY TCP4 192.0.2.22 10.0.0.1 51000 8443\r\n".as_slice(), &version_2(0x21, [192, 0, 2, 23])]
    {
        let took = refusal(&world, other).await;
        assert!((first..4 * first).contains(&took), "{took:?}");
    }
    // And so do those of whom it says nothing: they are the balancer, to which nothing was counted so far.
    let took = refusal(&world, b"PROXY UNKNOWN\r\n").await;
    assert!((first..4 * first).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_balancer_without_a_usable_header_is_closed_without_a_word() {
    let world = World::with(behind_balancers().set("l7r.use_ssl", "0")).await;
    for bytes in [
        PING.as_bytes(),
        b"PROXY TCP4 nonsense\r\n",
        &version_2(0x23, [1; 4]),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ] {
        assert_eq!(rest(connect(&world, bytes).await).await, "", "{bytes:?}");
    }
    eventually("counted", async || world.handle.metrics().proxy_failures_total == 4).await;
    assert_eq!(world.handle.metrics().requests_total, 0);
    // A balancer that looks whether somebody listens does nothing wrong.
    drop(connect(&world, b"").await);
    eventually("gone", async || world.handle.metrics().connections == 0).await;
    assert_eq!(world.handle.metrics().proxy_failures_total, 4);
}

#[tokio::test]
async fn a_header_that_does_not_come_counts_as_a_handshake_that_does_not() {
    let options = behind_balancers().set("l7r.use_ssl", "0").set("l7r.limit.handshake.timeout", "0.2");
    let world = World::with(options).await;
    assert_eq!(rest(connect(&world, b"PROXY TCP4 192.0").await).await, "");
    eventually("counted", async || world.handle.metrics().handshake_timeouts_total == 1).await;
}

#[tokio::test]
async fn from_elsewhere_a_header_is_no_header() {
    let options = Options::default().set("l7r.use_ssl", "0").set("l7r.proxy_protocol", "192.0.2.0/24");
    let world = World::with(options).await;
    let first = b"PROXY TCP4 192.0.2.7 10.0.0.1 1 8443\r\n";
    let answer = rest(connect(&world, &[first.as_slice(), PING.as_bytes()].concat()).await).await;
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    assert!(rest(connect(&world, PING.as_bytes()).await).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_says_nothing_or_crumbs_is_let_go_and_counted() {
    let world = World::with(Options::default().set("l7r.limit.handshake.timeout", "0.3")).await;
    let silent = connect(&world, b"").await;
    // The beginning of a hello that never goes on.
    let crumbs = connect(&world, &[0x16, 3, 1, 2, 0, 1]).await;
    assert_eq!((rest(silent).await, rest(crumbs).await), (String::new(), String::new()));
    eventually("both", async || world.handle.metrics().handshake_timeouts_total == 2).await;
    eventually("nothing is left of them", async || world.handle.metrics().connections == 0).await;
    assert_eq!(world.client().await.ask("/qvd/ping", &[]).await.status(), 200, "others are served");
}

#[tokio::test]
async fn what_is_no_request_and_what_takes_too_long_is_counted() {
    let options = Options::default().set("l7r.use_ssl", "0").set("l7r.limit.head.timeout", "0.3");
    let world = World::with(options).await;
    for bytes in [
        b"GARBAGE\r\n".as_slice(),
        b"GET / HTTP/1.0\r\n\r\n",
        &[b"GET /".as_slice(), &[b'a'; 20_000]].concat(),
    ] {
        assert!(rest(connect(&world, bytes).await).await.starts_with("HTTP/1.1 "));
    }
    assert_eq!(world.handle.metrics().bad_heads_total, 3);
    assert_eq!(rest(connect(&world, b"GET /qvd/ping HT").await).await, "");
    assert_eq!(world.handle.metrics().head_timeouts_total, 1);
    // Who has not begun is idle, which is no offence.
    drop(connect(&world, b"").await);
    eventually("all gone", async || world.handle.metrics().connections == 0).await;
    assert_eq!(world.handle.metrics().head_timeouts_total, 1);
}

#[tokio::test]
async fn a_flood_is_counted_in_full_and_logged_in_part() {
    let world = World::with(Options::default().set("l7r.use_ssl", "0")).await;
    for _ in 0..50 {
        let answer = rest(connect(&world, b"GARBAGE\r\n").await).await;
        assert!(answer.starts_with("HTTP/1.1 400 "));
    }
    assert_eq!(world.handle.metrics().bad_heads_total, 50);
    // Each router of this process has a quota of its own, so this one is told apart by nothing but the count: other
    // tests write ten lines at most, too.
    let lines = logged().matches("no request: malformed head").count();
    assert!((1..50).contains(&lines), "{lines}");
}
