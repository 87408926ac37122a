//! What goes wrong in practice.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use qvd_core::state::XState;
use qvd_core::vma::{Vma, VmaError};

use crate::support::relay::Relay;
use crate::support::{NX, Screen, Setup, eventually, have, properties, runs};

#[tokio::test]
async fn a_killed_agent_is_told_in_clear_words_and_the_next_start_works() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    let inside = machine.inside_pid().await;
    kill(machine.agent_pid(), Signal::SIGKILL).unwrap();
    machine.wait_state(XState::Stopped).await;
    let failure = machine.failure().await.unwrap();
    assert!(failure.contains("SIGKILL") && failure.contains("while somebody was connected"), "{failure}");
    eventually("the end of the desktop", async || (!runs(inside)).then_some(())).await;

    std::fs::remove_file(machine.home().join("inside.pid")).unwrap();
    machine.listen().await;
    assert_eq!(machine.failure().await, Some(failure), "who asks late hears it too");
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    machine.inside_pid().await;
    assert_eq!(machine.failure().await, None);
}

#[tokio::test]
async fn dangerous_parameters_are_refused_and_nothing_runs() {
    let machine = Setup::new().start().await;
    let cases = [
        ("qvd.client.geometry", "$(reboot)"),
        ("qvd.client.nxagent.extra_args", "a=1:0\nnx/nx,b=2"),
        ("qvd.vm.user.name", "-o"),
        ("custom.x", "a\u{0}b"),
    ];
    for (name, value) in cases {
        let params = vec![(name.to_owned(), value.to_owned())];
        let error = machine.vma.x_start(&params).await.unwrap_err();
        let expected = format!("invalid characters in parameter {name}");
        assert!(matches!(&error, VmaError::Refused { message, .. } if *message == expected), "{error}");
        assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
    }
    assert!(!machine.path("run/nxagent.conf").exists());
}

#[tokio::test]
async fn a_taken_display_is_passed_over() {
    if !have(&NX) {
        return;
    }
    let setup = Setup::new();
    let display = setup.display();
    let name = format!("/tmp/.X11-unix/X{display}");
    let _taken = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let machine = setup.start().await;
    machine.listen().await;
    assert_eq!(machine.display(), format!(":{}", display + 1));
}

#[tokio::test]
async fn a_display_that_only_the_agent_finds_taken_is_passed_over() {
    if !have(&NX) {
        return;
    }
    let setup = Setup::new();
    let display = setup.display();
    // A server in another network namespace that shares /tmp: the lock names a process that lives.
    let lock = format!("/tmp/.X{display}-lock");
    std::fs::write(&lock, format!("{:>10}\n", std::process::id())).unwrap();
    let machine = setup.start().await;
    machine.listen().await;
    std::fs::remove_file(lock).unwrap();
    assert_eq!(machine.display(), format!(":{}", display + 1));
}

#[tokio::test]
async fn a_missing_agent_is_named() {
    let machine = Setup::new().set("command.nxagent", "/nonexistent/nxagent").start().await;
    // At once and to the caller, who is a user that waits.
    let error = machine.vma.x_start(&properties()).await.unwrap_err();
    let told = "'/nonexistent/nxagent' is not installed in the virtual machine";
    assert!(matches!(&error, VmaError::Refused { message, .. } if message.contains(told)), "{error}");
    assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
}

#[tokio::test]
async fn a_missing_desktop_is_named_before_an_agent_starts() {
    let machine = Setup::new().set("command.x-session", "/nonexistent/desktop").start().await;
    machine.vma.x_start(&properties()).await.unwrap();
    machine.wait_state(XState::Stopped).await;
    let failure = eventually("the reason", async || machine.failure().await).await;
    assert!(failure.contains("'/nonexistent/desktop'"), "{failure}");
    assert!(!machine.path("log/qvd-nxagent.log").exists());
}

#[tokio::test]
async fn an_agent_that_nobody_comes_to_ends_but_a_desktop_does_not() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().set("internal.nxagent.timeout.listening", "1.5").start().await;
    machine.listen().await;
    let agent = machine.agent_pid().as_raw();
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(agent));

    let inside = machine.suspended(&screen).await;
    machine.listen().await;
    machine.wait_state(XState::Suspended).await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert!(runs(inside));
}

#[tokio::test]
async fn a_slow_link_connects_and_resumes_though_it_takes_longer_than_a_client_is_waited_for() {
    if !have(&NX) {
        return;
    }
    let limit = Duration::from_millis(500);
    let screen = Screen::start().await;
    let seconds = limit.as_secs_f32().to_string();
    let machine = Setup::new().set("internal.nxagent.timeout.listening", &seconds).start().await;
    let mut before = None;
    for _ in ["connect", "resume"] {
        machine.listen().await;
        let link = Relay::slow(machine.path("link.sock"), machine.socket(), Duration::from_millis(3));
        let begun = Instant::now();
        let mut viewer = screen.view(link.socket());
        let reached = [XState::Connected, XState::Suspended, XState::Stopped];
        assert_eq!(machine.wait_any(&reached).await, XState::Connected, "{}", machine.agent_log());
        assert!(begun.elapsed() > limit, "too fast to show anything: {:?}", begun.elapsed());
        let inside = machine.inside_pid().await;
        assert!(before.replace(inside).is_none_or(|before| before == inside));
        viewer.kill();
        machine.wait_state(XState::Suspended).await;
    }
}

#[tokio::test]
async fn a_link_that_never_gets_there_is_told_from_a_client_that_never_comes() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new()
        .set("internal.nxagent.timeout.listening", "1.5")
        .set("internal.nxagent.timeout.connecting", "0.5")
        .start()
        .await;
    machine.listen().await;
    machine.wait_state(XState::Stopped).await;
    let told = machine.failure().await.unwrap();
    assert!(told.contains("nobody connected"), "{told}");
    machine.listen().await;
    let link = Relay::slow(machine.path("link.sock"), machine.socket(), Duration::from_millis(200));
    let _viewer = screen.view(link.socket());
    machine.wait_state(XState::Stopped).await;
    let told = machine.failure().await.unwrap();
    assert!(told.contains("too slow"), "{told}");
}

#[tokio::test]
async fn a_stranger_on_the_socket_of_a_waiting_desktop_costs_nothing() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let machine = Setup::new().start().await;
    let inside = machine.suspended(&screen).await;
    machine.listen().await;
    drop(std::os::unix::net::UnixStream::connect(machine.socket()).unwrap());
    machine.wait_state(XState::Suspended).await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert!(runs(inside));
}

#[tokio::test]
async fn a_stubborn_agent_is_killed() {
    // Says what an agent says, and ignores SIGTERM.
    let setup = Setup::new();
    let script = setup.path("stubborn");
    std::fs::write(
        &script,
        "trap '' TERM\necho \"Info: Waiting for connection from any host on socket 'x'.\"\n\
         while :; do sleep 1; done\n",
    )
    .unwrap();
    let machine = setup
        .set("command.nxagent", &format!("/bin/sh {}", script.display()))
        .set("vma.nxagent.guard", "0")
        .set("internal.nxagent.timeout.stopping", "0.3")
        .start()
        .await;
    machine.listen().await;
    let agent = machine.agent_pid().as_raw();
    assert_eq!(machine.vma.x_stop().await.unwrap(), XState::Stopping);
    machine.wait_state(XState::Stopped).await;
    assert!(!runs(agent));
}

#[tokio::test]
async fn an_agent_that_did_not_take_a_demanded_guard_is_not_used() {
    let setup = Setup::new();
    let script = setup.path("unguarded");
    std::fs::write(
        &script,
        "echo \"Info: Waiting for connection from any host on socket 'x'.\"\nexec sleep 1000\n",
    )
    .unwrap();
    let machine = setup
        // What a loader that passes over the library comes to.
        .set("command.nxagent", &format!("/usr/bin/env LD_PRELOAD= /bin/sh {}", script.display()))
        .set("vma.nxagent.guard", "1")
        .start()
        .await;
    machine.vma.x_start(&properties()).await.unwrap();
    let told = eventually("the reason", async || machine.failure().await).await;
    assert!(told.contains("vma.nxagent.guard = 1"), "{told}");
    machine.wait_state(XState::Stopped).await;
}

/// nxagent says that it waits a moment before it does, and does not see a signal that comes in between until another
/// one comes. Here that moment is long.
#[tokio::test]
async fn a_signal_that_the_agent_does_not_see_costs_no_desktop() {
    if !have(&NX) || !have(&["cc"]) {
        return;
    }
    let screen = Screen::start().await;
    let setup = Setup::new();
    let (source, library) = (setup.path("slow.c"), setup.path("slow.so"));
    std::fs::write(&source, SLOW_WAIT).unwrap();
    let mut compile = std::process::Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compile.status().unwrap().success());
    let preload = format!("env LD_PRELOAD={} nxagent", library.display());
    let machine = setup.set("command.nxagent", &preload).start().await;
    let inside = machine.suspended(&screen).await;
    // Called off: put back to sleep the moment it waits.
    machine.ask().await;
    machine.vma.x_suspend().await.unwrap();
    machine.wait_state(XState::Suspended).await;
    assert!(runs(inside), "{:?}", machine.failure().await);
    // Ended the moment it waits: also for that it is woken, not waited for and killed.
    machine.ask().await;
    machine.wait_state(XState::Listening).await;
    machine.vma.x_stop().await.unwrap();
    machine.wait_state(XState::Stopped).await;
    assert!(machine.agent_log().contains("Session: Session terminated"), "{}", machine.agent_log());
}

/// Stretches the moment between nxagent's word that it waits for a client and the wait, which is for 20 s at a time.
const SLOW_WAIT: &str = "\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/select.h>
#include <time.h>
int select(int count, fd_set *r, fd_set *w, fd_set *e, struct timeval *limit) {
  int (*next)(int, fd_set *, fd_set *, fd_set *, struct timeval *) = dlsym(RTLD_NEXT, \"select\");
  struct timespec moment = {0, 300000000};
  if (limit && limit->tv_sec == 20 && limit->tv_usec == 0) nanosleep(&moment, 0);
  return next(count, r, w, e, limit);
}
";
