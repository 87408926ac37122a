//! Waits of a connect, and how each is given up (rows 57–64).

use std::time::Duration;

use anyhow::{Result, ensure};
use qvd_core::state::UserState;

use crate::conformance::clients::{self, Seen};
use crate::conformance::desktop::{Desktop, Says};
use crate::conformance::host::publish;
use crate::conformance::wire::Wire;
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    let hurried = || {
        Setup::default()
            .set("internal.l7r.timeout.vm_start", "0.5")
            .set("internal.l7r.timeout.x_start", "0.4")
    };
    vec![
        Group::new(
            Setup::default(),
            vec![
                row!(60, "an agent that refuses connections at first is called again", row_60),
                row!(61, "an agent that refuses 21 times is quoted, in one line", row_61),
                row!(64, "a desktop that goes elsewhere is named", row_64),
                row!(59, "a machine that goes back to stopped is given up", row_59),
                row!(
                    57,
                    "without a host 503 in two records, and closed: the C, Perl and Qt client give up",
                    row_57
                ),
            ],
        ),
        Group::new(
            hurried(),
            vec![
                row!(
                    58,
                    "a machine that never runs is 503, its wait told once (270 s shortened by \
                     internal.l7r.timeout.vm_start; 270 s, looks every 2 s and words every 60 s are proved on the \
                     machine: broker::tests::row_58)",
                    row_58
                ),
                row!(
                    62,
                    "provisioning outlasts the limit for a desktop (10 s shortened by \
                     internal.l7r.timeout.x_start; five minutes are proved on the machine: broker::tests::row_62)",
                    row_62
                ),
                row!(
                    63,
                    "a desktop that starts for too long is 503 (10 s shortened by \
                     internal.l7r.timeout.x_start; 10 s are proved on the machine: broker::tests::row_63)",
                    row_63
                ),
            ],
        ),
    ]
}

/// The connect is refused with this reason; the row is free again.
async fn given_up(world: &World, person: &Person, wire: &mut Wire, reason: &str) -> Result<Vec<String>> {
    let (texts, answer) = wire.refused().await?;
    ensure!(answer.head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer:?}");
    let body = format!("The requested virtual machine is not available: {reason}, retry later");
    ensure!(answer.body == body, "{answer:?}");
    world.until_user_state(person.vm, UserState::Disconnected).await?;
    Ok(texts)
}

async fn row_57(world: &World) -> Result<()> {
    // The node cannot run what is asked for.
    publish(&world.db, world.host, world.incarnation, 1000, "kvm").await?;
    let ann = world.person("hostless").await?;
    let mut wire = world.connecting(&ann).await?;
    let reason = "Unable to assign vm to host, there is no host available";
    let texts = given_up(world, &ann, &mut wire, reason).await?;
    ensure!(texts.last() == Some(&format!("Assigning VM {} to host", ann.vm)), "{texts:?}");
    for client in clients::ALL {
        let (_wire, seen) = client.visit(world, &ann, ann.vm.get()).await?;
        let Seen::Failed(text) = &seen else { anyhow::bail!("{client:?}: {seen:?}") };
        ensure!(text.contains(reason), "{client:?} shows {text}");
    }
    Ok(())
}

async fn row_58(world: &World) -> Result<()> {
    let ann = world.person("slow-machine").await?;
    let mut wire = world.connecting(&ann).await?;
    world.accept_start(ann.vm).await?;
    let texts = given_up(world, &ann, &mut wire, "VM didn't reach state 'running'. Timeout").await?;
    let told = texts.iter().filter(|text| text.starts_with("Waiting for VM")).count();
    ensure!(told == 1 && texts.len() <= 9, "{texts:?}");
    Ok(())
}

async fn row_59(world: &World) -> Result<()> {
    let ann = world.person("crasher").await?;
    let mut wire = world.connecting(&ann).await?;
    let run = world.accept_start(ann.vm).await?;
    world.now_stopped(ann.vm, run).await?;
    given_up(world, &ann, &mut wire, &format!("Unable to start VM {}", ann.vm)).await.map(drop)
}

async fn row_60(world: &World) -> Result<()> {
    let ann = world.person("late-agent").await?;
    let mut desktop = Desktop::closed()?;
    desktop.open_desktop()?;
    desktop.says("x_state", [Says::Result("listening")]);
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    ensure!(wire.text().await?.contains("Session acquired"), "not acquired");
    ensure!(wire.text().await?.contains("Starting X session"), "not starting");
    // With tries 0.1 s apart, several of them have been refused by then, and none is told of.
    let early = tokio::time::timeout(Duration::from_millis(600), wire.record()).await;
    ensure!(early.is_err(), "{early:?}");
    desktop.open_agent()?;
    wire.switched().await?;
    desktop.session().await.map(drop)
}

async fn row_61(world: &World) -> Result<()> {
    let ann = world.person("refuser").await?;
    let desktop = Desktop::start()?;
    desktop.says("x_start", [Says::Refusal("hook failed,\nrc: 3\n")]);
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    let reason = format!("Unable to start X session on VM {}: hook failed, rc: 3", ann.vm);
    given_up(world, &ann, &mut wire, &reason).await?;
    ensure!(desktop.count("x_start") == 21, "{} tries", desktop.count("x_start"));
    Ok(())
}

async fn row_62(world: &World) -> Result<()> {
    let ann = world.person("provisioned").await?;
    let mut desktop = Desktop::start()?;
    let waiting = std::iter::repeat_n(Says::Result("provisioning"), 12);
    let states = std::iter::once(Says::Result("stopped")).chain(waiting).chain([Says::Result("listening")]);
    desktop.says("x_state", states);
    world.run(ann.vm, &desktop.endpoint()).await?;
    world.connecting(&ann).await?.switched().await?;
    desktop.session().await.map(drop)
}

async fn row_63(world: &World) -> Result<()> {
    let ann = world.person("starter").await?;
    let desktop = Desktop::start()?;
    desktop.says("x_state", [Says::Result("suspended"), Says::Result("starting")]);
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    let reason = format!("Unable to start X session on VM {}, operation timed out!", ann.vm);
    given_up(world, &ann, &mut wire, &reason).await.map(drop)
}

async fn row_64(world: &World) -> Result<()> {
    let ann = world.person("elsewhere").await?;
    let desktop = Desktop::start()?;
    desktop.says("x_state", [Says::Result("suspended")]);
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.connecting(&ann).await?;
    let reason = format!("Unable to start X session on VM {}, state went to suspended", ann.vm);
    given_up(world, &ann, &mut wire, &reason).await.map(drop)
}
