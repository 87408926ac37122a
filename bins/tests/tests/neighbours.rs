//! Two desktops of the same kind on one host, at the same time: what they share must not be in each other's way.

use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::machine::Machine;
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Site, Visit};
use qvd_system_tests::visitor::wait_drawn;
use qvd_system_tests::{can_show_a_desktop, skeleton};

#[test]
fn two_full_desktops_come_up_side_by_side() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let skel = skeleton("demo");
    let site = Site::start(dir.path(), &[("vm.process.home.skel", &skel)]).expect("a site");
    site.add_flavour().expect("a flavour");
    let visitors = ["alice", "bob"].map(|login| {
        let screen = Screen::start(&dir.path().join(format!("screen-{login}")), 1300, 860).expect("a screen");
        (screen, site.add_account(login).expect("an account"))
    });
    // Both are under way before either is waited for.
    let mut clients = visitors
        .each_ref()
        .map(|(screen, account)| site.connect(screen, account, &Visit::default()).expect("a client"));
    for ((screen, account), client) in visitors.iter().zip(&mut clients) {
        wait_drawn(&site, screen, account.vm, client, &[PANEL, TERMINAL]).expect("the desktop is drawn");
    }
    let machines =
        visitors.each_ref().map(|(_, account)| Machine::of(&site, account.vm).expect("the machine runs"));
    let session = |machine: &Machine| {
        let mut found = machine.processes().into_iter().filter(|(_, name)| name == "xfce4-session");
        found.next().expect("a session lives").0
    };
    let [one, other] = machines.each_ref().map(|machine| inner_number(session(machine)));
    assert_ne!(one, other, "abstract sockets named by this number would meet");
}

/// The number that a process has in its own namespace.
fn inner_number(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("it has a number");
    line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number")
}
