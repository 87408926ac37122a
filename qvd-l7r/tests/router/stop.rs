//! Stopping a machine (rows 75–80).

use qvd_core::state::{VmCommand, VmState};

use crate::support::{Options, PASSWORD, World, basic, eventually, machine, request, user};

fn stop_request(world: &World) -> String {
    request(&format!("/qvd/stop_vm?id={}", world.vm), &[&basic("alice", PASSWORD)])
}

#[tokio::test]
async fn row_75_without_id_it_is_422_and_the_client_goes_on() {
    let world = World::new().await;
    let mut client = world.client().await;
    let auth = basic("alice", PASSWORD);
    let answer = client.ask("/qvd/stop_vm", &[&auth]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (422, "parameter id is missing"));
    assert_eq!(client.ask("/qvd/stop_vm?id=4711", &[&auth]).await.status(), 404);
    assert_eq!(client.ask("/qvd/list_of_vm", &[&auth]).await.status(), 200);
}

#[tokio::test]
async fn row_76_80_a_running_machine_is_stopped_and_the_connection_serves_on() {
    let world = World::new().await;
    let desktop = world.running().await;
    let run = world.row().await.run_id;
    let mut client = world.client().await;
    client.send(stop_request(&world)).await;
    eventually("the order", async || world.row().await.vm_cmd == Some(VmCommand::Stop)).await;
    world.now(run, VmState::Stopping).await;
    world.now_stopped(run).await;
    let (texts, head) = client.progress().await;
    assert_eq!(texts, ["Stopping virtual machine", "Waiting for VM to reach state 'stopped'"]);
    assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\n");
    assert_eq!(client.text().await, "Machine stopped\r\n");

    client.send(world.connect_request("")).await;
    let run = world.accept_start().await;
    world.now_running(run, &desktop).await;
    client.switched().await;
}

#[tokio::test]
async fn row_77_a_stopped_machine_needs_no_waiting() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(stop_request(&world)).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "Machine stopped\r\n"));
}

#[tokio::test]
async fn a_start_that_nobody_obeyed_yet_is_taken_back() {
    let world = World::new().await;
    let claimed = world.db.vms().claim(world.vm, world.host, qvd_db::Claimant::Admin).await.unwrap();
    assert!(claimed.is_updated());
    let mut client = world.client().await;
    client.send(stop_request(&world)).await;
    assert_eq!(client.response().await.status(), 200);
    let row = world.row().await;
    assert_eq!((row.vm_cmd, row.host_id), (None, None));
}

#[tokio::test]
async fn row_78_a_zombie_cannot_be_stopped() {
    let world = World::new().await;
    let _desktop = world.running().await;
    world.now(world.row().await.run_id, VmState::Zombie).await;
    let mut client = world.client().await;
    client.send(stop_request(&world)).await;
    let (texts, answer) = client.refused().await;
    assert_eq!(texts, ["Stopping virtual machine"]);
    assert_eq!(
        (answer.status(), answer.body.as_str()),
        (503, "The requested virtual machine is in an unstoppable state (zombie)")
    );
}

#[tokio::test]
async fn row_79_a_foreign_machine_is_403_and_no_order_written() {
    let world = World::new().await;
    let _desktop = world.running().await;
    user(&world.db, "bob").await;
    let mut client = world.client().await;
    let answer = client.ask(&format!("/qvd/stop_vm?id={}", world.vm), &[&basic("bob", PASSWORD)]).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(world.row().await.vm_cmd, None);
}

#[tokio::test]
async fn a_machine_that_does_not_stop_in_time_is_408() {
    let world = World::with(Options::default().set("internal.l7r.timeout.vm_stop", "0.3")).await;
    let _desktop = world.running().await;
    let mut client = world.client().await;
    client.send(stop_request(&world)).await;
    let (_, answer) = client.refused().await;
    assert_eq!((answer.status(), answer.body.as_str()), (408, "VM didn't reach state 'stopped'. Timeout"));
}

#[tokio::test]
async fn blocked_machines_may_be_stopped() {
    let world = World::new().await;
    let vm = machine(&world.db, "blocked", world.alice, world.osf).await;
    let _ = world.db.vms().set_blocked(vm, true, qvd_db::BlockedBy::Admin, None).await.unwrap();
    let answer =
        world.client().await.ask(&format!("/qvd/stop_vm?id={vm}"), &[&basic("alice", PASSWORD)]).await;
    assert_eq!(answer.status(), 200);
}
