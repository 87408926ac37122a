//! `qvd standalone` as a program: its ready line, its certificate, its end, its neighbours, its user.

use std::os::unix::fs::chown;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::machine::{Machine, processes_naming};
use qvd_system_tests::process::{run, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::visitor::wait_drawn;
use qvd_system_tests::{can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(90);

/// An ordinary user, for what root tries on its behalf.
const ORDINARY: u32 = 65_534;

#[test]
fn it_says_when_it_is_ready_keeps_its_certificate_and_ends_cleanly() {
    let dir = Scratch::new().expect("a temporary directory");
    let mut first = Site::start(dir.path(), &[]).expect("a site");
    let line = first.server().lines().into_iter().find(|line| line.starts_with("ready: ")).expect("ready");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words.len(), 4, "{line}");
    assert_eq!(words[1], format!("https://127.0.0.1:{}/", first.port()));
    let pairs: Vec<&str> = words[2].strip_prefix("SHA256:").expect("a fingerprint").split(':').collect();
    assert!(pairs.len() == 32 && pairs.iter().all(|pair| u8::from_str_radix(pair, 16).is_ok()), "{line}");
    let config = dir.path().join("data/node.conf").canonicalize().expect("the configuration is there");
    assert_eq!(words[3], format!("config={}", config.display()));

    first.add_flavour().expect("a flavour");
    let account = first.add_account("alice").expect("an account");
    let machine = start_machine(&first, &account);
    first.server().signal(Signal::SIGTERM).expect("it runs");
    let status = first.server().wait_exit(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0), "{:#?}", first.server().lines());
    assert_eq!(machine.remains(), Vec::<String>::new());
    assert_eq!(processes_naming(&dir.path().display().to_string()), Vec::<String>::new());

    let second = Site::start(dir.path(), &[]).expect("a site on the same data");
    assert_eq!(second.fingerprint(), first.fingerprint(), "the certificate is kept");
    let list = second.qa(&["vm", "list"]).expect("a list");
    assert!(list.contains("alice-desk") && list.contains("stopped"), "{list}");
}

#[test]
fn two_sites_at_the_same_time_do_not_meet() {
    let dir = Scratch::new().expect("a temporary directory");
    let here = Site::start(&dir.path().join("here"), &[]).expect("a site");
    let there = Site::start(&dir.path().join("there"), &[]).expect("a second site");
    assert_ne!(here.port(), there.port());
    assert_ne!(here.fingerprint(), there.fingerprint());
    let accounts = [&here, &there].map(|site| {
        site.add_flavour().expect("a flavour");
        site.add_account("alice").expect("an account")
    });
    // The same machine number on both, at the same time.
    assert_eq!(accounts[0].vm, accounts[1].vm);
    let machines = [start_machine(&here, &accounts[0]), start_machine(&there, &accounts[1])];
    assert_ne!(machines[0].init(), machines[1].init());

    stop_machine(&here, &accounts[0]);
    machines[0].wait_gone(LIMIT).expect("nothing of it is left");
    assert!(!machines[1].processes().is_empty(), "the other site's machine runs on");
    let list = there.qa(&["vm", "list"]).expect("a list");
    assert!(list.contains("running"), "{list}");
    drop(here);
    there.qa(&["vm", "list"]).expect("the other site serves on");
    stop_machine(&there, &accounts[1]);
    machines[1].wait_gone(LIMIT).expect("nothing of it is left");
}

#[test]
fn a_site_that_could_run_no_machine_says_so_instead_of_serving() {
    let dir = Scratch::new().expect("a temporary directory");
    let settings = [("command.qvd-vma", "/nonexistent/qvd-vma")];
    let refused = Site::start(dir.path(), &settings).expect_err("it serves").to_string();
    assert!(refused.contains("virtual machines cannot run here"), "{refused}");
    assert!(refused.contains("/nonexistent/qvd-vma") && refused.contains("command.qvd-vma"), "{refused}");
}

#[test]
fn an_ordinary_user_has_a_whole_site_of_its_own() {
    if !can_show_a_desktop() {
        return;
    }
    let user = nix::unistd::geteuid().is_root().then_some(ORDINARY);
    let dir = Scratch::new().expect("a temporary directory");
    if let Some(user) = user {
        chown(dir.path(), Some(user), Some(user)).expect("root may give away its directory");
    }
    // The clone may lie where that user cannot look.
    let skel = dir.path().join("skeleton");
    run(Command::new("cp").arg("-r").arg(skeleton("light")).arg(&skel)).expect("the skeleton is copied");
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&skel)).expect("everybody may read it");
    let screen = Screen::start(&dir.path().join("screen"), 1300, 860).expect("a screen");
    let uid = user.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    screen.open().and_then(|display| display.admit_user(uid)).expect("the screen admits the user");
    let skel = skel.display().to_string();
    let site = Site::start_as(user, dir.path(), &[("vm.process.home.skel", &skel)]).expect("a site");
    site.add_flavour().expect("a flavour");
    let account = site.add_account("alice").expect("an account");

    let mut client = site.connect(&screen, &account, &Visit::default()).expect("a client");
    wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL]).expect("the desktop is drawn");
    let machine = Machine::of(&site, account.vm).expect("the machine runs");
    let owner = |pid: &i32| {
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).ok()?).into()
    };
    let owners: Vec<Option<u32>> = machine.processes().keys().map(owner).collect();
    assert!(owners.len() > 3 && owners.iter().flatten().all(|owner| *owner == uid), "{owners:?}");
    drop(site);
    machine.wait_gone(LIMIT).expect("nothing of it is left");
}

fn start_machine(site: &Site, account: &Account) -> Machine {
    site.qa(&["vm", "start", "-f", &format!("id={}", account.vm)]).expect("it is started");
    wait_state(site, account, "running");
    Machine::of(site, account.vm).expect("it runs")
}

fn stop_machine(site: &Site, account: &Account) {
    site.qa(&["vm", "stop", "-f", &format!("id={}", account.vm)]).expect("it is stopped");
    wait_state(site, account, "stopped");
}

fn wait_state(site: &Site, account: &Account, state: &str) {
    let filter = format!("id={},state={state}", account.vm);
    wait_until(&format!("a {state} machine"), LIMIT, || {
        let rows = site.qa(&["vm", "list", "-q", "-f", &filter]).ok()?;
        (!rows.trim().is_empty()).then_some(())
    })
    .expect("it gets there");
}
