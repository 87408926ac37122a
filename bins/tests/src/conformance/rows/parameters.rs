//! What a connect must pass before anything happens (rows 25, 39–50).

use anyhow::{Result, ensure};
use qvd_core::model::VmRuntime;
use qvd_core::state::UserState;
use qvd_db::BlockedBy;

use crate::conformance::clients::{Client, Seen};
use crate::conformance::desktop::{Desktop, Params};
use crate::conformance::wire::{Answer, UPGRADE, request};
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group::new(
            Setup::default(),
            vec![
                row!(25, "raw spaces in a target belong to it (the Qt client sends them)", row_25),
                row!(39, "without the upgrade headers it is 426", row_39),
                row!(40, "Connection is a list, in any case", row_40),
                row!(41, "without an id, or with one that has no value, it is 422", row_41),
                row!(42, "other parameters are named in a 403", row_42),
                row!(43, "custom and client parameters reach x_start", row_43),
                row!(45, "names are decoded before they are judged", row_45),
                row!(47, "of two ids the last counts", row_47),
            ],
        ),
        Group::new(
            Setup::default(),
            vec![
                row!(44, "parameters of the machine and the slave key are 403", row_44),
                row!(46, "NUL, CR and LF are 403 and reach no agent", row_46),
                row!(48, "what is no id is 404 without words of the database", row_48),
                row!(49, "a foreign machine is 403 and its row untouched", row_49),
                row!(50, "a blocked machine is 403", row_50),
            ],
        ),
    ]
}

/// Asks to connect; the refusal, behind which the connection must be closed.
async fn refused(world: &World, person: &Person, query: &str, headers: &[&str]) -> Result<Answer> {
    let mut wire = world.wire(person).await?;
    let auth = person.auth();
    let headers = [&[auth.as_str()], headers].concat();
    wire.send(request(&format!("/qvd/connect_to_vm{query}"), &headers)).await?;
    let (texts, answer) = wire.refused().await?;
    ensure!(
        texts.is_empty() && answer.head.contains("\r\nContent-Type: text/plain\r\n"),
        "{texts:?} {answer:?}"
    );
    Ok(answer)
}

/// Connects with these headers and a query that follows `?`; what the agent was given.
async fn accepted(world: &World, login: &str, query: &str, headers: &[&str]) -> Result<Params> {
    let ann = world.person(login).await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.wire(&ann).await?;
    let auth = ann.auth();
    let headers = [&[auth.as_str()], headers].concat();
    let query = query.replace("ID", &ann.vm.to_string());
    wire.send(request(&format!("/qvd/connect_to_vm?{query}"), &headers)).await?;
    let (_, key) = wire.switched().await?;
    desktop.session().await?;
    let params = desktop.x_start()?;
    ensure!(params.get("qvd.slave.key") == Some(&key), "the agent has another key than the client");
    ensure!(params.get("qvd.vm.user.name").map(String::as_str) == Some(login), "{params:?}");
    Ok(params)
}

fn has(params: &Params, name: &str, value: &str) -> Result<()> {
    ensure!(params.get(name).map(String::as_str) == Some(value), "{name} is not '{value}': {params:?}");
    Ok(())
}

async fn row_25(world: &World) -> Result<()> {
    let query = "id=ID&qvd.client.nxagent.extra_args=a b";
    has(&accepted(world, "spaces", query, &UPGRADE).await?, "qvd.client.nxagent.extra_args", "a b")?;
    let ann = world.person("qt-spaces").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let (_wire, seen) = Client::Qt.visit(world, &ann, ann.vm.get()).await?;
    ensure!(matches!(seen, Seen::Desktop { .. }), "{seen:?}");
    desktop.session().await?;
    has(&desktop.x_start()?, "qvd.client.nxagent.extra_args", "a b")?;
    has(&desktop.x_start()?, "qvd.client.keyboard", "pc105/es")
}

async fn row_39(world: &World) -> Result<()> {
    let ann = world.person("plainly").await?;
    let query = format!("?id={}", ann.vm);
    for headers in [&[][..], &UPGRADE[..1], &UPGRADE[1..], &[UPGRADE[0], "Upgrade: websocket\r\n"]] {
        refused(world, &ann, &query, headers).await?.expect(426, "426 ")?;
    }
    Ok(())
}

async fn row_40(world: &World) -> Result<()> {
    let headers = ["connection: keep-alive, Upgrade\r\n", "Upgrade: qvd/1.0\r\n"];
    accepted(world, "tokens", "id=ID", &headers).await.map(drop)
}

async fn row_41(world: &World) -> Result<()> {
    let ann = world.person("nameless").await?;
    for query in ["", "?", "?id", "?id&qvd.client.os=linux", "?qvd.client.os=linux"] {
        let answer = refused(world, &ann, query, &UPGRADE).await?;
        ensure!(answer.status() == 422 && answer.body == "parameter id is missing", "{query}: {answer:?}");
    }
    accepted(world, "trailing", "id=ID&", &UPGRADE).await.map(drop)
}

async fn row_42(world: &World) -> Result<()> {
    let ann = world.person("others").await?;
    let answer = refused(world, &ann, &format!("?id={}&foo=1&bar=2", ann.vm), &UPGRADE).await?;
    let (either, other) = ("Invalid parameters foo bar", "Invalid parameters bar foo");
    ensure!(answer.status() == 403 && (answer.body == either || answer.body == other), "{answer:?}");
    Ok(())
}

async fn row_43(world: &World) -> Result<()> {
    let params = accepted(world, "own", "id=ID&custom.x=1&qvd.client.y=2", &UPGRADE).await?;
    has(&params, "custom.x", "1")?;
    has(&params, "qvd.client.y", "2")
}

async fn row_45(world: &World) -> Result<()> {
    let params = accepted(world, "coded", "id=ID&%71vd.client.a=%C3%A9+1", &UPGRADE).await?;
    has(&params, "qvd.client.a", "é 1")
}

async fn row_47(world: &World) -> Result<()> {
    accepted(world, "doubled", "id=4711&id=ID", &UPGRADE).await.map(drop)
}

fn untouched(row: &VmRuntime) -> bool {
    row.real_user_id.is_none() && row.session_id.is_none() && row.user_cmd.is_none() && row.vm_cmd.is_none()
}

/// Each of these parameters is 403, and nothing happens.
async fn forbidden(world: &World, login: &str, parameters: &[&str]) -> Result<()> {
    let ann = world.person(login).await?;
    let desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    for parameter in parameters {
        let answer = refused(world, &ann, &format!("?id={}&{parameter}", ann.vm), &UPGRADE).await?;
        ensure!(answer.status() == 403, "{parameter}: {answer:?}");
    }
    ensure!(untouched(&world.row(ann.vm).await?), "the row was touched");
    ensure!(desktop.calls() == 0, "the agent was called");
    Ok(())
}

async fn row_44(world: &World) -> Result<()> {
    forbidden(world, "root-to-be", &["qvd.vm.user.name=root", "qvd.slave.key=k", "&custom.a=1"]).await
}

async fn row_46(world: &World) -> Result<()> {
    let values =
        ["custom.a=%00", "custom.a=%0d%0aX-Evil:1", "custom.a=x%0Ay", "custom.%0d=1", "custom.a=a%0Db"];
    forbidden(world, "injector", &values).await
}

async fn row_48(world: &World) -> Result<()> {
    let ann = world.person("numbers").await?;
    for id in ["abc", "-1", "99999999999999999999", "1;drop", "+1", "%31%20", "4711", ""] {
        let answer = refused(world, &ann, &format!("?id={id}"), &UPGRADE).await?;
        let text = "The requested virtual machine does not exist";
        ensure!(answer.status() == 404 && answer.body == text, "{id}: {answer:?}");
    }
    ensure!(world.router().is_running(), "the router ended");
    Ok(())
}

async fn row_49(world: &World) -> Result<()> {
    let (ann, ben) = (world.person("owner").await?, world.person("thief").await?);
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    // He is in his machine while the other tries.
    let mut hers = world.connecting(&ann).await?;
    hers.switched().await?;
    let _session = desktop.session().await?;
    let before = world.row(ann.vm).await?;
    let answer = refused(world, &ben, &format!("?id={}", ann.vm), &UPGRADE).await?;
    let text = "You are not allowed to access requested virtual machine";
    ensure!(answer.status() == 403 && answer.body == text, "{answer:?}");
    let after = world.row(ann.vm).await?;
    ensure!(after.user_state == UserState::Connected && after.user_cmd.is_none(), "{after:?}");
    ensure!(after.session_id == before.session_id && after.real_user_id == Some(ann.id), "{after:?}");
    Ok(())
}

async fn row_50(world: &World) -> Result<()> {
    let ann = world.person("maintained").await?;
    let _ = world.db.vms().set_blocked(ann.vm, true, BlockedBy::Admin, None).await?;
    let answer = refused(world, &ann, &format!("?id={}", ann.vm), &UPGRADE).await?;
    let text = "The requested virtual machine is offline for maintenance";
    ensure!(answer.status() == 403 && answer.body == text, "{answer:?}");
    Ok(())
}
