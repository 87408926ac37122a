//! The suite on a real PostgreSQL, and what only a server can do.

use std::time::{Duration, Instant};

use qvd_core::{ErrorKind, TenantId};
use qvd_db::testkit::{Fixture, Site, TemporaryPostgres, suite};
use qvd_db::{Backend, Channel, Claimant, Db, Hint};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_a_server() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    suite::run(|| async { Site::open(postgres.database().await).await }).await;
}

/// Guarded writes hold on a server whose administrator kept the isolation that PostgreSQL comes with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_a_server_that_is_not_serializable() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    suite::run(|| async { Site::open(postgres.database_with_isolation("read committed").await).await }).await;
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back() {
    let Some(mut postgres) = TemporaryPostgres::start().await else { return };
    let backend = with_timeout(postgres.database().await, Duration::from_secs(2));
    let db = Db::open(&backend).await.unwrap();
    let world = Fixture::fill(&db).await;
    let channel = Channel::VmCommands(world.host);
    let mut subscription = db.subscribe(&[channel]);
    assert_eq!(timeout(Duration::from_secs(10), subscription.next()).await.unwrap(), Hint::Rescan);

    postgres.crash();
    let began = Instant::now();
    let away = db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Unavailable, "{away:?}");
    assert!(away.is_retryable());
    assert!(began.elapsed() < Duration::from_secs(10), "nobody waits for ever");

    postgres.restart().await;
    // Whatever was written while we could not listen: look at everything.
    assert_eq!(timeout(Duration::from_secs(30), subscription.next()).await.unwrap(), Hint::Rescan);
    let back = async {
        loop {
            match db.vms().claim(world.vm, world.host, Claimant::Router).await {
                Ok(claimed) => return claimed,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
            }
        }
    };
    assert!(timeout(Duration::from_secs(30), back).await.unwrap().is_updated());
    assert_eq!(
        timeout(Duration::from_secs(10), subscription.next()).await.unwrap(),
        Hint::Notified(channel),
        "the listener listens again"
    );
}

#[tokio::test]
async fn deploying_makes_the_tables_once_and_isolation_serializable() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let backend = postgres.empty_database().await;
    let empty = Db::open(&backend).await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Unsupported);
    assert!(empty.to_string().contains("qvd db deploy"), "{empty}");
    let db = Db::connect(&backend).await.unwrap();
    db.deploy(false).await.unwrap();
    assert_eq!(db.deploy(false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let opened = Db::open(&backend).await.unwrap();
    assert_eq!(opened.isolation().await.unwrap().as_deref(), Some("serializable"));
    let world = Fixture::fill(&opened).await;
    assert_eq!(opened.deploy(true).await.unwrap_err().to_string(), "node n1 is running; stop it first");
    let stopped = qvd_core::state::HostState::Stopped;
    assert!(opened.hosts().set_state(world.host, world.incarnation, stopped).await.unwrap().is_updated());
    opened.deploy(true).await.unwrap();
    assert!(opened.hosts().list().await.unwrap().is_empty());
    assert!(opened.users().add(TenantId::DEFAULT, "ana", None).await.is_ok());
}

#[tokio::test]
async fn a_wrong_password_is_an_outage_that_names_no_secret() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let right = postgres.over_tcp(&postgres.database().await);
    Db::open(&right).await.unwrap().health().await.unwrap();
    let Backend::Postgres { host, port, name, user, pool_size, .. } = right else { panic!("it is a server") };
    let password = "not the password".to_owned().into();
    let connect_timeout = Duration::from_secs(2);
    let wrong = Backend::Postgres { host, port, name, user, password, pool_size, connect_timeout };
    assert!(!format!("{wrong:?}").contains("not the password"));
    let refused = Db::open(&wrong).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let told = qvd_core::error::chain(&refused).to_string();
    assert!(told.contains("password authentication failed"), "{told}");
    assert!(!told.contains("not the password"), "{told}");
}

fn with_timeout(backend: Backend, connect_timeout: Duration) -> Backend {
    match backend {
        Backend::Postgres { host, port, name, user, password, pool_size, .. } => {
            Backend::Postgres { host, port, name, user, password, pool_size, connect_timeout }
        }
        other => other,
    }
}
