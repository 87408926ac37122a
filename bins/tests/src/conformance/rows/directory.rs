//! Directories (rows 104–108).

use anyhow::{Result, ensure};

use crate::conformance::directory::Directory;
use crate::conformance::wire::Answer;
use crate::conformance::world::{Setup, World, basic};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(
                104,
                "a login of wildcards and filters is escaped; an empty password makes no bind",
                row_104
            ),
            row!(105, "result 49 with a message that is allowed is a login", row_105),
            row!(106, "result 49 is 401, a directory that is away 503", row_106),
            row!(107, "two entries are 401", row_107),
            row!(108, "a user of the directory needs a row, without it 401", row_108),
        ],
    )]
}

/// A router that asks this directory, with further keys.
async fn asking(directory: &Directory, more: &[(&'static str, &str)]) -> Result<World> {
    let setup = Setup::default()
        .set("l7r.auth.plugins", "ldap")
        .set("auth.ldap.host", directory.uri())
        .set("auth.ldap.base", directory.base())
        .set("auth.ldap.scope", "sub");
    let setup = more.iter().fold(setup, |setup, (key, value)| setup.set(key, *value));
    World::start(&setup).await
}

async fn list(world: &World, login: &str, password: &str) -> Result<Answer> {
    // A person each time: nobody waits for somebody else's failures.
    let from = world.person(&format!("via-{login}-{}", password.len())).await?;
    world.wire(&from).await?.ask("/qvd/list_of_vm", &[&basic(login, password)]).await
}

async fn row_104(_: &World) -> Result<()> {
    let directory = Directory::start().await?;
    let world = asking(&directory, &[]).await?;
    world.person("alice").await?;
    for login in ["*", "al*", "a)(uid=bob", "alice)(objectClass=*", "bob\\2a"] {
        list(&world, login, "alice-secret").await?.expect(401, "")?;
    }
    list(&world, "alice", "alice-secret").await?.expect(200, "alice-desk")?;
    let before = directory.binds()?;
    list(&world, "alice", "").await?.expect(401, "")?;
    ensure!(directory.binds()? == before, "an empty password was sent to the directory");
    Ok(())
}

async fn row_105(_: &World) -> Result<()> {
    let directory = Directory::start_mainframe().await?;
    let world = asking(&directory, &[("auth.ldap.racf_allowregex", "^R004109 ")]).await?;
    let ann = world.person("racf").await?;
    let mut desktop = crate::conformance::desktop::Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    let mut wire = world.wire(&ann).await?;
    wire.send(ann.connect_request("")).await?;
    wire.switched().await?;
    desktop.session().await?;
    let params = desktop.x_start()?;
    let told = params.get("qvd.auth.ldap.racf_detailed_error").map(String::as_str);
    ensure!(told == Some(Directory::EXPIRED), "{params:?}");
    let world = asking(&directory, &[("auth.ldap.racf_allowregex", "^R004110 ")]).await?;
    world.person("racf").await?;
    list(&world, "racf", "any").await?.expect(401, "")
}

async fn row_106(_: &World) -> Result<()> {
    let mut directory = Directory::start().await?;
    let world = asking(&directory, &[]).await?;
    world.person("alice").await?;
    list(&world, "alice", "wrong").await?.expect(401, "")?;
    directory.stop();
    let answer = list(&world, "alice", "alice-secret").await?;
    answer.expect(503, "")?;
    ensure!(!answer.body.to_lowercase().contains("ldap"), "{answer:?}");
    Ok(())
}

async fn row_107(_: &World) -> Result<()> {
    let directory = Directory::start().await?;
    let world = asking(&directory, &[]).await?;
    world.person("twin").await?;
    list(&world, "twin", "twin-secret").await?.expect(401, "")
}

async fn row_108(_: &World) -> Result<()> {
    let directory = Directory::start().await?;
    let world = asking(&directory, &[]).await?;
    world.person("alice").await?;
    list(&world, "alice", "alice-secret").await?.expect(200, "alice-desk")?;
    // He is known to the directory alone.
    list(&world, "bob", "bob-secret").await?.expect(401, "")
}
