//! The example programs as a user runs them: the broker until it is ready, a client against it, and the end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use qvd_client::list::Choice;
use qvd_client::options::SessionOptions;
use qvd_client::trust::{Fingerprint, Fixed};
use qvd_client::{Client, Credentials};

/// Only the end of waiting; machines that run tests may be busy.
const LIMIT: Duration = Duration::from_secs(90);

/// An example that cargo built beside this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let file = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(file.exists(), "{} is not built; `cargo test -p qvd-examples` builds it", file.display());
    file
}

/// A running broker; killed when a test fails before its end.
struct Broker {
    child: Child,
    server: String,
    fingerprint: String,
}

impl Broker {
    fn start(dir: &std::path::Path) -> Self {
        let mut command = Command::new(example("minimal_broker"));
        let mut child = command.arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        // The thread ends with the broker's output.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut broker = Self { child, server: String::new(), fingerprint: String::new() };
        let line = told.recv_timeout(LIMIT).expect("a ready line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready:", address, fingerprint] = words[..] else { panic!("no ready line: {line}") };
        broker.server = address.trim_start_matches("https://").trim_end_matches('/').to_owned();
        broker.fingerprint = fingerprint.to_owned();
        broker
    }

    /// Ctrl-C, and the wait for a clean end.
    fn end(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let child = &mut self.child;
            scope.spawn(move || tell.send(child.wait().unwrap()));
            match told.recv_timeout(LIMIT) {
                Ok(status) => assert!(status.success(), "{status}"),
                Err(_) => {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    panic!("the broker does not end");
                }
            }
        });
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn list(broker: &Broker, password: &str) -> std::process::Output {
    let mut client = Command::new(example("headless_client"))
        .args([&broker.server, "alice", &broker.fingerprint])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(client.stdin.take().unwrap(), "{password}").unwrap();
    client.wait_with_output().unwrap()
}

#[test]
fn the_broker_serves_the_headless_client_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());

    let listed = list(&broker, "wonderland");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "1 alice-1 stopped\n");

    let refused = list(&broker, "looking glass");
    assert!(!refused.status.success() && refused.stdout.is_empty());

    broker.end();
}

#[test]
fn the_broker_brings_up_a_desktop() {
    let agent = example("minimal_broker").ancestors().nth(2).unwrap().join("qvd-vma");
    let nxagent = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join("nxagent").exists());
    if !nxagent || !agent.exists() {
        let why = if nxagent { "qvd-vma is not built" } else { "nxagent is not installed" };
        assert_ne!(std::env::var("QVD_TEST_REQUIRE").as_deref(), Ok("1"), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let fingerprint: Fingerprint = broker.fingerprint.parse().unwrap();
    let client = Client::builder(&broker.server, 8443, Credentials::basic("alice", "wonderland"))
        .judge(Fixed::Only(fingerprint))
        .patience(LIMIT, LIMIT)
        .build()
        .unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = runtime.block_on(client.connect(&Choice::Only, &SessionOptions::default())).unwrap();
    assert_eq!(session.vm(), 1);
    drop(session);
    broker.end();
}
