use tokio::net::{TcpListener, UnixListener};

use super::*;
use std::os::fd::AsRawFd as _;

/// Serves one connection with fixed bytes and returns what was asked.
async fn answer_once(listener: TcpListener, bytes: &'static [u8]) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
    }
    stream.write_all(bytes).await.unwrap();
    asked
}

async fn client() -> (VmaClient, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let endpoint = Endpoint::Ip { address: local.ip(), vma_port: local.port(), x_port: 1 };
    (VmaClient::new(endpoint, Duration::from_millis(300)), listener)
}

macro_rules! with_answer {
    ($bytes:expr, |$vma:ident| $call:expr) => {{
        let ($vma, listener) = client().await;
        let (asked, result) = tokio::join!(answer_once(listener, $bytes), $call);
        (String::from_utf8(asked).unwrap(), result)
    }};
}

#[tokio::test]
async fn parameters_travel_in_their_order() {
    let params = vec![("qvd.b".to_owned(), "x y".to_owned()), ("a".to_owned(), String::new())];
    let (asked, result) =
        with_answer!(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n\"starting\"\n\r\n  ", |vma| vma
            .x_start(&params));
    result.unwrap();
    assert!(asked.starts_with("GET /vma/x_start?qvd.b=x%20y&a= HTTP/1.1\r\n"), "{asked}");
}

#[tokio::test]
async fn states_are_read_even_behind_progress() {
    let (_, result) = with_answer!(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 11\n\n\"suspended\"",
        |vma| vma.x_state()
    );
    assert_eq!(result.unwrap(), XState::Suspended);
}

#[tokio::test]
async fn error_answers_are_one_line() {
    let params = Params::new();
    let (_, result) =
        with_answer!(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n\"\",\"rc: 3\\nno\\n\"\r\n", |vma| vma
            .x_start(&params));
    assert!(matches!(&result, Err(VmaError::Refused { message, .. }) if message == "rc: 3 no"), "{result:?}");
}

#[tokio::test]
async fn an_empty_result_of_x_start_is_a_refusal() {
    for body in [&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
        let (vma, listener) = client().await;
        let params = Params::new();
        let (_, result) = tokio::join!(answer_once(listener, body), vma.x_start(&params));
        assert!(matches!(result, Err(VmaError::Refused { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn unknown_methods_and_broken_servers_are_told_apart() {
    let (_, result) =
        with_answer!(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", |vma| vma.x_stop());
    assert!(matches!(result, Err(VmaError::Unsupported { method: "x_stop" })), "{result:?}");
    let (_, result) = with_answer!(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", |vma| vma.ping());
    assert!(matches!(result, Err(VmaError::Unreachable { .. })), "{result:?}");
    let (_, result) = with_answer!(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ncut", |vma| vma.ping());
    assert!(matches!(result, Err(VmaError::Unreachable { .. })), "{result:?}");
}

#[tokio::test]
async fn a_silent_agent_is_given_up() {
    let (vma, _listener) = client().await;
    let error = vma.ping().await.unwrap_err();
    assert!(
        qvd_core::error::chain(&error).to_string().ends_with("did not answer ping: no answer within 0.3 s")
    );
}

#[tokio::test]
async fn agents_behind_long_paths_are_reached() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("x".repeat(120));
    std::fs::create_dir(&dir).unwrap();
    let open = std::fs::File::open(&dir).unwrap();
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{VMA_SOCKET}", open.as_raw_fd())).unwrap();
    let vma = VmaClient::new(Endpoint::Unix { dir }, Duration::from_secs(5));
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await.unwrap();
        stream
    };
    let (_stream, result) = tokio::join!(serve, vma.ping());
    result.unwrap();
}
