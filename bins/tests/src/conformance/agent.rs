//! The agent's program with a real nxagent, and a user with a screen and a real nxproxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qvd_core::hypervisor::Endpoint;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wire::{eventually, soon};
use super::world::own_name;
use crate::process::{Process, in_path, program};
use crate::screen::Screen;

/// What a row with a real desktop needs.
///
/// # Errors
///
/// Names what is missing.
pub fn need_nx() -> Result<()> {
    let missing: Vec<_> =
        ["nxagent", "nxproxy", "Xvfb", "jwm", "xterm"].into_iter().filter(|name| !in_path(name)).collect();
    ensure!(missing.is_empty(), "not installed: {}", missing.join(", "));
    Ok(())
}

/// What an agent is started with.
#[derive(Debug)]
pub struct Machine {
    dir: tempfile::TempDir,
    settings: Vec<(String, String)>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    program: Process,
    machine: Machine,
}

impl Machine {
    /// A machine whose desktop is one terminal.
    ///
    /// # Errors
    ///
    /// When its directory cannot be made.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = tempfile::Builder::new().prefix("qvd-agent-").tempdir().context("no directory")?;
        let place = dir.path().join("guest");
        fs::create_dir(&place).context("no directory")?;
        // Apart from each other, and from those of other tests.
        let own = u16::try_from(std::process::id() % 100).unwrap_or_default() * 100;
        let display = 20_000 + own + NEXT.fetch_add(10, Ordering::Relaxed);
        let path = |name: &str| dir.path().join(name).display().to_string();
        let session = dir.path().join("session");
        fs::write(&session, SESSION).context("no session")?;
        let settings = vec![
            ("path.run", path("run")),
            ("path.log", path("log")),
            ("vma.pid_file", path("vma.pid")),
            ("vma.rpc.socket", path("vma.sock")),
            ("vma.nxagent.listen", path("guest/nx.sock")),
            ("vma.nxagent.authority", "1".to_owned()),
            ("vma.user.home.path", path("home")),
            // Never one of the machine that the rows run on.
            ("vma.user.home.drive", String::new()),
            ("vma.user.default.name", own_name()?),
            ("internal.nxagent.display", display.to_string()),
            ("command.nxdiag", "/bin/false".to_owned()),
            ("command.x-session", format!("/bin/sh {}", session.display())),
        ];
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Self { dir, settings })
    }

    /// Sets a key of the agent's configuration.
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// A hook that appends its arguments to the file `NAME.args`, a line for each call, and then runs `script`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn hook(self, key: &str, name: &str, script: &str) -> Result<Self> {
        let file = self.path(&format!("{name}.sh"));
        let arguments = self.path(&format!("{name}.args"));
        fs::write(&file, format!("echo \"$*\" >> '{}'\n{script}\n", arguments.display()))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let command = format!("/bin/sh {}", file.display());
        Ok(self.set(key, command))
    }

    /// A place in the machine's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the agent.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn start(self) -> Result<Agent> {
        let mut text = String::new();
        for (key, value) in &self.settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
        fs::write(self.path("vma.conf"), text).context("no configuration")?;
        let agent = Agent { program: launch(&self)?, machine: self };
        agent.until_answering().await?;
        Ok(agent)
    }
}

impl Agent {
    /// Where a router finds it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix { dir: self.machine.dir.path().to_owned() }
    }

    /// A place in the machine's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.machine.path(name)
    }

    /// Lines of a file there that may not be there yet.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until a file there has so many lines.
    ///
    /// # Errors
    ///
    /// When it never has.
    pub async fn until_lines(&self, name: &str, count: usize) -> Result<Vec<String>> {
        eventually(&format!("{count} lines of {name}"), async || {
            Ok(Some(self.lines(name)).filter(|lines| lines.len() >= count))
        })
        .await
        .with_context(|| format!("there are {:?}", self.lines(name)))
    }

    /// Sends a call as it stands; answers all that comes until the agent closes.
    ///
    /// # Errors
    ///
    /// When nothing answers.
    pub async fn say(&self, text: &str) -> Result<String> {
        let socket = self.path("vma.sock");
        let mut stream = UnixStream::connect(&socket).await.context("the agent is not there")?;
        stream.write_all(text.as_bytes()).await.context("the agent does not listen")?;
        stream.shutdown().await.context("the agent does not listen")?;
        let mut answer = String::new();
        soon("an agent's answer", stream.read_to_string(&mut answer)).await?.context("no answer")?;
        Ok(answer)
    }

    /// Calls a method with its parameters, which are encoded already; answers the body.
    ///
    /// # Errors
    ///
    /// When the answer is not one of the agent's.
    pub async fn call(&self, method: &str) -> Result<String> {
        let answer = self.say(&format!("GET /vma/{method} HTTP/1.1\r\nUser-Agent: x\r\n\r\n")).await?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no head: {answer}"))?;
        let expected = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json-simplerpc\r\nContent-Length: {}",
            body.len()
        );
        ensure!(head == expected, "not the form of an answer: {answer:?}");
        Ok(body.trim_end().to_owned())
    }

    /// What it says the X session is.
    ///
    /// # Errors
    ///
    /// When it does not say it.
    pub async fn x_state(&self) -> Result<String> {
        Ok(self.call("x_state").await?.trim_matches('"').to_owned())
    }

    /// Waits for a state of the X session.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub async fn until_state(&self, wanted: &str) -> Result<()> {
        let mut seen = Vec::new();
        eventually(&format!("state {wanted}"), async || {
            let state = self.x_state().await?;
            if seen.last() != Some(&state) {
                seen.push(state.clone());
            }
            Ok((state == wanted).then_some(()))
        })
        .await
        .with_context(|| format!("seen: {seen:?}"))
    }

    /// Asks for the desktop until that is not refused, and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn listen(&self) -> Result<()> {
        eventually("a start that is not refused", async || {
            Ok((self.call(X_START).await? == "\"starting\"").then_some(()))
        })
        .await?;
        self.until_state("listening").await
    }

    /// Process id of nxagent.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn nxagent(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.path("run/nxagent.pid")).context("no nxagent")?;
        Ok(Pid::from_raw(text.trim().parse().context("no process id")?))
    }

    /// Sends the agent a signal, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub async fn end(&mut self, signal: Signal) -> Result<()> {
        self.program.signal(signal)?;
        eventually("the agent's end", async || Ok((!self.program.is_running()).then_some(()))).await
    }

    /// Starts it again.
    ///
    /// # Errors
    ///
    /// As at the first start.
    pub async fn restart(&mut self) -> Result<()> {
        self.program = launch(&self.machine)?;
        self.until_answering().await
    }

    async fn until_answering(&self) -> Result<()> {
        eventually("the agent", async || Ok(self.call("ping").await.ok())).await.map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An agent that was killed leaves its nxagent behind.
        let left = self.nxagent();
        self.program.stop(Duration::from_secs(10));
        if let Ok(pid) = left {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn launch(machine: &Machine) -> Result<Process> {
    let mut command = Command::new(program("qvd-vma")?);
    command.arg("--foreground").arg("--config").arg(machine.path("vma.conf"));
    Process::start("qvd-vma", command, &machine.path("vma.log"))
}

/// A user's screen; made once for all rows of a group.
#[derive(Debug)]
pub struct Viewer {
    screen: Screen,
    dir: tempfile::TempDir,
}

impl Viewer {
    /// A screen with a window manager.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn new() -> Result<Self> {
        need_nx()?;
        let dir = tempfile::Builder::new().prefix("qvd-viewer-").tempdir().context("no directory")?;
        let place = dir.path().join("screen");
        let screen = tokio::task::spawn_blocking(move || Screen::start(&place, 800, 600));
        Ok(Self { screen: screen.await.context("the screen broke off")??, dir })
    }

    /// Connects to an agent's desktop past the router.
    ///
    /// # Errors
    ///
    /// When nxproxy does not start.
    pub fn view(&self, socket: &Path) -> Result<Process> {
        let mut proxy = self.screen.command("nxproxy");
        proxy
            .args(["-S", &format!("nx/nx,connect=unix:{}:40", socket.display())])
            .env("HOME", self.dir.path())
            .env("NX_CLIENT", "/bin/false");
        Process::start("nxproxy", proxy, &self.dir.path().join("nxproxy.log"))
    }
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A call as a router makes it for a client on Linux.
pub const X_START: &str = "x_start?qvd.client.os=linux&qvd.client.link=lan&qvd.client.geometry=640x480\
                           &qvd.client.keyboard=pc105%2Fus&qvd.slave.key=k3y";

/// The desktop is one terminal; what runs in it ends with it.
const SESSION: &str = "exec xterm -geometry 60x10+20+20 -e sh -c 'exec cat >/dev/null'\n";
