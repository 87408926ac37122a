//! The suite on a real PostgreSQL, and what only a server can do.

use std::time::{Duration, Instant};

use qvd_core::{ErrorKind, TenantId};
use qvd_db::testkit::{Fixture, NewerSchema, Site, TemporaryPostgres, suite};
use qvd_db::{Backend, Channel, Claimant, Db, Hint, HostLoad, Tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_a_server() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    suite::run(|| async { Site::open(postgres.database().await).await }).await;
}

/// Whatever this version does, it does beside the tables of one that only adds to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_beside_a_newer_schema() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    suite::run_ahead(|| async { Site::open(postgres.database().await).await }).await;
}

/// What waits for a table holds up all that comes behind it: the step gives up before anybody else does.
#[tokio::test]
async fn a_busy_table_is_not_waited_for_beside_running_nodes() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let backend = postgres.database().await;
    let db = Db::open(&backend).await.unwrap();
    let world = Fixture::fill(&db).await;
    let busy = db.hold_table().await.unwrap();
    let began = Instant::now();
    let refused = db.deploy_newer(NewerSchema::Additive).await.unwrap_err();
    assert_eq!((refused.kind(), refused.is_retryable()), (ErrorKind::Unavailable, true), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(
        db.columns().await.unwrap().iter().all(|column| !column.contains("newer")),
        "nothing was changed"
    );
    drop(busy);
    db.deploy_newer(NewerSchema::Additive).await.unwrap();
    assert!(db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
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
    let mut wrong = with_timeout(right, Duration::from_secs(2));
    let Backend::Postgres { password, .. } = &mut wrong else { panic!("it is a server") };
    *password = "not the password".to_owned().into();
    assert!(!format!("{wrong:?}").contains("not the password"));
    let refused = Db::open(&wrong).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let told = qvd_core::error::chain(&refused).to_string();
    assert!(told.contains("password authentication failed"), "{told}");
    assert!(!told.contains("not the password"), "{told}");
}

#[tokio::test]
async fn a_handle_shows_no_password() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let backend = postgres.database().await;
    let Backend::Postgres { password, .. } = &backend else { panic!("it is a server") };
    let db = Db::open(&backend).await.unwrap();
    let subscription = db.subscribe(&[Channel::ConfigChanged]);
    for shown in [format!("{db:?}"), format!("{db:#?}"), format!("{subscription:?}")] {
        assert!(!shown.contains(password.expose()), "{shown}");
    }
}

/// A server that took the connection and says nothing more, as one behind a firewall that forgot it.
#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_and_asked_anew() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let relay = Relay::before(&postgres.over_tcp(&postgres.database().await)).await;
    let db = Db::open(&relay.backend).await.unwrap();
    let world = Fixture::fill(&db).await;
    let mut subscription = db.subscribe(&[Channel::ConfigChanged]);
    assert_eq!(timeout(Duration::from_secs(10), subscription.next()).await.unwrap(), Hint::Rescan);

    relay.fall_silent();
    let began = Instant::now();
    let (ticked, claimed, blocked) = tokio::join!(
        tick(&db, &world),
        db.vms().claim(world.vm, world.host, Claimant::Router),
        db.hosts().set_blocked(world.host, true),
    );
    for kind in [ticked.unwrap_err().kind(), claimed.unwrap_err().kind(), blocked.unwrap_err().kind()] {
        assert_eq!(kind, ErrorKind::Unavailable);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    // Connections of before stay as they are; whoever came back to one would wait for ever.
    relay.speak_to_new_connections();
    assert!(tick(&db, &world).await.unwrap().is_updated());
    db.health().await.unwrap();
    assert!(db.vms().claim(world.vm, world.host, Claimant::Router).await.unwrap().is_updated());
}

/// The connections that a process may have are in use; the one that reports for the host is not among them.
#[tokio::test]
async fn a_tick_does_not_wait_for_other_work() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let mut backend = with_timeout(postgres.database().await, Duration::from_secs(1));
    let Backend::Postgres { pool_size, .. } = &mut backend else { panic!("it is a server") };
    *pool_size = 1;
    let db = Db::open(&backend).await.unwrap();
    let world = Fixture::fill(&db).await;
    let held = db.hold_connection().await.unwrap();
    assert!(tick(&db, &world).await.unwrap().is_updated());
    assert_eq!(db.health().await.unwrap_err().kind(), ErrorKind::Unavailable, "there is one connection");
    drop(held);
    db.health().await.unwrap();
}

#[tokio::test]
async fn what_must_be_encrypted_is_not_sent_in_the_clear() {
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let plain = with_timeout(postgres.over_tcp(&postgres.database().await), Duration::from_secs(5));
    for (tls, served) in [
        (Tls::Disable, true),
        (Tls::Prefer, true),
        (Tls::Require, false),
        (Tls::VerifyFull { ca: None }, false),
    ] {
        let mut backend = plain.clone();
        let Backend::Postgres { tls: wanted, .. } = &mut backend else { panic!("it is a server") };
        *wanted = tls.clone();
        let opened = Db::open(&backend).await;
        assert_eq!(opened.is_ok(), served, "{tls:?}: {opened:?}");
        if let Err(error) = opened {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
    }
}

async fn tick(db: &Db, world: &Fixture) -> qvd_db::Result<qvd_db::Guard<()>> {
    let (lease, grace) = (Duration::from_secs(60), Duration::from_secs(60));
    db.hosts().tick(world.host, world.incarnation, lease, grace, HostLoad::default()).await
}

/// Stands between us and a server, and can stop passing bytes on without closing anything.
struct Relay {
    backend: Backend,
    silent: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// The backend reaches `server` through it, and waits two seconds for an answer.
    async fn before(server: &Backend) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let mut backend = with_timeout(server.clone(), Duration::from_secs(5));
        let Backend::Postgres { port, answer_timeout, .. } = &mut backend else { panic!("it is a server") };
        let here = listener.local_addr().expect("it is bound").port();
        let behind = std::mem::replace(port, here);
        *answer_timeout = Duration::from_secs(2);
        let silent = watch::Sender::new(false);
        let state = silent.clone();
        let task = tokio::spawn(async move {
            // Dropped with the relay, so that what hangs here ends with the test.
            let mut passing = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.expect("it listens");
                passing.spawn(pass(near, behind, state.subscribe()));
            }
        });
        Self { backend, silent, task }
    }

    fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    fn speak_to_new_connections(&self) {
        self.silent.send_replace(false);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection: once silent, silent for good.
async fn pass(mut near: TcpStream, behind: u16, mut silent: watch::Receiver<bool>) {
    let mut far = TcpStream::connect(("127.0.0.1", behind)).await.expect("the server listens");
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = async { drop(silent.wait_for(|silent| *silent).await) } => std::future::pending().await,
    }
}

fn with_timeout(mut backend: Backend, limit: Duration) -> Backend {
    if let Backend::Postgres { connect_timeout, .. } = &mut backend {
        *connect_timeout = limit;
    }
    backend
}
