//! The demonstration behind `make demo`: a real desktop over real NX through every part of QVD.
//!
//! Everything lies below `target/demo` of the clone. Each step is named before it is taken; a failure names the
//! step and its log; whatever was started ends with this program, also after Ctrl-C. `qvd-demo --clean` ends what was
//! left running and removes everything.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

mod by_hand;
mod running;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qvd_system_tests::desktop::{PANEL, TERMINAL, nx_window};
use qvd_system_tests::interrupts::cancel_on_interrupt;
use qvd_system_tests::machine::{Machine, processes_naming};
use qvd_system_tests::process::wait_until;
use qvd_system_tests::screen::{Screen, UserScreen};
use qvd_system_tests::site::{Site, Visit};
use qvd_system_tests::visitor::wait_drawn;
use running::Running;

/// How long everything may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    cancel_on_interrupt("demo");
    let done = match std::env::args().nth(1).as_deref() {
        None => demonstrate(std::env::var("KEEP").is_ok_and(|value| value == "1")),
        Some("--clean") => clean(),
        Some(other) => Err(anyhow::anyhow!("unknown word '{other}'; usage: qvd-demo [--clean]")),
    };
    match done {
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
    let (dir, _alone) = directory(&clone)?;
    let running = Running::of(&dir);
    if running.is_kept() {
        bail!("an earlier demonstration was left running in {}; end it with: make clean-demo", dir.display());
    }
    clear(&dir, &running)?;

    let (mut screen, shown) = step("the user's screen", || user_screen(&dir))?;
    running.add(&screen.processes())?;
    println!("demo: showing the desktop on {shown}");
    let mut site =
        step("qvd standalone (database, house-keeping daemon, router)", || start_site(&dir, &clone))?;
    running.add(&[(site.server().id(), "qvd")])?;
    let account = step("a user, a flavour, an image and a virtual machine, with qa", || {
        site.add_flavour()?;
        site.add_account("alice")
    })?;
    println!("demo: user alice, password {} (made for this run)", account.password);

    let connecting = Instant::now();
    let visit = Visit { geometry: geometry(&screen)?, ..Visit::default() };
    let mut client =
        step("qvdclient: TLS, login, list, connect, NX", || site.connect(&screen, &account, &visit))?;
    running.add(&[(client.id(), "qvdclient")])?;
    let picture = step("waiting until panel and terminal show in the NX window", || {
        let display = screen.open()?;
        // A window that another one covers cannot be pictured.
        wait_until("the NX window", END_LIMIT, || {
            nx_window(&display)
                .and_then(|nx| display.raise(nx.id))
                .ok()
                .or((!client.is_running()).then_some(()))
        })?;
        wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL])
    })?;
    let seconds = connecting.elapsed().as_secs_f64();
    let file = dir.join("desktop.png");
    picture.save(&file)?;

    println!("demo: everything together took {:.1} s; to connect by hand:", started.elapsed().as_secs_f64());
    for line in by_hand::commands(&site, &account, keep)? {
        println!("  {line}");
    }
    if keep {
        running.keep()?;
        println!("demo: left running; `make clean-demo` ends it");
        client.detach();
        site.detach();
        screen.detach();
    } else {
        step("ending everything", || {
            let machine = Machine::of(&site, account.vm)?;
            client.stop(Duration::from_secs(10));
            site.server().stop(END_LIMIT);
            drop(screen);
            machine.wait_gone(Duration::from_secs(5))?;
            nothing_left(&dir)
        })?;
        running.forget();
    }
    let shown_path = file.strip_prefix(&clone).unwrap_or(&file);
    Ok(format!(
        "desktop drawn: {} ({}×{}, panel and terminal found) in {seconds:.1} s",
        shown_path.display(),
        picture.width(),
        picture.height()
    ))
}

/// Ends what earlier demonstrations left, and removes their files.
fn clean() -> Result<String> {
    let clone = std::env::current_dir().context("cannot tell the current directory")?;
    let (dir, _alone) = directory(&clone)?;
    let running = Running::of(&dir);
    clear(&dir, &running)?;
    nothing_left(&dir)?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(format!("demo: {} is removed, nothing of it runs", dir.display()))
}

/// The demonstration's directory, and the lock that keeps a second one in the same clone away.
fn directory(clone: &Path) -> Result<(PathBuf, fs::File)> {
    let dir = clone.join("target/demo");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let name = dir.join("lock");
    let lock = fs::File::create(&name).with_context(|| format!("cannot make {}", name.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok((dir, lock)),
        Err(fs::TryLockError::WouldBlock) => bail!("a demonstration is under way in {}", dir.display()),
        Err(fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", name.display())),
    }
}

/// Names a step, takes it, and puts its name before an error.
fn step<T>(name: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("demo: {name}");
    action().with_context(|| format!("step '{name}'"))
}

/// Ends and removes what an earlier run left, virtual machines that outlived it included.
fn clear(dir: &Path, running: &Running) -> Result<()> {
    running.end()?;
    let data = dir.join("data");
    if let Ok(lock) = fs::File::open(data.join("standalone.lock"))
        && let Err(fs::TryLockError::WouldBlock) = lock.try_lock()
    {
        bail!("somebody started `qvd standalone` on {}: end that first", data.display());
    }
    let outlived = fs::read_dir(data.join("run/vms")).is_ok_and(|mut machines| machines.next().is_some());
    if outlived {
        // A site that starts on this directory adopts them, and stops them when it ends.
        drop(step("ending what an interrupted demonstration left", || Site::start(dir, &[]))?);
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            // Whoever holds it open has the lock.
            _ if path.ends_with("lock") => continue,
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Fails when processes or mounts of this demonstration are left.
fn nothing_left(dir: &Path) -> Result<()> {
    let name = format!("{}/", dir.display());
    let left = || -> io::Result<Vec<String>> {
        // As the kernel writes a path there.
        let in_mounts = name.replace('\\', "\\134").replace(' ', "\\040");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounts =
            mounts.lines().filter(|line| line.contains(&in_mounts)).map(|line| format!("mount {line}"));
        // Somebody may look at the picture or at a log.
        let ours = ["qvd", "qvd-vma", "qvdclient", "nxproxy", "nxagent", "Xvfb", "jwm"];
        let processes = processes_naming(&name).into_iter().filter(|line| {
            let program = line.split(' ').nth(1).and_then(|path| path.rsplit('/').next());
            program.is_some_and(|program| ours.contains(&program))
        });
        Ok(processes.chain(mounts).collect())
    };
    wait_until("the end of everything", END_LIMIT, || left().ok().filter(Vec::is_empty))
        .with_context(|| format!("left running: {:?}", left().unwrap_or_default()))?;
    Ok(())
}

fn user_screen(dir: &Path) -> Result<(Screen, String)> {
    match UserScreen::from_environment() {
        Ok(own) => {
            let shown = format!("your display {}", own.name());
            Ok((Screen::User(own), shown))
        }
        Err(why) => {
            let screen = Screen::start(&dir.join("screen"), 1300, 860)?;
            Ok((screen, format!("a screen of its own ({why:#})")))
        }
    }
}

/// A desktop that lies wholly on the screen, with room for the window manager's frame and panel.
fn geometry(screen: &Screen) -> Result<(u32, u32)> {
    const WANTED: (u32, u32) = (1280, 800);
    if let Screen::Own(_) = screen {
        return Ok(WANTED);
    }
    let (width, height) = screen.open()?.size()?;
    // A multiple of eight, as displays have.
    let fits = |size: u32| size * 4 / 5 / 8 * 8;
    Ok((WANTED.0.min(fits(width)), WANTED.1.min(fits(height))))
}

fn start_site(dir: &Path, clone: &Path) -> Result<Site> {
    let skeleton = clone.join("bins/tests/desktops/demo");
    let skeleton = skeleton.to_str().context("the clone's path is not UTF-8")?;
    Site::start(dir, &[("vm.process.home.skel", skeleton)])
}
