//! The program as a service: its sockets, its account, its pid file, its umask.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};

/// A directory with a configuration, and the program that serves it.
struct Service {
    dir: tempfile::TempDir,
    child: Option<Child>,
    said: Option<BufReader<ChildStderr>>,
}

impl Service {
    fn new(settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("qvd-l7r-").tempdir().unwrap();
        let here = dir.path().display();
        let text = format!(
            "nodename = n1\ndatabase.driver = sqlite\ndatabase.path = {here}/db/qvd.db\npath.run = {here}/run\n\
             l7r.use_ssl = 0\nl7r.as_user =\n{settings}"
        );
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("node.conf"), text).unwrap();
        Self { dir, child: None, said: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command that starts it, words to put before the program included.
    fn command(&self, before: &[&str]) -> Command {
        let words: Vec<&str> = before.iter().copied().chain([env!("CARGO_BIN_EXE_qvd-l7r")]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-X").arg("-f").arg(self.path("node.conf"));
        command.env_remove("QVD_SET").env_remove("QVD_CONFIG").env("QVD_LOG", "info").stdin(Stdio::null());
        command.stderr(Stdio::piped());
        command
    }

    /// Starts it and reads until it listens; answers what was said up to there.
    fn start(&mut self, mut command: Command) -> String {
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        self.child = Some(child);
        let mut text = String::new();
        while !text.contains("router serves") {
            let before = text.len();
            said.read_line(&mut text).unwrap();
            assert!(text.len() > before, "it ended: {text}");
        }
        self.said = Some(said);
        text
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    /// A line of the kernel's about the process.
    fn status(&self, name: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        let mut rest = String::new();
        self.said.take().unwrap().read_to_string(&mut rest).unwrap();
        let ended = self.child.take().unwrap().wait().unwrap();
        assert!(ended.success(), "{ended}: {rest}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn answers(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /qvd/ping HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.ends_with("Host is not registered in the database")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_star_listens_on_both_families_and_a_list_on_each_of_its_addresses() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for (address, there, not_there) in [
        ("*", vec!["127.0.0.1", "127.0.0.9"], None),
        ("127.0.0.2, 127.0.0.3", vec!["127.0.0.2", "127.0.0.3"], Some("127.0.0.1")),
    ] {
        let port = free_port();
        let mut service = Service::new(&format!("l7r.address = {address}\nl7r.port = {port}\n"));
        let said = service.start(service.command(&[]));
        for ip in there {
            assert!(answers(SocketAddr::new(ip.parse().unwrap(), port)), "{address}: {ip}: {said}");
        }
        if address == "*" && has_ipv6 {
            assert!(answers(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)), "{said}");
        }
        if let Some(ip) = not_there {
            assert!(TcpStream::connect(SocketAddr::new(ip.parse().unwrap(), port)).is_err());
        }
        service.stop();
    }
}

#[test]
fn pid_file_and_umask_are_as_configured() {
    let mut service = Service::new(&format!(
        "l7r.address = 127.0.0.1\nl7r.port = {}\nl7r.user.umask = 0027\nl7r.pid_file = ${{path.run}}/mine.pid\n",
        free_port()
    ));
    service.start(service.command(&[]));
    let file = service.path("run/mine.pid");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", service.pid()));
    assert_eq!(service.status("Umask:"), "0027");
    service.stop();
    assert!(!file.exists());
}

#[test]
fn sockets_of_the_service_manager_are_used_instead_of_the_configured_address() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    // An address that cannot be listened on: nobody tries.
    let mut service = Service::new("l7r.address = 192.0.2.1\n");
    let script = format!(r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{}"#, socket.as_raw_fd());
    let said = service.start(service.command(&["sh", "-c", &script, "sh"]));
    assert!(said.contains(&format!("listening address={address}")), "{said}");
    assert!(answers(address));
    let environment = fs::read(format!("/proc/{}/environ", service.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("LISTEN_PID="), "it was given so");
    service.stop();
}

#[test]
fn root_listens_and_becomes_the_account() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        assert!(std::env::var_os("QVD_TEST_REQUIRE").is_none());
        return;
    }
    let account = User::from_name("daemon").unwrap().expect("Debian has it");
    let port = free_port();
    let mut service =
        Service::new(&format!("l7r.address = 127.0.0.1\nl7r.port = {port}\nl7r.as_user = daemon\n"));
    open_to_all(service.dir.path());
    // What root made, the account cannot open: it is told, and by which key.
    let ended = service.command(&[]).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && text.contains("as account 'daemon' (l7r.as_user)"), "{text}");
    // The account's own, as in an installation.
    give(&service.path("db"), &account);
    let said = service.start(service.command(&[]));
    let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
    assert_eq!(service.status("Uid:"), format!("{uid} {uid} {uid} {uid}"), "{said}");
    assert_eq!(service.status("Gid:"), format!("{gid} {gid} {gid} {gid}"));
    assert_eq!(service.status("CapEff:"), "0000000000000000");
    assert!(answers(SocketAddr::new("127.0.0.1".parse().unwrap(), port)));
    assert!(!said.contains("runs as root"), "{said}");
    service.stop();
    let left = fs::read_to_string(service.path("run/qvd-l7r.pid")).unwrap_or_default();
    assert_eq!(left, "", "it names nobody any more");
}

/// Gives a directory and what is in it away.
fn give(dir: &Path, account: &User) {
    let within = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for path in within.chain([dir.to_owned()]) {
        chown(&path, Some(account.uid), Some(account.gid)).unwrap();
    }
}

/// A temporary directory is its owner's alone.
fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}
