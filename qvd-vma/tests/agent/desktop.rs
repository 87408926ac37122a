//! The agent with the real nxagent, seen through the real nxproxy.

use crate::support::{NX, Screen, Setup, eventually, have, properties, runs};
use qvd_core::state::XState;
use qvd_core::vma::Vma;

#[tokio::test]
async fn a_desktop_survives_the_loss_of_its_viewer() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);

    machine.listen().await;
    let mut viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    let (inside, window) = (machine.inside_pid().await, machine.marker_window().await);

    viewer.kill();
    machine.wait_state(XState::Suspended).await;

    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert_eq!(machine.inside_pid().await, inside);
    assert_eq!(machine.marker_window().await, window);
    assert!(runs(inside));

    let agent = machine.agent_pid().as_raw();
    let dir = machine.stop().await;
    assert!(!runs(agent) && !runs(inside));
    for file in ["run/nxagent.pid", "run/nxagent.state", "run/slave.conf", "run/nxagent.xauth"] {
        assert!(!dir.path().join(file).exists(), "{file} is left");
    }
}

#[tokio::test]
async fn the_end_of_the_desktop_is_the_end_of_the_session() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    let inside = machine.inside_pid().await;
    let agent = machine.agent_pid().as_raw();

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(inside), nix::sys::signal::Signal::SIGTERM).unwrap();
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(agent));
    assert_eq!(machine.failure().await, None, "a logout is no failure");

    // And the next one is a new desktop.
    std::fs::remove_file(machine.home().join("inside.pid")).unwrap();
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    assert_ne!(machine.inside_pid().await, inside);
}

#[tokio::test]
async fn a_second_viewer_takes_over() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    machine.listen().await;
    let _first = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    let inside = machine.inside_pid().await;

    let refused = machine.vma.x_start(&properties()).await.unwrap_err().to_string();
    assert!(
        refused.contains("Can't connect to X session in state connected, suspending it, retry later"),
        "{refused}"
    );
    machine.wait_state(XState::Suspended).await;
    machine.listen().await;
    let _second = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert_eq!(machine.inside_pid().await, inside);
    assert!(runs(inside));
}

#[tokio::test]
async fn suspend_and_stop_can_be_asked_for() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    assert_eq!(machine.vma.x_suspend().await.unwrap(), XState::Stopped);
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert_eq!(machine.vma.x_suspend().await.unwrap(), XState::Starting, "the reference's word for yes");
    machine.wait_state(XState::Suspended).await;
    let agent = machine.agent_pid().as_raw();
    assert_eq!(machine.vma.x_stop().await.unwrap(), XState::Stopping);
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(agent));
    assert_eq!(machine.vma.x_stop().await.unwrap(), XState::Stopped);
}

/// The first signal ends its wait only.
#[tokio::test]
async fn a_desktop_that_waits_again_ends_when_it_is_asked_to() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    // Only at that limit it is killed, and this test is over long before.
    let machine = Setup::new().set("internal.nxagent.timeout.stopping", "600").start().await;
    let inside = machine.suspended(&screen).await;
    machine.listen().await;
    let agent = machine.agent_pid().as_raw();
    machine.vma.x_stop().await.unwrap();
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(agent));
    eventually("the end of the desktop", async || (!runs(inside)).then_some(())).await;
}

#[tokio::test]
async fn only_holders_of_the_cookie_see_the_desktop() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.marker_window().await;
    let stranger = std::process::Command::new("xwininfo")
        .args(["-root", "-display", &machine.display()])
        .env("XAUTHORITY", "/dev/null")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    assert!(!stranger.status.success(), "the display is open to everybody");
}

#[tokio::test]
async fn a_launcher_can_stand_between() {
    if !have(&NX) || !have(&["xinit"]) {
        return;
    }
    // The launcher's commands go through the agent's own program, which here is this test: a stand-in for it.
    let setup = Setup::new();
    let script = "#!/bin/sh\nwhile [ \"$1\" != session-exec ]; do shift; done; shift\nwhile [ \"$1\" != -- ]; do\n  case $1 in --dir) cd \"$2\";; \
                  --preload) LD_PRELOAD=$2; export LD_PRELOAD;; esac\n  shift 2\ndone\nshift\nexec \"$@\"\n";
    let program = setup.path("own-program");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let machine = setup.set("command.xinit", "xinit").start_as(&program).await;
    let screen = Screen::start().await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    let inside = machine.inside_pid().await;
    let environment = std::fs::read(format!("/proc/{inside}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LD_PRELOAD"), "the desktop has the guard");
    machine.wait_state(XState::Connected).await;
    machine.vma.x_stop().await.unwrap();
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(inside));
}

#[tokio::test]
async fn the_guard_is_in_the_agent_and_not_in_the_desktop() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().set("vma.nxagent.guard", "1").start().await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    let inside = machine.inside_pid().await;
    let maps = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps(machine.agent_pid().as_raw()).contains("nxagent-guard.so"));
    assert!(!maps(inside).contains("nxagent-guard.so"));

    let without = Setup::new().set("vma.nxagent.guard", "0").start().await;
    without.listen().await;
    assert!(!maps(without.agent_pid().as_raw()).contains("nxagent-guard.so"));
}
