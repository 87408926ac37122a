//! The database goes away under a working site and comes back: desktops live on, new users are told to wait, and
//! afterwards everything works without a restart of anything.

use std::time::Duration;

use nix::sys::signal::Signal;
use qvd_db::testkit::TemporaryPostgres;
use qvd_system_tests::desktop::TERMINAL;
use qvd_system_tests::machine::Machine;
use qvd_system_tests::node::{Node, database_lines};
use qvd_system_tests::process::{Process, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::visitor::{terminal, type_line, wait_drawn};
use qvd_system_tests::{ask, can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_database_goes_away_and_comes_back() {
    if !can_show_a_desktop() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let Some(mut postgres) = runtime.block_on(TemporaryPostgres::start()) else { return };
    let backend = runtime.block_on(postgres.database());
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 1000, 700).expect("a screen");
    let other_screen = Screen::start(&dir.path().join("other-screen"), 1000, 700).expect("a screen");
    let more = format!(
        "vm.process.home.skel = {}\ninternal.database.client.connect.timeout = 3\n",
        skeleton("bare")
    );
    let mut node = Node::start(dir.path(), Some(&database_lines(&backend)), &more).expect("a node");
    node.add_flavour().expect("a flavour");
    let [alice, bob] = ["alice", "bob"].map(|login| node.add_account(login).expect("an account"));
    let mut client = connect(&node, &screen, &alice);
    wait_drawn(&node, &screen, alice.vm, &mut client, &[TERMINAL]).expect("the desktop is drawn");
    let machine = Machine::of(&node, alice.vm).expect("the machine runs");

    postgres.crash();
    wait_until("a ping that tells of it", LIMIT, || (ask::ping(node.port()).ok()? == 503).then_some(()))
        .expect("the node says that it cannot serve");
    let list = ask::list(node.port(), "bob", &bob.password).expect("an answer");
    assert_eq!(list.status, 503, "an outage is no wrong password: {}", list.body);
    let answer = ask::connect(node.port(), "bob", &bob.password, bob.vm).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.body);
    let mut refused = connect(&node, &other_screen, &bob);
    let status = refused.wait_exit(LIMIT).expect("the client ends");
    let said = refused.lines().join("\n");
    assert_eq!(status.code(), Some(5), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains("not available: ")), "{said}");

    // Who is connected works on.
    let place = terminal(&node, alice.vm).expect("a terminal");
    type_line(&screen, place, "echo without > database.txt").expect("typed");
    let file = node.dir().join(format!("data/storage/homefs/{}-fs/alice/database.txt", alice.vm));
    wait_until("what was typed", LIMIT, || {
        std::fs::read_to_string(&file).ok().filter(|text| text == "without\n")
    })
    .expect("the desktop works without the database");
    assert!(client.is_running() && node.hkd().is_running() && node.server().is_running());

    runtime.block_on(postgres.restart());
    wait_until("a node that serves again", LIMIT, || (ask::ping(node.port()).ok()? == 200).then_some(()))
        .expect("it serves again");
    let mut second = connect(&node, &other_screen, &bob);
    wait_drawn(&node, &other_screen, bob.vm, &mut second, &[TERMINAL]).expect("another user connects");
    assert!(client.is_running(), "the first session lived through it: {:#?}", client.lines());
    assert!(!machine.processes().is_empty());
    wait_state(&node, &alice, "running,user_state=connected");

    // And the end of a session that began before is noticed.
    client.signal(Signal::SIGTERM).expect("it runs");
    client.wait_exit(LIMIT).expect("it ends");
    wait_state(&node, &alice, "running,user_state=disconnected");
}

fn connect(site: &Site, screen: &Screen, account: &Account) -> Process {
    let visit = Visit { geometry: (640, 480), ..Visit::default() };
    site.connect(screen, account, &visit).expect("a client")
}

fn wait_state(site: &Site, account: &Account, state: &str) {
    let filter = format!("id={},state={state}", account.vm);
    wait_until(&format!("a machine in state {state}"), LIMIT, || {
        let rows = site.qa(&["vm", "list", "-q", "-f", &filter]).ok()?;
        (!rows.trim().is_empty()).then_some(())
    })
    .expect("it gets there");
}
