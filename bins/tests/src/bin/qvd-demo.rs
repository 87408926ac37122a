//! The demonstration behind `make demo`: a real desktop over real NX through every part of QVD.
//!
//! Everything lies below `target/demo` of the clone. Each step is named before it is taken; a failure names the
//! step and its log; whatever was started ends with this program, also after Ctrl-C.

#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::interrupts::cancel_on_interrupt;
use qvd_system_tests::screen::{Screen, UserScreen};
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::visitor::wait_drawn;

/// Where the processes of a demonstration that was left running are written down.
const RUNNING: &str = "running";

fn main() -> ExitCode {
    cancel_on_interrupt("demo");
    let keep = std::env::var("KEEP").is_ok_and(|value| value == "1");
    match demonstrate(keep) {
        Ok(last_line) => {
            println!("{last_line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("demo: failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(keep: bool) -> Result<String> {
    let started = Instant::now();
    let clone = std::env::current_dir().context("cannot tell the current directory")?;
    let dir = clone.join("target/demo");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clear(&dir)?;

    let (mut screen, shown) = step("the user's screen", || user_screen(&dir))?;
    println!("demo: showing the desktop on {shown}");
    let mut site =
        step("qvd standalone (database, house-keeping daemon, router)", || start_site(&dir, &clone))?;
    let account = step("a user, a flavour, an image and a virtual machine, with qa", || {
        site.add_flavour()?;
        site.add_account("alice")
    })?;
    println!("demo: user alice, password {} (made for this run)", account.password);

    let connecting = Instant::now();
    let visit = Visit { geometry: (1280, 800), ..Visit::default() };
    let mut client =
        step("qvdclient: TLS, login, list, connect, NX", || site.connect(&screen, &account, &visit))?;
    let picture = step("waiting until panel and terminal show in the NX window", || {
        wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL])
    })?;
    let seconds = connecting.elapsed().as_secs_f64();
    let file = dir.join("desktop.png");
    picture.save(&file)?;

    println!(
        "demo: everything together took {:.1} s; to connect again by hand while it runs:",
        started.elapsed().as_secs_f64()
    );
    print_commands(&site, &account);
    if keep {
        let mut left = vec![(client.id(), "qvdclient"), (site.server().id(), "qvd")];
        left.extend(screen.processes());
        let list: String = left.iter().map(|(pid, name)| format!("{pid} {name}\n")).collect();
        fs::write(dir.join(RUNNING), list).context("cannot write down what is left running")?;
        println!("demo: left running; `make clean-demo` ends it");
        client.detach();
        site.detach();
        screen.detach();
    } else {
        step("ending everything", || {
            client.stop(Duration::from_secs(10));
            site.server().stop(Duration::from_secs(60));
            Ok(())
        })?;
    }
    let shown_path = file.strip_prefix(&clone).unwrap_or(&file);
    Ok(format!(
        "desktop drawn: {} ({}×{}, panel and terminal found) in {seconds:.1} s",
        shown_path.display(),
        picture.width(),
        picture.height()
    ))
}

/// Names a step, takes it, and puts its name before an error.
fn step<T>(name: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("demo: {name}");
    action().with_context(|| format!("step '{name}'"))
}

/// Removes what an earlier run left, and ends virtual machines that outlived it.
fn clear(dir: &Path) -> Result<()> {
    let data = dir.join("data");
    if let Ok(lock) = fs::File::open(data.join("standalone.lock"))
        && let Err(fs::TryLockError::WouldBlock) = lock.try_lock()
    {
        bail!("an earlier demonstration still runs in {}; end it with: make clean-demo", dir.display());
    }
    let outlived = fs::read_dir(data.join("run/vms")).is_ok_and(|mut machines| machines.next().is_some());
    if outlived {
        // A site that starts on this directory adopts them, and stops them when it ends.
        drop(step("ending what an interrupted demonstration left", || Site::start(dir, &[]))?);
    }
    if data.exists() {
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let old = entry.path().extension().is_some_and(|e| e == "log" || e == "png");
        if old || entry.file_name() == RUNNING {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn user_screen(dir: &Path) -> Result<(Screen, String)> {
    if let Some(own) = UserScreen::from_environment() {
        let shown = format!("your display {}", own.name());
        return Ok((Screen::User(own), shown));
    }
    let screen = Screen::start(&dir.join("screen"), 1300, 860)?;
    Ok((screen, "a screen of its own (there is no DISPLAY)".to_owned()))
}

fn start_site(dir: &Path, clone: &Path) -> Result<Site> {
    let skeleton = skeleton(clone, "demo");
    let skeleton = skeleton.to_str().context("the clone's path is not UTF-8")?;
    Site::start(dir, &[("vm.process.home.skel", skeleton)])
}

/// Files that a new home begins with.
fn skeleton(clone: &Path, name: &str) -> PathBuf {
    clone.join("bins/tests/desktops").join(name)
}

fn print_commands(site: &Site, account: &Account) {
    println!("  export QVD_CONFIG={}", site.config().display());
    println!("  qa vm list");
    println!(
        "  qvdclient -h 127.0.0.1 -p {} -u {} --accept-certificate {}",
        site.port(),
        account.login,
        site.fingerprint()
    );
}
