//! Writers that die half way: the write happened as a whole or not at all, and nobody is stuck.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use qvd_core::ErrorKind;
use qvd_core::state::{UserState, VmCommand, VmState};

use super::case_list;
use crate::sql::{Sql, sql};
use crate::testkit::{Fixture, Site};
use crate::value::params;
use crate::{Claimant, Expirations};

case_list![
    a_claim_cut_anywhere_is_whole_or_nothing,
    a_take_over_cut_anywhere_moves_host_and_vms_together,
    a_published_image_cut_anywhere_has_all_tags_or_none,
    a_cleared_row_cut_anywhere_is_idle_or_untouched,
    a_session_cut_anywhere_is_owned_or_free,
    a_transaction_without_commit_leaves_nothing,
    a_begin_cut_anywhere_leaves_no_transaction_open,
    a_connection_that_dies_takes_its_transaction_with_it,
    the_schema_refuses_rows_that_make_no_sense,
];

/// Runs an operation for a number of polls and drops it; yields whether it had ended, which it must do well.
async fn cut<T>(operation: impl Future<Output = crate::Result<T>>, polls: u32) -> bool {
    let mut operation = pin!(operation);
    for _ in 0..polls {
        let mut polled = false;
        let ended = poll_fn(|context| {
            if polled {
                // Woken by what the future waits for.
                return Poll::Ready(false);
            }
            polled = true;
            operation.as_mut().poll(context).map(|outcome| {
                outcome.expect("what others left half done does no harm");
                true
            })
        })
        .await;
        if ended {
            return true;
        }
    }
    false
}

/// More polls than any operation takes.
const MANY: u32 = 400;

async fn a_claim_cut_anywhere_is_whole_or_nothing(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    for polls in 0..MANY {
        let ended = cut(vms.claim(world.vm, world.host, Claimant::Router), polls).await;
        let row = vms.runtime(world.vm).await.unwrap().unwrap();
        match row.host_id {
            Some(host) => {
                assert_eq!((host, row.vm_cmd), (world.host, Some(VmCommand::Start)));
                assert_eq!(row.host_incarnation, Some(world.incarnation));
                assert!(vms.order_stop(world.vm).await.unwrap().is_updated());
            }
            None => assert_eq!((row.vm_cmd, row.host_incarnation, ended), (None, None, false)),
        }
        if ended {
            return;
        }
    }
    panic!("the claim never ended");
}

async fn a_take_over_cut_anywhere_moves_host_and_vms_together(site: Site) {
    let world = Fixture::fill(&site.db).await;
    world.run().await;
    let token = uuid::Uuid::from_u128(3);
    let rebooted = crate::TakeOver { boot_id: "boot-2".to_owned(), ..Fixture::daemon(token) };
    site.db.hosts().take_over(world.host, rebooted).await.unwrap();
    for polls in 0..MANY {
        let ended = cut(site.db.hosts().take_over(world.host, Fixture::daemon(token)), polls).await;
        let host = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime.incarnation;
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        assert_eq!(row.host_incarnation, Some(host));
        if ended {
            return;
        }
    }
    panic!("the take-over never ended");
}

async fn a_published_image_cut_anywhere_has_all_tags_or_none(site: Site) {
    let osf = site.db.osfs().add(Fixture::osf("desk")).await.unwrap();
    let images = site.db.images();
    for polls in 0..MANY {
        let staged = images.stage(Fixture::image(osf, None)).await.unwrap();
        let ended = cut(images.publish(staged.id, Expirations::default()), polls).await;
        let found = images.load(staged.id).await.unwrap().unwrap();
        let head = images.resolve(osf, "head").await.unwrap().map(|image| image.id);
        if found.tags.is_empty() {
            assert!(head != Some(staged.id) && !ended);
            assert!(images.discard(staged.id).await.unwrap().is_updated());
        } else {
            assert_eq!(head, Some(staged.id));
            assert!(found.tags.iter().any(|tag| tag.fixed && tag.tag == found.version));
        }
        if ended {
            return;
        }
    }
    panic!("publishing never ended");
}

async fn a_cleared_row_cut_anywhere_is_idle_or_untouched(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let mut run = world.run().await;
    for polls in 0..MANY {
        let ended = cut(site.db.vms().clear(world.vm, world.host, run), polls).await;
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        match row.vm_state {
            VmState::Stopped => assert_eq!((row.host_id, row.host_incarnation), (None, None)),
            _ => assert_eq!((row.vm_state, row.host_id, ended), (VmState::Running, Some(world.host), false)),
        }
        if ended {
            return;
        }
        if row.vm_state == VmState::Stopped {
            run = world.run().await;
        }
    }
    panic!("clearing never ended");
}

async fn a_session_cut_anywhere_is_owned_or_free(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let sessions = site.db.sessions();
    let id = world.session(1).session_id;
    for polls in 0..MANY {
        let ended = cut(sessions.acquire(world.vm, world.session(1)), polls).await;
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        assert_eq!(row.session_id.is_some(), row.user_state == UserState::Connecting);
        if row.session_id.is_some() {
            assert!(sessions.release(world.vm, id).await.unwrap().is_updated());
        } else {
            assert!(!ended);
        }
        if ended {
            return;
        }
    }
    panic!("acquiring never ended");
}

async fn a_transaction_without_commit_leaves_nothing(site: Site) {
    const CLAIM: Sql = sql!("claim half way":
        "update vm_runtimes set host_id = $2, host_incarnation = 1, vm_cmd = 'start' where vm_id = $1");
    let world = Fixture::fill(&site.db).await;
    let mut half = site.db.begin().await.unwrap();
    half.rows(&CLAIM, params![world.vm, world.host]).await.unwrap();
    drop(half);
    let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
    assert_eq!((row.host_id, row.vm_cmd), (None, None));
    assert!(site.db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
}

async fn a_begin_cut_anywhere_leaves_no_transaction_open(site: Site) {
    const OPEN: Sql = sql!("look for open transactions":
        "select count(*) as open from pg_stat_activity
         where datname = current_database() and state like 'idle in transaction%'");
    if !site.is_postgres() {
        // One connection writes: the cases above and below would hang.
        return;
    }
    // What the next user of that connection wrote without a transaction would never be committed.
    let watcher = site.second().await;
    for polls in 0..MANY {
        let ended = cut(site.db.begin(), polls).await;
        let none_open = async {
            while watcher.read_one(&OPEN, params![]).await.unwrap().unwrap().get::<i64>("open").unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), none_open).await;
        assert!(waited.is_ok(), "after {polls} polls a transaction was left open");
        if ended {
            return;
        }
    }
    panic!("beginning never ended");
}

async fn a_connection_that_dies_takes_its_transaction_with_it(site: Site) {
    const WRITE: Sql = sql!("write half way": "update users set blocked = true where id = $1");
    const DIE: Sql = sql!("end this connection": "select pg_terminate_backend(pg_backend_pid())");
    const NEXT: Sql = sql!("go on": "select 1 as one");
    if !site.is_postgres() {
        // SQLite has no connection that could die without its process.
        return;
    }
    let world = Fixture::fill(&site.db).await;
    let mut half = site.db.begin().await.unwrap();
    half.rows(&WRITE, params![world.user]).await.unwrap();
    let cut = match half.rows(&DIE, params![]).await {
        Err(cut) => cut,
        Ok(_) => half.rows(&NEXT, params![]).await.unwrap_err(),
    };
    assert_eq!(cut.kind(), ErrorKind::Unavailable, "{cut:?}");
    drop(half);
    assert!(!site.db.users().load(world.user).await.unwrap().unwrap().blocked);
    assert!(site.db.users().set_blocked(world.user, true).await.unwrap().is_updated());
}

async fn the_schema_refuses_rows_that_make_no_sense(site: Site) {
    const WRONG: &[Sql] = &[
        sql!("park": "update vm_runtimes set host_id = $2, host_incarnation = 1 where vm_id = $1"),
        sql!("run nowhere": "update vm_runtimes set vm_state = 'running' where vm_id = $1 and $2 > 0"),
        sql!("forget the incarnation":
            "update vm_runtimes set host_id = $2, vm_cmd = 'start' where vm_id = $1"),
        sql!("mix phases":
            "update vm_runtimes set vm_phase = 'stopping_1', vm_state = 'starting', host_id = $2,
                    host_incarnation = 1 where vm_id = $1"),
        sql!("stop the stopped": "update vm_runtimes set vm_cmd = 'stop' where vm_id = $1 and $2 > 0"),
        sql!("start nowhere": "update vm_runtimes set vm_cmd = 'start' where vm_id = $1 and $2 > 0"),
        sql!("start the running":
            "update vm_runtimes set vm_cmd = 'start', vm_state = 'running', host_id = $2, host_incarnation = 1
             where vm_id = $1"),
        sql!("keep an address": "update vm_runtimes set vm_address = 'x' where vm_id = $1 and $2 > 0"),
        sql!("connect nobody":
            "update vm_runtimes set user_state = 'connected' where vm_id = $1 and $2 > 0"),
        sql!("own without session": "update vm_runtimes set l7r_host_id = $2 where vm_id = $1"),
        sql!("abort nobody": "update vm_runtimes set user_cmd = 'abort' where vm_id = $1 and $2 > 0"),
        sql!("invent a state": "update vm_runtimes set vm_state = 'flying' where vm_id = $1 and $2 > 0"),
    ];
    let world = Fixture::fill(&site.db).await;
    for wrong in WRONG {
        let refused = site.db.write(wrong, params![world.vm, world.host]).await;
        let refused = refused.expect_err(wrong.operation).or_invalid("refused");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{}: {refused:?}", wrong.operation);
    }
}
