//! The administrator's programs around a session.

use qvd_core::state::XState;
use qvd_core::vma::{Vma, VmaError};

use crate::support::{NX, Screen, Setup, eventually, have, lines, properties};

const ACTION: &str = "vma.on_action";

#[tokio::test]
async fn a_refusing_pre_connect_hook_starts_nothing() {
    let setup = Setup::new().hook(&format!("{ACTION}.pre-connect"), "pre", "exit 3");
    let machine = setup.set("command.nxagent", "/bin/false").start().await;
    let error = machine.vma.x_start(&properties()).await.unwrap_err();
    assert!(matches!(&error, VmaError::Refused { message, .. } if message.contains("rc: 3")), "{error}");
    assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
    let arguments = lines(&machine.path("pre.args"));
    let words: Vec<_> = arguments[0].split(' ').collect();
    assert_eq!(words.len() % 2, 0);
    let tail = ["qvd.vm.session.state", "stopped", "qvd.hook.on_action", "pre_connect"];
    assert!(words.ends_with(&tail), "{words:?}");
    assert!(words.windows(2).any(|pair| pair == ["qvd.client.link", "lan"]), "{words:?}");
    assert!(words.contains(&"qvd.vm.user.home"), "{words:?}");
    assert!(!arguments[0].contains("k3y"), "the slave key is visible in the process list");
}

#[tokio::test]
async fn a_refusing_connect_hook_ends_a_first_start() {
    let machine = Setup::new().hook(&format!("{ACTION}.connect"), "connect", "exit 1").start().await;
    machine.vma.x_start(&properties()).await.unwrap();
    machine.wait_state(XState::Stopped).await;
    assert_eq!(lines(&machine.path("connect.args")).len(), 1);
    let failure = machine.failure().await.unwrap();
    assert!(failure.contains("connect") && failure.contains("rc: 1"), "{failure}");
}

#[tokio::test]
async fn one_start_at_a_time_is_asked_about() {
    let setup = Setup::new();
    let go = setup.path("go");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    let setup = setup.set("command.nxagent", "/bin/false");
    let machine = setup.hook(&format!("{ACTION}.pre-connect"), "pre", &wait).start().await;
    let params = properties();
    let first = machine.vma.x_start(&params);
    let second = async {
        let ran = machine.path("pre.args");
        eventually("the hook", async || (lines(&ran).len() == 1).then_some(())).await;
        assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
        let error = machine.vma.x_start(&params).await.unwrap_err().to_string();
        std::fs::write(&go, "").unwrap();
        error
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert!(second.ends_with("in state starting, try again in a few minutes"), "{second}");
    assert_eq!(lines(&machine.path("pre.args")).len(), 1);
}

#[tokio::test]
async fn hooks_of_states_run_once_per_change() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let setup = ["connected", "suspended", "disconnected"]
        .iter()
        .fold(Setup::new(), |setup, state| setup.hook(&format!("vma.on_state.{state}"), state, ""));
    let machine = setup.start().await;
    let told = |state: &str| lines(&machine.path(&format!("{state}.args")));
    let wait = async |state: &str, count: usize| {
        eventually(&format!("hook {count} of {state}"), async || (told(state).len() >= count).then_some(()))
            .await;
    };
    // At the agent's own start nothing is connected any more.
    wait("disconnected", 1).await;
    machine.listen().await;
    let mut viewer = screen.view(&machine.socket());
    wait("connected", 1).await;
    viewer.kill();
    wait("suspended", 1).await;
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    wait("connected", 2).await;
    nix::sys::signal::kill(machine.agent_pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait("disconnected", 2).await;
    assert_eq!(machine.vma.x_state().await.unwrap(), XState::Stopped);
    let dir = machine.stop().await;
    let told = |state: &str| lines(&dir.path().join(format!("{state}.args")));
    assert_eq!(told("disconnected"), ["qvd.hook.on_state stopped"; 2]);
    assert_eq!(told("connected"), ["qvd.hook.on_state connected"; 2]);
    assert_eq!(told("suspended"), ["qvd.hook.on_state suspended"; 1]);
}

#[tokio::test]
async fn a_refusing_connect_hook_of_a_resume_leaves_the_desktop_suspended() {
    if !have(&NX) {
        return;
    }
    let screen = Screen::start().await;
    let setup = Setup::new();
    let refuse = setup.path("refuse");
    let script = format!("[ ! -e '{}' ]", refuse.display());
    let machine = setup.hook(&format!("{ACTION}.connect"), "connect", &script).start().await;
    machine.listen().await;
    let mut viewer = screen.view(&machine.socket());
    let inside = machine.inside_pid().await;
    viewer.kill();
    machine.wait_state(XState::Suspended).await;
    std::fs::write(&refuse, "").unwrap();
    machine.vma.x_start(&properties()).await.unwrap_err();
    machine.wait_state(XState::Suspended).await;
    std::fs::remove_file(&refuse).unwrap();
    machine.listen().await;
    let _viewer = screen.view(&machine.socket());
    machine.wait_state(XState::Connected).await;
    assert!(crate::support::runs(inside));
}

#[tokio::test]
async fn expiry_and_power_off_go_through_their_hooks() {
    let setup = Setup::new().hook(&format!("{ACTION}.expire"), "expire", "");
    let allow = setup.path("allow");
    let script = format!("[ -e '{}' ]", allow.display());
    let mut machine = setup.hook(&format!("{ACTION}.poweroff"), "off", &script).start().await;
    let limits = vec![("vm.expiration.soft".to_owned(), "2030-01-01T00:00:00".to_owned())];
    machine.vma.expire(&limits).await.unwrap();
    assert_eq!(
        lines(&machine.path("expire.args")),
        ["vm.expiration.soft 2030-01-01T00:00:00 qvd.vm.session.state stopped qvd.hook.on_action expire"]
    );
    machine.vma.poweroff().await.unwrap_err();
    machine.vma.ping().await.unwrap();
    std::fs::write(&allow, "").unwrap();
    machine.vma.poweroff().await.unwrap();
    machine.ended().await;
}
