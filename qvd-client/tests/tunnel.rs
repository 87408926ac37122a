//! The local end with a stand-in for `nxproxy`: this test program itself, called through a three-line wrapper.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Desktop, LIMIT, LIST, SWITCH, connect, on_switch, router_with, trusting};
use qvd_client::tunnel::{Ended, NxProxy};
use qvd_client::{Error, Progress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The stand-in; as a test of its own it does nothing.
#[test]
fn as_nxproxy() {
    let Ok(role) = std::env::var("QVD_TEST_NXPROXY_ROLE") else { return };
    let words = std::env::var("QVD_TEST_NXPROXY_WORDS").unwrap();
    let root = PathBuf::from(std::env::var("NX_ROOT").unwrap());
    assert!(root.is_dir() && words.starts_with("-S "), "{words}");
    if role == "no-screen" {
        println!("Error: Unable to open display ':99'.");
        return;
    }
    let address = words.split(' ').next_back().unwrap();
    let path = address.strip_prefix("connect=unix:").unwrap().strip_suffix(":40").unwrap();
    let mode = std::fs::metadata(Path::new(path).parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"NXPROXY").unwrap();
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NXAGENT");
    println!("Session: Session started at 'now'.");
    println!("words {words}");
    match role.as_str() {
        "leaves" => {}
        "stays" => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest.len(), 100_000);
            println!("Error: The remote NX proxy closed the connection.");
        }
        "hangs" => loop {
            std::thread::park();
        },
        other => panic!("no such role: {other}"),
    }
}

/// A program that behaves like `role`.
fn program(dir: &Path, role: &str) -> String {
    let path = dir.join(format!("nxproxy-{role}"));
    let this = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nexport QVD_TEST_NXPROXY_ROLE={role} QVD_TEST_NXPROXY_WORDS=\"$*\"\n\
         exec '{}' --exact as_nxproxy --nocapture\n",
        this.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

type Told = Arc<Mutex<Vec<Progress>>>;

/// Runs a session whose far end is `desktop`; what `nxproxy` made of it, and the progress told.
async fn session<F>(
    role: &str,
    desktop: impl Fn(Desktop) -> F + Send + Sync + 'static,
    cancel: impl Future<Output = ()> + Send,
) -> (Result<Ended, Error>, Vec<Progress>, tempfile::TempDir)
where
    F: Future<Output = ()> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let tls = Some(common::server_config(common::self_signed()));
    // The agent's greeting arrives in one piece with the 101: it must not be lost.
    let switch = format!("{SWITCH}NXAGENT");
    let router = router_with(&[LIST, &switch], tls, 0, on_switch(desktop)).await;
    let session = connect(&trusting(router.port)).await.unwrap();
    let told = Told::default();
    let teller = Arc::clone(&told);
    let runtime_dir = dir.path().join("run");
    std::fs::create_dir(&runtime_dir).unwrap();
    let proxy = NxProxy::find(&program(dir.path(), role))
        .unwrap()
        .words(["media=4713".to_owned()])
        .runtime_dir(&runtime_dir)
        .on_progress(move |progress| teller.lock().unwrap().push(progress));
    let ended = tokio::time::timeout(LIMIT, proxy.run(session, cancel)).await.unwrap();
    assert_eq!(std::fs::read_dir(&runtime_dir).unwrap().count(), 0, "something is left");
    let told = told.lock().unwrap().clone();
    (ended, told, dir)
}

/// Reads the client's greeting.
async fn greet(desktop: &mut Desktop) {
    let mut greeting = [0; 7];
    desktop.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"NXPROXY");
}

#[tokio::test]
async fn bytes_flow_both_ways_and_the_servers_end_ends_it() {
    let (ended, told, _dir) = session(
        "stays",
        |mut desktop| async move {
            greet(&mut desktop).await;
            desktop.write_all(&[5; 100_000]).await.unwrap();
            desktop.shutdown().await.unwrap();
        },
        std::future::pending(),
    )
    .await;
    let complaint = ended.unwrap().complaint.unwrap();
    assert!(complaint.contains("connect again"), "{complaint}");
    assert!(told.contains(&Progress::FirstBytes) && told.contains(&Progress::Started), "{told:?}");
}

#[tokio::test]
async fn a_program_that_stays_when_the_server_has_gone_is_ended() {
    let gone = |mut desktop: Desktop| async move {
        greet(&mut desktop).await;
        desktop.shutdown().await.unwrap();
        // Its end of the connection stays, as long as the client's does.
        let _ = desktop.read_to_end(&mut Vec::new()).await;
    };
    let (ended, told, _dir) = session("hangs", gone, std::future::pending()).await;
    let ended = ended.unwrap();
    assert_eq!(ended.status.signal(), Some(nix::sys::signal::Signal::SIGTERM as i32));
    assert!(ended.complaint.unwrap().contains("connect again"));
    assert_eq!(told.last(), Some(&Progress::Started));
}

#[tokio::test]
async fn the_programs_end_ends_the_session() {
    let (seen, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (ended, _, _dir) = session(
        "leaves",
        move |mut desktop| {
            let seen = seen.clone();
            async move {
                greet(&mut desktop).await;
                let mut rest = Vec::new();
                let _ = desktop.read_to_end(&mut rest).await;
                seen.send(rest.len()).unwrap();
            }
        },
        std::future::pending(),
    )
    .await;
    assert_eq!(ended.unwrap().complaint, None);
    assert_eq!(ends.recv().await, Some(0), "the server sees the end");
}

#[tokio::test]
async fn a_screen_that_cannot_be_opened_is_told() {
    let (ended, told, _dir) = session("no-screen", |_| async {}, std::future::pending()).await;
    let text = ended.unwrap_err().to_string();
    assert!(text.contains("Unable to open display ':99'"), "{text}");
    assert!(told.is_empty());
}

#[tokio::test]
async fn cancelling_ends_a_program_that_hangs() {
    let (greeted, was_greeted) = tokio::sync::oneshot::channel();
    let greeted = Arc::new(Mutex::new(Some(greeted)));
    let started = Instant::now();
    let (ended, _, _dir) = session(
        "hangs",
        move |mut desktop| {
            let greeted = Arc::clone(&greeted);
            async move {
                greet(&mut desktop).await;
                greeted.lock().unwrap().take().unwrap().send(()).unwrap();
                let _ = desktop.read_to_end(&mut Vec::new()).await;
            }
        },
        async {
            was_greeted.await.unwrap();
        },
    )
    .await;
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
}
