//! Credentials (rows 7–17, 81, 82, 109–112, 115, 116).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use qvd_core::TenantId;
use qvd_db::{Owner, password};

use crate::conformance::desktop::{Desktop, greet};
use crate::conformance::wire::{Answer, Wire};
use crate::conformance::world::{PASSWORD, Setup, World, basic};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![
        // Each of these waits for what it counts, so that nothing of it is left to the next.
        Group::new(
            Setup::default(),
            vec![
                row!(7, "without credentials 401 with the realm, a request counted and no attempt", row_07),
                row!(8, "the same connection with good credentials is 200, both counted", row_08),
                row!(9, "a wrong password is 401 and an attempt, and the connection goes on", row_09),
                row!(10, "a password with a colon and UTF-8 is accepted", row_10),
                row!(11, "an empty login or no colon is 401 and no attempt", row_11),
                row!(12, "another scheme is 401 and no attempt", row_12),
                row!(
                    13,
                    "an empty password is 401 (default; that no bind is made stands with row 104)",
                    row_13
                ),
                row!(14, "logins are trimmed and folded", row_14),
            ],
        ),
        Group::new(
            Setup::default(),
            vec![
                row!(15, "the same credentials on a connection are not checked again", row_15),
                row!(16, "another user's credentials on a connection are that user's", row_16),
                row!(17, "a changed password is asked of new connections alone", row_17),
                row!(82, "broken Auth- headers are passed over, a thousand are 431", row_82),
                row!(112, "the digest of an imported installation verifies", row_112),
                row!(116, "no password, credentials or slave key in the log at any level", row_116),
            ],
        ),
        Group::new(
            Setup::default().postgres(),
            vec![row!(115, "a database that is away is 503 without its words", row_115)],
        ),
        Group::new(
            Setup::default(),
            vec![
                row!(81, "a shared variable reaches the authenticators", row_81),
                row!(109, "two first logins at a time make one machine", row_109),
                row!(110, "names that are all taken are 500 in general words, and logged", row_110),
                row!(111, "a one-time password holds for two connections in its window", row_111),
            ],
        ),
    ]
}

const LIST: &str = "/qvd/list_of_vm";

async fn row_07(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let mut wire = world.wire(&world.person("seven").await?).await?;
    let denied = wire.ask(LIST, &[]).await?;
    denied.expect(401, "")?;
    ensure!(denied.head.contains("\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\n"), "{denied:?}");
    world.until_counted(&before, (1, 0, 0)).await
}

async fn row_08(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let ann = world.person("eight").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[]).await?.expect(401, "")?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "eight-desk")?;
    world.until_counted(&before, (2, 1, 1)).await
}

async fn row_09(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let ann = world.person("nine").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&basic("nine", "wrong")]).await?.expect(401, "")?;
    world.until_counted(&before, (1, 1, 0)).await?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "nine-desk")?;
    world.until_counted(&before, (2, 2, 1)).await
}

async fn row_10(world: &World) -> Result<()> {
    ensure!(PASSWORD.contains(':') && !PASSWORD.is_ascii(), "the password of all rows is no example");
    let before = world.counts().await?;
    let ann = world.person("ten").await?;
    world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?.expect(200, "ten-desk")?;
    world.until_counted(&before, (1, 1, 1)).await
}

/// These headers are 401, and nobody was asked.
async fn no_attempts(world: &World, login: &str, headers: &[&str]) -> Result<()> {
    let before = world.counts().await?;
    let mut wire = world.wire(&world.person(login).await?).await?;
    for header in headers {
        wire.ask(LIST, &[header]).await?.expect(401, "")?;
    }
    world.until_counted(&before, (headers.len() as u64, 0, 0)).await
}

async fn row_11(world: &World) -> Result<()> {
    // ":x", "alice", "" and what is no base64.
    let headers =
        ["Basic Ong=", "Basic YWxpY2U=", "Basic ", "Basic !!!"].map(|v| format!("Authorization: {v}\r\n"));
    no_attempts(world, "eleven", &headers.each_ref().map(String::as_str)).await
}

async fn row_12(world: &World) -> Result<()> {
    let headers = ["Authorization: Digest username=\"alice\"\r\n", "Authorization: Basic\r\n"];
    no_attempts(world, "twelve", &headers).await
}

async fn row_13(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let mut wire = world.wire(&world.person("thirteen").await?).await?;
    wire.ask(LIST, &[&basic("thirteen", "")]).await?.expect(401, "")?;
    world.until_counted(&before, (1, 1, 0)).await
}

async fn row_14(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let ann = world.person("fourteen").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&basic(" FourTeen ", PASSWORD)]).await?.expect(200, "fourteen-desk")?;
    world.until_counted(&before, (1, 1, 1)).await
}

async fn row_15(world: &World) -> Result<()> {
    let before = world.counts().await?;
    let ann = world.person("fifteen").await?;
    let mut wire = world.wire(&ann).await?;
    for _ in 0..3 {
        wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "fifteen-desk")?;
    }
    world.until_counted(&before, (3, 1, 1)).await
}

async fn row_16(world: &World) -> Result<()> {
    let (ann, ben) = (world.person("sixteen-ann").await?, world.person("sixteen-ben").await?);
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "sixteen-ann-desk")?;
    let his = wire.ask(LIST, &[&ben.auth()]).await?;
    his.expect(200, "sixteen-ben-desk")?;
    ensure!(!his.body.contains("sixteen-ann"), "{his:?}");
    Ok(())
}

async fn row_17(world: &World) -> Result<()> {
    let ann = world.person("seventeen").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "")?;
    let other = password::hash(b"changed")?;
    let _ = world.db.users().set_password_hash(ann.id, None, other.expose()).await?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "seventeen-desk")?;
    world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?.expect(401, "")?;
    world.wire(&ann).await?.ask(LIST, &[&basic("seventeen", "changed")]).await?.expect(200, "seventeen-desk")
}

async fn row_82(world: &World) -> Result<()> {
    let ann = world.person("headers").await?;
    let mut wire = world.wire(&ann).await?;
    let headers =
        ["Auth-zz: QQ==\r\n", "Auth-4d5: QQ==\r\n", "Auth-4d59: ***\r\n", "Auth-: QQ==\r\n", &ann.auth()];
    wire.ask(LIST, &headers).await?.expect(200, "headers-desk")?;
    let many: Vec<String> = (0..1000).map(|i| format!("Auth-{i:08x}: QQ==\r\n")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    wire.ask(LIST, &many).await?.expect(431, "")?;
    wire.expect_end().await
}

async fn row_112(world: &World) -> Result<()> {
    let ann = world.person("imported").await?;
    let stored = "zmbH9pH/ERecFVO09sse2sLtkWZM2v5yhkc9FNPF0yU";
    let _ = world.db.users().set_password_hash(ann.id, None, stored).await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&basic("imported", "s3cret")]).await?.expect(200, "imported-desk")?;
    // It was replaced by a better one, with which the next login goes on.
    let now = world.db.users().load(ann.id).await?.and_then(|user| user.password_hash).context("no hash")?;
    ensure!(now.expose().starts_with("$argon2id$"), "the old digest stayed");
    world.wire(&ann).await?.ask(LIST, &[&basic("imported", "s3cret")]).await?.expect(200, "")
}

async fn row_116(world: &World) -> Result<()> {
    let ann = world.person("quiet").await?;
    let mut desktop = Desktop::start()?;
    world.run(ann.vm, &desktop.endpoint()).await?;
    world.wire(&ann).await?.ask(LIST, &[&basic("quiet", "wr0ngsecret")]).await?.expect(401, "")?;
    let target = "/qvd/list_of_vm?password=1nquery&passwd=1nquery";
    world.wire(&ann).await?.ask(target, &[&ann.auth()]).await?.expect(200, "")?;
    let mut wire = world.connecting(&ann).await?;
    let (_, key) = wire.switched().await?;
    greet(&mut wire, &mut desktop.session().await?).await?;
    wire.close().await;
    world.router().until_logged("session ended").await?;
    let log = world.router().log();
    ensure!(log.contains("logged in") && log.contains("TRACE"), "nothing was listened to");
    let auth = ann.auth();
    let encoded = auth.trim().rsplit(' ').next().context("no credentials")?;
    for (what, secret) in [
        ("a password", PASSWORD),
        ("a wrong password", "wr0ngsecret"),
        ("a password of a query", "1nquery"),
        ("the header", "Authorization"),
        ("encoded credentials", encoded),
        ("the slave key", key.as_str()),
    ] {
        ensure!(!log.contains(secret), "{what} is in the log");
    }
    Ok(())
}

async fn row_115(world: &World) -> Result<()> {
    let ann = world.person("outage").await?;
    let mut wire = world.wire(&ann).await?;
    wire.ask(LIST, &[&ann.auth()]).await?.expect(200, "outage-desk")?;
    world.crash_database()?;
    let answer = wire.ask(LIST, &[&ann.auth()]).await?;
    ensure!(matches!(answer.status(), 500 | 503), "{answer:?}");
    let body = answer.body.to_lowercase();
    let words = ["sql", "select", "pool", "connection", "postgres", "relation"];
    ensure!(!words.iter().any(|word| body.contains(word)), "{answer:?}");
    Ok(())
}

async fn row_81(_: &World) -> Result<()> {
    let world = World::start(&Setup::default().set("l7r.auth.plugins", "authtester,default")).await?;
    let ann = world.person("sharing").await?;
    let headers = ["Auth-4d59: QQ==\r\n", &ann.auth()];
    world.wire(&ann).await?.ask(LIST, &headers).await?.expect(200, "sharing-desk")?;
    world.router().until_logged("MY=A").await
}

/// A world whose users get a machine at their first login.
async fn automatic() -> Result<World> {
    // The flavour is the first one of its database.
    World::start(&Setup::default().set("l7r.auth.plugins", "default,auto").set("auth.auto.osf_id", "1")).await
}

async fn row_109(_: &World) -> Result<()> {
    let world = automatic().await?;
    let ann = world.person("twice").await?;
    ensure!(world.db.vms().delete(ann.vm).await?.is_updated(), "not deleted");
    let (mut one, mut two) = (world.wire(&ann).await?, world.wire(&ann).await?);
    let auth = ann.auth();
    let headers = [auth.as_str()];
    let (first, second) = tokio::join!(one.ask(LIST, &headers), two.ask(LIST, &headers));
    first?.expect(200, "twice-1")?;
    second?.expect(200, "twice-1")?;
    let machines = world.db.vms().of_user(ann.id).await?;
    ensure!(machines.len() == 1, "{} machines", machines.len());
    let users = world.db.users().list().await?;
    ensure!(users.iter().filter(|user| user.login == "twice").count() == 1, "two users");
    Ok(())
}

async fn row_110(_: &World) -> Result<()> {
    let world = automatic().await?;
    let other = world.db.users().add(TenantId::DEFAULT, "squatter", None).await?;
    for number in 1..=5 {
        world.machine(&format!("taken-{number}"), other).await?;
    }
    let ann = world.person("taken").await?;
    ensure!(world.db.vms().delete(ann.vm).await?.is_updated(), "not deleted");
    let answer = world.wire(&ann).await?.ask(LIST, &[&ann.auth()]).await?;
    answer.expect(500, "500 ")?;
    ensure!(!answer.body.contains("taken-"), "{answer:?}");
    world.router().until_logged("taken-").await
}

async fn row_111(_: &World) -> Result<()> {
    let world = World::start(&Setup::default().set("l7r.auth.plugins", "totp,default")).await?;
    let ann = world.person("token").await?;
    // The secret of the examples of RFC 6238.
    let (base32, secret) = ("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "3132333435363738393031323334353637383930");
    world.db.properties().set(Owner::User(ann.id), "l7r.auth.plugin.totp.secret32", base32).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = one_time_password(secret, now / 30)?;
    let ask = async |password: String| -> Result<Answer> {
        let mut wire = Wire::connect(ann.from, world.router().address).await?;
        wire.ask(LIST, &[&basic("token", &password)]).await
    };
    ask(PASSWORD.to_owned()).await?.expect(401, "")?;
    for _ in 0..2 {
        // Two connections, as the C client makes them; the period before this one is accepted too.
        ask(format!("{PASSWORD}{token}")).await?.expect(200, "token-desk")?;
    }
    ask(format!("{PASSWORD}{}", one_time_password(secret, now / 30 - 5)?)).await?.expect(401, "")
}

/// Six digits of RFC 6238 for this period.
fn one_time_password(secret: &str, period: u64) -> Result<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let key = format!("hexkey:{secret}");
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha1", "-mac", "HMAC", "-macopt", &key, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("openssl is not installed")?;
    openssl.stdin.take().context("no input")?.write_all(&period.to_be_bytes())?;
    let digest = openssl.wait_with_output()?.stdout;
    let offset = usize::from(digest.last().context("no digest")? & 15);
    let word: [u8; 4] = digest.get(offset..offset + 4).context("a short digest")?.try_into()?;
    Ok(format!("{:06}", (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000))
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_time_passwords_are_those_of_the_standard() {
        let secret = "3132333435363738393031323334353637383930";
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(super::one_time_password(secret, time / 30).expect("openssl"), code);
        }
    }
}
