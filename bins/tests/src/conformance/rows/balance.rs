//! The choice of a host (rows 113, 114).

use anyhow::{Result, ensure};
use qvd_core::UserId;
use qvd_db::{Claimant, Db, NewHost};

use crate::conformance::host::{publish, put_into_service, running_host};
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default()
            .set("l7r.loadbalancer.plugin.default.weight.cpu", "0")
            .set("l7r.loadbalancer.plugin.default.weight.random", "0"),
        vec![
            row!(114, "when the only host is blocked or no backend it is 503", row_114),
            row!(113, "8000 of memory with 3 machines lose to 4000 with none", row_113),
        ],
    )]
}

async fn nobody_takes_it(world: &World, login: &str) -> Result<()> {
    let ann = world.person(login).await?;
    let (_, answer) = world.connecting(&ann).await?.refused().await?;
    answer
        .expect(503, "not available: Unable to assign vm to host, there is no host available, retry later")?;
    ensure!(world.row(ann.vm).await?.host_id.is_none(), "it has a host");
    Ok(())
}

async fn row_114(world: &World) -> Result<()> {
    // The router's own node runs nothing that is asked for here, so that others are the only ones.
    publish(&world.db, world.host, world.incarnation, 1000, "nothing").await?;
    let (blocked, _) = running_host(&world.db, "blocked", "process").await?;
    let _ = world.db.hosts().set_blocked(blocked, true).await?;
    nobody_takes_it(world, "refused").await?;
    let front = NewHost { name: "front".into(), address: "front".into(), frontend: true, backend: false };
    let front = world.db.hosts().add(front).await?;
    put_into_service(&world.db, front, "process").await?;
    nobody_takes_it(world, "frontend").await?;
    // And not for another reason: a host that may, takes it.
    let _ = world.db.hosts().set_blocked(blocked, false).await?;
    let ann = world.person("accepted").await?;
    let mut wire = world.connecting(&ann).await?;
    while !wire.text().await?.contains("Starting virtual machine") {}
    ensure!(world.row(ann.vm).await?.host_id == Some(blocked), "another host took it");
    let _ = world.db.hosts().set_blocked(blocked, true).await?;
    Ok(())
}

async fn row_113(world: &World) -> Result<()> {
    publish(&world.db, world.host, world.incarnation, 1000, "nothing").await?;
    let (large, incarnation) = running_host(&world.db, "large", "process").await?;
    publish(&world.db, large, incarnation, 8000, "process").await?;
    let others = world.person("crowd").await?;
    for number in 0..3 {
        occupy(&world.db, world, others.id, number, large).await?;
    }
    let (small, incarnation) = running_host(&world.db, "small", "process").await?;
    publish(&world.db, small, incarnation, 4000, "process").await?;
    let ann = world.person("placed").await?;
    let mut wire = world.connecting(&ann).await?;
    while !wire.text().await?.contains("Starting virtual machine") {}
    let row = world.row(ann.vm).await?;
    ensure!(row.host_id == Some(small), "placed on {:?}, not on {small}", row.host_id);
    Ok(())
}

async fn occupy(db: &Db, world: &World, user: UserId, number: u32, host: qvd_core::HostId) -> Result<()> {
    let vm = world.machine(&format!("crowd-{number}"), user).await?;
    ensure!(db.vms().claim(vm, host, Claimant::Admin).await?.is_updated(), "not claimed");
    Ok(())
}
