//! Embedded, ordered migrations, one directory for each database.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::backend::Pools;
use crate::error::{Error, Result};
use crate::sql::{Sql, sql};
use crate::value::params;

/// Every migration: its number, what it does, its text for PostgreSQL and for SQLite. Once released, a text never
/// changes: what is applied is compared with it.
pub(crate) const MIGRATIONS: &[(i64, &str, &str, &str)] = &[(
    1,
    "initial",
    include_str!("../migrations/postgres/0001_initial.sql"),
    include_str!("../migrations/sqlite/0001_initial.sql"),
)];

static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(|(_, _, postgres, _)| postgres));
static SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(|(_, _, _, sqlite)| sqlite));

/// Applies what is missing.
pub(crate) async fn up(pools: &Pools) -> Result<()> {
    let outcome = match pools {
        Pools::Postgres(pool) => POSTGRES.run(pool).await,
        Pools::Sqlite { writer, .. } => SQLITE.run(writer).await,
    };
    outcome.map_err(schema_error)
}

/// Makes all tables; with `force` drops what is there first.
pub(crate) async fn deploy(pools: &Pools, force: bool) -> Result<()> {
    if !is_deployed(pools).await? {
        return up_and_isolate(pools).await;
    }
    if !force {
        return Err(Error::refused(
            "database already contains QVD tables (force drops them with all they hold)",
        ));
    }
    refuse_live_hosts(pools).await?;
    drop_all(pools).await?;
    up_and_isolate(pools).await
}

/// Compares the applied migrations with the embedded ones; warns when isolation is weaker than wished.
pub(crate) async fn check(pools: &Pools) -> Result<()> {
    const APPLIED: Sql = sql!("read the schema version":
        "select version from _sqlx_migrations where success order by version");
    let wanted: Vec<i64> = MIGRATIONS.iter().map(|(version, ..)| *version).collect();
    if !is_deployed(pools).await? {
        return Err(Error::Schema {
            reason: "the database has no QVD tables (make them with 'qvd db deploy')".to_owned(),
        });
    }
    let applied = pools.read(&APPLIED, params![]).await?;
    let applied = applied.iter().map(|row| row.get("version")).collect::<Result<Vec<i64>>>()?;
    if applied != wanted {
        return Err(Error::Schema {
            reason: format!(
                "the database holds schema {}, this program needs {} (install the same version everywhere)",
                applied.last().copied().unwrap_or_default(),
                wanted.last().copied().unwrap_or_default(),
            ),
        });
    }
    if let Pools::Postgres(_) = pools {
        const ISOLATION: Sql = sql!("read the isolation level":
            "select current_setting('default_transaction_isolation') as level");
        let rows = pools.read(&ISOLATION, params![]).await?;
        if let Some(row) = rows.first() {
            let level: String = row.get("level")?;
            if level != "serializable" {
                tracing::warn!(
                    level,
                    "the database's default isolation is not serializable; guarded writes still hold"
                );
            }
        }
    }
    Ok(())
}

/// Directory beside a database file: sockets that wake other processes, and the lock of those that migrate.
pub(crate) fn wake_directory(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".wake");
    PathBuf::from(name)
}

/// Makes a database file that only its owner may read, and keeps other processes from migrating it as long as the
/// answer lives.
pub(crate) async fn claim_file(path: &Path) -> Result<File> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    let claimed = tokio::task::spawn_blocking(move || claim_file_now(&path)).await;
    let claimed = claimed.unwrap_or_else(|e| Err(io::Error::other(e)));
    claimed.map_err(|source| Error::Setting { what: format!("the database file '{shown}'"), source })
}

fn claim_file_now(path: &Path) -> io::Result<File> {
    // Only ever opened here while nobody has it open: closing a second descriptor of it would drop SQLite's locks.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let directory = wake_directory(path);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let lock = File::open(&directory)?;
    lock.lock()?;
    Ok(lock)
}

fn migrator(text: fn((i64, &'static str, &'static str, &'static str)) -> &'static str) -> Migrator {
    let migration = |known: &(i64, &'static str, &'static str, &'static str)| {
        let (version, description, ..) = *known;
        Migration::new(version, description.into(), MigrationType::Simple, text(*known).into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect())
}

/// Whether our tables are there.
async fn is_deployed(pools: &Pools) -> Result<bool> {
    const PROBE: Sql = Sql {
        operation: "look for QVD tables",
        postgres: "select 1 as one where to_regclass('vm_runtimes') is not null",
        sqlite: "select 1 as one from sqlite_schema where type = 'table' and name = 'vm_runtimes'",
    };
    Ok(!pools.read(&PROBE, params![]).await?.is_empty())
}

async fn up_and_isolate(pools: &Pools) -> Result<()> {
    up(pools).await?;
    if let Pools::Postgres(pool) = pools {
        // Not everybody may alter a database; guarded writes are right without it.
        let altered = sqlx::raw_sql(
            "do $$ begin
                execute format('alter database %I set default_transaction_isolation = serializable', current_database());
             end $$",
        );
        if let Err(e) = altered.execute(pool).await {
            tracing::warn!(error = %e, "cannot make serializable the database's default isolation");
        }
    }
    Ok(())
}

async fn refuse_live_hosts(pools: &Pools) -> Result<()> {
    const LIVE: Sql = sql!("look for running hosts":
        "select h.name from hosts h join host_runtimes r on r.host_id = h.id
         where r.state not in ('stopped', 'lost') and r.lease_until > " NOW " order by h.id");
    match pools.read(&LIVE, params![]).await?.first() {
        Some(row) => {
            let name: String = row.get("name")?;
            Err(Error::refused(format!("node {name} is running; stop it first")))
        }
        None => Ok(()),
    }
}

async fn drop_all(pools: &Pools) -> Result<()> {
    const SCRIPT: &str = concat!("begin;", include_str!("../migrations/drop.sql"), "commit");
    let dropped = match pools {
        Pools::Postgres(pool) => sqlx::raw_sql(SCRIPT).execute(pool).await.map(drop),
        Pools::Sqlite { writer, .. } => sqlx::raw_sql(SCRIPT).execute(writer).await.map(drop),
    };
    dropped.map_err(|e| Error::of("drop the tables", e))
}

fn schema_error(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            Error::of("bring the schema up to date", source)
        }
        other => Error::Schema { reason: format!("the database holds another program's schema: {other}") },
    }
}
