//! How long a user waits: from the start of `qvdclient` to the desktop on the screen, on real parts, with the machine
//! stopped and with its desktop waiting. And what memory each process of a session takes.
//!
//! `QVD_BENCH_ROUNDS` (5) shortens or lengthens it. Screen and desktop are asked every 20 ms.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qvd_benches::figures::Samples;
use qvd_benches::memory::{Footprint, called_with, family};
use qvd_system_tests::desktop::{PANEL, TERMINAL, nx_window};
use qvd_system_tests::node::Node;
use qvd_system_tests::picture::{Area, Picture};
use qvd_system_tests::process::{Process, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit, feed};
use qvd_system_tests::visitor::{wait_drawn, wait_shown};
use qvd_system_tests::{can_show_a_desktop, skeleton};

/// Only the end of waiting.
const LIMIT: Duration = Duration::from_secs(120);

/// Pixels alike before and after; a clock may have moved, a cursor be hollow.
const SAME: f64 = 0.98;

fn main() -> Result<()> {
    ensure!(can_show_a_desktop(), "this bench needs a desktop; `make test` installs it");
    let rounds: usize = std::env::var("QVD_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    println!("load before: {}", load());
    let dir = Scratch::new()?;
    let screen = Screen::start(&dir.path().join("screen"), 1300, 860)?;
    let skel = skeleton("light");

    let mut site = Site::start(&dir.path().join("site"), &[("vm.process.home.skel", &skel)])?;
    site.add_flavour()?;
    let account = site.add_account("alice")?;
    let (mut cold, mut warm) = (Steps::default(), Steps::default());
    for round in 1..=rounds {
        let (mut client, desktop) = visit(&site, &screen, &account, None, &mut cold)?;
        leave(&mut client, &site, &account)?;
        let (mut client, _) = visit(&site, &screen, &account, Some(&desktop), &mut warm)?;
        if round == rounds {
            let server = site.server().id();
            print_memory("one process, `qvd standalone`", &[server], &client, &site)?;
        }
        leave(&mut client, &site, &account)?;
        stop(&site, &account)?;
    }
    drop(site);
    cold.print("machine stopped");
    warm.print("desktop suspended");

    let mut node = Node::start(&dir.path().join("node"), None, &format!("vm.process.home.skel = {skel}\n"))?;
    node.add_flavour()?;
    let account = node.add_account("bob")?;
    let (mut client, _) = visit(&node, &screen, &account, None, &mut Steps::default())?;
    let daemons = [node.hkd().id(), node.server().id()];
    print_memory("a node: `qvd-hkd` and `qvd-l7r`", &daemons, &client, &node)?;
    leave(&mut client, &node, &account)?;
    println!("\nload after: {}", load());
    Ok(())
}

/// Seconds from the start of the client, by step.
#[derive(Default)]
struct Steps(Vec<(String, Samples)>);

impl Steps {
    fn push(&mut self, step: &str, seconds: f64) {
        match self.0.iter_mut().find(|(known, _)| known == step) {
            Some((_, samples)) => samples.push(seconds),
            None => {
                let mut samples = Samples::default();
                samples.push(seconds);
                self.0.push((step.to_owned(), samples));
            }
        }
    }

    fn print(&self, title: &str) {
        println!(
            "\n| {title}: seconds from the start of `qvdclient` to | median (minimum–maximum) |\n|---|---|"
        );
        for (step, samples) in &self.0 {
            println!("| {step} | {:.3} ({:.3}–{:.3}) |", samples.median(), samples.min(), samples.max());
        }
    }
}

/// Connects and waits until the desktop is drawn: its panel and terminal, or all of what was seen `before`.
fn visit(
    site: &Site,
    screen: &Screen,
    account: &Account,
    before: Option<&Picture>,
    steps: &mut Steps,
) -> Result<(Process, Picture)> {
    let mut command = site.client_command(screen, account, &Visit::default())?;
    command.arg("--print-timings");
    let log = site.dir().join("client.log");
    let display = screen.open()?;
    let start = Instant::now();
    let input = format!("{}\n", account.password);
    let mut client = Process::start_with_input("qvdclient", command, &log, Some(&input))?;
    let lit = wait_until("the first pixels", LIMIT, || {
        let shows = || Ok::<_, anyhow::Error>(is_lit(&display.picture(nx_window(&display)?.id)?));
        match (shows(), client.is_running()) {
            (Ok(true), _) => Some(Some(start.elapsed())),
            (_, false) => Some(None),
            (_, true) => None,
        }
    })?;
    let Some(lit) = lit else { bail!("the client ended:\n{}", client.lines().join("\n")) };
    let picture = match before {
        None => wait_drawn(site, screen, account.vm, &mut client, &[PANEL, TERMINAL])?,
        Some(before) => {
            let whole = Area { x: 0, y: 0, width: before.width(), height: before.height() };
            wait_shown(screen, "the desktop as it was", |now| now.likeness(before, whole) >= SAME)?
        }
    };
    let drawn = start.elapsed();
    client.wait_line("timing session_started", LIMIT)?;
    for line in client.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["timing", step, seconds] = words[..] {
            steps.push(&format!("client: {step}"), seconds.parse().context("a timing")?);
        }
    }
    steps.push("first pixels in the NX window", lit.as_secs_f64());
    steps.push("whole desktop drawn", drawn.as_secs_f64());
    Ok((client, picture))
}

/// Whether a window shows more than one colour.
fn is_lit(picture: &Picture) -> bool {
    let (width, rows) = (picture.width(), (0..picture.height()).step_by(20));
    let first = picture.pixel(0, 0);
    let line = |y: u32| Area { x: 0, y: y as i32, width, height: 1 };
    rows.into_iter().any(|y| picture.colours(line(y)) > 1 || picture.pixel(0, y as i32) != first)
}

/// Ends the client and waits until the desktop waits for the next one.
fn leave(client: &mut Process, site: &Site, account: &Account) -> Result<()> {
    client.stop(Duration::from_secs(20));
    settled(site, account, |row| row.contains("running") && row.contains("disconnected"))
}

/// Stops the virtual machine.
fn stop(site: &Site, account: &Account) -> Result<()> {
    let mut command = site.qa_command()?;
    command.args(["vm", "stop", "-f", &format!("id={}", account.vm)]);
    let output = feed(command, "y")?;
    ensure!(output.status.success(), "qa vm stop: {}", String::from_utf8_lossy(&output.stderr));
    settled(site, account, |row| row.contains("stopped"))
}

fn settled(site: &Site, account: &Account, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let filter = format!("id={}", account.vm);
    wait_until("the machine's row", LIMIT, || {
        site.qa(&["vm", "list", "-f", &filter]).ok().filter(|row| wanted(row)).map(drop)
    })
}

/// Memory of the servers, of the machine with everything in it, and of the client.
fn print_memory(title: &str, servers: &[i32], client: &Process, site: &Site) -> Result<()> {
    let data = site.dir().to_string_lossy().into_owned();
    let mut pids: Vec<(i32, &str)> = servers.iter().map(|pid| (*pid, "server")).collect();
    for holder in called_with("holder", &data) {
        pids.extend(family(holder).into_iter().map(|pid| (pid, "virtual machine")));
    }
    pids.extend(family(client.id()).into_iter().map(|pid| (pid, "client")));
    let mut seen = BTreeSet::new();
    println!("\n| {title}: process | of | PSS, MiB | RSS, MiB |\n|---|---|---|---|");
    for (pid, of) in pids {
        // Short-lived helpers may be gone.
        let Ok(footprint) = Footprint::of(pid) else { continue };
        if seen.insert(pid) {
            let mib = |kib: u64| kib as f64 / 1024.0;
            println!(
                "| {} | {of} | {:.1} | {:.1} |",
                footprint.name,
                mib(footprint.pss_kib),
                mib(footprint.rss_kib)
            );
        }
    }
    Ok(())
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
