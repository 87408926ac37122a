//! Databases for tests, and the suite that both backends pass.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let db = qvd_db::testkit::memory().await;
//! assert!(db.hosts().list().await.unwrap().is_empty());
//! # }
//! ```

mod fixture;
mod newer;
mod postgres;
pub mod suite;

pub use fixture::{Fixture, Site};
pub use newer::NewerSchema;
pub use postgres::TemporaryPostgres;

use crate::error::Result;
use crate::sql::{Sql, sql};
use crate::value::params;
use crate::{Backend, Db};

/// How many migrations are embedded.
pub const MIGRATIONS: usize = crate::migrate::MIGRATIONS.len();

impl Db {
    /// All columns of our tables, as `table.column`, in the order of their definition.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn columns(&self) -> Result<Vec<String>> {
        const COLUMNS: Sql = Sql {
            operation: "list columns",
            postgres: "select table_name || '.' || column_name as name from information_schema.columns
                       where table_schema = current_schema() and table_name <> '_sqlx_migrations'
                       order by table_name, ordinal_position",
            sqlite:
                "select t.name || '.' || c.name as name from sqlite_schema t join pragma_table_info(t.name) c
                     where t.type = 'table' and t.name not like 'sqlite_%' and t.name <> '_sqlx_migrations'
                     order by t.name, c.cid",
        };
        self.read(&COLUMNS, params![]).await?.iter().map(|row| row.get("name")).collect()
    }

    /// The isolation that transactions have unless told otherwise; none for SQLite, which knows but one.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn isolation(&self) -> Result<Option<String>> {
        const ISOLATION: Sql = Sql {
            operation: "read the isolation level",
            postgres: "select current_setting('default_transaction_isolation') as level",
            sqlite: "select cast(null as text) as level",
        };
        let row = self.read_one(&ISOLATION, params![]).await?;
        row.map_or(Ok(None), |row| row.find("level"))
    }
}

/// A connection that somebody keeps for a long piece of work, until this is dropped.
pub struct HeldConnection(#[allow(dead_code, reason = "held, not used")] crate::db::Tx);

impl Db {
    /// Keeps a connection of the pool.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away) when there is none left.
    pub async fn hold_connection(&self) -> Result<HeldConnection> {
        self.begin().await.map(HeldConnection)
    }
}

impl Db {
    /// Keeps a table that every program uses from being altered, as somebody's long report does.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away) when there is no connection left.
    pub async fn hold_table(&self) -> Result<HeldConnection> {
        const READ: Sql = sql!("read for long": "select count(*) as n from vm_runtimes");
        let mut transaction = self.begin().await?;
        transaction.rows(&READ, params![]).await?;
        Ok(HeldConnection(transaction))
    }
}

impl std::fmt::Debug for HeldConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldConnection").finish_non_exhaustive()
    }
}

/// An empty database in memory.
///
/// # Panics
///
/// When it cannot be made.
pub async fn memory() -> Db {
    Db::open(&Backend::SqliteMemory).await.expect("memory can be had")
}

/// Says why a test does not run; panics instead where everything must run (`QVD_TEST_REQUIRE=1`).
///
/// # Panics
///
/// With `QVD_TEST_REQUIRE=1`.
pub fn skip(why: &str) {
    let required = std::env::var_os("QVD_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(!required, "cannot run here, but must: {why}");
    eprintln!("skipped: {why}");
}
