//! What a health check says, and what a node says that takes no work (rows 1–6, 21).

use anyhow::{Result, ensure};
use qvd_core::state::HostState;

use crate::conformance::wire::{Wire, request};
use crate::conformance::world::{Setup, World, basic};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group::new(
            Setup::default(),
            vec![
                row!(1, "ping of a healthy node is 200 and byte exact", row_01),
                row!(5, "ping looks at no credentials", row_05),
                row!(6, "another method or path is 404, and the connection goes on", row_06),
                row!(
                    21,
                    "the list of a blocked host is 503 behind the login, a bad password still 401",
                    row_21
                ),
                row!(2, "ping of a blocked node is 503", row_02),
                row!(3, "ping of a stopping node is 503", row_03),
            ],
        ),
        Group::new(
            Setup::default().unregistered(),
            vec![row!(4, "a node that the database does not know says so", row_04)],
        ),
    ]
}

async fn row_01(world: &World) -> Result<()> {
    let mut wire = Wire::connect([127, 0, 0, 1].into(), world.router().address).await?;
    let answer = wire.ask("/qvd/ping", &[]).await?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n";
    ensure!(answer.head == head && answer.body == "I am alive!\r\n", "{answer:?}");
    Ok(())
}

async fn row_05(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let mut wire = Wire::connect([127, 0, 0, 1].into(), world.router().address).await?;
    wire.ask("/qvd/ping", &[&basic("nobody", "wrong")]).await?.expect(200, "I am alive!\r\n")?;
    ensure!(world.counts().await? == before, "it was counted");
    Ok(())
}

async fn row_06(world: &World) -> Result<()> {
    let mut wire = Wire::connect([127, 0, 0, 1].into(), world.router().address).await?;
    wire.send("POST /qvd/ping HTTP/1.1\r\n\r\n").await?;
    wire.answer().await?.expect(404, "404 Not Found")?;
    wire.ask("/qvd/ping/x", &[]).await?.expect(404, "")?;
    wire.ask("/qvd/ping", &[]).await?.expect(200, "")
}

async fn row_02(world: &World) -> Result<()> {
    let _ = world.db.hosts().set_blocked(world.host, true).await?;
    let answer = world.until_ping("Server is blocked").await?;
    ensure!(answer.status() == 503 && answer.head.contains("503 Service Unavailable\r\n"), "{answer:?}");
    let _ = world.db.hosts().set_blocked(world.host, false).await?;
    world.until_ping("I am alive!\r\n").await.map(drop)
}

async fn row_03(world: &World) -> Result<()> {
    let _ = world.db.hosts().set_state(world.host, world.incarnation, HostState::Stopping).await?;
    world.until_ping("Server is stopping").await?.expect(503, "Server is stopping")
}

async fn row_04(world: &World) -> Result<()> {
    for path in ["/qvd/ping", "/qvd/list_of_vm", "/qvd/stop_vm?id=1", "/qvd/connect_to_vm?id=1"] {
        let mut wire = Wire::connect([127, 0, 0, 1].into(), world.router().address).await?;
        let answer = wire.ask(path, &[]).await?;
        answer.expect(503, "Host is not registered in the database")?;
    }
    Ok(())
}

async fn row_21(world: &World) -> Result<()> {
    let ann = world.person("blocked-ann").await?;
    let _ = world.db.hosts().set_blocked(world.host, true).await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask("/qvd/list_of_vm", &[&basic(&ann.login, "wrong")]).await?.expect(401, "")?;
    wire.send(request("/qvd/list_of_vm", &[&ann.auth()])).await?;
    wire.answer().await?.expect(503, "Server is blocked")?;
    let _ = world.db.hosts().set_blocked(world.host, false).await?;
    wire.ask("/qvd/list_of_vm", &[&ann.auth()]).await?.expect(200, "blocked-ann-desk")
}
