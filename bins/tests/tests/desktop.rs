//! The main job on real parts: a desktop is drawn, takes what is typed, outlives its client, and keeps its home.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::picture::Area;
use qvd_system_tests::process::{Process, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::visitor::{look, terminal, type_line, wait_drawn, wait_shown};
use qvd_system_tests::{can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(60);

/// Pixels alike before and after; the text cursor may be hollow or filled.
const SAME: f64 = 0.99;

#[test]
fn a_desktop_is_drawn_typed_into_resumed_and_keeps_its_home() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 1300, 860).expect("a screen");
    let skel = skeleton("light");
    let site = Site::start(dir.path(), &[("vm.process.home.skel", &skel)]).expect("a site");
    site.add_flavour().expect("a flavour");
    let account = site.add_account("alice").expect("an account");

    // Connect: panel and terminal show.
    let mut client = site.connect(&screen, &account, &Visit::default()).expect("a client");
    wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL]).expect("the desktop is drawn");

    // Type: the shell inside does it, and the screen shows it.
    let place = terminal(&site, account.vm).expect("a terminal");
    let blank = look(&screen).expect("a picture");
    type_line(&screen, place, "seq -s ' ' 400; echo kept-over-runs > typed.txt").expect("typed");
    let typed = wait_file(&home(&site, &account), "typed.txt");
    assert_eq!(std::fs::read_to_string(&typed).expect("the file is there").trim(), "kept-over-runs");
    let filled = wait_shown(&screen, "the output in the terminal", |picture| {
        picture.likeness(&blank, place) < 0.95 && is_still(&screen, place, picture)
    })
    .expect("the output shows");

    // The client ends; the desktop stays; the next client finds the same text.
    end(&mut client, &site, &account);
    let mut client = site.connect(&screen, &account, &Visit::default()).expect("a client");
    wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL]).expect("the desktop is resumed");
    let resumed = wait_shown(&screen, "the same text after the resume", |picture| {
        picture.likeness(&filled, place) >= SAME
    });
    if let Err(e) = resumed {
        let seen = look(&screen).expect("a picture");
        panic!("{e}: alike {} blank {}", seen.likeness(&filled, place), seen.likeness(&blank, place));
    }
    type_line(&screen, place, "echo again > resumed.txt").expect("typed");
    wait_file(&home(&site, &account), "resumed.txt");
    end(&mut client, &site, &account);

    // The machine stops and starts again: a new desktop, the old home.
    let vm = format!("id={}", account.vm);
    site.qa(&["vm", "stop", "-f", &vm]).expect("it is stopped");
    wait_until("the machine's end", LIMIT, || {
        site.qa(&["vm", "list", "-f", &vm]).ok()?.contains("stopped").then_some(())
    })
    .expect("it stops");
    let mut client = site.connect(&screen, &account, &Visit::default()).expect("a client");
    wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL]).expect("a new desktop is drawn");
    let place = terminal(&site, account.vm).expect("a terminal");
    assert!(look(&screen).expect("a picture").likeness(&filled, place) < 0.95, "a new desktop begins empty");
    type_line(&screen, place, "cat typed.txt resumed.txt > both.txt").expect("typed");
    let both = wait_file(&home(&site, &account), "both.txt");
    let text = wait_until("the text of both files", LIMIT, || {
        std::fs::read_to_string(&both).ok().filter(|text| text.lines().count() == 2)
    });
    assert_eq!(text.expect("both files are in the home"), "kept-over-runs\nagain\n");
}

/// Ends a client as a user does who closes its program, and waits until the router knows.
fn end(client: &mut Process, site: &Site, account: &Account) {
    client.signal(Signal::SIGTERM).expect("the client runs");
    client.wait_exit(LIMIT).expect("the client ends");
    wait_until("the session's end in the list", LIMIT, || {
        let list = site.qa(&["vm", "list", "-f", &format!("id={}", account.vm)]).ok()?;
        list.contains("disconnected").then_some(())
    })
    .expect("the session ends");
}

fn home(site: &Site, account: &Account) -> PathBuf {
    site.dir().join(format!("data/storage/homefs/{}-fs", account.vm))
}

/// Waits for a file that is not empty, anywhere below a home.
fn wait_file(home: &Path, name: &str) -> PathBuf {
    let find = || {
        std::fs::read_dir(home)
            .ok()?
            .flatten()
            .map(|user| user.path().join(name))
            .find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
    };
    wait_until(&format!("'{name}' in the home"), LIMIT, find).expect("what was typed was done")
}

/// Whether a place looks the same a little later.
fn is_still(screen: &Screen, place: Area, picture: &qvd_system_tests::picture::Picture) -> bool {
    look(screen).is_ok_and(|again| again.likeness(picture, place) == 1.0)
}
