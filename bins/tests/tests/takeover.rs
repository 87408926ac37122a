//! One desktop, two places: the newer client takes it over, the older one is told, and an administrator ends both.

use std::time::Duration;

use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::process::{Process, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::visitor::{look, terminal, type_line, wait_drawn, wait_shown};
use qvd_system_tests::{can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(60);

/// How `qvdclient` ends when a running session is taken from it.
const SESSION_LOST: i32 = 8;

#[test]
fn a_second_client_takes_the_desktop_over_and_the_administrator_ends_it() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let at_home = Screen::start(&dir.path().join("screen-1"), 1300, 860).expect("a screen");
    let at_work = Screen::start(&dir.path().join("screen-2"), 1300, 860).expect("a screen");
    let skel = skeleton("light");
    let site = Site::start(dir.path(), &[("vm.process.home.skel", &skel)]).expect("a site");
    site.add_flavour().expect("a flavour");
    let account = site.add_account("alice").expect("an account");

    let mut first = start(&site, &at_home, &account, "first");
    let empty = wait_drawn(&site, &at_home, account.vm, &mut first, &[PANEL, TERMINAL]).expect("drawn");
    let place = terminal(&site, account.vm).expect("a terminal");
    type_line(&at_home, place, "seq -s ' ' 400").expect("typed");
    let filled = wait_shown(&at_home, "the output in the terminal", |picture| {
        picture.likeness(&empty, place) < 0.95
            && look(&at_home).is_ok_and(|again| again.likeness(picture, place) == 1.0)
    })
    .expect("the output shows");

    let mut second = start(&site, &at_work, &account, "second");
    second.wait_line("Aborting contending session for VM_ID: 1", LIMIT).expect("the user is told");
    assert_taken(&mut first);
    wait_drawn(&site, &at_work, account.vm, &mut second, &[PANEL, TERMINAL]).expect("it shows at work");
    wait_shown(&at_work, "the same text", |picture| picture.likeness(&filled, place) >= 0.99)
        .expect("the desktop is the same one");

    site.qa(&["vm", "disconnect_user", "-f", &format!("id={}", account.vm)]).expect("qa disconnects");
    assert_taken(&mut second);
    wait_until("the end of the session in the list", LIMIT, || {
        let list = site.qa(&["vm", "list"]).ok()?;
        (list.contains("disconnected") && list.contains("running")).then_some(())
    })
    .expect("the machine runs on without a user");

    let mut third = start(&site, &at_home, &account, "third");
    wait_drawn(&site, &at_home, account.vm, &mut third, &[PANEL, TERMINAL]).expect("it shows at home again");
    wait_shown(&at_home, "the same text", |picture| picture.likeness(&filled, place) >= 0.99)
        .expect("the desktop is the same one still");
}

/// Starts a client with a log of its own.
fn start(site: &Site, screen: &Screen, account: &Account, name: &str) -> Process {
    let command = site.client_command(screen, account, &Visit::default()).expect("a client's command");
    let log = site.dir().join(format!("{name}.log"));
    Process::start_with_input(name, command, &log, Some(&format!("{}\n", account.password)))
        .expect("the client starts")
}

fn assert_taken(client: &mut Process) {
    let status = client.wait_exit(LIMIT).expect("the client ends");
    let lines = client.lines();
    let last = lines.last().cloned().unwrap_or_default();
    assert_eq!(status.code(), Some(SESSION_LOST), "{lines:#?}");
    assert!(last.contains("the server closed it"), "{lines:#?}");
}
