//! The program itself against a scripted router: exit status and words.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[path = "../../../qvd-client/tests/common/mod.rs"]
mod common;
mod program;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use common::x::XServer;
use common::{LIMIT, LIST, SWITCH, router, skip};
use program::{qvdclient, stand_in_screen_that_says, stub};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

async fn finish(mut command: Command, input: &str) -> (i32, String, String) {
    let mut child = command.spawn().unwrap();
    feed(&mut child, input).await;
    let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    read(&output)
}

async fn feed(child: &mut Child, input: &str) {
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read its input is right to close it.
    let _ = stdin.write_all(input.as_bytes()).await;
}

fn read(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_list_is_printed_for_people_and_for_programs() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, LIST]).await;
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "--password-stdin", "-n", "-l"];
    let (code, out, err) = finish(qvdclient(home.path(), &line), "s3cret\n").await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("7  running      no       desk"), "{out}");
    let json = [line.as_slice(), &["--json", "-q"]].concat();
    let (code, out, err) = finish(qvdclient(home.path(), &json), "s3cret\n").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "[{\"blocked\":false,\"id\":7,\"name\":\"desk\",\"state\":\"running\"}]\n");
}

#[tokio::test]
async fn each_end_has_its_exit_status() {
    let home = tempfile::tempdir().unwrap();
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    let denied = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
    let down = "HTTP/1.1 503 X\r\nContent-Length: 17\r\n\r\nServer is blocked";
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n[{\"id\":7,\"name\":\"a\",\"state\":\"x\",\
               \"blocked\":0},{\"id\":8,\"name\":\"b\",\"blocked\":0}]";
    let stub = stub(home.path(), "echo 'Error: Unable to open display.'");
    for (answers, more, expected, words) in [
        (vec![denied], vec!["-n"], 5, "wrong user name or password"),
        (vec![LIST], vec![], 5, "--accept-certificate "),
        (vec![empty], vec!["-n"], 2, "no virtual machine"),
        (vec![two], vec!["-n"], 6, "7 a, 8 b"),
        (vec![LIST], vec!["-n", "-s", "9"], 6, "9 is not on your list"),
        (vec![LIST, down], vec!["-n"], 7, "not available: Server is blocked"),
        (vec![LIST, SWITCH], vec!["-n"], 8, "Unable to open display"),
        (vec![LIST], vec!["-n", "-g", "large"], 1, "client.geometry"),
        (vec![LIST], vec!["-n", "--link", "fast"], 1, "link"),
        (vec![LIST], vec!["--accept-certificate", "12:34"], 1, "SHA-256"),
        (vec![LIST], vec!["-n", "--set", "command.nxproxy=/nonexistent/nxproxy"], 9, "install nxproxy"),
    ] {
        let router = router(&answers).await;
        let port = router.port.to_string();
        let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "--password-stdin", "--set", &stub];
        let line = [line.as_slice(), &more].concat();
        let (code, _, err) = finish(qvdclient(home.path(), &line), "s3cret\n").await;
        assert_eq!(code, expected, "{more:?}: {err}");
        assert!(err.contains(words), "{more:?}: {err}");
        assert!(!err.contains("s3cret"), "{err}");
    }
    for (line, expected, words) in [
        (vec!["-u", "a"], 1, "-h HOST"),
        (vec!["-h", "x"], 1, "-u NAME"),
        (vec!["--nonsense"], 1, "--nonsense"),
    ] {
        let line = [line.as_slice(), &["--set", &stub]].concat();
        let (code, _, err) = finish(qvdclient(home.path(), &line), "").await;
        assert_eq!(code, expected, "{line:?}: {err}");
        assert!(err.contains(words), "{line:?}: {err}");
    }
    let mut blind = qvdclient(home.path(), &["-h", "x", "-u", "a", "--set", &stub]);
    blind.env_remove("DISPLAY");
    let (code, _, err) = finish(blind, "").await;
    assert_eq!(code, 9, "{err}");
    assert!(err.contains("DISPLAY"), "{err}");
    let mut guarded = qvdclient(home.path(), &["-h", "x", "-u", "a", "--password-stdin", "--set", &stub]);
    guarded.env("DISPLAY", stand_in_screen_that_says(0));
    let (code, _, err) = finish(guarded, "s3cret\n").await;
    assert_eq!(code, 9, "{err}");
    assert!(err.contains("xhost +si:localuser"), "{err}");
}

#[tokio::test]
async fn help_and_version_are_answers() {
    let home = tempfile::tempdir().unwrap();
    for (option, words) in [("-?", "--accept-certificate"), ("--help", "QVDPASSWORD"), ("-v", "qvdclient 0.")]
    {
        let (code, out, _) = finish(qvdclient(home.path(), &[option]), "").await;
        assert_eq!(code, 0);
        assert!(out.contains(words), "{option}: {out}");
    }
}

#[tokio::test]
async fn the_password_reaches_neither_nxproxy_nor_the_log_and_the_key_is_kept_private() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, SWITCH]).await;
    let stub = stub(home.path(), "env > seen-environment; echo \"$@\" > seen-words");
    let host = format!("127.0.0.1:{}", router.port);
    let mut command = qvdclient(
        home.path(),
        &["-n", "-d", "--print-timings", "-x", "nx/nx,data=0:0", "-f", "--set", &stub, "-K", "pc105/es"],
    );
    command.env("QVDHOST", host).env("QVDLOGIN", "alice").env("QVDPASSWORD", "s3cret").env("QVDVMID", "7");
    let (code, out, err) = finish(command, "").await;
    assert_eq!(code, 8, "{err}");
    let environment = std::fs::read_to_string(home.path().join("seen-environment")).unwrap();
    assert!(!environment.contains("s3cret") && environment.contains("NX_ROOT="), "{environment}");
    assert!(!err.contains("s3cret") && !err.contains("czNjcmV0"), "{err}");
    let words = std::fs::read_to_string(home.path().join("seen-words")).unwrap();
    assert!(words.starts_with("-S retry=1 cups=631 data=0 connect=unix:/"), "{words}");
    assert!(words.trim().ends_with(":40"), "{words}");

    let key = home.path().join(".qvd/slave-key");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "k3y");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let steps: Vec<_> = out.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(steps, ["dial", "connected", "list", "connect", "101"], "{out}");
    let request = router.requests().pop().unwrap();
    assert!(
        request.contains("qvd.client.fullscreen=1") && request.contains("keyboard=pc105%2Fes"),
        "{request}"
    );
}

#[tokio::test]
async fn the_fingerprint_that_it_prints_is_the_one_that_it_takes() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, LIST]).await;
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-w", "s3cret", "-l"];
    let (_, _, err) = finish(qvdclient(home.path(), &line), "").await;
    let fingerprint = err.trim().rsplit(' ').next().unwrap().to_owned();
    let accepting = [line.as_slice(), &["--accept-certificate", &fingerprint]].concat();
    assert_eq!(finish(qvdclient(home.path(), &accepting), "").await.0, 0);
    assert_eq!(finish(qvdclient(home.path(), &line), "").await.0, 0, "it is remembered");
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_costs_no_desktop() {
    let home = tempfile::tempdir().unwrap();
    // Where the key belongs there is something else.
    std::fs::create_dir_all(home.path().join(".qvd/slave-key")).unwrap();
    let router = router(&[LIST, SWITCH]).await;
    let stub = stub(home.path(), "echo 'Error: It was shown.'");
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "a", "-w", "b", "-n", "--set", &stub];
    let (_, _, err) = finish(qvdclient(home.path(), &line), "").await;
    assert!(err.contains("warning: ") && err.contains("slave-key"), "{err}");
    assert!(err.contains("It was shown"), "{err}");
}

#[tokio::test]
async fn nobody_who_reads_along_is_no_reason_to_end() {
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST]).await;
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "alice", "--password-stdin", "-n", "-l", "-d"];
    let mut child = qvdclient(home.path(), &line).spawn().unwrap();
    drop(child.stderr.take());
    feed(&mut child, "s3cret\n").await;
    let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    let (code, out, _) = read(&output);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("desk"), "{out}");
}

#[tokio::test]
async fn a_screen_that_wants_a_cookie_is_shown_on() {
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    let home = tempfile::tempdir().unwrap();
    let router = router(&[LIST, SWITCH]).await;
    let stub = stub(home.path(), "echo $DISPLAY > seen-display");
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "a", "-w", "b", "-n", "--set", &stub];
    let mut command = qvdclient(home.path(), &line);
    command.env("DISPLAY", x.display());
    std::fs::copy(x.own_authority(), home.path().join(".Xauthority")).unwrap();
    let (code, _, err) = finish(command, "").await;
    assert_eq!(code, 8, "{err}");
    let seen = std::fs::read_to_string(home.path().join("seen-display")).unwrap();
    assert!(seen.starts_with(':') && seen.trim() != x.display(), "{seen}");
}

#[tokio::test]
async fn a_signal_ends_it_in_order() {
    let home = tempfile::tempdir().unwrap();
    // A router that answers the list and then lets the client wait.
    let router = router(&[LIST, "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting\r\n\r\n"]).await;
    let stub = stub(home.path(), "exit 0");
    let port = router.port.to_string();
    let line = ["-h", "127.0.0.1", "-p", &port, "-u", "a", "-w", "b", "-n", "--set", &stub];
    let mut child = qvdclient(home.path(), &line).spawn().unwrap();
    feed(&mut child, "").await;
    let mut progress = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("Starting\n") {
        let read = tokio::io::AsyncBufReadExt::read_line(&mut progress, &mut seen);
        assert_ne!(timeout(LIMIT, read).await.unwrap().unwrap(), 0, "{seen}");
    }
    let id = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(128 + 15));
}
