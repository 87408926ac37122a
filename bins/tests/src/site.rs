//! One QVD site: `qvd standalone` with its data directory, administered by `qa`, visited by `qvdclient`.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{Process, program, run};
use crate::screen::Screen;
use crate::window::Display;

/// How long a site may take to be ready; generous, since machines are shared.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running site.
#[derive(Debug)]
pub struct Site {
    standalone: Process,
    dir: PathBuf,
    port: u16,
    fingerprint: Option<String>,
    user: Option<u32>,
}

/// A user with a virtual machine.
#[derive(Clone, Debug)]
pub struct Account {
    /// Login.
    pub login: String,
    /// Password.
    pub password: String,
    /// The machine's id.
    pub vm: i64,
}

/// What a visit asks for.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Window size.
    pub geometry: (u32, u32),
    /// NX link word.
    pub link: &'static str,
    /// Where the client finds the router; the site's own port when none.
    pub port: Option<u16>,
}

impl Default for Visit {
    fn default() -> Self {
        Self { geometry: (1024, 700), link: "lan", port: None }
    }
}

impl Site {
    /// Starts a site below `dir` with these settings, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready; the text ends with what it printed.
    pub fn start(dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_as(None, dir, settings)
    }

    /// As [`start`](Self::start), everything as another user of this machine, who must own `dir`, with copies of the
    /// programs; for tests that run as root.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn start_as(user: Option<u32>, dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let command = Self::standalone_command(user, dir, settings)?;
        let mut standalone = Process::start("qvd standalone", command, &dir.join("standalone.log"))?;
        let line = standalone.wait_line("ready: ", READY_LIMIT)?;
        let port = line
            .split_whitespace()
            .find_map(|word| {
                let address = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"))?;
                address.trim_end_matches('/').rsplit(':').next()?.parse().ok()
            })
            .with_context(|| format!("no port in the ready line '{line}'"))?;
        let fingerprint = line.split_whitespace().find_map(|word| word.strip_prefix("SHA256:"));
        let fingerprint = fingerprint.map(str::to_owned);
        Ok(Self { standalone, dir: dir.to_owned(), port, fingerprint, user })
    }

    /// A `qvd standalone` command with its data below `dir`.
    ///
    /// # Errors
    ///
    /// When `qvd` is not built.
    pub fn standalone_command(user: Option<u32>, dir: &Path, settings: &[(&str, &str)]) -> Result<Command> {
        let words = words_as(user, dir, "qvd")?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg("standalone").arg("--data-dir").arg(dir.join("data"));
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        Ok(command)
    }

    /// A site whose router was started by other means.
    pub(crate) fn of_router(router: Process, dir: &Path, port: u16, fingerprint: Option<String>) -> Self {
        Self { standalone: router, dir: dir.to_owned(), port, fingerprint, user: None }
    }

    /// The node's configuration file, for `QVD_CONFIG`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("data/node.conf")
    }

    /// Directory with the site's data, homes and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The router's port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Fingerprint of the router's certificate, upper-case pairs joined by colons; empty when it does not encrypt.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.as_deref().unwrap_or_default()
    }

    /// Whether the router encrypts (`l7r.use_ssl`).
    pub fn is_encrypted(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Log of the server process.
    pub fn log(&self) -> &Path {
        self.standalone.log()
    }

    /// The errors that the server process told last, for people.
    pub fn errors(&self) -> String {
        let lines = self.standalone.lines();
        let errors: Vec<&str> =
            lines.iter().map(String::as_str).filter(|l| l.split_whitespace().any(|w| w == "ERROR")).collect();
        match errors.len() {
            0 => format!("no errors in {}", self.log().display()),
            count => errors[count.saturating_sub(10)..].join("\n  "),
        }
    }

    /// Lets it live on when this value is dropped.
    pub fn detach(&mut self) {
        self.standalone.detach();
    }

    /// The server process.
    pub fn server(&mut self) -> &mut Process {
        &mut self.standalone
    }

    /// Runs `qa` and answers what it printed.
    ///
    /// # Errors
    ///
    /// When it fails; the text holds its messages.
    pub fn qa(&self, args: &[&str]) -> Result<String> {
        run(self.qa_command()?.args(args))
    }

    /// A `qa` command for this site.
    ///
    /// # Errors
    ///
    /// When `qa` is not built.
    pub fn qa_command(&self) -> Result<Command> {
        let words = words_as(self.user, &self.dir, "qa")?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env("QVD_CONFIG", self.config()).stdin(Stdio::null());
        Ok(command)
    }

    /// Makes a user with a random password.
    ///
    /// # Errors
    ///
    /// When `qa` refuses.
    pub fn add_user(&self, login: &str) -> Result<String> {
        let password = random_password()?;
        let mut command = self.qa_command()?;
        command.args(["user", "add", &format!("login={login}"), "--password-stdin"]);
        let output = feed(command, &password)?;
        if !output.status.success() {
            bail!("qa user add: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(password)
    }

    /// Makes the flavour `desktop` of the process driver with its pseudo image.
    ///
    /// # Errors
    ///
    /// When `qa` refuses.
    pub fn add_flavour(&self) -> Result<()> {
        self.qa(&["osf", "add", "name=desktop", "hypervisor=process", "memory=1024"])?;
        self.qa(&["di", "add", "osf=desktop", "format=none"])?;
        Ok(())
    }

    /// Makes a user and a virtual machine of the flavour `desktop`.
    ///
    /// # Errors
    ///
    /// When `qa` refuses.
    pub fn add_account(&self, login: &str) -> Result<Account> {
        let password = self.add_user(login)?;
        let vm = self.add_vm(&format!("{login}-desk"), login)?;
        Ok(Account { login: login.to_owned(), password, vm })
    }

    /// Makes one more virtual machine for a user; answers its id.
    ///
    /// # Errors
    ///
    /// When `qa` refuses.
    pub fn add_vm(&self, name: &str, login: &str) -> Result<i64> {
        let answer =
            self.qa(&["vm", "add", &format!("name={name}"), &format!("user={login}"), "osf=desktop"])?;
        let id = answer.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        id.with_context(|| format!("qa vm add printed no id: '{}'", answer.trim()))
    }

    /// A `qvdclient` command for this account; the password is to be fed to its standard input.
    ///
    /// # Errors
    ///
    /// When `qvdclient` is not built.
    pub fn client_command(&self, screen: &Screen, account: &Account, visit: &Visit) -> Result<Command> {
        let mut command = self.client_of_nobody(screen, account, visit)?;
        command.args(["-u", &account.login, "--password-stdin"]);
        Ok(command)
    }

    fn client_of_nobody(&self, screen: &Screen, account: &Account, visit: &Visit) -> Result<Command> {
        let home = self.dir.join(format!("client-{}", account.login));
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        if self.user.is_some() {
            chown(&home, self.user, self.user)
                .with_context(|| format!("cannot give away {}", home.display()))?;
        }
        let words = words_as(self.user, &self.dir, "qvdclient")?;
        let mut command = screen.command(&words[0]);
        command
            .args(&words[1..])
            .env("HOME", &home)
            // What a client that is killed leaves behind goes with the site.
            .env("XDG_RUNTIME_DIR", &home)
            .args(["-h", "127.0.0.1", "-p", &visit.port.unwrap_or(self.port).to_string()])
            .args(["-s", &account.vm.to_string()])
            .args(["-g", &format!("{}x{}", visit.geometry.0, visit.geometry.1)])
            .args(["--link", visit.link, "-K", "pc105/us"]);
        match &self.fingerprint {
            Some(fingerprint) => command.args(["--accept-certificate", fingerprint]),
            None => command.arg("--no-ssl"),
        };
        Ok(command)
    }

    /// Starts a client for this account on a screen.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn connect(&self, screen: &Screen, account: &Account, visit: &Visit) -> Result<Process> {
        let command = self.client_command(screen, account, visit)?;
        let log = self.dir.join(format!("qvdclient-{}.log", account.login));
        Process::start_with_input("qvdclient", command, &log, Some(&format!("{}\n", account.password)))
    }

    /// Starts a client for this account that shows a token instead of login and password.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn connect_with_token(
        &self,
        screen: &Screen,
        account: &Account,
        visit: &Visit,
        token: &str,
    ) -> Result<Process> {
        let mut command = self.client_of_nobody(screen, account, visit)?;
        command.args(["-b", token]);
        Process::start("qvdclient", command, &self.dir.join(format!("qvdclient-{}.log", account.login)))
    }

    /// Run directory of a virtual machine, which its agent sees as `/run/qvd`.
    pub fn guest_dir(&self, vm: i64) -> PathBuf {
        self.dir.join(format!("data/run/vms/{vm}/guest"))
    }

    /// Where a machine's agent and its nxagent write their logs: in its home.
    pub fn guest_logs(&self, vm: i64) -> PathBuf {
        self.dir.join(format!("data/storage/homefs/{vm}-fs/.qvd-log"))
    }

    /// What a machine's agent and its nxagent wrote last, for people.
    pub fn guest_log(&self, vm: i64) -> String {
        let files = fs::read_dir(self.guest_logs(vm)).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        let last = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n  ")
        };
        texts.map(last).collect::<Vec<_>>().join("\n--\n  ")
    }

    /// What the agent says that a machine's X session is, if it says anything.
    pub fn x_state(&self, vm: i64) -> Option<String> {
        let state = fs::read_to_string(self.guest_dir(vm).join("nxagent.state")).ok()?;
        Some(state.split(':').next().unwrap_or_default().trim().to_owned())
    }

    /// Number of the X display inside a virtual machine.
    ///
    /// # Errors
    ///
    /// While there is none yet.
    pub fn display_number(&self, vm: i64) -> Result<u32> {
        agent_display(&self.guest_dir(vm)).map(|(number, _)| number)
    }

    /// The desktop's own display inside a virtual machine.
    ///
    /// # Errors
    ///
    /// While there is none yet.
    pub fn inside(&self, vm: i64) -> Result<Display> {
        let (number, cookie) = agent_display(&self.guest_dir(vm))?;
        Display::open_with_cookie(number, &cookie)
    }
}

/// The words that run a program as another user, or just as ours.
fn words_as(user: Option<u32>, dir: &Path, name: &str) -> Result<Vec<OsString>> {
    let Some(user) = user else { return Ok(vec![program(name)?.into()]) };
    let mut words: Vec<OsString> = Vec::new();
    words.extend(["setpriv".into(), format!("--reuid={user}").into(), format!("--regid={user}").into()]);
    words.push("--clear-groups".into());
    words.push(programs_for_all(dir)?.join(name).into());
    Ok(words)
}

/// A directory with copies of the programs that every user can run; where they were built may be closed to others.
fn programs_for_all(dir: &Path) -> Result<PathBuf> {
    let programs = dir.join("programs");
    if programs.exists() {
        return Ok(programs);
    }
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    fs::create_dir(&programs)
        .and_then(|()| open(&programs))
        .with_context(|| format!("cannot make {}", programs.display()))?;
    for name in ["qvd", "qvd-vma", "qa", "qvdclient"] {
        let copy = programs.join(name);
        fs::copy(program(name)?, &copy)
            .and_then(|_| open(&copy))
            .with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(programs)
}

/// Number and cookie of the agent's display, as the agent left them in its run directory.
fn agent_display(dir: &Path) -> Result<(u32, Vec<u8>)> {
    let authority = dir.join("nxagent.xauth");
    let bytes = fs::read(&authority).with_context(|| format!("cannot read {}", authority.display()))?;
    let number = authority_display(&bytes).context("the agent's X authority names no display")?;
    let cookie = bytes.get(bytes.len().saturating_sub(16)..).unwrap_or_default().to_vec();
    Ok((number, cookie))
}

/// The display number of the first record of an X authority file.
fn authority_display(bytes: &[u8]) -> Option<u32> {
    let length = |at: usize| Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let number_at = 2 + 2 + length(2)?;
    let digits = bytes.get(number_at + 2..number_at + 2 + length(number_at)?)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Drop for Site {
    fn drop(&mut self) {
        // Its virtual machines are stopped first, which takes longer than the end of an ordinary program.
        if !self.standalone.is_detached() {
            self.standalone.stop(Duration::from_secs(90));
        }
    }
}

/// Runs a command to its end with a line as standard input.
///
/// # Errors
///
/// When it cannot be started.
pub fn feed(mut command: Command, line: &str) -> Result<Output> {
    use std::io::Write as _;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("cannot write to {name}"))?;
    }
    child.wait_with_output().with_context(|| format!("cannot wait for {name}"))
}

/// Twelve random letters and digits.
fn random_password() -> Result<String> {
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789";
    let mut bytes = [0u8; 12];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect())
}
