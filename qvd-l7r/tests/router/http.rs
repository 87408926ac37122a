//! Ping, the dialect, and what is no request (rows 1–6, 23–36).

use std::sync::Arc;
use std::time::Duration;

use qvd_core::state::HostState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Options, PASSWORD, World, basic, plain, request, soon};

fn plain_port() -> Options {
    Options::default().set("l7r.use_ssl", "0")
}

#[tokio::test]
async fn row_01_05_ping_is_byte_exact_and_looks_at_no_credentials() {
    let world = World::new().await;
    let mut client = world.client().await;
    for headers in [vec![], vec![basic("alice", "wrong")]] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let pong = client.ask("/qvd/ping", &headers).await;
        assert_eq!(pong.head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n");
        assert_eq!(pong.body, "I am alive!\r\n");
    }
    assert_eq!(world.counts().await.auth_attempts, 0);
}

#[tokio::test]
async fn row_02_03_ping_tells_of_a_blocked_or_stopping_node() {
    let world = World::new().await;
    let _ = world.db.hosts().set_blocked(world.host, true).await.unwrap();
    world.until_ping("Server is blocked").await;
    let _ = world.db.hosts().set_state(world.host, world.incarnation, HostState::Stopping).await.unwrap();
    world.until_ping("Server is stopping").await;
    let answer = world.client().await.ask("/qvd/ping", &[]).await;
    assert!(answer.head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{}", answer.head);
}

#[tokio::test]
async fn row_04_a_node_that_is_not_registered_says_so_everywhere() {
    let world = World::with(Options { unregistered: true, ..Options::default() }).await;
    let mut client = world.client().await;
    for path in ["/qvd/ping", "/qvd/list_of_vm", "/qvd/stop_vm?id=1", "/qvd/connect_to_vm?id=1"] {
        let answer = client.ask(path, &[]).await;
        assert_eq!(
            (answer.status(), answer.body.as_str()),
            (503, "Host is not registered in the database"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn row_06_unknown_paths_are_404_and_the_connection_goes_on() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send("POST /qvd/ping HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 404);
    assert_eq!(client.ask("/qvd/ping/x", &[]).await.status(), 404);
    assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
}

#[tokio::test]
async fn row_24_28_29_35_bare_line_feeds_no_host_blank_lines_folds_and_any_case() {
    let world = World::new().await;
    let mut client = world.client().await;
    let value = basic("alice", PASSWORD);
    let credentials = value.trim().rsplit(' ').next().unwrap().to_owned();
    for request in [
        format!("GET /qvd/list_of_vm HTTP/1.1\n{}\n\n", value.trim()),
        format!("\r\n \r\n\nGET /qvd/list_of_vm? HTTP/1.1\r\nauthorization: Basic {credentials}\r\n\r\n"),
        format!("GET /qvd/list_of_vm HTTP/1.1\r\nAuthorization: Basic\r\n {credentials}\r\n\r\n"),
    ] {
        client.send(&request).await;
        let answer = client.response().await;
        assert_eq!(answer.status(), 200, "{request:?}");
        assert!(!answer.head.replace("\r\n", "").contains('\n'), "line ends are CRLF");
    }
}

#[tokio::test]
async fn row_26_27_30_33_what_is_no_request_is_answered_and_closed() {
    let world = World::with(plain_port()).await;
    let alive = "GET /qvd/ping HTTP/1.1\r\n\r\n";
    for (bytes, status) in [
        (format!("GET /qvd/ping HTTP/1.0\r\n\r\n{alive}"), 505),
        (format!("GET /qvd/ping\r\n\r\n{alive}"), 505),
        (format!("GARBAGE\r\n\r\n{alive}"), 400),
        (format!("\x16\x03\x01\x02\x00\x01\n\n{alive}"), 400),
        (format!("GET /qvd/ping HTTP/1.1\r\n folded\r\n\r\n{alive}"), 400),
        (format!("GET /qvd/ping HTTP/1.1\r\nno colon\r\n\r\n{alive}"), 400),
        (format!("GET /qvd/ping HTTP/1.1\r\nContent-Length: 5\r\n\r\n{alive}"), 400),
        (format!("GET /qvd/ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{alive}"), 400),
    ] {
        let answer = String::from_utf8(plain(world.address, bytes.as_bytes()).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "closed behind it: {answer}");
        assert!(answer.contains("\r\nContent-Type: text/plain\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn row_27_a_tls_hello_or_a_line_of_garbage_on_the_plain_port_is_answered_at_once() {
    let world = World::with(plain_port()).await;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut hello = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    for (bytes, status) in
        [(hello.as_slice(), 400), (b"GARBAGE\r\n", 400), (b"GET /qvd/ping HTTP/1.0\r\n", 505)]
    {
        // Nothing follows and the client waits: the limit for a head would end it without a word.
        let answer = String::from_utf8(plain(world.address, bytes).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer}");
    }
}

#[tokio::test]
async fn row_31_giant_heads_are_refused_with_an_answer() {
    let world = World::with(plain_port()).await;
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let headers = format!("GET /qvd/ping HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    for (bytes, status) in [(line, 414), (headers, 431)] {
        let answer = String::from_utf8(plain(world.address, bytes.as_bytes()).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn row_32_a_head_that_does_not_come_ends_the_connection() {
    let world = World::with(plain_port().set("l7r.limit.head.timeout", "0.2")).await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET /qvd").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    soon(async {
        while world.handle.metrics().connections > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
}

#[tokio::test]
async fn idle_connections_end_sooner_before_a_login_than_after_it() {
    let options = Options::default()
        .set("l7r.limit.idle.timeout", "0.2")
        .set("l7r.limit.authenticated.idle.timeout", "60");
    let world = World::with(options).await;
    world.client().await.expect_end().await;
    let mut client = world.client().await;
    assert_eq!(client.ask("/qvd/list_of_vm", &[&basic("alice", PASSWORD)]).await.status(), 200);
    let more = tokio::time::timeout(Duration::from_millis(600), client.record()).await;
    assert!(more.is_err(), "the user looks at the list: {more:?}");
}

#[tokio::test]
async fn row_34_pipelined_requests_are_answered_in_order() {
    let world = World::new().await;
    let mut client = world.client().await;
    let auth = basic("alice", PASSWORD);
    client.send([request("/qvd/ping", &[]), request("/qvd/list_of_vm", &[&auth])].concat()).await;
    assert_eq!(client.response().await.body, "I am alive!\r\n");
    assert!(client.response().await.body.starts_with('['));
}

#[tokio::test]
async fn a_client_that_wants_the_connection_closed_gets_it_closed() {
    let world = World::new().await;
    let mut client = world.client().await;
    assert_eq!(client.ask("/qvd/ping", &["Connection: close\r\n"]).await.status(), 200);
    client.expect_end().await;
}

#[tokio::test]
async fn row_23_header_names_have_their_exact_case() {
    let world = World::new().await;
    let mut client = world.client().await;
    let denied = client.ask("/qvd/list_of_vm", &[]).await;
    assert!(denied.head.contains("\r\nContent-Type: text/plain\r\n"), "{}", denied.head);
    assert!(denied.head.contains("\r\nContent-Length: "), "{}", denied.head);
    assert!(denied.head.contains("\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\n"), "{}", denied.head);
}
