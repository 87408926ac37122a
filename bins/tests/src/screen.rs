//! The user's screen: an Xvfb with a window manager, found free by the server itself.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::desktop::nx_windows;
use crate::process::{Process, wait_until};
use crate::window::Display;

/// How long a part of a screen may take to come up.
const UP_LIMIT: Duration = Duration::from_secs(20);

/// The screen that a client shows its window on.
#[derive(Debug)]
pub enum Screen {
    /// Made for the occasion.
    Own(Box<OwnScreen>),
    /// The one that the caller looks at.
    User(UserScreen),
}

/// The screen named by `DISPLAY`.
#[derive(Debug)]
pub struct UserScreen {
    name: String,
    authority: PathBuf,
    /// NX windows that were there before: other sessions of the user.
    others: Vec<u32>,
}

impl UserScreen {
    /// The caller's screen, wherever it is: also one behind `ssh -X`, with the caller's cookie.
    ///
    /// # Errors
    ///
    /// Why there is none, or why it cannot be used.
    pub fn from_environment() -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let name = variable("DISPLAY").context("DISPLAY is not set")?;
        let authority = variable("XAUTHORITY").map_or_else(
            || Path::new(&variable("HOME").unwrap_or_default()).join(".Xauthority"),
            PathBuf::from,
        );
        let mut screen = Self { name, authority, others: Vec::new() };
        let checked = screen.open().and_then(|display| {
            display.check_pictures()?;
            nx_windows(&display)
        });
        let others = checked.with_context(|| {
            format!(
                "DISPLAY {} cannot be used with the cookies of {}",
                screen.name,
                screen.authority.display()
            )
        })?;
        screen.others = others.iter().map(|window| window.id).collect();
        Ok(screen)
    }

    /// Name for `DISPLAY`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> Result<Display> {
        // The long form of a local name, which our X library takes for a path.
        let local = self.name.strip_prefix("unix").filter(|rest| rest.starts_with(':'));
        Ok(Display::open(local.unwrap_or(&self.name))?.ignoring(self.others.clone()))
    }
}

/// An X screen of its own, closed to other users, with a window manager running on it.
///
/// A window manager is needed: without one nxagent ignores the wanted geometry. It is jwm, since Openbox at times
/// keeps the record of a broken NX window and never maps the next one.
#[derive(Debug)]
pub struct OwnScreen {
    // Ends first.
    manager: Process,
    server: Process,
    number: u32,
    authority: PathBuf,
    cookie: [u8; 16],
}

impl Screen {
    /// Starts an own one of this size; its files and logs lie in `dir`.
    ///
    /// # Errors
    ///
    /// When Xvfb or jwm is missing or does not come up.
    pub fn start(dir: &Path, width: u32, height: u32) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let cookie = random_cookie()?;
        let authority = dir.join("Xauthority");
        fs::write(&authority, authority_record(None, &cookie)).context("cannot write the X authority")?;
        fs::set_permissions(&authority, fs::Permissions::from_mode(0o600))
            .context("cannot protect the X authority")?;

        let mut command = Command::new("Xvfb");
        // -noreset: else the server resets when its first client leaves and drops a window manager that starts then.
        command
            .args(["-displayfd", "1", "-noreset", "-nolisten", "tcp", "-screen", "0"])
            .arg(format!("{width}x{height}x24"))
            .arg("-auth")
            .arg(&authority);
        let mut server = Process::start("Xvfb", command, &dir.join("xvfb.log"))?;
        let number = wait_up(&mut server, "Xvfb's display number", |server| {
            server.lines().iter().find_map(|line| line.trim().parse::<u32>().ok())
        })?;
        fs::write(&authority, authority_record(Some(number), &cookie))
            .context("cannot write the X authority")?;

        let settings = dir.join("jwmrc");
        fs::write(&settings, "<?xml version=\"1.0\"?>\n<JWM><Desktops width=\"1\" height=\"1\"/></JWM>\n")
            .context("cannot write the window manager's settings")?;
        let mut command = Command::new("jwm");
        command
            .arg("-f")
            .arg(&settings)
            .env("DISPLAY", format!(":{number}"))
            .env("XAUTHORITY", &authority)
            .env("HOME", dir);
        let mut manager = Process::start("jwm", command, &dir.join("jwm.log"))?;
        let display = Display::open_with_cookie(number, &cookie)?;
        display.admit_user(nix::unistd::geteuid().as_raw())?;
        wait_up(&mut manager, "jwm as the screen's window manager", |_| {
            display.has_window_manager().then_some(())
        })?;
        Ok(Self::Own(Box::new(OwnScreen { manager, server, number, authority, cookie })))
    }

    /// Connects to it.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn open(&self) -> Result<Display> {
        match self {
            Self::Own(own) => Display::open_with_cookie(own.number, &own.cookie),
            Self::User(user) => user.open(),
        }
    }

    /// A program that will show itself here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::Own(own) => {
                command.env("DISPLAY", format!(":{}", own.number)).env("XAUTHORITY", &own.authority)
            }
            // Named, since a program may be given another home.
            Self::User(user) => command.env("DISPLAY", &user.name).env("XAUTHORITY", &user.authority),
        };
        command
    }

    /// Process ids and names of what it consists of; none for the user's own screen.
    pub fn processes(&self) -> Vec<(i32, &'static str)> {
        match self {
            Self::Own(own) => vec![(own.manager.id(), "jwm"), (own.server.id(), "Xvfb")],
            Self::User(_) => Vec::new(),
        }
    }

    /// Lets it live on when this value is dropped.
    pub fn detach(&mut self) {
        if let Self::Own(own) = self {
            own.manager.detach();
            own.server.detach();
        }
    }
}

/// Waits until a part of the screen is up. One that ends instead is not waited for; either way its log is named.
fn wait_up<T>(part: &mut Process, what: &str, mut question: impl FnMut(&Process) -> Option<T>) -> Result<T> {
    let up = wait_until(what, UP_LIMIT, || {
        // Asked before the look at it, so that its last lines are not missed.
        let has_ended = !part.is_running();
        question(part).map(Some).or(has_ended.then_some(None))
    });
    let why = match up {
        Ok(Some(answer)) => return Ok(answer),
        Ok(None) => format!("{what} did not come: it ended"),
        Err(e) => e.to_string(),
    };
    let lines = part.lines();
    let tail = lines[lines.len().saturating_sub(10)..].join("\n  ");
    bail!("{why} (log {}):\n  {tail}", part.log().display())
}

fn random_cookie() -> Result<[u8; 16]> {
    let mut cookie = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut cookie))
        .context("cannot read /dev/urandom")?;
    Ok(cookie)
}

/// An authority record as a login session would have it: for this host, by its name. The server reads it before the
/// display's number is known; clients, NX's among them, look for the number.
fn authority_record(number: Option<u32>, cookie: &[u8]) -> Vec<u8> {
    const FAMILY_LOCAL: u16 = 256;
    let host = nix::unistd::gethostname().unwrap_or_default();
    let number = number.map(|n| n.to_string()).unwrap_or_default();
    let mut record = FAMILY_LOCAL.to_be_bytes().to_vec();
    for field in [host.as_encoded_bytes(), number.as_bytes(), b"MIT-MAGIC-COOKIE-1", cookie] {
        record.extend_from_slice(&(field.len() as u16).to_be_bytes());
        record.extend_from_slice(field);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_ends_is_not_waited_for_and_its_log_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("part.log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no screens found"]);
        let mut part = Process::start("part", command, &log).expect("a shell");
        let started = std::time::Instant::now();
        let error = wait_up(&mut part, "its number", |_| None::<()>).expect_err("it has none");
        let text = error.to_string();
        assert!(text.contains("it ended") && text.contains("part.log"), "{text}");
        assert!(text.ends_with("no screens found"), "{text}");
        assert!(started.elapsed() < UP_LIMIT, "it was waited for");
    }
}
