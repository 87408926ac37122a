//! From the request to the desktop's bytes (rows 51–56, 69).

use anyhow::{Result, ensure};
use qvd_core::state::{UserState, VmState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::conformance::clients::{self, Client, Seen};
use crate::conformance::desktop::Desktop;
use crate::conformance::wire::{LIMIT, soon};
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(
                51,
                "a cold start tells its steps in order and switches with a key of 64 characters",
                row_51
            ),
            row!(52, "a running machine whose desktop is suspended is neither assigned nor started", row_52),
            row!(53, "a machine that runs already is not waited for", row_53),
            row!(
                54,
                "each 102 and the 101 has a record of its own: the C, Perl and Qt client connect",
                row_54
            ),
            row!(55, "a desktop that speaks first is heard behind the 101, in a record of its own", row_55),
            row!(56, "bytes behind the request head reach the desktop first", row_56),
            row!(69, "a client that leaves while it waits frees the row, and the machine starts on", row_69),
        ],
    )]
}

async fn row_51(world: &World) -> Result<()> {
    let ann = world.person("cold").await?;
    let mut desktop = Desktop::start()?;
    let mut wire = world.connecting(&ann).await?;
    let run = world.accept_start(ann.vm).await?;
    world.now_running(ann.vm, run, &desktop.endpoint()).await?;
    let (texts, _) = wire.switched().await?;
    let vm = ann.vm;
    let steps = [
        format!("Session acquired for VM_ID: {vm}"),
        format!("Assigning VM {vm} to host"),
        "Starting virtual machine".to_owned(),
        "Waiting for VM to reach state 'running'".to_owned(),
        format!("Starting X session at VM {vm}"),
        format!("Waiting for X session to come up on VM {vm}"),
        format!("Connecting X session for VM_ID: {vm}"),
        "Connection established".to_owned(),
    ];
    ensure!(texts == steps, "{texts:?}");
    let mut session = desktop.session().await?;
    wire.send("NXPROXY-3.5.0").await?;
    let mut heard = [0; 13];
    soon("the client's bytes", session.read_exact(&mut heard)).await??;
    ensure!(&heard == b"NXPROXY-3.5.0", "{heard:?}");
    let row = world.row(vm).await?;
    ensure!(row.user_state == UserState::Connected && row.real_user_id == Some(ann.id), "{row:?}");
    wire.close().await;
    let row = world.until_user_state(vm, UserState::Disconnected).await?;
    ensure!(row.vm_state == VmState::Running, "the machine does not go on: {row:?}");
    Ok(())
}

async fn row_52(world: &World) -> Result<()> {
    let ann = world.person("warm").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    let (texts, _) = wire.switched().await?;
    let vm = ann.vm;
    let steps = [
        format!("Session acquired for VM_ID: {vm}"),
        format!("Starting X session at VM {vm}"),
        format!("Waiting for X session to come up on VM {vm}"),
        format!("Connecting X session for VM_ID: {vm}"),
        "Connection established".to_owned(),
    ];
    ensure!(texts == steps, "{texts:?}");
    desktop.session().await?;
    ensure!(!desktop.was_dialled(), "dialled twice");
    Ok(())
}

async fn row_53(world: &World) -> Result<()> {
    let ann = world.person("up").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let (texts, _) = world.connecting(&ann).await?.switched().await?;
    ensure!(!texts.iter().any(|text| text.starts_with("Waiting for VM")), "{texts:?}");
    desktop.session().await.map(drop)
}

async fn row_54(world: &World) -> Result<()> {
    for client in clients::ALL {
        let ann = world.person(&format!("{client:?}").to_lowercase()).await?;
        let mut desktop = Desktop::start()?;
        let visit = client.visit(world, &ann, ann.vm.get());
        // A cold start: the most steps that there are.
        let host = async {
            let run = world.accept_start(ann.vm).await?;
            world.now_running(ann.vm, run, &desktop.endpoint()).await?;
            let mut session = desktop.session().await?;
            session.write_all(b"NX greets").await?;
            anyhow::Ok(session)
        };
        let (visited, hosted) = tokio::join!(visit, host);
        let (mut wire, seen) = visited?;
        let _session = hosted?;
        match seen {
            Seen::Desktop { slave_key: None } if client == Client::C => {}
            Seen::Desktop { slave_key: Some(key) } if key.len() == 64 => {}
            other => anyhow::bail!("{client:?}: {other:?}"),
        }
        let first = wire.record().await?;
        ensure!(first.as_deref() == Some(b"NX greets"), "{client:?} hears {first:?} first");
    }
    Ok(())
}

async fn row_55(world: &World) -> Result<()> {
    let ann = world.person("eager").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    let eager = async {
        let mut session = desktop.session().await?;
        session.write_all(b"I speak first").await?;
        anyhow::Ok(session)
    };
    // The 101 must be a record with nothing behind it, which this looks at.
    let (session, switched) = tokio::join!(eager, wire.switched());
    let _session = session?;
    switched?;
    let first = wire.record().await?;
    ensure!(first.as_deref() == Some(b"I speak first"), "{first:?}");
    Ok(())
}

async fn row_56(world: &World) -> Result<()> {
    let ann = world.person("early").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.wire(&ann).await?;
    wire.send([ann.connect_request("").as_bytes(), b"early "].concat()).await?;
    wire.send("bytes").await?;
    wire.switched().await?;
    let mut session = desktop.session().await?;
    let mut heard = [0; 11];
    soon("the client's bytes", session.read_exact(&mut heard)).await??;
    ensure!(&heard == b"early bytes", "{heard:?}");
    Ok(())
}

async fn row_69(world: &World) -> Result<()> {
    let ann = world.person("leaver").await?;
    let wire = world.connecting(&ann).await?;
    let run = world.accept_start(ann.vm).await?;
    world.until_user_state(ann.vm, UserState::Connecting).await?;
    let left = tokio::time::Instant::now();
    wire.close().await;
    let row = world.until_user_state(ann.vm, UserState::Disconnected).await?;
    ensure!(left.elapsed() < LIMIT, "only at the limit");
    ensure!((row.vm_state, row.vm_cmd, row.run_id) == (VmState::Starting, None, run), "{row:?}");
    Ok(())
}
