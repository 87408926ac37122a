//! What a connect request must pass before anything happens (rows 25, 39–50).

use qvd_core::model::VmRuntime;

use crate::support::{Desktop, PASSWORD, World, basic, machine, request, user};

const UPGRADE: [&str; 2] = ["Connection: Upgrade\r\n", "Upgrade: QVD/1.0\r\n"];

/// Asks to connect; the answer, behind which the connection must be closed.
async fn refused(world: &World, query: &str, headers: &[&str]) -> (u16, String) {
    let mut client = world.client().await;
    let auth = basic("alice", PASSWORD);
    let headers = [&[auth.as_str()], headers].concat();
    let answer = client.ask(&format!("/qvd/connect_to_vm{query}"), &headers).await;
    client.expect_end().await;
    (answer.status(), answer.body)
}

fn untouched(row: &VmRuntime) -> bool {
    row.real_user_id.is_none() && row.session_id.is_none() && row.user_cmd.is_none() && row.vm_cmd.is_none()
}

#[tokio::test]
async fn row_39_without_upgrade_headers_it_is_426_and_without_login_401() {
    let world = World::new().await;
    for headers in [&[][..], &UPGRADE[..1], &UPGRADE[1..]] {
        assert_eq!(refused(&world, "?id=1", headers).await.0, 426);
    }
    let mut client = world.client().await;
    assert_eq!(client.ask("/qvd/connect_to_vm?id=1", &UPGRADE).await.status(), 401);
    client.expect_end().await;
}

#[tokio::test]
async fn row_41_the_id_must_have_a_value() {
    let world = World::new().await;
    for query in ["", "?", "?id", "?qvd.client.os=linux"] {
        assert_eq!(
            refused(&world, query, &UPGRADE).await,
            (422, "parameter id is missing".into()),
            "{query}"
        );
    }
}

#[tokio::test]
async fn row_42_44_46_only_the_clients_own_parameters_pass() {
    let world = World::new().await;
    let id = world.vm;
    let answer = refused(&world, &format!("?id={id}&foo=1&bar=2"), &UPGRADE).await;
    assert_eq!(answer, (403, "Invalid parameters foo bar".into()));
    for bad in ["qvd.vm.user.name=root", "qvd.slave.key=k", "custom.a=%00", "custom.a=%0d%0aX", "&custom.a=1"]
    {
        assert_eq!(refused(&world, &format!("?id={id}&{bad}"), &UPGRADE).await.0, 403, "{bad}");
    }
    assert!(untouched(&world.row().await));
}

#[tokio::test]
async fn row_48_what_is_no_id_is_no_machine() {
    let world = World::new().await;
    for id in ["abc", "-1", "99999999999999999999", "1;drop", "+1", "%31%20", "4711", ""] {
        let (status, body) = refused(&world, &format!("?id={id}"), &UPGRADE).await;
        assert_eq!((status, body.as_str()), (404, "The requested virtual machine does not exist"), "{id}");
    }
}

#[tokio::test]
async fn row_49_a_foreign_machine_is_403_and_its_row_untouched() {
    let world = World::new().await;
    let bob = user(&world.db, "bob").await;
    let his = machine(&world.db, "his", bob, world.osf).await;
    let (status, body) = refused(&world, &format!("?id={his}"), &UPGRADE).await;
    assert_eq!((status, body.as_str()), (403, "You are not allowed to access requested virtual machine"));
    assert!(untouched(&world.db.vms().runtime(his).await.unwrap().unwrap()));
}

#[tokio::test]
async fn row_50_a_blocked_machine_is_offline_for_maintenance() {
    let world = World::new().await;
    let _ = world.db.vms().set_blocked(world.vm, true, qvd_db::BlockedBy::Admin, None).await.unwrap();
    let (status, body) = refused(&world, &format!("?id={}", world.vm), &UPGRADE).await;
    assert_eq!((status, body.as_str()), (403, "The requested virtual machine is offline for maintenance"));
}

#[tokio::test]
async fn row_25_40_43_45_47_what_passes_reaches_the_agent_decoded() {
    let world = World::new().await;
    let desktop: Desktop = world.running().await;
    let mut client = world.client().await;
    let auth = basic("alice", PASSWORD);
    let target = format!(
        "/qvd/connect_to_vm?id=4711&id={}&qvd.client.nxagent.extra_args=a b&custom.x=1&%71vd.client.y=%C3%A9+2&",
        world.vm
    );
    client
        .send(request(&target, &[&auth, "connection: keep-alive, Upgrade\r\n", "Upgrade: qvd/1.0\r\n"]))
        .await;
    let (_, key) = client.switched().await;
    let params = desktop.x_start();
    assert_eq!(params["qvd.client.nxagent.extra_args"], "a b");
    assert_eq!(params["custom.x"], "1");
    assert_eq!(params["qvd.client.y"], "é 2");
    assert_eq!(params["qvd.vm.user.name"], "alice");
    assert_eq!(params["qvd.slave.key"], key);
    assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_alphanumeric()), "{key}");
}

#[tokio::test]
async fn stored_properties_beat_the_clients_and_nothing_beats_the_login() {
    let world = World::new().await;
    let desktop = world.running().await;
    let properties = world.db.properties();
    for (owner, key, value) in [
        (qvd_db::Owner::Osf(world.osf), "qvd.client.link", "osf"),
        (qvd_db::Owner::Osf(world.osf), "qvd.client.geometry", "osf"),
        (qvd_db::Owner::User(world.alice), "qvd.client.geometry", "user"),
        (qvd_db::Owner::Vm(world.vm), "qvd.client.geometry", "vm"),
        (qvd_db::Owner::Vm(world.vm), "qvd.vm.user.name", "root"),
    ] {
        properties.set(owner, key, value).await.unwrap();
    }
    let mut client = world.client().await;
    client.send(world.connect_request("&qvd.client.link=client&qvd.client.keyboard=client")).await;
    client.switched().await;
    let params = desktop.x_start();
    let value = |key: &str| params[key].as_str();
    assert_eq!(
        (value("qvd.client.keyboard"), value("qvd.client.link"), value("qvd.client.geometry")),
        ("client", "osf", "vm")
    );
    assert_eq!(value("qvd.vm.user.name"), "alice");
}
