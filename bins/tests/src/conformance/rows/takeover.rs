//! Two clients of one machine (rows 65–68, 71).

use std::time::Duration;

use anyhow::{Result, ensure};
use qvd_core::SessionId;
use qvd_core::state::{UserCommand, UserState};
use qvd_db::NewSession;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use crate::conformance::desktop::{Desktop, Says, greet};
use crate::conformance::host::running_host;
use crate::conformance::wire::{Wire, soon};
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group::new(
            Setup::default().set("internal.l7r.timeout.takeover", "2"),
            vec![
                row!(
                    65,
                    "the second client is told, and has the desktop; the first one's stream ends",
                    row_65
                ),
                row!(66, "a client that still waits is told of the second, which goes on", row_66),
                row!(
                    67,
                    "a session that does not go is left, its row untouched (30 s shortened to 2 s by \
                     internal.l7r.timeout.takeover; 30 s are proved on the machine: broker::tests::row_67)",
                    row_67
                ),
                row!(71, "what is given back late does not touch the session that came behind", row_71),
            ],
        ),
        Group::new(
            Setup::default().postgres(),
            vec![row!(68, "an administrator's abort closes the stream at once, by notification", row_68)],
        ),
    ]
}

/// A person who is connected, with the desktop's end.
async fn connected(world: &World, login: &str) -> Result<(Person, Desktop, Wire, tokio::net::TcpStream)> {
    let ann = world.person(login).await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    wire.switched().await?;
    let mut session = desktop.session().await?;
    greet(&mut wire, &mut session).await?;
    Ok((ann, desktop, wire, session))
}

fn wakes_up(desktop: &Desktop) {
    desktop.says("x_state", [Says::Result("suspended"), Says::Result("listening")]);
}

async fn row_65(world: &World) -> Result<()> {
    let (ann, mut desktop, mut first, mut left) = connected(world, "contended").await?;
    wakes_up(&desktop);
    let mut second = world.connecting(&ann).await?;
    let (texts, _) = second.switched().await?;
    let told = [
        format!("Aborting contending session for VM_ID: {}", ann.vm),
        format!("Session acquired for VM_ID: {}", ann.vm),
    ];
    ensure!(texts.starts_with(&told), "{texts:?}");
    first.expect_end().await?;
    ensure!(soon("the desktop to be left", left.read(&mut [0; 8])).await?? == 0, "it is not left");
    desktop.session().await?;
    let row = world.row(ann.vm).await?;
    ensure!((row.user_state, row.user_cmd) == (UserState::Connected, None), "{row:?}");
    Ok(())
}

async fn row_66(world: &World) -> Result<()> {
    let ann = world.person("booting").await?;
    let mut first = world.connecting(&ann).await?;
    let run = world.accept_start(ann.vm).await?;
    world.until_user_state(ann.vm, UserState::Connecting).await?;
    let mut second = world.connecting(&ann).await?;
    let (_, answer) = first.refused().await?;
    let vm = ann.vm;
    answer
        .expect(503, &format!("not available: Aborted by contending session VM VM_ID: {vm}, retry later"))?;
    let mut desktop = Desktop::start()?;
    world.now_running(vm, run, &desktop.endpoint()).await?;
    second.switched().await?;
    desktop.session().await.map(drop)
}

async fn row_67(world: &World) -> Result<()> {
    let ann = world.person("stubborn").await?;
    let desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    // A router of another host that hears nothing.
    let (far, _) = running_host(&world.db, "far", "nothing").await?;
    let deaf = SessionId::from_u128(77);
    let session = NewSession {
        session_id: deaf,
        l7r_host: far,
        l7r_pid: 1,
        l7r_instance: uuid::Uuid::new_v4(),
        real_user: ann.id,
        user_ip: None,
    };
    ensure!(world.db.sessions().acquire(ann.vm, session).await?.is_updated(), "not acquired");
    ensure!(world.db.sessions().commit(ann.vm, deaf).await?.is_updated(), "not committed");
    let mut wire = world.connecting(&ann).await?;
    let (texts, answer) = wire.refused().await?;
    ensure!(texts == [format!("Aborting contending session for VM_ID: {}", ann.vm)], "{texts:?}");
    let body = "The requested virtual machine is not available: Unable to acquire VM, close other clients, retry later";
    ensure!(answer.status() == 503 && answer.body == body, "{answer:?}");
    let row = world.row(ann.vm).await?;
    ensure!((row.session_id, row.user_state) == (Some(deaf), UserState::Connected), "{row:?}");
    ensure!((row.l7r_host_id, row.user_cmd) == (Some(far), Some(UserCommand::Abort)), "{row:?}");
    Ok(())
}

async fn row_71(world: &World) -> Result<()> {
    let (ann, mut desktop, first, _left) = connected(world, "stale").await?;
    let stale = world.row(ann.vm).await?.session_id.ok_or_else(|| anyhow::anyhow!("no session"))?;
    // As whoever clears up behind a router that looked dead.
    ensure!(world.db.sessions().release(ann.vm, stale).await?.is_updated(), "not released");
    let router = world.another_router("").await?;
    wakes_up(&desktop);
    let mut second = Wire::connect(ann.from, router.address).await?;
    second.send(ann.connect_request("")).await?;
    second.switched().await?;
    desktop.session().await?;
    let before = world.row(ann.vm).await?;
    ensure!(before.session_id.is_some_and(|new| new != stale), "{before:?}");
    first.close().await;
    world.router().until_logged(&format!("session={stale}")).await?;
    world.router().until_logged("session ended").await?;
    let after = world.row(ann.vm).await?;
    ensure!(
        (after.session_id, after.user_state) == (before.session_id, UserState::Connected),
        "{before:?} became {after:?}"
    );
    Ok(())
}

async fn row_68(world: &World) -> Result<()> {
    let (ann, _desktop, mut wire, _session) = connected(world, "aborted").await?;
    let begun = Instant::now();
    ensure!(world.db.sessions().abort_user(ann.vm).await?.is_updated(), "not ordered");
    wire.expect_end().await?;
    // Without the notification it would be internal.hkd.agent.l7rkiller.delay, 61 s.
    ensure!(begun.elapsed() < Duration::from_secs(2), "after {:?}", begun.elapsed());
    let row = world.until_user_state(ann.vm, UserState::Disconnected).await?;
    ensure!(row.user_cmd.is_none(), "{row:?}");
    Ok(())
}
