//! What a later version might bring; the schema around it is made up, so that it stays true whatever ours becomes.

use qvd_core::ErrorKind;

use super::*;
use crate::Db;
use crate::testkit::TemporaryPostgres;

const STEPS: &[Step] = &[
    Step {
        version: 1,
        description: "first",
        effect: Effect::Breaking,
        postgres: "create table vm_runtimes (vm_id bigint); create table hosts (id bigint, name text);
             create table host_runtimes (host_id bigint, state text, lease_until timestamptz);
             create table schema_floor (version bigint); insert into schema_floor (version) values (1)",
        sqlite: "create table vm_runtimes (vm_id integer); create table hosts (id integer, name text);
             create table host_runtimes (host_id integer, state text, lease_until integer);
             create table schema_floor (version integer); insert into schema_floor (version) values (1)",
    },
    Step {
        version: 2,
        description: "second",
        effect: Effect::Additive,
        postgres: "alter table vm_runtimes add column wish text",
        sqlite: "alter table vm_runtimes add column wish text",
    },
    Step {
        version: 3,
        description: "third",
        effect: Effect::Breaking,
        postgres: "alter table vm_runtimes rename column wish to hope; update schema_floor set version = 3",
        sqlite: "alter table vm_runtimes rename column wish to hope; update schema_floor set version = 3",
    },
];
const WISHES: Sql = sql!("look for a wish": "select wish from vm_runtimes");
const HOPES: Sql = sql!("look for hope": "select hope from vm_runtimes");
const LIVE: Sql = sql!("have a running host":
        "insert into host_runtimes (host_id, state, lease_until) select 1, 'running', " NOW " + $1");
const NAMED: Sql = sql!("name the host": "insert into hosts (id, name) values (1, 'n1')");
const DEAD: Sql = sql!("stop the host": "update host_runtimes set state = 'stopped'");

async fn upgrade(pools: &Pools) {
    let (first, second, third) = (&STEPS[..1], &STEPS[..2], STEPS);
    deploy_to(pools, first, false).await.unwrap();
    check_for(pools, first).await.unwrap();
    let behind = check_for(pools, second).await.unwrap_err();
    assert!(
        behind.to_string().contains("holds schema 1, this program needs 2 (bring it up to date"),
        "{behind}"
    );
    pools.write(&NAMED, params![]).await.unwrap();
    pools.write(&LIVE, params![Duration::from_secs(60)]).await.unwrap();

    // A step that breaks waits for the nodes, and so does one that adds when it comes together with such a one.
    let live = deploy_to(pools, third, false).await.unwrap_err();
    assert_eq!(live.to_string(), "node n1 is running; stop it first");
    assert!(pools.read(&WISHES, params![]).await.is_err(), "nothing was changed");

    // One that adds does not, and both programs work with the outcome.
    deploy_to(pools, second, false).await.unwrap();
    assert!(pools.read(&WISHES, params![]).await.unwrap().is_empty());
    check_for(pools, second).await.unwrap();
    check_for(pools, first).await.unwrap();
    assert_eq!(deploy_to(pools, second, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let nothing_to_do = deploy_to(pools, first, false).await.unwrap_err();
    assert_eq!(nothing_to_do.kind(), ErrorKind::Conflict);
    assert!(nothing_to_do.to_string().contains("newer version (schema 2)"), "{nothing_to_do}");
    let not_all_known = deploy_to(pools, first, true).await.unwrap_err();
    assert!(not_all_known.to_string().contains("this program knows 1 and cannot drop it"), "{not_all_known}");

    let live = deploy_to(pools, third, false).await.unwrap_err();
    assert_eq!(live.to_string(), "node n1 is running; stop it first");
    pools.write(&DEAD, params![]).await.unwrap();
    deploy_to(pools, third, false).await.unwrap();
    assert!(pools.read(&HOPES, params![]).await.unwrap().is_empty());
    for older in [first, second] {
        let refused = check_for(pools, older).await.unwrap_err();
        assert!(
            refused.to_string().contains("holds schema 3, for programs that know 3 or a newer"),
            "{refused}"
        );
        let refused = deploy_to(pools, older, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    }
}

#[tokio::test]
async fn what_adds_is_applied_while_nodes_run_and_what_breaks_is_not() {
    upgrade(&Pools::sqlite_memory().await.unwrap().0).await;
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let db = Db::connect(&postgres.empty_database().await).await.unwrap();
    upgrade(db.pools()).await;
}

/// A newer schema below which somebody reworded what both know.
async fn another_text(pools: &Pools) {
    deploy_to(pools, &STEPS[..2], false).await.unwrap();
    let mut reworded = STEPS[..1].to_vec();
    (reworded[0].postgres, reworded[0].sqlite) = ("select 1", "select 1");
    let refused = check_for(pools, &reworded).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "the database holds schema 2 as another program has it, this program needs 1 (install the same version \
         everywhere)"
    );
}

#[tokio::test]
async fn a_newer_schema_counts_only_when_all_that_we_know_is_the_same() {
    another_text(&Pools::sqlite_memory().await.unwrap().0).await;
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let db = Db::connect(&postgres.empty_database().await).await.unwrap();
    another_text(db.pools()).await;
}

/// The script names a table that another program's view needs, so that it fails in its middle.
#[tokio::test]
async fn a_drop_that_fails_drops_nothing() {
    const FOREIGN: Sql = sql!("lean on a table": "create view report as select name from tenants");
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let db = Db::open(&postgres.database().await).await.unwrap();
    db.pools().write(&FOREIGN, params![]).await.unwrap();
    let refused = db.deploy(true).await.unwrap_err();
    assert!(refused.to_string().contains("drop the tables"), "{refused}");
    check(db.pools()).await.unwrap();
    db.users().add(qvd_core::TenantId::DEFAULT, "ana", None).await.unwrap();
}
