//! The real `nxproxy` on an X screen, with the real `nxagent` at the far end of a router's stand-in.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod common;

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::x::{LikeSsh, XServer};
use common::{LIMIT, LIST, SWITCH, connect, on_switch, router_with, skip, trusting};
use qvd_client::tunnel::{Ended, NxProxy, Screen};
use qvd_client::{Error, Progress};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// Lines that a program printed so far.
type Lines = watch::Receiver<Vec<String>>;

fn collect(outputs: impl IntoIterator<Item = Box<dyn AsyncRead + Send + Unpin>>) -> Lines {
    let (send, lines) = watch::channel(Vec::new());
    for output in outputs {
        let send = send.clone();
        tokio::spawn(async move {
            let mut read = BufReader::new(output).lines();
            while let Ok(Some(line)) = read.next_line().await {
                send.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
    }
    lines
}

async fn wait_for(lines: &mut Lines, text: &str) {
    let found = lines.wait_for(|lines| lines.iter().any(|line| line.contains(text)));
    let in_time = timeout(LIMIT, found).await.is_ok_and(|found| found.is_ok());
    assert!(in_time, "no '{text}' in {:#?}", lines.borrow().clone());
}

/// An agent that listens on a unix socket in `dir`. Display numbers are tried from a place that depends on this process.
async fn agent(dir: &Path) -> Option<(Child, Lines, PathBuf)> {
    let socket = dir.join("nx.sock");
    for attempt in 0..20 {
        let display = 300 + (std::process::id() + attempt * 37) % 500;
        let options = dir.join("nx.conf");
        let text = format!(
            "nx/nx,link=lan,geometry=800x600,keyboard=pc105/us,client=linux,media=0,listen=unix:{}:{display}\n",
            socket.display()
        );
        std::fs::write(&options, text).unwrap();
        let mut child = Command::new("nxagent")
            .args([&format!(":{display}"), "-ac", "-nolisten", "tcp", "-noreset", "-name", "QVD-test", "-D"])
            .args(["-display", &format!("nx/nx,options={}:{display}", options.display())])
            .env("HOME", dir)
            .env_remove("DISPLAY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let outputs: [Box<dyn AsyncRead + Send + Unpin>; 2] =
            [Box::new(child.stdout.take()?), Box::new(child.stderr.take()?)];
        let mut lines = collect(outputs);
        let listening =
            |lines: &Vec<String>| lines.iter().any(|line| line.contains("Waiting for connection"));
        let up = tokio::select! {
            found = lines.wait_for(listening) => found.is_ok(),
            _ = child.wait() => false,
        };
        if up {
            return Some((child, lines, socket));
        }
    }
    None
}

/// A screen, an agent, and the two ends of a session between them.
struct Stage {
    _x: XServer,
    screen: Screen,
    dir: tempfile::TempDir,
    agent: Child,
    log: Lines,
    router: common::Router,
}

impl Stage {
    /// On a screen that admits everybody.
    async fn set() -> Option<Self> {
        let Some(x) = XServer::open().await else {
            skip("Xvfb does not start");
            return None;
        };
        let screen = Screen::open(&x.display(), Path::new("/nonexistent")).await.unwrap();
        Self::set_on(x, screen).await
    }

    async fn set_on(x: XServer, screen: Screen) -> Option<Self> {
        if NxProxy::find("nxproxy").is_err() || NxProxy::find("nxagent").is_err() {
            skip("nxproxy and nxagent are not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).unwrap();
        let Some((agent, log, socket)) = agent(dir.path()).await else {
            skip("nxagent does not listen");
            return None;
        };
        let tls = Some(common::server_config(common::self_signed()));
        let far_end = on_switch(move |mut desktop| {
            let socket = socket.clone();
            async move {
                let mut agent = UnixStream::connect(socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut desktop, &mut agent).await;
            }
        });
        let router = router_with(&[LIST, SWITCH], tls, 0, far_end).await;
        Some(Self { _x: x, screen, dir, agent, log, router })
    }

    /// Shows the desktop; once it is up on both sides, `then` happens, and afterwards the session is cancelled if that is
    /// what `then` answers.
    async fn show(&mut self, then: impl AsyncFnOnce(&mut Child) -> bool) -> Result<Ended, Error> {
        let session = connect(&trusting(self.router.port)).await.unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (start, mut started) = watch::channel(false);
        let teller = Arc::clone(&told);
        let run = self.dir.path().join("run");
        let proxy =
            NxProxy::find("nxproxy").unwrap().display(self.screen.display()).runtime_dir(&run).on_progress(
                move |p| {
                    if p == Progress::Started {
                        start.send_replace(true);
                    }
                    teller.lock().unwrap().push(p);
                },
            );
        let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
        let running = proxy.run(session, async {
            let _ = cancelled.await;
        });
        let script = async {
            let _ = started.wait_for(|started| *started).await;
            wait_for(&mut self.log, "Session: Session started at").await;
            let cancels = then(&mut self.agent).await;
            // Kept by whoever joins, so that only dropping it here cancels.
            (!cancels).then_some(cancel)
        };
        let (ended, _kept) = timeout(LIMIT, async { tokio::join!(running, script) }).await.expect("no end");
        let told = told.lock().unwrap().clone();
        assert!(told.contains(&Progress::FirstBytes), "{told:?}");
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0, "something of the session is left");
        ended
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_desktop_starts_and_is_left_suspended_when_cancelled() {
    let Some(mut stage) = Stage::set().await else { return };
    let ended = stage.show(async |_| true).await;
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    wait_for(&mut stage.log, "Session: Session suspended at").await;
    assert!(stage.agent.try_wait().unwrap().is_none(), "the desktop died with its window");
    timeout(Duration::from_secs(10), stage.agent.kill()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_desktop_that_ends_by_itself_ends_without_a_complaint() {
    let Some(mut stage) = Stage::set().await else { return };
    let ended = stage
        .show(async |agent| {
            let id = i32::try_from(agent.id().unwrap()).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM)
                .unwrap();
            timeout(LIMIT, agent.wait()).await.unwrap().unwrap();
            false
        })
        .await;
    assert_eq!(ended.unwrap().complaint, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_is_complained_about() {
    let Some(mut stage) = Stage::set().await else { return };
    let ended = stage
        .show(async |agent| {
            agent.kill().await.unwrap();
            false
        })
        .await;
    assert!(ended.unwrap().complaint.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_desktop_shows_on_a_display_behind_ssh() {
    let Some(x) = XServer::with_cookie().await else { return skip("Xvfb does not start") };
    let ssh = LikeSsh::before(&x).await;
    let authority = x.authority("ssh", ssh.number, &LikeSsh::COOKIE);
    let screen = Screen::open(&ssh.display(), &authority).await.unwrap();
    assert!(screen.display().starts_with(':'), "{screen:?}");
    let Some(mut stage) = Stage::set_on(x, screen).await else { return };
    let ended = stage.show(async |_| true).await;
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    wait_for(&mut stage.log, "Session: Session suspended at").await;
}
