//! A machine with a real nxagent, and a user with a screen and a real nxproxy.

pub(crate) mod relay;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use qvd_core::config::Config;
use qvd_core::hypervisor::Endpoint;
use qvd_core::state::XState;
use qvd_core::vma::{Params, Vma};
use qvd_vma::client::VmaClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Ample for anything that is not broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Whether all programs are there; says so, or panics where they are required.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !path.split(':').any(|dir| Path::new(dir).join(program).exists()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("QVD_TEST_REQUIRE").is_ok_and(|v| v == "1");
    assert!(!required, "missing programs: {missing:?}");
    eprintln!("skipped: missing programs: {missing:?}");
    false
}

/// Everything that a test of a drawn desktop needs.
pub(crate) const NX: [&str; 6] = ["nxagent", "nxproxy", "Xvfb", "jwm", "xterm", "xwininfo"];

/// Waits until `question` has an answer.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A child process that ends with its whole process group when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self(child)
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.id().cast_signed())
    }

    /// SIGKILL, at once and for all of the group.
    pub(crate) fn kill(&mut self) {
        let _ = nix::sys::signal::killpg(self.pid(), nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The user's screen: an X server with a window manager.
#[derive(Debug)]
pub(crate) struct Screen {
    _window_manager: Process,
    _server: Process,
    pub(crate) name: String,
    dir: tempfile::TempDir,
}

impl Screen {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("jwmrc"), "<?xml version=\"1.0\"?><JWM></JWM>").unwrap();
        let numbered = dir.path().join("number");
        let script = format!(
            "exec Xvfb -displayfd 3 -screen 0 1024x768x24 -ac -noreset -nolisten tcp 3>'{}'",
            numbered.display()
        );
        let server = Process::start(Command::new("sh").args(["-c", &script]), &dir.path().join("server.log"));
        let number = eventually("an X screen", async || {
            let text = fs::read_to_string(&numbered).ok()?;
            text.ends_with('\n').then(|| text.trim().to_owned())
        })
        .await;
        let name = format!(":{number}");
        let mut jwm = Command::new("jwm");
        jwm.arg("-f").arg(dir.path().join("jwmrc")).env("DISPLAY", &name).env("HOME", dir.path());
        let window_manager = Process::start(&mut jwm, &dir.path().join("wm.log"));
        eventually("a window manager", async || {
            let output = Command::new("xprop")
                .args(["-display", &name, "-root", "_NET_SUPPORTING_WM_CHECK"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).contains("window id").then_some(())
        })
        .await;
        Self { _window_manager: window_manager, _server: server, name, dir }
    }

    /// A viewer that connects to an agent's socket.
    pub(crate) fn view(&self, socket: &Path) -> Process {
        let mut proxy = Command::new("nxproxy");
        proxy
            .args(["-S", &format!("nx/nx,connect=unix:{}:40", socket.display())])
            .env("DISPLAY", &self.name)
            .env("HOME", self.dir.path())
            .env("XAUTHORITY", "/dev/null")
            .env("NX_CLIENT", "/bin/false");
        Process::start(&mut proxy, &self.dir.path().join("proxy.log"))
    }
}

/// A virtual machine's inside: an agent that runs in this process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) vma: VmaClient,
    stop: Option<oneshot::Sender<()>>,
    agent: JoinHandle<()>,
    pub(crate) dir: tempfile::TempDir,
}

/// What a machine is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    dir: tempfile::TempDir,
    settings: Vec<(String, String)>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        // Apart from each other, so that tests do not race for one number.
        let own = u16::try_from(std::process::id() % 200).unwrap() * 50;
        let display = 2000 + own + NEXT.fetch_add(10, Ordering::Relaxed);
        let settings = vec![
            ("path.run".to_owned(), path("run")),
            ("path.log".to_owned(), path("log")),
            ("vma.rpc.socket".to_owned(), path("vma.sock")),
            ("vma.nxagent.listen".to_owned(), path("nx.sock")),
            ("vma.nxagent.authority".to_owned(), "1".to_owned()),
            ("vma.user.home.path".to_owned(), path("home")),
            // Never one of the machine that the tests run on.
            ("vma.user.home.drive".to_owned(), String::new()),
            ("vma.user.default.name".to_owned(), me),
            ("internal.nxagent.display".to_owned(), display.to_string()),
            ("command.nxdiag".to_owned(), "/bin/false".to_owned()),
        ];
        fs::write(dir.path().join("session"), SESSION).unwrap();
        let setup = Self { dir, settings };
        let session = format!("/bin/sh {}", setup.path("session").display());
        setup.set("command.x-session", &session)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A hook that appends its arguments to the file `NAME.args` and then runs `script`.
    pub(crate) fn hook(self, key: &str, name: &str, script: &str) -> Self {
        let file = self.path(&format!("{name}.sh"));
        let arguments = self.path(&format!("{name}.args"));
        fs::write(&file, format!("echo \"$*\" >> '{}'\n{script}\n", arguments.display())).unwrap();
        let command = format!("/bin/sh {}", file.display());
        self.set(key, &command)
    }

    pub(crate) fn display(&self) -> u16 {
        let (_, value) = self.settings.iter().rev().find(|(k, _)| k == "internal.nxagent.display").unwrap();
        value.parse().unwrap()
    }

    pub(crate) fn config(&self) -> Config {
        let builder = self.settings.iter().fold(Config::builder(), |b, (key, value)| b.set(key, value));
        builder.build().unwrap()
    }

    pub(crate) async fn start(self) -> Machine {
        let program = std::env::current_exe().unwrap();
        self.start_as(&program).await
    }

    /// As [`start`](Self::start), with `program` in the place of the agent's own program.
    pub(crate) async fn start_as(self, program: &Path) -> Machine {
        let mut settings = qvd_vma::agent::settings(&self.config()).unwrap();
        settings.own_program = program.to_owned();
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            let listener = qvd_vma::agent::bind(&settings).await.unwrap();
            qvd_vma::agent::serve(settings, listener, shutdown).await.unwrap();
        });
        let vma = VmaClient::new(Endpoint::Unix { dir: self.dir.path().to_owned() }, LIMIT);
        eventually("an agent", async || vma.ping().await.ok()).await;
        Machine { vma, stop: Some(stop), agent, dir: self.dir }
    }
}

/// A desktop that is one terminal. Its end is the end of the session. What runs in it reads, so that it ends with its
/// terminal also where the test runner made everybody ignore the hang-up.
const SESSION: &str = "\
exec xterm -T marker -geometry 60x10+20+20 -e sh -c 'echo $$ > \"$HOME/inside.pid\"; exec cat >/dev/null'
";

impl Machine {
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nx.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Home directory of the session.
    pub(crate) fn home(&self) -> PathBuf {
        fs::read_dir(self.path("home")).unwrap().next().unwrap().unwrap().path()
    }

    pub(crate) async fn wait_state(&self, wanted: XState) {
        self.wait_any(&[wanted]).await;
    }

    /// Waits for one of these states and says which it was.
    pub(crate) async fn wait_any(&self, wanted: &[XState]) -> XState {
        let mut seen = Vec::new();
        let until = Instant::now() + LIMIT;
        loop {
            let state = self.vma.x_state().await.unwrap();
            if seen.last() != Some(&state) {
                seen.push(state);
            }
            if wanted.contains(&state) {
                return state;
            }
            assert!(Instant::now() < until, "waited for {wanted:?}, saw {seen:?}\n{}", self.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Why the last session came to nothing.
    pub(crate) async fn failure(&self) -> Option<String> {
        self.vma.x_failure().await.unwrap()
    }

    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.path("log/qvd-nxagent.log")).unwrap_or_default()
    }

    /// Asks for the desktop until it may be connected to.
    pub(crate) async fn listen(&self) {
        self.ask().await;
        self.wait_state(XState::Listening).await;
    }

    /// Asks for the desktop until that is not refused.
    pub(crate) async fn ask(&self) {
        let params = properties();
        eventually("a start that is not refused", async || self.vma.x_start(&params).await.ok()).await;
    }

    /// Shows a new desktop to a viewer that is then killed, and waits until it is suspended. The answer is the process id
    /// of the program in the terminal.
    pub(crate) async fn suspended(&self, screen: &Screen) -> i32 {
        self.listen().await;
        let mut viewer = screen.view(&self.socket());
        self.wait_state(XState::Connected).await;
        let inside = self.inside_pid().await;
        viewer.kill();
        self.wait_state(XState::Suspended).await;
        inside
    }

    pub(crate) fn agent_pid(&self) -> nix::unistd::Pid {
        let text = fs::read_to_string(self.path("run/nxagent.pid")).unwrap();
        nix::unistd::Pid::from_raw(text.trim().parse().unwrap())
    }

    /// Process id of the program in the terminal, once there is a terminal.
    pub(crate) async fn inside_pid(&self) -> i32 {
        eventually("a terminal", async || {
            let text = fs::read_to_string(self.home().join("inside.pid")).ok()?;
            text.trim().parse().ok()
        })
        .await
    }

    /// The display that the agent has, from its command line.
    pub(crate) fn display(&self) -> String {
        let words = fs::read(format!("/proc/{}/cmdline", self.agent_pid())).unwrap();
        let words = String::from_utf8(words).unwrap();
        words.split('\0').find(|word| word.starts_with(':')).unwrap().to_owned()
    }

    /// The X id of the terminal's window, as a client of the desktop sees it.
    pub(crate) async fn marker_window(&self) -> String {
        eventually("the terminal's window", async || {
            let output = Command::new("xwininfo")
                .args(["-display", &self.display(), "-name", "marker"])
                .env("XAUTHORITY", self.path("run/nxagent.xauth"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find(|line| line.contains("Window id:"))?;
            line.split_whitespace().nth(3).map(str::to_owned)
        })
        .await
    }

    /// Ends the agent as a service would.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        tokio::time::timeout(LIMIT, &mut self.agent).await.unwrap().unwrap();
        let empty = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.dir, empty)
    }

    /// Waits until the agent has ended by itself.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(LIMIT, &mut self.agent).await.unwrap().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.agent.abort();
        // The runtime may end before the abort has killed it.
        if let Ok(text) = fs::read_to_string(self.path("run/nxagent.pid"))
            && let Ok(pid) = text.trim().parse::<i32>()
        {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// What a client on Linux sends.
pub(crate) fn properties() -> Params {
    [
        ("qvd.client.os", "linux"),
        ("qvd.client.link", "lan"),
        ("qvd.client.geometry", "640x480"),
        ("qvd.client.keyboard", "pc105/us"),
        ("qvd.slave.key", "k3y"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Lines of a file that may not be there yet.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
