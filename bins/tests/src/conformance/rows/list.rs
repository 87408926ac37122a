//! The list of virtual machines (rows 18–20, 22).

use anyhow::{Result, ensure};
use qvd_db::BlockedBy;

use crate::conformance::clients;
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(18, "without machines the list is 200 and []", row_18),
            row!(19, "ids are integers, blocked is 0 or 1: the C, Perl and Qt client read it", row_19),
            row!(20, "a name that is not ASCII is escaped", row_20),
            row!(22, "a list beyond 65 000 bytes is cut, still JSON, and logged", row_22),
        ],
    )]
}

const LIST: &str = "/qvd/list_of_vm";

async fn row_18(world: &World) -> Result<()> {
    let ann = world.person("none").await?;
    ensure!(world.db.vms().delete(ann.vm).await?.is_updated(), "not deleted");
    let answer = world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?;
    ensure!(answer.status() == 200 && answer.body.trim() == "[]", "{answer:?}");
    Ok(())
}

async fn row_19(world: &World) -> Result<()> {
    let ann = world.person("types").await?;
    let second = world.machine("types-second", ann.id).await?;
    let _ = world.db.vms().set_blocked(second, true, BlockedBy::Admin, None).await?;
    let answer = world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?;
    let list = format!(
        r#"[{{"id":{},"name":"types-desk","state":"stopped","blocked":0}},{{"id":{second},"name":"types-second","state":"stopped","blocked":1}}]"#,
        ann.vm
    );
    ensure!(answer.body == list, "{answer:?}");
    for client in clients::ALL {
        let mut wire = world.wire(&ann).await?;
        let ids = client.list(&mut wire, &ann).await?;
        ensure!(ids == [ann.vm.get(), second.get()], "{client:?} reads {ids:?}");
    }
    Ok(())
}

async fn row_20(world: &World) -> Result<()> {
    let ann = world.person("ascii").await?;
    world.machine("señal \u{1f600}", ann.id).await?;
    let answer = world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?;
    ensure!(answer.body.is_ascii(), "{answer:?}");
    answer.expect(200, r#""name":"se\u00f1al \ud83d\ude00""#)
}

async fn row_22(world: &World) -> Result<()> {
    let ann = world.person("many").await?;
    // Twelve bytes of JSON for each such letter.
    let long = "\u{1f600}".repeat(60);
    for number in 0..100 {
        world.machine(&format!("{long}{number}"), ann.id).await?;
    }
    let answer = world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?;
    ensure!(answer.body.len() < 65_000 && answer.body.len() > 32_000, "{} bytes", answer.body.len());
    let entries: serde_json::Value = serde_json::from_str(&answer.body)?;
    ensure!(entries.as_array().is_some_and(|entries| entries.len() > 50), "no list");
    world.router().until_logged("the list is cut").await
}
