//! The suite on SQLite, in memory and in a file, and what only a file can do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

use qvd_core::{ErrorKind, TenantId};
use qvd_db::testkit::{Fixture, Site, suite};
use qvd_db::{Backend, Channel, Claimant, Db, Hint};
use tempfile::TempDir;
use tokio::time::timeout;

fn file(directory: &TempDir) -> Backend {
    Backend::Sqlite { path: directory.path().join("qvd.db") }
}

#[tokio::test]
async fn suite_in_memory() {
    suite::run(|| Site::open(Backend::SqliteMemory)).await;
}

/// Whatever this version does, it does beside the tables of one that only adds to them.
#[tokio::test]
async fn suite_beside_a_newer_schema() {
    suite::run_ahead(|| Site::open(Backend::SqliteMemory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_in_a_file() {
    let kept = Mutex::new(Vec::new());
    suite::run(|| {
        let directory = tempfile::tempdir().unwrap();
        let backend = file(&directory);
        kept.lock().unwrap().push(directory);
        Site::open(backend)
    })
    .await;
}

#[tokio::test]
async fn what_was_committed_outlives_the_handle_and_only_its_owner_reads_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let backend = file(&directory);
    let db = Db::open(&backend).await.unwrap();
    let id = db.users().add(TenantId::DEFAULT, "ana", None).await.unwrap();
    db.close().await;
    assert_eq!(db.health().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let again = Db::open(&backend).await.unwrap();
    assert_eq!(again.users().by_login(TenantId::DEFAULT, "ana").await.unwrap().unwrap().id, id);
    let mode =
        |name: &str| std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("qvd.db"), mode("qvd.db.wake")), (0o600, 0o700));
}

#[tokio::test]
async fn many_that_open_a_new_file_at_once_agree_on_one_schema() {
    let directory = tempfile::tempdir().unwrap();
    let backend = file(&directory);
    let opened = tokio::join!(Db::open(&backend), Db::open(&backend), Db::open(&backend));
    let (a, b, c) = (opened.0.unwrap(), opened.1.unwrap(), opened.2.unwrap());
    a.users().add(TenantId::DEFAULT, "ana", None).await.unwrap();
    for db in [b, c] {
        assert_eq!(db.users().list().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_datagram_wakes_the_other_process_long_before_it_would_look() {
    let directory = tempfile::tempdir().unwrap();
    // Deeper than a socket address can be long.
    let deep = (0..12).fold(directory.path().to_owned(), |path, _| path.join("a-long-directory-name"));
    std::fs::create_dir_all(&deep).unwrap();
    let backend = Backend::Sqlite { path: deep.join("qvd.db") };
    let daemon = Db::open(&backend).await.unwrap();
    let world = Fixture::fill(&daemon).await;
    let tool = Db::open(&backend).await.unwrap();
    let channel = Channel::VmCommands(world.host);
    let mut subscription = daemon.subscribe(&[channel]);
    assert_eq!(subscription.next().await, Hint::Rescan);
    wait_for_socket(&deep.join("qvd.db.wake")).await;
    assert!(tool.vms().claim(world.vm, world.host, Claimant::Admin).await.unwrap().is_updated());
    let woken = async { while subscription.next().await != Hint::Notified(channel) {} };
    timeout(Duration::from_secs(10), woken).await.expect("no datagram came");
}

#[tokio::test]
async fn a_process_that_cannot_be_woken_looks_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let backend = file(&directory);
    let daemon = Db::open(&backend).await.unwrap();
    let tool = Db::open(&backend).await.unwrap();
    let mut subscription = daemon.subscribe(&[Channel::ConfigChanged]);
    assert_eq!(subscription.next().await, Hint::Rescan);
    let wake = directory.path().join("qvd.db.wake");
    wait_for_socket(&wake).await;
    for entry in std::fs::read_dir(&wake).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    // The first look only remembers where it stands.
    let until_seen = async {
        let mut n = 0;
        loop {
            n += 1;
            tool.config().set_all(&[("n".to_owned(), n.to_string())]).await.unwrap();
            if let Ok(hint) = timeout(Duration::from_millis(300), subscription.next()).await {
                return hint;
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(20), until_seen).await.unwrap(), Hint::Rescan);
}

#[tokio::test]
async fn sockets_of_the_dead_are_swept_and_our_own_goes_with_us() {
    let directory = tempfile::tempdir().unwrap();
    let backend = file(&directory);
    let db = Db::open(&backend).await.unwrap();
    let wake = directory.path().join("qvd.db.wake");
    let dead = wake.join("0.wake");
    drop(std::os::unix::net::UnixDatagram::bind(&dead).unwrap());
    db.config().set_all(&[("a".to_owned(), "1".to_owned())]).await.unwrap();
    assert!(!dead.exists());
    let mut subscription = db.subscribe(&[Channel::ConfigChanged]);
    assert_eq!(subscription.next().await, Hint::Rescan);
    wait_for_socket(&wake).await;
    drop((subscription, db));
    let gone = async {
        while std::fs::read_dir(&wake).unwrap().next().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("a socket was left");
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_named() {
    let missing = Backend::Sqlite { path: "/nowhere/at/all/qvd.db".into() };
    let error = Db::open(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("/nowhere/at/all/qvd.db"), "{error}");
}

#[tokio::test]
async fn deploying_again_needs_force_and_no_running_host() {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(&file(&directory)).await.unwrap();
    let world = Fixture::fill(&db).await;
    assert_eq!(db.deploy(false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let live = db.deploy(true).await.unwrap_err();
    assert_eq!(live.to_string(), "node n1 is running; stop it first");
    let stopped = qvd_core::state::HostState::Stopped;
    assert!(db.hosts().set_state(world.host, world.incarnation, stopped).await.unwrap().is_updated());
    db.deploy(true).await.unwrap();
    assert!(db.hosts().list().await.unwrap().is_empty());
    assert!(db.users().add(TenantId::DEFAULT, "ana", None).await.is_ok());
}

/// The listening task makes its socket when it first runs.
async fn wait_for_socket(wake: &std::path::Path) {
    let there = async {
        while std::fs::read_dir(wake).expect("the directory is there").next().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), there).await.expect("no socket was made");
}
