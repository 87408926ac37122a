//! A program beside the tables of a newer version.

use qvd_core::state::HostState;
use qvd_core::{ErrorKind, TenantId};

use super::case_list;
use crate::migrate;
use crate::sql::Sql;
use crate::testkit::{Fixture, NewerSchema, Site};
use crate::value::params;

case_list![
    what_only_adds_is_applied_while_a_host_runs_and_lived_with,
    what_breaks_waits_for_the_hosts_and_is_refused_then,
    a_newer_schema_with_another_text_below_is_refused,
    two_that_deploy_at_once_apply_it_once,
];

async fn what_only_adds_is_applied_while_a_host_runs_and_lived_with(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    site.db.deploy_newer(NewerSchema::Additive).await.unwrap();
    // Who was there goes on, and who comes is let in.
    let later = site.second().await;
    migrate::check(later.pools()).await.unwrap();
    for db in [&site.db, &later] {
        let row = db.vms().runtime(world.vm).await.unwrap().unwrap();
        assert_eq!((row.run_id, row.host_id), (run, Some(world.host)));
    }
    let acquired = later.sessions().acquire(world.vm, world.session(1)).await.unwrap();
    assert!(acquired.is_updated());
    later.users().add(TenantId::DEFAULT, "late", None).await.unwrap();
    let done = later.deploy(false).await.unwrap_err();
    assert_eq!(done.kind(), ErrorKind::Conflict, "{done}");
}

async fn what_breaks_waits_for_the_hosts_and_is_refused_then(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let live = site.db.deploy_newer(NewerSchema::Breaking).await.unwrap_err();
    assert_eq!(live.to_string(), "node n1 is running; stop it first");
    migrate::check(site.db.pools()).await.unwrap();
    let hosts = site.db.hosts();
    assert!(hosts.set_state(world.host, world.incarnation, HostState::Stopped).await.unwrap().is_updated());
    site.db.deploy_newer(NewerSchema::Breaking).await.unwrap();
    for refused in [migrate::check(site.db.pools()).await, site.db.deploy(false).await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        let told = refused.to_string();
        assert!(told.contains("for programs that know 1000000 or a newer one"), "{told}");
        assert!(told.contains("install the version that the rest of the site has"), "{told}");
    }
}

async fn a_newer_schema_with_another_text_below_is_refused(site: Site) {
    const REWORD: Sql = Sql {
        operation: "reword the first step",
        postgres: "update _sqlx_migrations set checksum = '\\x00' where version = 1",
        sqlite: "update _sqlx_migrations set checksum = x'00' where version = 1",
    };
    site.db.deploy_newer(NewerSchema::Additive).await.unwrap();
    migrate::check(site.db.pools()).await.unwrap();
    site.db.write(&REWORD, params![]).await.unwrap();
    let refused = migrate::check(site.db.pools()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("as another program has it"), "{refused}");
}

async fn two_that_deploy_at_once_apply_it_once(site: Site) {
    Fixture::fill(&site.db).await;
    let other = site.second().await;
    let both =
        tokio::join!(site.db.deploy_newer(NewerSchema::Additive), other.deploy_newer(NewerSchema::Additive));
    for outcome in [&both.0, &both.1] {
        // Who comes second finds the work done, or finds nothing to do.
        let well = outcome.as_ref().map_or_else(|e| e.kind() == ErrorKind::Conflict, |()| true);
        assert!(well, "{both:?}");
    }
    assert!(both.0.is_ok() || both.1.is_ok(), "{both:?}");
    let added = site.db.columns().await.unwrap();
    assert_eq!(added.iter().filter(|column| *column == "users.newer_note").count(), 1, "{added:?}");
    migrate::check(other.pools()).await.unwrap();
}
