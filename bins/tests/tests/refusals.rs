//! Everything that keeps a user from the desktop: each has its status, its exit code and words that help.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use qvd_system_tests::machine::Machine;
use qvd_system_tests::process::{Process, program, run, wait_until};
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Account, Site, Visit};
use qvd_system_tests::{ask, can_show_a_desktop, skeleton};

const LIMIT: Duration = Duration::from_secs(90);

/// A site that does not encrypt, so that statuses can be asked for.
fn site(dir: &Path, more: &[(&str, &str)]) -> Site {
    let skel = skeleton("light");
    let mut settings = vec![("l7r.use_ssl", "0"), ("vm.process.home.skel", skel.as_str())];
    settings.extend(more);
    let site = Site::start(dir, &settings).expect("a site");
    site.add_flavour().expect("a flavour");
    site
}

/// Runs a client to its end; answers its exit code and what it said.
fn visit(site: &Site, screen: &Screen, account: &Account) -> (i32, String) {
    let mut client = site.connect(screen, account, &Visit::default()).expect("a client");
    outcome(&mut client)
}

fn outcome(client: &mut Process) -> (i32, String) {
    let status = client.wait_exit(LIMIT).expect("the client ends");
    (status.code().unwrap_or(-1), client.lines().join("\n"))
}

fn assert_refused(got: &(i32, String), code: i32, words: &str) {
    assert_eq!(got.0, code, "{}", got.1);
    let last = got.1.lines().last().unwrap_or_default();
    assert!(last.contains(words), "expected '{words}' at the end of:\n{}", got.1);
}

#[test]
fn users_and_machines_that_may_not_are_refused_in_clear_words() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 800, 600).expect("a screen");
    let site = site(dir.path(), &[]);
    let alice = site.add_account("alice").expect("an account");

    // A wrong password.
    let liar = Account { password: "wrong".to_owned(), ..alice.clone() };
    assert_refused(&visit(&site, &screen, &liar), 5, "login failed: wrong user name or password");
    assert_eq!(ask::list(site.port(), "alice", "wrong").expect("an answer").status, 401);

    // A user without a virtual machine.
    let password = site.add_user("bob").expect("a user");
    let bob = Account { login: "bob".to_owned(), password, vm: alice.vm };
    assert_refused(&visit(&site, &screen, &bob), 2, "you have no virtual machine; ask your administrator");
    let list = ask::list(site.port(), "bob", &bob.password).expect("an answer");
    assert_eq!((list.status, list.body.trim()), (200, "[]"));

    // Somebody else's.
    let answer = ask::connect(site.port(), "bob", &bob.password, alice.vm).expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(answer.body, "You are not allowed to access requested virtual machine");

    // One that does not exist.
    let answer = ask::connect(site.port(), "alice", &alice.password, 4711).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (404, "The requested virtual machine does not exist"));

    // A blocked one, and the way back.
    let filter = format!("id={}", alice.vm);
    site.qa(&["vm", "block", "-f", &filter]).expect("it is blocked");
    let answer = ask::connect(site.port(), "alice", &alice.password, alice.vm).expect("an answer");
    assert_eq!(answer.status, 403);
    assert_eq!(answer.body, "The requested virtual machine is offline for maintenance");
    let words = "the server refuses: The requested virtual machine is offline for maintenance";
    assert_refused(&visit(&site, &screen, &alice), 7, words);
    site.qa(&["vm", "unblock", "-f", &filter]).expect("it is unblocked");
    let mut client = site.connect(&screen, &alice, &Visit::default()).expect("a client");
    client.wait_line("Desktop started", LIMIT).expect("it may again");
}

#[test]
fn a_machine_that_dies_while_connecting_is_told_and_the_next_connect_works() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 800, 600).expect("a screen");
    // The agent holds a connect until the gate is there, so that its machine can be killed in the middle of it.
    let agent = dir.path().join("vma.conf");
    let hold = "vma.on_action.pre-connect = /bin/sh -c 'until [ -e /run/qvd/gate ]; do sleep 0.05; done'\n";
    std::fs::write(&agent, hold).expect("the file is written");
    let mut site = site(dir.path(), &[("vm.process.vma.config", &agent.display().to_string())]);
    let alice = site.add_account("alice").expect("an account");

    let mut client = site.connect(&screen, &alice, &Visit::default()).expect("a client");
    client.wait_line("Starting X session at VM", LIMIT).expect("its agent is asked");
    let machine = kill_machine(&site, &alice);
    let got = outcome(&mut client);
    let told = format!("virtual machine is not available: Unable to start VM {}", alice.vm);
    assert_refused(&got, 7, &told);
    machine.wait_gone(LIMIT).expect("nothing of it is left");

    // The status of the same.
    let (answer, machine) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask::connect(site.port(), "alice", &alice.password, alice.vm));
        let machine = kill_machine(&site, &alice);
        (asked.join().expect("no bug in here").expect("an answer"), machine)
    });
    assert_eq!(answer.status, 503, "{}", answer.body);
    machine.wait_gone(LIMIT).expect("nothing of it is left");

    let mut client = site.connect(&screen, &alice, &Visit::default()).expect("a client");
    wait_held(&site, &alice);
    std::fs::write(site.guest_dir(alice.vm).join("gate"), "").expect("the gate is opened");
    client.wait_line("Desktop started", LIMIT).expect("the next connect works");
    assert!(site.server().is_running());
}

/// Waits until the agent of a machine holds a connect.
fn wait_held(site: &Site, account: &Account) -> Machine {
    let machine = wait_until("a machine whose agent runs its hook", LIMIT, || {
        let machine = Machine::of(site, account.vm).ok()?;
        machine.find("sh").map(|_| machine)
    });
    machine.expect("it is launched")
}

/// Kills the first process of a machine whose agent holds a connect.
fn kill_machine(site: &Site, account: &Account) -> Machine {
    let machine = wait_held(site, account);
    let init = nix::unistd::Pid::from_raw(machine.init());
    nix::sys::signal::kill(init, Signal::SIGKILL).expect("it can be killed");
    machine
}

#[test]
fn a_missing_nxagent_is_named() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 800, 600).expect("a screen");
    let agent = dir.path().join("vma.conf");
    std::fs::write(&agent, "command.nxagent = /nonexistent/nxagent\n").expect("the file is written");
    let text = agent.display().to_string();
    let site = site(dir.path(), &[("vm.process.vma.config", &text), ("internal.l7r.retry.x_start", "1")]);
    let alice = site.add_account("alice").expect("an account");
    let got = visit(&site, &screen, &alice);
    assert_refused(&got, 7, "'/nonexistent/nxagent' is not installed in the virtual machine");
    let answer = ask::connect(site.port(), "alice", &alice.password, alice.vm).expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("nxagent") && answer.body.ends_with("retry later"), "{}", answer.body);

    // Installed after all, the machine works without a restart of anything but itself.
    std::fs::write(&agent, "").expect("the file is written");
    let filter = format!("id={}", alice.vm);
    site.qa(&["vm", "stop", "-f", &filter]).expect("it is stopped");
    wait_until("a stopped machine", LIMIT, || {
        site.qa(&["vm", "list"]).ok()?.contains("stopped").then_some(())
    })
    .expect("it stops");
    let mut client = site.connect(&screen, &alice, &Visit::default()).expect("a client");
    client.wait_line("Desktop started", LIMIT).expect("it works");
}

#[test]
fn a_taken_port_and_a_taken_directory() {
    let dir = Scratch::new().expect("a temporary directory");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("it has an address");

    // The usual port is taken: a free one is found. A port asked for is not exchanged for another.
    let port = address.port().to_string();
    let site = Site::start(dir.path(), &[("l7r.port", &port)]).expect("a site on a free port");
    assert_ne!(site.port(), address.port());
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("a directory");
    let mut command = Site::standalone_command(None, &other, &[]).expect("qvd is built");
    command.arg("--listen").arg(address.to_string());
    let (code, text) = run_to_end(command);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains(&format!("cannot listen on {address}")), "{text}");
    assert!(text.contains("is another router running?"), "{text}");

    // A second start on one data directory.
    let (code, text) = run_to_end(Site::standalone_command(None, dir.path(), &[]).expect("qvd is built"));
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("is in use by process") && text.contains("choose another"), "{text}");
    site.qa(&["host", "list"]).expect("the first one serves on");

    // A router that is a process of its own.
    let config = dir.path().join("router.conf");
    let text = format!(
        "nodename = node\nl7r.address = 127.0.0.1\nl7r.port = {port}\nl7r.use_ssl = 0\nl7r.as_user =\npath.run = {own}/run\n\
         database.driver = sqlite\ndatabase.path = {own}/router.db\n",
        own = dir.path().display()
    );
    std::fs::write(&config, text).expect("the file is written");
    let mut qa = Command::new(program("qa").expect("it is built"));
    qa.env("QVD_CONFIG", &config).args(["host", "add", "name=node", "address=127.0.0.1"]);
    run(&mut qa).expect("the node is known");
    let mut command = Command::new(program("qvd-l7r").expect("it is built"));
    command.arg("-f").arg(&config).arg("-X");
    let (code, text) = run_to_end(command);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains(&format!("cannot listen on {address} (is another router running?)")), "{text}");
}

#[test]
fn every_bad_setting_is_named_before_anything_starts() {
    let dir = Scratch::new().expect("a temporary directory");
    let file = dir.path().join("node.conf");
    let bad = "nodename = node\nl7r.port = 84x3\ninternal.hkd.max_heavy = many\nl7r.use_ssl = perhaps\n";
    std::fs::write(&file, bad).expect("the file is written");
    for name in ["qvd-hkd", "qvd-l7r"] {
        let mut command = Command::new(program(name).expect("it is built"));
        command.arg("-f").arg(&file);
        let (code, text) = run_to_end(command);
        assert_eq!(code, 2, "{name}: {text}");
        for key in ["l7r.port", "84x3", "internal.hkd.max_heavy", "l7r.use_ssl"] {
            assert!(text.contains(key), "{name} does not name {key}: {text}");
        }
    }
    let settings = [("l7r.port", "84x3"), ("no.such.key", "1"), ("config.strict", "1")];
    let command = Site::standalone_command(None, dir.path(), &settings).expect("qvd is built");
    let (code, text) = run_to_end(command);
    assert_eq!(code, 2, "{text}");
    for key in ["l7r.port", "84x3", "unknown configuration key 'no.such.key'"] {
        assert!(text.contains(key), "{key} is not named: {text}");
    }

    // An unknown key alone keeps nobody from the desktop, unless strictness is asked for; it is named all the same.
    let mut site = Site::start(&dir.path().join("site"), &[("no.such.key", "1")]).expect("a site");
    let lines = site.server().lines();
    assert!(lines.iter().any(|line| line.contains("unknown configuration key 'no.such.key'")), "{lines:?}");
}

/// Runs a program that is to end by itself; answers its exit code and its messages.
fn run_to_end(mut command: Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}
