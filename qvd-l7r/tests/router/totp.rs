//! One-time passwords behind the password (row 111).

use std::time::{SystemTime, UNIX_EPOCH};

use qvd_db::Owner;
use qvd_l7r::auth::TOTP_SECRET_PROPERTY;

use crate::support::{Options, PASSWORD, World, basic, logged, user};

const LIST: &str = "/qvd/list_of_vm";
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// The token of now; it is good for a period more.
fn token() -> String {
    let secret = totp_rs::Secret::try_from_base32(SECRET).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    totp_rs::Builder::new().with_secret(secret).build().unwrap().generate(now).to_string()
}

async fn world() -> World {
    let world = World::with(Options::default().set("l7r.auth.plugins", "default,TOTP")).await;
    let alice = Owner::User(world.alice);
    world.db.properties().set(alice, TOTP_SECRET_PROPERTY, SECRET).await.unwrap();
    world
}

async fn status(world: &World, login: &str, password: &str) -> u16 {
    world.client().await.ask(LIST, &[&basic(login, password)]).await.status()
}

#[tokio::test]
async fn row_111_a_token_is_good_on_a_second_connection_too() {
    let world = world().await;
    let password = format!("{PASSWORD}{}", token());
    assert_eq!(status(&world, "alice", &password).await, 200);
    assert_eq!(status(&world, "alice", &password).await, 200);
    world.until_counted("two logins", |c| (c.auth_attempts, c.auth_ok) == (2, 2)).await;
    assert!(!logged().contains(&password), "neither of them is logged");
}

#[tokio::test]
async fn neither_half_is_enough() {
    let world = world().await;
    // The password was right a moment ago, which does not make up for the token.
    assert_eq!(status(&world, "alice", &format!("{PASSWORD}{}", token())).await, 200);
    let other = format!("{:06}", (token().parse::<u32>().unwrap() + 1) % 1_000_000);
    for password in [
        PASSWORD.to_owned(),
        token(),
        String::new(),
        format!("{PASSWORD}{other}"),
        format!("wrong{}", token()),
        format!("{PASSWORD}{} ", token()),
        format!("{}{PASSWORD}", token()),
    ] {
        assert_eq!(status(&world, "alice", &password).await, 401, "{password:?}");
    }
}

#[tokio::test]
async fn who_has_no_secret_or_a_broken_one_has_no_token() {
    let world = world().await;
    let bob = user(&world.db, "bob").await;
    for broken in [None, Some(""), Some("not base 32!")] {
        if let Some(broken) = broken {
            world.db.properties().set(Owner::User(bob), TOTP_SECRET_PROPERTY, broken).await.unwrap();
        }
        for password in [format!("{PASSWORD}{}", token()), PASSWORD.to_owned(), format!("{PASSWORD}000000")] {
            assert_eq!(status(&world, "bob", &password).await, 401, "{broken:?} {password}");
        }
    }
}
