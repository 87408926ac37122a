//! A router of this version beside the tables of the next one, which adds to them while desktops are connected.

use qvd_core::state::UserState;
use qvd_db::testkit::{NewerSchema, TemporaryPostgres};
use qvd_db::{Backend, Db};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Client, Options, PASSWORD, World, basic, soon};

#[tokio::test]
async fn a_file_gets_newer_tables_below_a_router_that_serves() {
    let directory = tempfile::tempdir().unwrap();
    serves_through(Backend::Sqlite { path: directory.path().join("qvd.db") }).await;
}

#[tokio::test]
async fn a_server_gets_newer_tables_below_a_router_that_serves() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    serves_through(postgres.database().await).await;
}

async fn serves_through(database: Backend) {
    let world = World::with(Options { database: Some(database.clone()), ..Options::default() }).await;
    let mut desktop = world.running().await;
    let mut user = world.connecting().await;
    user.switched().await;
    let mut session = desktop.session().await;
    assert!(lists(&mut world.client().await).await);

    // The deployment of the next version, from another process.
    let tool = Db::open(&database).await.unwrap();
    tool.deploy_newer(NewerSchema::Additive).await.unwrap();
    assert!(tool.columns().await.unwrap().iter().any(|column| column == "vm_runtimes.newer_note"));

    user.send("on with it").await;
    let mut heard = [0; 10];
    soon(session.read_exact(&mut heard)).await.unwrap();
    session.write_all(b"and back").await.unwrap();
    assert_eq!((&heard, user.record().await.unwrap().as_slice()), (b"on with it", b"and back".as_slice()));
    assert!(lists(&mut world.client().await).await, "a login behind it");

    // The subscription of the router lives: it hears of an order that was given behind the step.
    assert!(tool.sessions().abort_user(world.vm).await.unwrap().is_updated());
    user.expect_end().await;
    world.until_user_state(UserState::Disconnected).await;
    let mut again = world.connecting().await;
    again.switched().await;
    let mut session = desktop.session().await;
    session.write_all(b"welcome").await.unwrap();
    assert_eq!(again.record().await.unwrap(), b"welcome");

    // One that is started behind the step is let in as well.
    let later = Db::open(&database).await.unwrap();
    let successor = world.router_over(&later).await;
    assert!(lists(&mut Client::connect(successor.address).await).await);
}

async fn lists(client: &mut Client) -> bool {
    let list = client.ask("/qvd/list_of_vm", &[&basic("alice", PASSWORD)]).await;
    list.status() == 200 && list.body.contains("\"desk\"")
}
