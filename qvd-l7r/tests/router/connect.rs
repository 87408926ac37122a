//! From the request to the desktop's bytes (rows 51–64, 69, 72–74).

use qvd_core::state::{UserState, VmState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, Client, Desktop, Options, World, eventually, soon};

const NOT_AVAILABLE: &str = "The requested virtual machine is not available: ";

/// The connect was refused with this reason, in two records, and the connection closed; the row is free again.
async fn expect_refusal(world: &World, client: &mut Client, reason: &str) -> Vec<String> {
    let (texts, answer) = client.refused().await;
    assert!(answer.head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{}", answer.head);
    assert_eq!(answer.body, format!("{NOT_AVAILABLE}{reason}, retry later"));
    client.expect_end().await;
    world.until_user_state(UserState::Disconnected).await;
    texts
}

#[tokio::test]
async fn row_51_54_a_cold_start_tells_its_steps_one_record_each_and_switches() {
    let world = World::new().await;
    let mut desktop = Desktop::start(&world.vm_dir());
    let mut client = world.connecting().await;
    let run = world.accept_start().await;
    world.now_running(run, &desktop).await;
    let (texts, key) = client.switched().await;
    let vm = world.vm;
    assert_eq!(
        texts,
        [
            format!("Session acquired for VM_ID: {vm}"),
            format!("Assigning VM {vm} to host"),
            "Starting virtual machine".to_owned(),
            "Waiting for VM to reach state 'running'".to_owned(),
            format!("Starting X session at VM {vm}"),
            format!("Waiting for X session to come up on VM {vm}"),
            format!("Connecting X session for VM_ID: {vm}"),
            "Connection established".to_owned(),
        ]
    );
    assert_eq!(key.len(), 64);
    let mut session = desktop.session().await;
    client.send("NXPROXY-3.5.0").await;
    let mut heard = [0; 13];
    soon(session.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"NXPROXY-3.5.0");
    session.write_all(b"welcome").await.unwrap();
    assert_eq!(client.record().await.unwrap(), b"welcome");

    let row = world.row().await;
    assert_eq!(
        (row.user_state, row.real_user_id, row.host_id),
        (UserState::Connected, Some(world.alice), Some(world.host))
    );
    client.close().await;
    world.until_user_state(UserState::Disconnected).await;
    assert_eq!(world.row().await.vm_state, VmState::Running, "the machine goes on");
    world.until_counted("the session", |c| (c.nx_attempts, c.nx_ok, c.short_sessions) == (1, 1, 1)).await;
}

#[tokio::test]
async fn row_52_53_a_running_machine_is_neither_started_nor_waited_for() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    let (texts, _) = client.switched().await;
    let vm = world.vm;
    assert_eq!(
        texts,
        [
            format!("Session acquired for VM_ID: {vm}"),
            format!("Starting X session at VM {vm}"),
            format!("Waiting for X session to come up on VM {vm}"),
            format!("Connecting X session for VM_ID: {vm}"),
            "Connection established".to_owned(),
        ]
    );
    desktop.session().await;
    assert!(!desktop.was_dialled(), "dialled once");
}

#[tokio::test]
async fn row_55_bytes_of_an_eager_desktop_come_behind_the_101_in_records_of_their_own() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let eager = async {
        let mut session = desktop.session().await;
        session.write_all(b"I speak first").await.unwrap();
        session
    };
    let mut client = world.connecting().await;
    let (_session, ()) = tokio::join!(eager, async {
        client.switched().await;
    });
    assert_eq!(client.record().await.unwrap(), b"I speak first");
}

#[tokio::test]
async fn row_56_bytes_behind_the_request_head_reach_the_desktop_first() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.client().await;
    client.send([world.connect_request("").as_bytes(), b"early "].concat()).await;
    client.send("bytes").await;
    client.switched().await;
    let mut session = desktop.session().await;
    let mut heard = [0; 11];
    soon(session.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"early bytes");
}

#[tokio::test]
async fn row_57_114_without_a_host_it_is_503_in_two_records_and_closed() {
    let world = World::new().await;
    crate::support::publish_driver(&world.db, world.host, world.incarnation, "kvm").await;
    let mut client = world.connecting().await;
    let reason = "Unable to assign vm to host, there is no host available";
    let texts = expect_refusal(&world, &mut client, reason).await;
    assert_eq!(texts.last().unwrap(), &format!("Assigning VM {} to host", world.vm));
}

#[tokio::test]
async fn row_58_a_machine_that_never_runs_is_given_up() {
    let world = World::with(Options::default().set("internal.l7r.timeout.vm_start", "0.5")).await;
    let mut client = world.connecting().await;
    world.accept_start().await;
    let texts = expect_refusal(&world, &mut client, "VM didn't reach state 'running'. Timeout").await;
    assert_eq!(texts.iter().filter(|t| t.starts_with("Waiting for VM")).count(), 1, "{texts:?}");
}

#[tokio::test]
async fn row_59_a_machine_that_dies_while_it_boots_is_given_up() {
    let world = World::with(Options::default().set("internal.l7r.poll_time.vm", "60")).await;
    let mut client = world.connecting().await;
    let run = world.accept_start().await;
    assert!(world.db.vms().clear(world.vm, world.host, run).await.unwrap().is_updated());
    // Clearing also aborts the session; whichever is seen first, nobody contended for it.
    expect_refusal(&world, &mut client, &format!("Unable to start VM {}", world.vm)).await;
}

#[tokio::test]
async fn row_60_an_agent_that_is_not_there_yet_is_called_again() {
    let world = World::new().await;
    let dir = world.vm_dir();
    let desktop = Desktop::start(&dir.with_file_name("elsewhere"));
    let run = world.run_vm(&desktop).await;
    let endpoint = qvd_core::hypervisor::Endpoint::Unix { dir: dir.clone() };
    let moved = world.db.vms().set_endpoint(world.vm, world.host, run, &endpoint, None).await.unwrap();
    assert!(moved.is_updated());
    let mut client = world.connecting().await;
    assert!(client.text().await.contains("Session acquired"));
    assert!(client.text().await.contains("Starting X session"));
    let mut desktop = Desktop::start(&dir);
    desktop.says("x_state", [Answer::Says("listening")]);
    client.switched().await;
    desktop.session().await;
}

#[tokio::test]
async fn row_61_an_agent_that_refuses_21_times_is_quoted() {
    let world = World::with(Options::default().set("internal.l7r.poll_time.x", "0.01")).await;
    let desktop = world.running().await;
    desktop.says("x_start", [Answer::Refuses("hook failed,\nrc: 3\n")]);
    let mut client = world.connecting().await;
    let reason = format!("Unable to start X session on VM {}: hook failed, rc: 3", world.vm);
    expect_refusal(&world, &mut client, &reason).await;
    assert_eq!(desktop.count("x_start"), 21);
}

#[tokio::test]
async fn row_62_63_provisioning_outlasts_the_limit_and_starting_does_not() {
    let options = || Options::default().set("internal.l7r.timeout.x_start", "0.3");
    let world = World::with(options()).await;
    let mut desktop = world.running().await;
    let mut states = vec![Answer::Says("stopped")];
    states.extend(std::iter::repeat_n(Answer::Says("provisioning"), 12));
    states.push(Answer::Says("listening"));
    desktop.says("x_state", states);
    let mut client = world.connecting().await;
    client.switched().await;
    desktop.session().await;

    let world = World::with(options()).await;
    let desktop = world.running().await;
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("starting")]);
    let mut client = world.connecting().await;
    let reason = format!("Unable to start X session on VM {}, operation timed out!", world.vm);
    expect_refusal(&world, &mut client, &reason).await;
}

#[tokio::test]
async fn row_64_a_desktop_that_goes_elsewhere_is_named() {
    let world = World::new().await;
    let desktop = world.running().await;
    desktop.says("x_state", [Answer::Says("suspended")]);
    let mut client = world.connecting().await;
    let reason = format!("Unable to start X session on VM {}, state went to suspended", world.vm);
    expect_refusal(&world, &mut client, &reason).await;
}

#[tokio::test]
async fn row_94_a_desktop_that_dies_while_it_comes_up_is_explained_and_the_next_is_told_once() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    desktop.says("x_failure", [Answer::Says("the desktop\r\ncrashed (signal 11)")]);
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("starting"), Answer::Says("stopped")]);
    let mut client = world.connecting().await;
    let words = "the desktop  crashed (signal 11)";
    let reason = format!("Unable to start X session on VM {}: {words}", world.vm);
    expect_refusal(&world, &mut client, &reason).await;

    // The agent keeps the words until the next desktop listens.
    desktop.says("x_state", [Answer::Says("stopped"), Answer::Says("listening")]);
    let mut client = world.connecting().await;
    let (texts, _) = client.switched().await;
    assert_eq!(texts[1], format!("The last X session ended: {words}"));
    assert_eq!(texts[2], format!("Starting X session at VM {}", world.vm));
    assert_eq!(texts.iter().filter(|text| text.contains(words)).count(), 1, "{texts:?}");
    desktop.session().await;
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_not_quoted_with_its_paths() {
    let world = World::with(
        Options::default().set("internal.l7r.poll_time.x", "0.01").set("internal.l7r.retry.x_start", "1"),
    )
    .await;
    let dir = world.vm_dir();
    world.run_vm(&Desktop::start(&dir.with_file_name("elsewhere"))).await;
    std::fs::remove_dir_all(dir.with_file_name("elsewhere")).unwrap();
    let mut client = world.connecting().await;
    let reason = format!("Unable to start X session on VM {}: the agent does not answer", world.vm);
    expect_refusal(&world, &mut client, &reason).await;
}

#[tokio::test]
async fn the_displaced_viewer_is_waited_for_before_x_start() {
    let world = World::new().await;
    let desktop = world.running().await;
    let states = ["connected", "connected", "suspending", "suspended", "listening"].map(Answer::Says);
    desktop.says("x_state", states);
    let mut client = world.connecting().await;
    client.switched().await;
    let methods: Vec<String> = desktop.calls().into_iter().map(|(method, _)| method).collect();
    assert_eq!(methods, ["x_state", "x_state", "x_state", "x_state", "x_start", "x_state"]);
}

#[tokio::test]
async fn a_port_that_opens_late_is_dialled_again_and_its_state_not_asked_again() {
    let world = World::new().await;
    let mut desktop = Desktop::deaf(&world.vm_dir());
    world.run_vm(&desktop).await;
    let mut client = world.connecting().await;
    while !client.text().await.contains("Connecting X session") {}
    let asked = desktop.count("x_state");
    desktop.open();
    let (texts, _) = client.switched().await;
    assert_eq!(texts, ["Connection established"]);
    assert_eq!(desktop.count("x_state"), asked);
    world.until_counted("one attempt", |c| (c.nx_attempts, c.nx_ok) == (1, 1)).await;
}

#[tokio::test]
async fn row_69_a_client_that_leaves_while_waiting_frees_the_row_and_the_machine_starts_on() {
    let world = World::new().await;
    let client = world.connecting().await;
    let run = world.accept_start().await;
    world.until_user_state(UserState::Connecting).await;
    client.close().await;
    world.until_user_state(UserState::Disconnected).await;
    let row = world.row().await;
    assert_eq!((row.vm_state, row.vm_cmd, row.run_id), (VmState::Starting, None, run));
}

#[tokio::test]
async fn a_client_that_left_is_not_dialled_for() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("provisioning")]);
    let mut client = world.connecting().await;
    while !client.text().await.contains("Waiting for X session") {}
    // From now on it listens: only that the client is gone keeps it from being dialled.
    client.close().await;
    desktop.says("x_state", [Answer::Says("listening")]);
    world.until_user_state(UserState::Disconnected).await;
    eventually("the agent is told", async || desktop.count("x_suspend") == 1).await;
    assert!(!desktop.was_dialled());
    desktop.says("x_state", [Answer::Says("suspended"), Answer::Says("listening")]);
    world.connecting().await.switched().await;
    desktop.session().await;
}

#[tokio::test]
async fn row_72_short_sessions_are_counted_and_long_ones_not() {
    let world = World::with(Options::default().set("internal.l7r.short_session", "0")).await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    client.switched().await;
    desktop.session().await;
    client.close().await;
    world.until_user_state(UserState::Disconnected).await;
    world.until_counted("a session", |c| c.nx_ok == 1).await;
    eventually("ended", async || world.handle.sessions() == 0).await;
    assert_eq!(world.counts().await.short_sessions, 0);
}

#[tokio::test]
async fn a_client_that_leaves_behind_the_101_has_had_a_session() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    for so_far in 1..=20 {
        let mut client = world.connecting().await;
        client.switched().await;
        client.close().await;
        desktop.session().await;
        world.until_user_state(UserState::Disconnected).await;
        world.until_counted("each", |c| (c.nx_ok, c.short_sessions) == (so_far, so_far)).await;
    }
    assert_eq!(world.handle.metrics().connect_failures_total, 0);
}

#[tokio::test]
async fn row_73_a_desktop_that_closes_delivers_its_bytes_then_close_notify() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    client.switched().await;
    let mut session = desktop.session().await;
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    let (sent, heard) = tokio::join!(
        async {
            session.write_all(&bytes).await.unwrap();
            session.shutdown().await.unwrap();
            session
        },
        async {
            let mut heard = Vec::new();
            while let Some(record) = client.record().await {
                heard.extend(record);
            }
            heard
        }
    );
    assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    assert!(client.notified);
    drop(sent);
    client.close().await;
    world.until_user_state(UserState::Disconnected).await;
    eventually("counted", async || world.handle.metrics().forwarded_down_bytes_total == bytes.len() as u64)
        .await;
}

#[tokio::test]
async fn row_74_a_client_that_does_not_read_stops_the_desktop() {
    let world = World::new().await;
    let mut desktop = world.running().await;
    let mut client = world.connecting().await;
    client.switched().await;
    let mut session = desktop.session().await;
    // Socket buffers, one buffer of the router, and what TLS holds: far below what is offered.
    let mut taken = 0usize;
    let chunk = vec![0; 64 << 10];
    while let Ok(written) =
        tokio::time::timeout(std::time::Duration::from_millis(500), session.write(&chunk)).await
    {
        taken += written.unwrap();
        assert!(taken < 64 << 20, "the router takes everything");
    }
    let mut heard = 0;
    while heard < taken {
        heard += client.record().await.expect("the rest").len();
    }
    assert_eq!(heard, taken);
}

#[tokio::test]
async fn plain_clients_get_the_same() {
    let world = World::with(Options::default().set("l7r.use_ssl", "0")).await;
    assert!(world.fingerprint.is_none());
    let mut desktop = world.running().await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(world.connect_request("").as_bytes()).await.unwrap();
    let mut session = desktop.session().await;
    session.write_all(b"hello").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        soon(stream.read_buf(&mut heard)).await.unwrap();
    }
    // Half a close: the desktop may still answer.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(session.read_to_end(&mut rest)).await.unwrap();
    session.write_all(b" and bye").await.unwrap();
    drop(session);
    soon(stream.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.ends_with(b"hello and bye"));
    world.until_user_state(UserState::Disconnected).await;
}
