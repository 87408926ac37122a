//! The agent with a real nxagent, by itself and behind the router (rows 83–103).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use qvd_core::state::UserState;
use qvd_db::{NewImage, Owner};

use crate::conformance::agent::{Agent, Machine, Viewer, X_START, need_nx, runs};
use crate::conformance::desktop::Desktop;
use crate::conformance::wire::eventually;
use crate::conformance::world::{Person, Setup, World};
use crate::conformance::{Group, Row, row};

pub(super) fn groups() -> Vec<Group> {
    const SLAVE: &str = "the slave channel comes with an issue of its own";
    vec![
        Group::new(
            Setup::default(),
            vec![
                row!(94, "an agent killed while connected is stopped, its hooks run once", row_94),
                row!(95, "an agent nobody comes to: TERM at a first start, HUP after a resume", row_95),
            ],
        ),
        Group::new(
            Setup::default(),
            vec![
                row!(96, "x_start while connected suspends the other viewer, a later one resumes", row_96),
                row!(97, "an end of the agent's service ends the session, and the next start works", row_97),
                row!(92, "the hook of the state disconnected is told 'stopped'", row_92),
            ],
        ),
        Group::new(
            Setup::default(),
            vec![
                row!(83, "a call that the agent does not know is 404", row_83),
                row!(84, "an error is 200 with two values, the first empty", row_84),
                row!(85, "a parameter with commands in it is refused, nothing runs", row_85),
                row!(86, "extra_args cannot break the options", row_86),
                row!(87, "the flavour's link beats the client's, down to nxagent's options", row_87),
                row!(88, "a machine's property beats its image's, the login beats both", row_88),
                row!(98, "vnc_connect while stopped is 102, then 503", row_98),
            ],
        ),
        Group::new(
            Setup::default().set("internal.l7r.retry.x_start", "2"),
            vec![
                row!(89, "a pre-connect hook that refuses is told to the client, nothing starts", row_89),
                row!(90, "a connect hook that refuses a first start is told to the client", row_90),
                row!(91, "arguments of a hook alternate, its own pair comes last", row_91),
                row!(93, "a display failure that nxagent logs changes no state", row_93),
                Row::unwritten(99, "slave PUT without key or with a wrong one", SLAVE),
                Row::unwritten(100, "slave PUT of paths that leave the shares", SLAVE),
                Row::unwritten(101, "slave PUT on a busy mount point", SLAVE),
                Row::unwritten(102, "slave GET without key", SLAVE),
                Row::unwritten(103, "an old slave key", SLAVE),
            ],
        ),
    ]
}

async fn row_83(_: &World) -> Result<()> {
    let agent = Machine::new()?.start().await?;
    let answer = agent.say("GET /vma/nosuch HTTP/1.1\r\n\r\n").await?;
    ensure!(answer.starts_with("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n"), "{answer}");
    Ok(())
}

async fn row_84(_: &World) -> Result<()> {
    let agent = Machine::new()?.start().await?;
    let body = agent.call("x_start?qvd.client.link=a%20b").await?;
    ensure!(body == r#""","invalid characters in parameter qvd.client.link""#, "{body}");
    Ok(())
}

/// This parameter is refused in the error form, and nothing was written or started.
async fn refused(name: &str, encoded: &str) -> Result<()> {
    let agent = Machine::new()?.start().await?;
    let body = agent.call(&format!("x_start?{name}={encoded}")).await?;
    ensure!(body == format!(r#""","invalid characters in parameter {name}""#), "{body}");
    ensure!(agent.x_state().await? == "stopped", "something starts");
    ensure!(!agent.path("run/nxagent.conf").exists(), "options were written");
    Ok(())
}

async fn row_85(_: &World) -> Result<()> {
    refused("qvd.client.geometry", "%24%28reboot%29").await
}

async fn row_86(_: &World) -> Result<()> {
    refused("qvd.client.nxagent.extra_args", "a=1:0%0Anx%2Fnx,b=2").await
}

/// Somebody whose machine runs with this agent, behind the router.
async fn behind(world: &World, agent: &Agent) -> Result<Person> {
    let ann = world.myself().await?;
    world.run(ann.vm, &agent.endpoint()).await?;
    Ok(ann)
}

async fn row_87(world: &World) -> Result<()> {
    need_nx()?;
    let agent = Machine::new()?.start().await?;
    let ann = behind(world, &agent).await?;
    world.db.properties().set(Owner::Osf(world.osf), "qvd.client.link", "lan").await?;
    let mut wire = world.connecting_with(&ann, "&qvd.client.link=modem&qvd.client.os=linux").await?;
    wire.switched().await?;
    let options = agent.lines("run/nxagent.conf").concat();
    ensure!(options.contains("link=lan,") && !options.contains("modem"), "{options}");
    Ok(())
}

async fn row_88(world: &World) -> Result<()> {
    let ann = world.person("proper").await?;
    let mut desktop = Desktop::start()?;
    let run = world.run(ann.vm, &desktop.endpoint()).await?;
    let image = NewImage {
        osf_id: world.osf,
        file_name: "none".into(),
        format: "none".into(),
        version: None,
        size: None,
        sha256: None,
    };
    let image = world.db.images().add(image).await?.id;
    let running = world.db.vms().set_current_di(ann.vm, world.host, run, image).await?;
    ensure!(running.is_updated(), "it runs no image");
    let properties = world.db.properties();
    for (owner, key, value) in [
        (Owner::Di(image), "custom.both", "image"),
        (Owner::Vm(ann.vm), "custom.both", "machine"),
        (Owner::Di(image), "custom.image", "image"),
        (Owner::Di(image), "qvd.vm.user.name", "root"),
        (Owner::Vm(ann.vm), "qvd.vm.user.name", "root"),
    ] {
        properties.set(owner, key, value).await?;
    }
    world.connecting(&ann).await?.switched().await?;
    desktop.session().await?;
    let params = desktop.x_start()?;
    let value = |name: &str| params.get(name).map(String::as_str);
    let seen = (value("custom.both"), value("custom.image"), value("qvd.vm.user.name"));
    ensure!(seen == (Some("machine"), Some("image"), Some("proper")), "{params:?}");
    Ok(())
}

async fn row_98(_: &World) -> Result<()> {
    let agent = Machine::new()?.start().await?;
    let plain = agent.say("GET /vma/vnc_connect HTTP/1.1\r\n\r\n").await?;
    ensure!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
    let text = "GET /vma/vnc_connect HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: VNC\r\n\r\n";
    let answer = agent.say(text).await?;
    let (first, second) = answer.split_once("\r\n\r\n").context("one head")?;
    ensure!(first == "HTTP/1.1 102 Processing\r\nX-QVD-VMA-Info: Starting VNC service", "{answer}");
    ensure!(second.starts_with("HTTP/1.1 503 "), "{answer}");
    ensure!(second.ends_with("Unable to start VNC service while session is in state stopped"), "{answer}");
    Ok(())
}

async fn row_89(world: &World) -> Result<()> {
    let machine = Machine::new()?.hook("vma.on_action.pre-connect", "pre", "exit 3")?;
    let agent = machine.start().await?;
    let ann = behind(world, &agent).await?;
    let (_, answer) = world.connecting(&ann).await?.refused().await?;
    answer.expect(503, &format!("not available: Unable to start X session on VM {}: ", ann.vm))?;
    ensure!(answer.body.contains("rc: 3"), "{answer:?}");
    ensure!(agent.x_state().await? == "stopped", "something starts");
    ensure!(agent.lines("pre.args").len() == 3, "not one call for each of three tries");
    Ok(())
}

async fn row_90(world: &World) -> Result<()> {
    let agent = Machine::new()?.hook("vma.on_action.connect", "connect", "exit 1")?.start().await?;
    let ann = behind(world, &agent).await?;
    let (_, answer) = world.connecting(&ann).await?.refused().await?;
    answer.expect(503, "not available: Unable to start X session on VM ")?;
    ensure!(answer.body.contains("rc: 1"), "{answer:?}");
    agent.until_state("stopped").await?;
    world.until_user_state(ann.vm, UserState::Disconnected).await?;
    ensure!(agent.lines("connect.args").len() == 1, "called {:?}", agent.lines("connect.args"));
    Ok(())
}

async fn row_91(world: &World) -> Result<()> {
    let agent = Machine::new()?.hook("vma.on_action.pre-connect", "pre", "exit 3")?.start().await?;
    let ann = behind(world, &agent).await?;
    world.connecting_with(&ann, "&qvd.client.link=lan").await?.refused().await?;
    let lines = agent.until_lines("pre.args", 1).await?;
    let words: Vec<&str> = lines[0].split(' ').collect();
    ensure!(words.len().is_multiple_of(2), "{words:?}");
    ensure!(words.ends_with(&["qvd.hook.on_action", "pre_connect"]), "{words:?}");
    let pairs: Vec<_> = words.chunks(2).collect();
    for pair in [
        ["qvd.client.link", "lan"],
        ["qvd.vm.user.name", ann.login.as_str()],
        ["qvd.vm.session.state", "stopped"],
    ] {
        ensure!(pairs.contains(&pair.as_slice()), "no {pair:?} in {words:?}");
    }
    ensure!(!lines[0].contains("slave.key"), "the slave key shows in the list of processes");
    Ok(())
}

async fn row_92(_: &World) -> Result<()> {
    let agent = Machine::new()?.hook("vma.on_state.disconnected", "gone", "")?.start().await?;
    let lines = agent.until_lines("gone.args", 1).await?;
    ensure!(lines == ["qvd.hook.on_state stopped"], "{lines:?}");
    Ok(())
}

async fn row_93(_: &World) -> Result<()> {
    let machine = Machine::new()?;
    let (script, go) = (machine.path("nxagent.sh"), machine.path("go"));
    // Says what nxagent says, and the failure when it is told to.
    let text = format!(
        "echo \"Info: Agent running with pid '$$'.\"\necho \"Session: Starting session at 'now'.\"\n\
         echo \"Info: Waiting for connection from any host on socket 'x'.\"\n\
         while [ ! -e '{}' ]; do sleep 0.02; done\n\
         echo \"Session: Display failure detected at 'Mon Jan  5 10:00:00 2015'.\"\nexec sleep 1000\n",
        go.display()
    );
    std::fs::write(&script, text)?;
    let agent = machine
        .set("command.nxagent", format!("/bin/sh {}", script.display()))
        .set("vma.nxagent.guard", "0")
        .set("internal.nxagent.timeout.listening", "300")
        .start()
        .await?;
    agent.listen().await?;
    std::fs::write(&go, "")?;
    eventually("the line", async || {
        let said = agent.lines("log/qvd-nxagent.log").concat();
        Ok(said.contains("Display failure detected").then_some(()))
    })
    .await?;
    ensure!(agent.x_state().await? == "listening", "the state is {}", agent.x_state().await?);
    Ok(())
}

async fn row_94(_: &World) -> Result<()> {
    let viewer = Viewer::new().await?;
    let agent = Machine::new()?.hook("vma.on_state.disconnected", "gone", "")?.start().await?;
    // The one of the agent's own start.
    agent.until_lines("gone.args", 1).await?;
    agent.listen().await?;
    let _proxy = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await?;
    kill(agent.nxagent()?, Signal::SIGKILL)?;
    agent.until_state("stopped").await?;
    let lines = agent.until_lines("gone.args", 2).await?;
    // Whatever would come twice has come when the next session has ended, too.
    agent.listen().await?;
    agent.call("x_stop").await?;
    agent.until_state("stopped").await?;
    agent.until_lines("gone.args", 3).await?;
    let lines = (lines.len(), agent.lines("gone.args").len());
    ensure!(lines == (2, 3), "calls of the hook behind each end: {lines:?}");
    Ok(())
}

async fn row_95(_: &World) -> Result<()> {
    let viewer = Viewer::new().await?;
    let agent = Machine::new()?.set("internal.nxagent.timeout.listening", "1.5").start().await?;
    agent.listen().await?;
    let first = agent.nxagent()?;
    agent.until_state("stopped").await?;
    eventually("the end of nxagent", async || Ok((!runs(first)).then_some(()))).await?;

    agent.listen().await?;
    let mut proxy = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await?;
    let kept = agent.nxagent()?;
    proxy.stop(Duration::ZERO);
    agent.until_state("suspended").await?;
    // Resumed, and nobody comes.
    agent.listen().await?;
    agent.until_state("suspended").await?;
    ensure!(runs(kept) && agent.nxagent()? == kept, "the session is lost");
    agent.listen().await?;
    let _proxy = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await
}

async fn row_96(_: &World) -> Result<()> {
    let viewer = Viewer::new().await?;
    let agent = Machine::new()?.start().await?;
    agent.listen().await?;
    let mut first = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await?;
    let body = agent.call(X_START).await?;
    let text = r#""","Can't connect to X session in state connected, suspending it, retry later""#;
    ensure!(body == text, "{body}");
    eventually("the end of the first viewer", async || Ok((!first.is_running()).then_some(()))).await?;
    agent.listen().await?;
    let _second = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await
}

async fn row_97(_: &World) -> Result<()> {
    let viewer = Viewer::new().await?;
    let mut agent = Machine::new()?.start().await?;
    agent.listen().await?;
    let _proxy = viewer.view(&agent.path("guest/nx.sock"))?;
    agent.until_state("connected").await?;
    let nxagent = agent.nxagent()?;
    // Calls are served by tasks: each of these ends, the session does not.
    for _ in 0..20 {
        agent.say("GARBAGE\r\n\r\n").await?;
    }
    ensure!(runs(nxagent) && agent.x_state().await? == "connected", "the session did not outlive its calls");
    agent.end(Signal::SIGTERM).await?;
    ensure!(!runs(nxagent), "the session outlived its service");
    agent.restart().await?;
    ensure!(agent.x_state().await? == "stopped", "not stopped");
    agent.listen().await
}
