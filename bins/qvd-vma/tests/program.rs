//! The program as a service manager and nxagent meet it.

#![allow(clippy::unwrap_used, reason = "a broken expectation is how a test fails")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qvd_core::hypervisor::Endpoint;
use qvd_core::state::XState;
use qvd_core::vma::{Params, Vma};
use qvd_vma::client::VmaClient;

const PROGRAM: &str = env!("CARGO_BIN_EXE_qvd-vma");
const LIMIT: Duration = Duration::from_secs(30);

/// A directory with a configuration file for an agent of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let display = 15_000 + std::process::id() % 4000;
        let text = format!(
            "path.run = {0}/run\npath.log = {0}/log\nvma.rpc.socket = {0}/vma.sock\n\
             vma.nxagent.listen = {0}/nx.sock\nvma.nxagent.authority = 1\nvma.user.home.path = {0}/home\nvma.user.home.drive =\n\
             vma.user.default.name = {me}\nvma.pid_file = {0}/vma.pid\n\
             internal.nxagent.display = {display}\n{more}\n",
            dir.path().display(),
        );
        fs::write(dir.path().join("vma.conf"), text).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--foreground").arg("--config").arg(self.path("vma.conf"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("vma.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn client(&self) -> VmaClient {
        VmaClient::new(Endpoint::Unix { dir: self.0.path().to_owned() }, LIMIT)
    }

    async fn started(&self) -> Running {
        let child = Running(self.command().spawn().unwrap());
        let client = self.client();
        eventually("the agent", async || client.ping().await.ok()).await;
        child
    }
}

struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        eventually("the end", async || self.0.try_wait().unwrap()).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn have_nxagent() -> bool {
    let have = Path::new("/usr/bin/nxagent").exists();
    let required = std::env::var("QVD_TEST_REQUIRE").is_ok_and(|v| v == "1");
    assert!(have || !required, "missing program: nxagent");
    if !have {
        eprintln!("skipped: missing program: nxagent");
    }
    have
}

fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new("");
        let mut agent = place.started().await;
        assert_eq!(place.client().x_state().await.unwrap(), XState::Stopped);
        assert!(place.path("vma.pid").exists());
        agent.signal(signal);
        assert!(agent.ended().await.success());
        assert!(!place.path("vma.pid").exists());
    }
}

#[tokio::test]
async fn it_ends_when_it_is_to_power_off() {
    let place = Place::new("");
    let mut agent = place.started().await;
    place.client().poweroff().await.unwrap();
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn it_takes_a_socket_from_its_standard_input() {
    let place = Place::new("vma.rpc.socket = /nonexistent/never-used");
    let listener = UnixListener::bind(place.path("vma.sock")).unwrap();
    let mut command = place.command();
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    let _agent = Running(command.spawn().unwrap());
    // The socket was there before the agent: the call waits in its queue.
    place.client().ping().await.unwrap();
}

#[test]
fn a_configuration_can_be_checked() {
    let good = Place::new("");
    let checked = Command::new(PROGRAM).arg("--check-config").arg("-f").arg(good.path("vma.conf")).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", said(&checked));

    let bad = Place::new("vma.nxagent.guard = perhaps\ninternal.nxagent.display = many");
    let checked = Command::new(PROGRAM).arg("--check-config").arg("-f").arg(bad.path("vma.conf")).output();
    let checked = checked.unwrap();
    assert_eq!(checked.status.code(), Some(2));
    for key in ["vma.nxagent.guard", "internal.nxagent.display"] {
        assert!(said(&checked).contains(key), "{}", said(&checked));
    }
    let missing = Command::new(PROGRAM).args(["--check-config", "-f", "/nonexistent/vma.conf"]).output();
    assert_eq!(missing.unwrap().status.code(), Some(2));
}

#[test]
fn a_taken_port_is_a_clear_failure() {
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let place = Place::new(&format!("vma.rpc.socket =\ninternal.vm.port.vma = {port}"));
    let mut command = place.command();
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(
        said(&output).contains(&format!("cannot listen for calls on TCP port {port}")),
        "{}",
        said(&output)
    );
}

#[tokio::test]
async fn a_killed_agent_leaves_nothing_that_stops_the_next_one() {
    if !have_nxagent() {
        return;
    }
    let place = Place::new("internal.nxagent.timeout.listening = 300");
    let first = place.started().await;
    let client = place.client();
    client.x_start(&Params::new()).await.unwrap();
    let listening = async || (client.x_state().await.unwrap() == XState::Listening).then_some(());
    eventually("an X agent", listening).await;
    let nxagent =
        || fs::read_to_string(place.path("run/nxagent.pid")).unwrap().trim().parse::<i32>().unwrap();
    let left = nxagent();
    first.signal(Signal::SIGKILL);
    drop(first);
    assert!(runs(left), "it is not the agent's to end with it");

    let _second = place.started().await;
    assert!(!runs(left));
    assert_eq!(client.x_state().await.unwrap(), XState::Stopped);
    client.x_start(&Params::new()).await.unwrap();
    eventually("an X agent", listening).await;
    assert_ne!(nxagent(), left);
}

#[test]
fn a_program_is_run_with_its_library_and_in_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| Command::new(PROGRAM).arg("session-exec").args(words).output().unwrap();
    let home = dir.path().to_str().unwrap();
    let output = run(&["--dir", home, "--", "sh", "-c", "pwd; echo \"[$LD_PRELOAD]\""]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{home}\n[]\n"));
    let output = run(&["--preload", "/nonexistent/x.so", "--", "sh", "-c", "echo \"[$LD_PRELOAD]\""]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[/nonexistent/x.so]\n");
    let output = run(&["--", "/nonexistent/program"]);
    assert!(said(&output).contains("cannot run '/nonexistent/program'"), "{}", said(&output));
    let output = run(&["--uid", "5", "--", "sh"]);
    assert!(said(&output).contains("usage"), "{}", said(&output));
}

/// A kept program that leaves a process of another session and group behind, and the process id of that.
fn kept(stubborn: &str, then: &str) -> (Child, i32) {
    let leaves = format!("setsid sh -c '{stubborn} echo $$; exec sleep 1000 >/dev/null' &");
    let mut keeper = Command::new(PROGRAM)
        .args(["session-exec", "--keep", "--", "sh", "-c", &format!("{leaves} {then}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(keeper.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    (keeper, line.trim().parse().unwrap())
}

#[test]
fn nothing_that_left_a_kept_program_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.01; done; exit 7", go.display());
    let (mut keeper, left) = kept("", &wait);
    // Waiting closes it, which would be the end.
    let _held = keeper.stdin.take();
    assert!(runs(left));
    fs::write(go, "").unwrap();
    assert_eq!(keeper.wait().unwrap().code(), Some(7));
    assert!(!runs(left));
}

#[test]
fn a_kept_program_ends_with_whoever_holds_its_input() {
    let (mut keeper, left) = kept("trap \"\" TERM;", "exec sleep 1000");
    assert!(runs(left));
    // What the kernel does for a holder that is killed, too.
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    assert!(!runs(left));
}

#[test]
fn another_account_is_taken_on_for_good() {
    let nobody = nix::unistd::User::from_name("nobody").unwrap();
    let Some(nobody) = nobody.filter(|_| nix::unistd::geteuid().is_root()) else {
        eprintln!("skipped: only root can become somebody else");
        return;
    };
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    let output = Command::new(PROGRAM)
        .args(["session-exec", "--user", "nobody", "--uid", &uid, "--gid", &gid, "--dir", "/", "--"])
        .args(["sh", "-c", "id -u; id -g; id -G; grep Uid /proc/self/status; echo \"[$SAID$LD_PRELOAD]\""])
        // Only what was announced is the session's.
        .envs([("QVD_SESSION_ENV_SAID", "yes"), ("QVD_SESSION_ENV_PATH", "/usr/bin:/bin")])
        .env("SAID", "no")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], [uid.as_str(), gid.as_str(), gid.as_str()], "{text}");
    assert_eq!(lines[3].split_whitespace().skip(1).collect::<Vec<_>>(), [uid.as_str(); 4]);
    assert_eq!(lines[4], "[yes]");
}

#[tokio::test]
async fn a_session_of_another_account_runs_as_that_account() {
    if !have_nxagent() || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs nxagent and root");
        return;
    }
    let place = Place::new("vma.user.default.name = nobody\ninternal.nxagent.timeout.listening = 300");
    // Readable on its way down, as the directories of a real machine are.
    fs::set_permissions(place.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(place.path("nx")).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    nix::unistd::chown(&place.path("nx"), Some(nobody.uid), Some(nobody.gid)).unwrap();
    let mut text = fs::read_to_string(place.path("vma.conf")).unwrap();
    text.push_str(&format!("vma.nxagent.listen = {}\n", place.path("nx/s").display()));
    fs::write(place.path("vma.conf"), text).unwrap();
    // Words that only the user's own programs may obey: whatever starts them has more rights.
    let home = place.path("home/nobody");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join(".qvd_environment"), "LD_PRELOAD=/nonexistent/evil.so\nMARK=mine\n").unwrap();
    for path in [&home, &home.join(".qvd_environment")] {
        nix::unistd::chown(path, Some(nobody.uid), Some(nobody.gid)).unwrap();
    }
    let _agent = place.started().await;
    let client = place.client();
    let params = vec![("qvd.slave.key".to_owned(), "k3y".to_owned())];
    client.x_start(&params).await.unwrap();
    eventually("an X agent", async || {
        let state = client.x_state().await.unwrap();
        let failure = client.x_failure().await.unwrap();
        assert!(failure.is_none(), "{failure:?}");
        (state == XState::Listening).then_some(())
    })
    .await;
    let pid = fs::read_to_string(place.path("run/nxagent.pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", nobody.uid)), "{status}");
    let maps = fs::read_to_string(format!("/proc/{}/maps", pid.trim())).unwrap();
    assert!(maps.contains("nxagent-guard.so"));
    let log = fs::read_to_string(place.path("log/qvd-nxagent.log")).unwrap();
    assert!(!log.contains("evil.so"), "the loader of a process with root's rights obeyed the user: {log}");
    let environment = fs::read(format!("/proc/{}/environ", pid.trim())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert!(environment.split('\0').any(|word| word == "MARK=mine"), "{environment}");
    assert!(!environment.contains("QVD_SESSION_ENV_"), "{environment}");
    let key = fs::metadata(place.path("run/slave.conf")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((key.uid(), key.mode() & 0o777), (nobody.uid.as_raw(), 0o400));
    assert!(UnixStream::connect(place.path("nx/s")).is_ok());
}
