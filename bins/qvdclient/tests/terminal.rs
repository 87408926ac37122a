//! The program in front of somebody: what it asks on a terminal, and how it leaves the terminal.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../../../qvd-client/tests/common/mod.rs"]
mod common;
mod program;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use common::{LIMIT, LIST, SWITCH, router};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use program::{qvdclient_on_a_terminal, stub};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A terminal with the program on it.
struct Seat {
    child: Child,
    keys: File,
    screen: mpsc::UnboundedReceiver<Vec<u8>>,
    seen: String,
    line: File,
    flags: LocalFlags,
}

impl Seat {
    fn take(home: &Path, args: &[&str]) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (mut master, line) = (File::from(pty.master), File::from(pty.slave));
        let flags = tcgetattr(&line).unwrap().local_flags;
        assert!(flags.contains(LocalFlags::ECHO));
        let end = || line.try_clone().unwrap();
        let mut command = qvdclient_on_a_terminal(home, args);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = master.try_clone().unwrap();
        let (show, screen) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                if show.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen, seen: String::new(), line, flags }
    }

    async fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = timeout(LIMIT, self.screen.recv()).await;
            let more = more.unwrap_or_else(|_| panic!("no '{text}' in {}", self.seen)).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn flags(&self) -> LocalFlags {
        tcgetattr(&self.line).unwrap().local_flags
    }

    /// Its exit status; the terminal is as it was.
    async fn leave(&mut self) -> i32 {
        let status = timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        assert_eq!(self.flags(), self.flags, "the terminal is left otherwise");
        status.code().unwrap_or(-1)
    }
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST]).await;
    let port = router.port.to_string();
    let mut seat = Seat::take(home.path(), &["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-n", "-l"]);
    seat.wait_for("Password of alice at 127.0.0.1: ").await;
    assert!(!seat.flags().contains(LocalFlags::ECHO));
    // The second key is rubbed out.
    seat.type_keys(b"sx\x7f3cret\n");
    seat.wait_for("desk").await;
    assert_eq!(seat.leave().await, 0);
    assert!(!seat.seen.contains("3cret"), "{}", seat.seen);
    let request = router.requests().pop().unwrap();
    assert!(request.contains("Authorization: Basic YWxpY2U6czNjcmV0\r\n"), "{request}");
}

#[tokio::test]
async fn a_question_that_is_broken_off_leaves_the_terminal_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    for (keys, signal, expected) in [
        (&b"s3\x03"[..], None, 128 + 2),
        (b"s3\x1c", None, 128 + 3),
        (b"s3", Some(Signal::SIGTERM), 128 + 15),
        (b"s3", Some(Signal::SIGHUP), 128 + 1),
        (b"\x04", None, 9),
    ] {
        let mut seat = Seat::take(home.path(), &["-h", "127.0.0.1", "-u", "alice", "-l"]);
        seat.wait_for("Password of alice").await;
        seat.type_keys(keys);
        if let Some(signal) = signal {
            let id = i32::try_from(seat.child.id().unwrap()).unwrap();
            kill(Pid::from_raw(id), signal).unwrap();
        }
        assert_eq!(seat.leave().await, expected, "{signal:?}: {}", seat.seen);
    }
}

#[tokio::test]
async fn a_first_certificate_may_be_accepted_once_or_for_good() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, LIST, LIST]).await;
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-w", "s3cret", "-l"];
    for (answer, expected) in [(&b"n\n"[..], 5), (b"\n", 5), (b"o\n", 0), (b"always\n", 0)] {
        let mut seat = Seat::take(home.path(), &line);
        seat.wait_for("[n]o, [o]nce, [a]lways: ").await;
        assert!(seat.seen.contains("it is self-signed"), "{}", seat.seen);
        seat.type_keys(answer);
        assert_eq!(seat.leave().await, expected, "{}", seat.seen);
    }
    let mut seat = Seat::take(home.path(), &line);
    seat.wait_for("desk").await;
    assert_eq!(seat.leave().await, 0);
    assert!(!seat.seen.contains("Certificate of"), "asked again: {}", seat.seen);
}

#[tokio::test]
async fn a_changed_certificate_is_shouted_about_and_replaced_by_that_word_alone() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, LIST]).await;
    let before = ["AB"; 32].join(":");
    let memory = serde_json::json!({ format!("sha256${before}"): {
        "algo": "sha256", "fingerprint": before, "description": {}, "errors": [18],
        "hosts": [format!("127.0.0.1:{}", router.port)],
    }});
    std::fs::create_dir(home.path().join(".qvd")).unwrap();
    std::fs::write(home.path().join(".qvd/accepted_certs.json"), memory.to_string()).unwrap();
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-w", "s3cret", "-l"];
    for (answer, expected) in [(&b"always\n"[..], 5), (b"yes\n", 5), (b"replace\n", 0)] {
        let mut seat = Seat::take(home.path(), &line);
        seat.wait_for("Type 'replace' to accept the new certificate: ").await;
        assert!(seat.seen.contains("CERTIFICATE OF THIS SERVER HAS CHANGED"), "{}", seat.seen);
        assert!(seat.seen.contains(&before), "{}", seat.seen);
        seat.type_keys(answer);
        assert_eq!(seat.leave().await, expected, "{}", seat.seen);
    }
    assert_eq!(router.requests().len(), 1, "credentials went to a changed server");
    let mut seat = Seat::take(home.path(), &line);
    seat.wait_for("desk").await;
    assert_eq!(seat.leave().await, 0);
    assert!(!seat.seen.contains("replace"), "asked again: {}", seat.seen);
}

#[tokio::test]
async fn one_of_several_machines_is_chosen_by_name() {
    let home = tempfile::tempdir().unwrap();
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n[{\"id\":7,\"name\":\"a\",\"state\":\"x\",\
               \"blocked\":0},{\"id\":8,\"name\":\"b\",\"blocked\":0}]";
    let stub = stub(home.path(), "echo 'Error: It was shown.'");
    for (answer, expected, words) in [(&b"b\n"[..], 8, "It was shown"), (b"c\n", 6, "'c' is not on the list")]
    {
        let router = router(&[two, SWITCH]).await;
        let port = router.port.to_string();
        let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-w", "s3cret", "-n", "--set", &stub];
        let mut seat = Seat::take(home.path(), &line);
        seat.wait_for("Which one? ").await;
        seat.type_keys(answer);
        seat.wait_for(words).await;
        assert_eq!(seat.leave().await, expected, "{}", seat.seen);
        let asked = router.requests().get(1).cloned().unwrap_or_default();
        assert_eq!(asked.contains("connect_to_vm?id=8&"), expected == 8, "{asked}");
    }
}
