//! Two clients, one machine (rows 65–68, 71).

use std::time::{Duration, Instant};

use qvd_core::SessionId;
use qvd_core::state::{UserCommand, UserState};
use qvd_db::NewSession;
use tokio::io::AsyncReadExt;

use crate::support::{Answer, Options, World, eventually, soon};

#[tokio::test]
async fn row_65_the_second_client_wins_and_the_first_stream_is_closed() {
    // Only notifications are quick enough for this test.
    let world = World::with(Options::default().set("internal.l7r.poll_time.vm", "15")).await;
    let mut desktop = world.running().await;
    let mut first = world.connecting().await;
    first.switched().await;
    let mut left = desktop.session().await;

    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("listening")]);
    let begun = Instant::now();
    let mut second = world.connecting().await;
    let (texts, _) = second.switched().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(texts[0], format!("Aborting contending session for VM_ID: {}", world.vm));
    assert_eq!(texts[1], format!("Session acquired for VM_ID: {}", world.vm));
    first.expect_end().await;
    assert_eq!(soon(left.read(&mut [0; 8])).await.unwrap(), 0, "the desktop is left");
    desktop.session().await;
    let row = world.row().await;
    assert_eq!((row.user_state, row.user_cmd), (UserState::Connected, None));
    eventually("one session", async || world.handle.sessions() == 1).await;
    assert_eq!(world.handle.metrics().aborted_total, 1);
}

#[tokio::test]
async fn row_68_a_stream_that_is_aborted_ends_although_the_row_cannot_be_given_back() {
    let mut world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    client.switched().await;
    desktop.session().await;
    world.db.close().await;
    let begun = Instant::now();
    world.stop();
    world.handle.end_sessions();
    client.expect_end().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    world.stopped().await;
}

#[tokio::test]
async fn row_65_the_second_client_may_come_through_another_router() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let other = world.second_router().await;
    let mut first = world.connecting().await;
    first.switched().await;
    desktop.session().await;
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("listening")]);
    let mut second = crate::support::Client::connect(other.address).await;
    second.send(world.connect_request("")).await;
    second.switched().await;
    first.expect_end().await;
}

#[tokio::test]
async fn row_66_a_client_that_still_waits_is_told_and_the_second_continues() {
    let world = World::new().await;
    let mut first = world.connecting().await;
    let run = world.accept_start().await;
    world.until_user_state(UserState::Connecting).await;
    let mut second = world.connecting().await;
    let (_, answer) = first.refused().await;
    assert_eq!(
        answer.body,
        format!(
            "The requested virtual machine is not available: Aborted by contending session VM VM_ID: {}, retry later",
            world.vm
        )
    );
    first.expect_end().await;
    let desktop = crate::support::Desktop::start(&world.vm_dir());
    world.now_running(run, &desktop).await;
    second.switched().await;
}

#[tokio::test]
async fn row_67_71_a_session_that_does_not_go_is_left_and_its_row_untouched() {
    let world = World::with(Options::default().set("internal.l7r.timeout.takeover", "0.5")).await;
    let _desktop = world.running().await;
    // A router of another host that hears nothing.
    let (far, _) = crate::support::running_host(&world.db, "far").await;
    let deaf = SessionId::from_u128(77);
    let session = NewSession {
        session_id: deaf,
        l7r_host: far,
        l7r_pid: 1,
        l7r_instance: uuid::Uuid::new_v4(),
        real_user: world.alice,
        user_ip: None,
    };
    assert!(world.db.sessions().acquire(world.vm, session).await.unwrap().is_updated());
    assert!(world.db.sessions().commit(world.vm, deaf).await.unwrap().is_updated());
    let mut client = world.connecting().await;
    let (texts, answer) = client.refused().await;
    assert_eq!(texts, [format!("Aborting contending session for VM_ID: {}", world.vm)]);
    assert_eq!(
        answer.body,
        "The requested virtual machine is not available: Unable to acquire VM, close other clients, retry later"
    );
    client.expect_end().await;
    eventually("ended", async || world.handle.sessions() == 0).await;
    let row = world.row().await;
    assert_eq!((row.session_id, row.user_state), (Some(deaf), UserState::Connected));
    assert_eq!((row.l7r_host_id, row.user_cmd), (Some(far), Some(UserCommand::Abort)));
}

#[tokio::test]
async fn row_68_an_administrators_abort_closes_the_stream_at_once() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    client.switched().await;
    desktop.session().await;
    assert!(world.db.sessions().abort_user(world.vm).await.unwrap().is_updated());
    client.expect_end().await;
    world.until_user_state(UserState::Disconnected).await;
    assert_eq!(world.row().await.user_cmd, None);
}
