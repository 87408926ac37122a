//! Writers that die half way: the write happened as a whole or not at all, and nobody is stuck.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use qvd_core::ErrorKind;
use qvd_core::state::{HostState, UserState, VmCommand, VmState};
use qvd_core::units::Mebibytes;

use super::case_list;
use crate::sql::{Sql, sql};
use crate::testkit::{Fixture, Site};
use crate::value::params;
use crate::{Charged, Claimant, Expirations, HostLoad, Seen, SslMaterial, VmChanges};

case_list![
    a_claim_cut_anywhere_is_whole_or_nothing,
    a_take_over_cut_anywhere_moves_host_and_vms_together,
    a_published_image_cut_anywhere_has_all_tags_or_none,
    a_cleared_row_cut_anywhere_is_idle_or_untouched,
    a_session_cut_anywhere_is_owned_or_free,
    a_shutdown_cut_anywhere_calls_back_all_starts_or_none,
    a_release_cut_anywhere_frees_vms_and_sessions_together,
    a_dead_router_cut_anywhere_loses_all_sessions_or_none,
    a_tag_cut_anywhere_moves_with_its_limits,
    a_deleted_image_cut_anywhere_has_an_heir_or_its_tags,
    an_edit_cut_anywhere_changes_all_vms_or_none,
    certificates_cut_anywhere_fit_their_keys,
    a_capacity_cut_anywhere_comes_with_its_drivers,
    a_failure_cut_anywhere_is_told_counted_and_journalled_together,
    a_transaction_without_commit_leaves_nothing,
    a_begin_cut_anywhere_leaves_no_transaction_open,
    a_connection_that_dies_takes_its_transaction_with_it,
    the_schema_refuses_rows_that_make_no_sense,
];

/// Runs an operation for a number of polls and drops it; yields whether it had ended, which it must do well.
pub(super) async fn cut<T>(operation: impl Future<Output = crate::Result<T>>, polls: u32) -> bool {
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
pub(super) const MANY: u32 = 400;

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

/// Runs the block with ever more polls until it says that the write has happened.
macro_rules! cut_anywhere {
    (|$polls:ident| $body:block) => {{
        let mut happened = false;
        for $polls in 0..MANY {
            happened = $body;
            if happened {
                break;
            }
        }
        assert!(happened, "it never ended");
    }};
}

async fn a_shutdown_cut_anywhere_calls_back_all_starts_or_none(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    for vm in [world.vm, other] {
        assert!(site.db.vms().claim(vm, world.host, Claimant::Router).await.unwrap().is_updated());
    }
    cut_anywhere!(|polls| {
        let stopping = site.db.hosts().set_state(world.host, world.incarnation, HostState::Stopping);
        let ended = cut(stopping, polls).await;
        let state = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime.state;
        let waiting = site.db.vms().of_host(world.host).await.unwrap().len();
        let happened = state == HostState::Stopping;
        assert_eq!((waiting, happened || !ended), (if happened { 0 } else { 2 }, true));
        happened
    });
}

async fn a_release_cut_anywhere_frees_vms_and_sessions_together(site: Site) {
    let world = Fixture::fill(&site.db).await;
    world.run().await;
    let elsewhere = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    assert!(site.db.sessions().acquire(elsewhere, world.session(1)).await.unwrap().is_updated());
    let hosts = site.db.hosts();
    let none = Duration::ZERO;
    let tick = hosts.tick(world.host, world.incarnation, none, none, HostLoad::default()).await.unwrap();
    assert!(tick.is_updated());
    let ok_ts = hosts.load(world.host).await.unwrap().unwrap().runtime.ok_ts.unwrap();
    let seen = Seen { incarnation: world.incarnation, ok_ts };
    assert!(hosts.mark_lost(world.host, seen).await.unwrap().is_updated());
    cut_anywhere!(|polls| {
        let ended = cut(hosts.release(world.host, seen), polls).await;
        let row = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        let session = site.db.vms().runtime(elsewhere).await.unwrap().unwrap().session_id;
        let happened = row.vm_state == VmState::Stopped;
        assert_eq!((session.is_none(), row.host_id.is_none()), (happened, happened));
        assert!(happened || !ended);
        happened
    });
}

async fn a_dead_router_cut_anywhere_loses_all_sessions_or_none(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let instance = world.session(1).l7r_instance;
    for (number, vm) in [(1, world.vm), (2, other)] {
        assert!(site.db.sessions().acquire(vm, world.session(number)).await.unwrap().is_updated());
    }
    cut_anywhere!(|polls| {
        let ended = cut(site.db.sessions().release_instance(world.host, instance), polls).await;
        let mut left = 0;
        for vm in [world.vm, other] {
            left += u32::from(site.db.vms().runtime(vm).await.unwrap().unwrap().session_id.is_some());
        }
        assert!(left == 2 && !ended || left == 0, "{left} sessions are left");
        left == 0
    });
}

async fn a_tag_cut_anywhere_moves_with_its_limits(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let images = site.db.images();
    let newer = images.add(Fixture::image(world.osf, Some("v2"))).await.unwrap().id;
    let run = world.run().await;
    assert!(site.db.vms().pin_image(world.vm, world.host, run).await.unwrap().is_updated());
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limits = Expirations { soft: Some(soon), hard: None };
    cut_anywhere!(|polls| {
        let ended = cut(images.tag(newer, "default", limits), polls).await;
        let moved = images.resolve(world.osf, "default").await.unwrap().unwrap().id == newer;
        let limit = site.db.vms().overview(world.vm).await.unwrap().unwrap().expires_soft;
        assert_eq!(limit, moved.then_some(soon));
        assert!(moved || !ended);
        moved
    });
}

async fn a_deleted_image_cut_anywhere_has_an_heir_or_its_tags(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let images = site.db.images();
    let heir = images.add(Fixture::image(world.osf, Some("v2"))).await.unwrap().id;
    cut_anywhere!(|polls| {
        let ended = cut(images.delete(world.di), polls).await;
        let gone = images.load(world.di).await.unwrap().is_none();
        let holder = images.resolve(world.osf, "default").await.unwrap().unwrap().id;
        assert_eq!(holder, if gone { heir } else { world.di });
        assert!(gone || !ended);
        gone
    });
}

async fn an_edit_cut_anywhere_changes_all_vms_or_none(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let vms = [world.vm, other];
    let changes = VmChanges { di_tag: Some("head".to_owned()), ..VmChanges::default() };
    cut_anywhere!(|polls| {
        let ended = cut(site.db.vms().edit(&vms, &changes), polls).await;
        let mut changed = 0;
        for vm in vms {
            changed += u32::from(site.db.vms().load(vm).await.unwrap().unwrap().0.di_tag == "head");
        }
        assert!(changed == 0 && !ended || changed == 2, "{changed} VMs changed");
        changed == 2
    });
}

async fn certificates_cut_anywhere_fit_their_keys(site: Site) {
    let named = |name: &str| SslMaterial {
        cert: Some(format!("certificate {name}")),
        key: Some(qvd_core::Secret::new(format!("key {name}"))),
        ca: None,
        crl: (name == "one").then(|| "crl".to_owned()),
    };
    let (one, two) = (named("one"), named("two"));
    site.db.config().set_ssl(&one).await.unwrap();
    cut_anywhere!(|polls| {
        let ended = cut(site.db.config().set_ssl(&two), polls).await;
        let stored = site.db.config().ssl().await.unwrap();
        assert!(stored == one && !ended || stored == two, "{stored:?}");
        stored == two
    });
}

async fn a_capacity_cut_anywhere_comes_with_its_drivers(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let drivers = ["process".to_owned()];
    cut_anywhere!(|polls| {
        let ram = Mebibytes(4096);
        let publishing =
            site.db.hosts().publish_capacity(world.host, world.incarnation, ram, 1.0, &drivers, None);
        let ended = cut(publishing, polls).await;
        let host = site.db.hosts().load(world.host).await.unwrap().unwrap();
        assert_eq!(host.runtime.usable_ram.is_some(), !host.hypervisors.is_empty());
        assert!(host.runtime.usable_ram.is_some() || !ended);
        host.runtime.usable_ram.is_some()
    });
}

async fn a_failure_cut_anywhere_is_told_counted_and_journalled_together(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let charged = Charged::Host { incarnation: world.incarnation, block_at: 1 };
    cut_anywhere!(|polls| {
        let failing = site.db.vms().record_failure(world.vm, world.host, run, "disk full", charged);
        let ended = cut(failing, polls).await;
        let told = site.db.vms().runtime(world.vm).await.unwrap().unwrap().last_error.is_some();
        let blocked = site.db.hosts().load(world.host).await.unwrap().unwrap().runtime.blocked;
        let journalled = !site.db.events().of_host(world.host, 1).await.unwrap().is_empty();
        assert_eq!((blocked, journalled), (told, told));
        assert!(told || !ended);
        told
    });
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
