//! The wire form of calls.

use qvd_core::state::XState;
use qvd_core::vma::Vma;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{LIMIT, Machine, Setup, eventually, lines, properties};

async fn send(machine: &Machine, text: &str) -> String {
    let mut stream = UnixStream::connect(machine.path("vma.sock")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn answers_have_the_reference_form_and_connections_are_kept() {
    let machine = Setup::new().start().await;
    let answer = send(
        &machine,
        "GET /vma/x_state HTTP/1.1\nUser-Agent: x\n\nGET /vma/nosuch HTTP/1.1\r\n\r\n\
         POST /vma/ping HTTP/1.1\r\n\r\nGET /vma/x/ping HTTP/1.1\r\nConnection: close\r\n\r\n",
    )
    .await;
    let expected_state = "HTTP/1.1 200 OK\r\nContent-Type: application/json-simplerpc\r\n\
                          Content-Length: 12\r\n\r\n\"stopped\"\n\r\n";
    assert!(answer.starts_with(expected_state), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n").count(), 2);
    assert!(answer.ends_with("\r\n\r\n1\n\r\n"), "{answer}");
}

#[tokio::test]
async fn errors_are_a_second_value() {
    let machine = Setup::new().start().await;
    let answer = send(&machine, "GET /vma/x_start?qvd.client.link=a%20b HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\n\"\",\"invalid characters in parameter qvd.client.link\"\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn broken_requests_end_the_connection() {
    let machine = Setup::new().start().await;
    for (text, status) in [
        ("GARBAGE\r\n\r\n", "400"),
        ("GET /vma/ping HTTP/1.0\r\n\r\n", "505"),
        ("GET /vma/ping HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /vma/ping HTTP/1.1\r\n\r\n", "400"),
    ] {
        let answer = send(&machine, text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    let long = format!("GET /vma/ping?{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    assert!(send(&machine, &long).await.starts_with("HTTP/1.1 414 "));
    machine.vma.ping().await.unwrap();
}

#[tokio::test]
async fn a_vnc_view_needs_an_upgrade_and_a_session() {
    let machine = Setup::new().start().await;
    assert!(send(&machine, "GET /vma/vnc_connect HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 426 "));
    let answer =
        send(&machine, "GET /vma/vnc_connect HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: VNC\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 102 Processing\r\nX-QVD-VMA-Info: Starting VNC service\r\n\r\n"),
        "{answer}"
    );
    assert!(answer.contains("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("Unable to start VNC service while session is in state stopped"), "{answer}");
}

#[tokio::test]
async fn many_callers_are_served_while_one_waits_for_a_hook() {
    let setup = Setup::new().set("command.nxagent", "/bin/false");
    let go = setup.path("go");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.02; done; exit 1", go.display());
    let machine = setup.hook("vma.on_action.pre-connect", "pre", &wait).start().await;
    let params = properties();
    let slow = machine.vma.x_start(&params);
    // The hook ends only once all of these have their answers.
    let others = async {
        let ran = machine.path("pre.args");
        eventually("the hook", async || (lines(&ran).len() == 1).then_some(())).await;
        for _ in 0..50 {
            machine.vma.ping().await.unwrap();
            assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
        }
        // Only now may the hook end.
        std::fs::write(&go, "").unwrap();
    };
    let (slow, ()) = tokio::join!(slow, others);
    slow.unwrap_err();
}
