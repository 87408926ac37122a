//! The desktop's stream (rows 72–74).

use std::time::Duration;

use anyhow::{Result, ensure};
use qvd_core::state::UserState;
use tokio::io::AsyncWriteExt as _;

use crate::conformance::desktop::{Desktop, greet};
use crate::conformance::wire::{Wire, eventually, soon};
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(
                72,
                "a short session is counted and a long one not (120 s shortened to 0 by \
                 internal.l7r.short_session for the long one)",
                row_72
            ),
            row!(73, "a desktop that closes delivers what is pending, then close_notify", row_73),
            row!(74, "a client that does not read stops the desktop, in bounded memory", row_74),
        ],
    )]
}

async fn session(world: &World, login: &str) -> Result<(Person, Wire, tokio::net::TcpStream)> {
    let ann = world.person(login).await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    wire.switched().await?;
    let mut session = desktop.session().await?;
    greet(&mut wire, &mut session).await?;
    Ok((ann, wire, session))
}

async fn row_72(world: &World) -> Result<()> {
    let counted = async |short, ok| {
        eventually("the counters", async || {
            let now = world.counts().await?;
            Ok(((now.short_sessions, now.nx_ok) == (short, ok)).then_some(()))
        })
        .await
    };
    let before = world.counts().await?;
    let (short, ok) = (before.short_sessions, before.nx_ok);
    let (_, wire, _session) = session(world, "hasty").await?;
    wire.close().await;
    counted(short + 1, ok + 1).await?;

    let router = world.another_router("internal.l7r.short_session = 0\n").await?;
    let ann = world.person("patient").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = Wire::connect(ann.from, router.address).await?;
    wire.send(ann.connect_request("")).await?;
    wire.switched().await?;
    greet(&mut wire, &mut desktop.session().await?).await?;
    wire.close().await;
    router.until_logged("session ended").await?;
    world.until_user_state(ann.vm, UserState::Disconnected).await?;
    counted(short + 1, ok + 2).await
}

async fn row_73(world: &World) -> Result<()> {
    let (ann, mut wire, mut desktop) = session(world, "closer").await?;
    let bytes: Vec<u8> = (0..4_000_000u32).map(|i| (i / 7) as u8).collect();
    let closing = async {
        desktop.write_all(&bytes).await?;
        // Half of it: the other way stays open.
        desktop.shutdown().await?;
        anyhow::Ok(desktop)
    };
    let hearing = async {
        let mut heard = Vec::new();
        while let Some(record) = wire.record().await? {
            heard.extend(record);
        }
        anyhow::Ok(heard)
    };
    let (kept, heard) = tokio::join!(closing, hearing);
    let (_kept, heard) = (kept?, heard?);
    ensure!(heard == bytes, "{} of {} bytes, or others", heard.len(), bytes.len());
    ensure!(wire.is_notified(), "no close_notify");
    wire.close().await;
    world.until_user_state(ann.vm, UserState::Disconnected).await.map(drop)
}

async fn row_74(world: &World) -> Result<()> {
    let (_, mut wire, mut desktop) = session(world, "sleeper").await?;
    let before = world.router().memory()?;
    // Socket buffers take some megabytes; what is offered is many times that.
    let mut taken = 0usize;
    let chunk = vec![7; 64 << 10];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), desktop.write(&chunk)).await {
        taken += written?;
        ensure!(taken < 256 << 20, "the router takes everything");
    }
    let grown = world.router().memory()?.saturating_sub(before);
    ensure!(grown < 2 << 20, "{grown} bytes of memory for a client that does not read, {taken} taken");
    let mut heard = 0;
    while heard < taken {
        let record = soon("the rest", wire.record()).await??;
        heard += record.map_or(taken + 1, |record| record.len());
    }
    ensure!(heard == taken, "{heard} of {taken} bytes");
    Ok(())
}
