//! A list and the connect behind it cost one hash, and nothing else changes by that (rows 15–17).

use qvd_core::TenantId;
use qvd_db::password;

use crate::support::{Options, PASSWORD, World, basic};

const LIST: &str = "/qvd/list_of_vm";

async fn status(world: &World, password: &str) -> u16 {
    world.client().await.ask(LIST, &[&basic("alice", password)]).await.status()
}

#[tokio::test]
async fn row_17_a_change_of_password_or_a_block_counts_at_once_on_a_new_connection() {
    let world = World::new().await;
    for _ in 0..3 {
        assert_eq!(status(&world, PASSWORD).await, 200);
    }
    assert_eq!(status(&world, "wrong").await, 401);
    let changed = password::hash(b"changed").unwrap();
    let _ = world.db.users().set_password_hash(world.alice, None, changed.expose()).await.unwrap();
    assert_eq!(status(&world, PASSWORD).await, 401);
    assert_eq!(status(&world, "changed").await, 200);
    let _ = world.db.users().set_blocked(world.alice, true).await.unwrap();
    assert_eq!(status(&world, "changed").await, 401);
}

#[tokio::test]
async fn hooks_run_and_attempts_count_for_each_connection() {
    let options = Options::default().set("l7r.auth.plugins", "default,auto").set("auth.auto.osf_id", "1");
    let world = World::with(options).await;
    for logins in 1..=3 {
        // The hook of this login, not of one before, gives her a machine.
        for (vm, _) in world.db.vms().of_user(world.alice).await.unwrap() {
            assert!(world.db.vms().delete(vm.id).await.unwrap().is_updated());
        }
        assert_eq!(status(&world, PASSWORD).await, 200);
        let alice = world.db.users().by_login(TenantId::DEFAULT, "alice").await.unwrap().unwrap();
        assert_eq!(world.db.vms().of_user(alice.id).await.unwrap().len(), 1);
        world.until_counted("the login", |c| (c.auth_attempts, c.auth_ok) == (logins, logins)).await;
    }
}
