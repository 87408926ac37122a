//! Stopping a machine (rows 75–80).

use anyhow::{Result, ensure};
use qvd_core::state::{VmCommand, VmState};

use crate::conformance::desktop::Desktop;
use crate::conformance::wire::{Answer, Wire, eventually, request};
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(75, "stop_vm without an id is a quick 422, and the client goes on (C client -r)", row_75),
            row!(76, "a running machine is ordered to stop, waited for, and 200", row_76),
            row!(77, "a stopped machine is 200 at once", row_77),
            row!(78, "a zombie is told of and 503", row_78),
            row!(79, "a foreign machine is 403, and nothing is ordered", row_79),
            row!(80, "stop and connect on one connection are both served (Perl client)", row_80),
        ],
    )]
}

async fn ask_stop(world: &World, person: &Person, vm: i64) -> Result<Wire> {
    let mut wire = world.wire(person).await?;
    wire.send(request(&format!("/qvd/stop_vm?id={vm}"), &[&person.auth()])).await?;
    Ok(wire)
}

/// The answer behind 102 texts, on a connection that goes on.
async fn answered(wire: &mut Wire) -> Result<(Vec<String>, Answer)> {
    let (texts, head) = wire.progress().await?;
    let body = wire.text().await?;
    Ok((texts, Answer { head, body }))
}

/// As the host's daemon stops a machine that was ordered to.
async fn obey(world: &World, person: &Person) -> Result<()> {
    let row = eventually("an order to stop", async || {
        Ok(Some(world.row(person.vm).await?).filter(|row| row.vm_cmd == Some(VmCommand::Stop)))
    })
    .await?;
    world.now(person.vm, row.run_id, VmState::Stopping).await?;
    world.now_stopped(person.vm, row.run_id).await
}

async fn row_75(world: &World) -> Result<()> {
    let ann = world.person("restarter").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask("/qvd/list_of_vm", &[&ann.auth()]).await?.expect(200, "")?;
    let begun = tokio::time::Instant::now();
    let answer = wire.ask("/qvd/stop_vm", &[&ann.auth()]).await?;
    ensure!(answer.status() == 422 && answer.body == "parameter id is missing", "{answer:?}");
    ensure!(begun.elapsed().as_secs() < 2, "after {:?}", begun.elapsed());
    wire.ask("/qvd/list_of_vm", &[&ann.auth()]).await?.expect(200, "restarter-desk")
}

async fn row_76(world: &World) -> Result<()> {
    let ann = world.person("stopper").await?;
    world.run(ann.vm, &Desktop::closed()?.endpoint()).await?;
    let mut wire = ask_stop(world, &ann, ann.vm.get()).await?;
    obey(world, &ann).await?;
    let (texts, answer) = answered(&mut wire).await?;
    ensure!(texts == ["Stopping virtual machine", "Waiting for VM to reach state 'stopped'"], "{texts:?}");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\n";
    ensure!(answer.head == head && answer.body == "Machine stopped\r\n", "{answer:?}");
    wire.ask("/qvd/ping", &[]).await?.expect(200, "")
}

async fn row_77(world: &World) -> Result<()> {
    let ann = world.person("stopped").await?;
    let (texts, answer) = answered(&mut ask_stop(world, &ann, ann.vm.get()).await?).await?;
    ensure!(texts.is_empty(), "{texts:?}");
    answer.expect(200, "Machine stopped\r\n")
}

async fn row_78(world: &World) -> Result<()> {
    let ann = world.person("undead").await?;
    let run = world.run(ann.vm, &Desktop::closed()?.endpoint()).await?;
    world.now(ann.vm, run, VmState::Zombie).await?;
    let (texts, answer) = answered(&mut ask_stop(world, &ann, ann.vm.get()).await?).await?;
    ensure!(texts == ["Stopping virtual machine"], "{texts:?}");
    answer.expect(503, "The requested virtual machine is in an unstoppable state (zombie)")
}

async fn row_79(world: &World) -> Result<()> {
    let (ann, ben) = (world.person("victim").await?, world.person("vandal").await?);
    world.run(ann.vm, &Desktop::closed()?.endpoint()).await?;
    let (texts, answer) = answered(&mut ask_stop(world, &ben, ann.vm.get()).await?).await?;
    ensure!(texts.is_empty(), "{texts:?}");
    answer.expect(403, "You are not allowed to access requested virtual machine")?;
    let row = world.row(ann.vm).await?;
    ensure!(row.vm_cmd.is_none() && row.vm_state == VmState::Running, "{row:?}");
    Ok(())
}

async fn row_80(world: &World) -> Result<()> {
    let ann = world.person("killer").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask("/qvd/list_of_vm?", &[&ann.auth()]).await?.expect(200, "")?;
    // The Perl client sends the upgrade headers with both.
    let headers = [ann.auth(), crate::conformance::wire::UPGRADE.concat()];
    wire.send(request(&format!("/qvd/stop_vm?id={}", ann.vm), &headers.each_ref().map(String::as_str)))
        .await?;
    obey(world, &ann).await?;
    answered(&mut wire).await?.1.expect(200, "Machine stopped")?;
    wire.send(ann.connect_request("")).await?;
    let run = world.accept_start(ann.vm).await?;
    world.now_running(ann.vm, run, &desktop.endpoint()).await?;
    wire.switched().await?;
    desktop.session().await.map(drop)
}
