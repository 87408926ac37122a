//! Ends of routers, in order and not (rows 70, 117).

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use qvd_core::state::UserState;
use tokio::io::AsyncWriteExt as _;

use crate::conformance::desktop::{Desktop, Says};
use crate::conformance::wire::{Wire, eventually};
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group::new(
            Setup::default(),
            vec![row!(
                70,
                "sessions of a router that was killed are freed by the next, and connects succeed",
                row_70
            )],
        ),
        Group::new(
            Setup::default(),
            vec![row!(
                117,
                "SIGTERM: ping says so, the idle are closed, desktops live; a second one ends them",
                row_117
            )],
        ),
    ]
}

async fn row_70(world: &World) -> Result<()> {
    let ann = world.person("bereft").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    wire.switched().await?;
    let _session = desktop.session().await?;
    world.router().signal(Signal::SIGKILL)?;
    world.router().ended().await?;
    ensure!(world.row(ann.vm).await?.user_state == UserState::Connected, "somebody could give it back");

    let next = world.another_router("").await?;
    world.until_user_state(ann.vm, UserState::Disconnected).await?;
    desktop.says("x_state", [Says::Result("suspended"), Says::Result("listening")]);
    let mut again = Wire::connect(ann.from, next.address).await?;
    again.send(ann.connect_request("")).await?;
    again.switched().await?;
    desktop.session().await.map(drop)
}

async fn row_117(world: &World) -> Result<()> {
    let ann = world.person("worker").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut user = world.connecting(&ann).await?;
    user.switched().await?;
    let mut session = desktop.session().await?;
    let address = world.router().address;
    let mut idle = Wire::connect(Ipv4Addr::LOCALHOST, address).await?;
    idle.ask("/qvd/ping", &[]).await?.expect(200, "I am alive!")?;

    world.router().signal(Signal::SIGTERM)?;
    idle.expect_end().await.context("an idle connection")?;
    let mut late =
        Wire::connect(Ipv4Addr::LOCALHOST, address).await.context("the listener closed too soon")?;
    late.ask("/qvd/ping", &[]).await?.expect(503, "Server is stopping")?;
    eventually("the port to be given up", async || {
        Ok(tokio::net::TcpStream::connect(address).await.is_err().then_some(()))
    })
    .await?;
    session.write_all(b"still here").await?;
    let heard = user.record().await?;
    ensure!(heard.as_deref() == Some(b"still here"), "the desktop did not live on: {heard:?}");
    ensure!(world.router().is_running(), "it left its desktop");

    world.router().signal(Signal::SIGTERM)?;
    user.expect_end().await.context("the desktop")?;
    world.router().ended().await?;
    ensure!(world.row(ann.vm).await?.user_state == UserState::Disconnected, "the row was not given back");
    Ok(())
}
