//! The two dialects describe one model.

use std::collections::BTreeSet;

use qvd_db::Db;
use qvd_db::testkit::{TemporaryPostgres, memory};

#[tokio::test]
async fn both_databases_have_the_same_columns() {
    let sqlite: BTreeSet<String> = memory().await.columns().await.unwrap().into_iter().collect();
    assert!(sqlite.contains("vm_runtimes.session_id"), "{sqlite:?}");
    let Some(postgres) = TemporaryPostgres::start().await else { return };
    let db = Db::open(&postgres.database().await).await.unwrap();
    let postgres: BTreeSet<String> = db.columns().await.unwrap().into_iter().collect();
    let only_sqlite: Vec<_> = sqlite.difference(&postgres).collect();
    let only_postgres: Vec<_> = postgres.difference(&sqlite).collect();
    assert!(only_sqlite.is_empty() && only_postgres.is_empty(), "{only_sqlite:?} {only_postgres:?}");
}

/// Every migration that lies in a directory has its twin, and both texts name the same tables and columns in order.
#[test]
fn both_directories_hold_the_same_files() {
    let names = |dialect: &str| {
        let directory = format!("{}/migrations/{dialect}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names("postgres"), names("sqlite"));
    assert_eq!(names("postgres").len(), qvd_db::testkit::MIGRATIONS);
}
