//! A node whose daemon is root and whose router is an account of its own: the way that it is meant to be installed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use qvd_db::testkit::TemporaryPostgres;
use qvd_system_tests::desktop::TERMINAL;
use qvd_system_tests::node::{Node, database_lines};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::Visit;
use qvd_system_tests::visitor::wait_drawn;
use qvd_system_tests::{can_show_a_desktop, skeleton, skip};

/// An account that every Debian has, and that owns nothing.
const ROUTER: &str = "daemon";

#[test]
fn a_router_without_roots_rights_reaches_the_desktops_of_roots_daemon() {
    if !can_show_a_desktop() {
        return;
    }
    if !geteuid().is_root() {
        return skip("only root can start a router that becomes another account");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let Some(postgres) = runtime.block_on(TemporaryPostgres::start()) else { return };
    let backend = runtime.block_on(postgres.database());
    let dir = Scratch::new().expect("a temporary directory");
    // Others may pass through, as through the directories of an installed node.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("ours");
    let screen = Screen::start(&dir.path().join("screen"), 1000, 700).expect("a screen");
    let more = format!("vm.process.home.skel = {}\nl7r.as_user = {ROUTER}\n", skeleton("bare"));
    let mut node = Node::start(dir.path(), Some(&database_lines(&backend)), &more).expect("a node");

    let status = format!("/proc/{}/status", node.server().id());
    let status = fs::read_to_string(status).expect("it runs");
    let uid = User::from_name(ROUTER).expect("a look-up").expect("the account").uid;
    assert!(status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{status}");

    node.add_flavour().expect("a flavour");
    let alice = node.add_account("alice").expect("an account");
    let visit = Visit { geometry: (640, 480), ..Visit::default() };
    // The first time, and again when it is suspended.
    for _ in 0..2 {
        let mut client = node.connect(&screen, &alice, &visit).expect("a client");
        wait_drawn(&node, &screen, alice.vm, &mut client, &[TERMINAL]).expect("the desktop is drawn");
        client.stop(Duration::from_secs(10));
    }
}
