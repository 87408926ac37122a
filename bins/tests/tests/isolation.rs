//! Another user of the same machine can neither see nor type into a desktop, nor reach what it runs on.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use qvd_system_tests::desktop::{PANEL, TERMINAL};
use qvd_system_tests::machine::{Machine, NAMESPACES, namespace};
use qvd_system_tests::process::wait_until;
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Site, Visit};
use qvd_system_tests::visitor::wait_drawn;
use qvd_system_tests::window::Display;
use qvd_system_tests::{can_show_a_desktop, skeleton, skip};

/// The other user.
const STRANGER: u32 = 65_534;

#[test]
fn a_desktop_is_closed_to_other_users_and_has_namespaces_of_its_own() {
    if !can_show_a_desktop() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can try what another user may do");
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 1300, 860).expect("a screen");
    let skel = skeleton("light");
    let site = Site::start(dir.path(), &[("vm.process.home.skel", &skel)]).expect("a site");
    site.add_flavour().expect("a flavour");
    let account = site.add_account("alice").expect("an account");
    let mut client = site.connect(&screen, &account, &Visit::default()).expect("a client");
    wait_drawn(&site, &screen, account.vm, &mut client, &[PANEL, TERMINAL]).expect("the desktop is drawn");
    let machine = Machine::of(&site, account.vm).expect("the machine runs");

    // Its processes: four kinds of namespaces that are not ours, and none of them runs as root but the first.
    let processes = machine.processes();
    assert!(processes.values().any(|name| name == "nxagent"), "{processes:?}");
    for kind in NAMESPACES {
        let ours = namespace(std::process::id() as i32, kind).expect("we have one");
        let theirs = namespace(machine.init(), kind).expect("it has one");
        assert_ne!(ours, theirs, "{kind}");
        for pid in processes.keys() {
            // A short-lived process of the desktop may be gone.
            assert!(namespace(*pid, kind).is_none_or(|own| own == theirs), "{pid} {kind}");
        }
    }

    // The display: with the cookie it opens, so what follows proves something.
    let number = site.display_number(account.vm).expect("the agent has a display");
    site.inside(account.vm).expect("its owner gets in");
    assert!(!Display::admits_this_user(number), "root has no cookie either");
    for action in [&["getmouselocation"][..], &["key", "a"]] {
        let mut stranger = Command::new("setpriv");
        stranger.args([&format!("--reuid={STRANGER}"), &format!("--regid={STRANGER}"), "--clear-groups"]);
        stranger.arg("xdotool").args(action);
        stranger.env("DISPLAY", format!(":{number}")).env_remove("XAUTHORITY").env("HOME", "/nonexistent");
        let output = stranger.output().expect("setpriv is there");
        assert!(!output.status.success(), "a stranger did {action:?} on the desktop");
    }

    // Files and sockets, with the file rights of a stranger. The scratch directory itself lets everybody in, as
    // /run and /var/lib do.
    let guest = site.guest_dir(account.vm);
    let home = dir.path().join(format!("data/storage/homefs/{}-fs", account.vm));
    open_to_all(dir.path());
    open_to_all(&dir.path().join("data"));
    let calls = guest.with_file_name("vma.sock");
    assert!(calls.exists(), "it is where this test looks");
    let secret = guest.join("nxagent.xauth");
    assert!(fs::read(&secret).is_ok() && fs::read_dir(&home).is_ok(), "they are where this test looks");
    let refused = as_stranger(move || {
        [
            ("look into the run directory", fs::read_dir(&guest).map(drop)),
            ("read the cookie", fs::read(&secret).map(drop)),
            ("reach the agent", UnixStream::connect(&calls).map(drop)),
            ("reach the NX port", UnixStream::connect(guest.join("nx.sock")).map(drop)),
            ("look into the home", fs::read_dir(&home).map(drop)),
        ]
        .map(|(what, outcome)| (what, outcome.map_err(|e| e.kind())))
    });
    for (what, outcome) in refused {
        assert_eq!(outcome, Err(std::io::ErrorKind::PermissionDenied), "a stranger could {what}");
    }
    assert!(client.is_running(), "the session was not disturbed");
    wait_until("the desktop as before", Duration::from_secs(60), || {
        site.inside(account.vm).ok()?.windows().ok().filter(|windows| !windows.is_empty())
    })
    .expect("the desktop answers its owner");
}

fn open_to_all(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
}

/// Runs this on a thread that has the file rights of another user, and nobody's privileges.
fn as_stranger<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        setfsgid(Gid::from_raw(STRANGER));
        setfsuid(Uid::from_raw(STRANGER));
        work()
    });
    thread.join().expect("it does not panic")
}
