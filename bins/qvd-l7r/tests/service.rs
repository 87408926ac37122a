//! The program as a service: its sockets, its account, its pid file, its umask, its successor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
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

    /// Reads on until it says so.
    fn hear(&mut self, mut said: String, what: &str) {
        while !said.contains(what) {
            let before = said.len();
            self.said.as_mut().unwrap().read_line(&mut said).unwrap();
            assert!(said.len() > before, "it ended: {said}");
        }
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

    /// Starts another one with the same configuration; what was started before is handed back.
    fn succeed(&mut self) -> (Predecessor, String) {
        let before = Predecessor { child: self.child.take().unwrap(), said: self.said.take().unwrap() };
        let mut command = self.command(&[]);
        command.arg("--succeed");
        let said = self.start(command);
        (before, said)
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        self.ended();
    }

    /// Waits for its end, which must be a good one.
    fn ended(&mut self) {
        let mut rest = String::new();
        self.said.take().unwrap().read_to_string(&mut rest).unwrap();
        let ended = self.child.take().unwrap().wait().unwrap();
        assert!(ended.success(), "{ended}: {rest}");
    }
}

/// The process that served before.
struct Predecessor {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Predecessor {
    /// Waits for its end, which must be a good one; answers what it said.
    fn ended(mut self) -> String {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {rest}");
        rest
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

/// The answer to a request of plain HTTP.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
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
    if !is_root("become somebody else") {
        return;
    }
    let (mut service, account, port) = of_another_account();
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

#[test]
fn a_successor_takes_sockets_and_pid_file_and_the_one_before_ends_by_itself() {
    let port = free_port();
    let settings = format!("l7r.address = *\nl7r.port = {port}\nl7r.pid_file = ${{path.run}}/mine.pid\n");
    let mut service = Service::new(&settings);
    // Without anybody to succeed this is a usual start.
    let mut command = service.command(&[]);
    command.arg("--succeed");
    service.start(command);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
    for _ in 0..2 {
        let before = service.pid();
        let (predecessor, said) = service.succeed();
        assert!(said.contains("took the place of the router that served before"), "{said}");
        assert!(answers(address), "{said}");
        let rest = predecessor.ended();
        assert!(rest.contains("router was succeeded") && rest.contains("router stopped"), "{rest}");
        assert_ne!(before, service.pid());
        let named = fs::read_to_string(service.path("run/mine.pid")).unwrap();
        assert_eq!(named, format!("{}\n", service.pid()));
    }
    assert!(answers(address));
    service.stop();
    assert!(!service.path("run/mine.pid").exists());
    let left: Vec<_> =
        fs::read_dir(service.path("run/l7r")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn metrics_are_read_where_they_are_wanted_and_of_the_successor_behind_a_succession() {
    let (port, place) = (free_port(), free_port());
    let settings =
        format!("l7r.port = {port}\nl7r.address = 127.0.0.1\nl7r.metrics.address = 127.0.0.1:{place}\n");
    let mut service = Service::new(&settings);
    let said = service.start(service.command(&[]));
    service.hear(said, "metrics can be read");
    assert!(answers(SocketAddr::from(([127, 0, 0, 1], port))));
    let page = get(place, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("application/openmetrics-text"), "{page}");
    assert!(page.contains("\nqvd_l7r_requests_total 1\n") && page.ends_with("# EOF\n"), "{page}");
    assert!(get(place, "/").starts_with("HTTP/1.1 404"));

    // Those who only hold on take few of the router's descriptors.
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count();
    let usual = descriptors();
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, place)).unwrap()).collect();
    assert!(descriptors() <= usual + 10, "{usual}, then {}", descriptors());
    drop(idle);
    assert!(get(place, "/metrics").starts_with("HTTP/1.1 200"));

    let (before, said) = service.succeed();
    before.ended();
    service.hear(said, "metrics can be read");
    assert!(get(place, "/metrics").contains("\nqvd_l7r_requests_total 0\n"));
    service.stop();
}

#[test]
fn a_second_router_is_told_how_it_could_take_over_and_harms_nobody() {
    let port = free_port();
    let mut service = Service::new(&format!("l7r.address = 127.0.0.1\nl7r.port = {port}\n"));
    service.start(service.command(&[]));
    let pid_file = fs::read_to_string(service.path("run/qvd-l7r.pid")).unwrap();
    let refused = service.command(&[]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("'qvd-l7r --succeed' takes over"), "{text}");
    // One that cannot serve does not get as far as the sockets.
    let mut broken = service.command(&[]);
    broken.args(["--succeed", "--set", "l7r.auth.plugins=default,kerberos"]);
    let refused = broken.output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("kerberos"), "{text}");
    assert!(answers(SocketAddr::new("127.0.0.1".parse().unwrap(), port)));
    assert_eq!(fs::read_to_string(service.path("run/qvd-l7r.pid")).unwrap(), pid_file);
    service.stop();
}

#[test]
fn a_port_whose_owner_cannot_be_asked_is_not_taken_over() {
    let owner = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = owner.local_addr().unwrap().port();
    let service = Service::new(&format!("l7r.address = 127.0.0.1\nl7r.port = {port}\n"));
    let refused = service.command(&[]).arg("--succeed").output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("cannot take over"), "{text}");
}

#[test]
fn sockets_of_the_service_manager_are_not_taken_over() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let service = Service::new("");
    let script = format!(r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" --succeed 3<&{}"#, socket.as_raw_fd());
    let refused = service.command(&["sh", "-c", &script, "sh"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("remove '--succeed'"), "{text}");
}

#[test]
fn a_successor_that_root_starts_becomes_the_account_before_it_asks() {
    if !is_root("become somebody else") {
        return;
    }
    let (mut service, account, port) = of_another_account();
    // Root makes the database's file.
    assert!(!service.command(&[]).status().unwrap().success());
    give(&service.path("db"), &account);
    service.start(service.command(&[]));
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
    for _ in 0..2 {
        let (predecessor, said) = service.succeed();
        let uid = account.uid.as_raw();
        assert_eq!(service.status("Uid:"), format!("{uid} {uid} {uid} {uid}"), "{said}");
        assert!(answers(address), "{said}");
        predecessor.ended();
        let named = fs::read_to_string(service.path("run/qvd-l7r.pid")).unwrap();
        assert_eq!(named, format!("{}\n", service.pid()), "written where the account may not make files");
    }
    service.stop();
}

#[test]
fn another_account_gets_no_sockets_even_where_it_reaches_the_place() {
    use std::os::unix::fs::PermissionsExt as _;

    if !is_root("try as somebody else") {
        return;
    }
    let port = free_port();
    let mut service = Service::new(&format!("l7r.address = 127.0.0.1\nl7r.port = {port}\n"));
    service.start(service.command(&[]));
    let dir = service.path("run/l7r");
    let mut names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let place = names.find(|path| path.extension().is_some_and(|e| e == "sock")).unwrap();
    // As the router makes them neither is reached; what is reached still asks who it is.
    open_to_all(service.dir.path());
    open_to_all(&dir);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o666)).unwrap();
    let ask = |account: &str| {
        // The router may have closed before it is asked.
        let script = "use IO::Socket::UNIX; $SIG{PIPE} = 'IGNORE'; \
                      my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die \"$!\"; \
                      $s->print(\"qvd-l7r succession 1\\n\"); $s->flush; print <$s> // 'nothing'";
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={account}"), "--clear-groups", "perl", "-e", script]).arg(&place);
        let asked = command.output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    assert_eq!(ask("daemon"), "nothing");
    assert_eq!(ask("root"), "sockets\n");
    assert!(answers(SocketAddr::new("127.0.0.1".parse().unwrap(), port)));
    service.stop();
}

/// Whether this is root, who alone can do something; a test that is skipped says so.
fn is_root(can: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can {can}");
        assert!(std::env::var_os("QVD_TEST_REQUIRE").is_none());
    }
    is_root
}

/// A service that becomes the account `daemon`, and its port.
fn of_another_account() -> (Service, User, u16) {
    let account = User::from_name("daemon").unwrap().expect("Debian has it");
    let port = free_port();
    let service =
        Service::new(&format!("l7r.address = 127.0.0.1\nl7r.port = {port}\nl7r.as_user = daemon\n"));
    open_to_all(service.dir.path());
    (service, account, port)
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
