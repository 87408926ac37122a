//! Embedded, ordered migrations, one directory for each database.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::backend::Pools;
use crate::error::{Error, Result};
use crate::sql::{Sql, sql};
use crate::value::params;

/// A migration: its number, what it does, its text for PostgreSQL and for SQLite.
pub(crate) type Step = (i64, &'static str, &'static str, &'static str);

/// Every migration. Once released, a text never changes: what is applied is compared with it.
pub(crate) const MIGRATIONS: &[Step] = &[(
    1,
    "initial",
    include_str!("../migrations/postgres/0001_initial.sql"),
    include_str!("../migrations/sqlite/0001_initial.sql"),
)];

/// Applies what is missing.
pub(crate) async fn up(pools: &Pools) -> Result<()> {
    up_to(pools, MIGRATIONS).await
}

/// Makes all tables, or applies what is missing; with `force` drops what is there first.
pub(crate) async fn deploy(pools: &Pools, force: bool) -> Result<()> {
    deploy_to(pools, MIGRATIONS, force).await
}

/// Compares the applied migrations with the embedded ones; warns when isolation is weaker than wished.
pub(crate) async fn check(pools: &Pools) -> Result<()> {
    match standing(pools, MIGRATIONS).await? {
        Standing::Current => {}
        Standing::Empty => {
            return Err(Error::Schema {
                reason: "the database has no QVD tables (make them with 'qvd db deploy')".to_owned(),
            });
        }
        Standing::Behind { has, wants } => {
            return Err(Error::Schema {
                reason: format!(
                    "the database holds schema {has}, this program needs {wants} (stop all nodes and bring it up to \
                     date with 'qvd db deploy')"
                ),
            });
        }
        Standing::Foreign { has, wants } => return Err(foreign(has, wants)),
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
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => tighten(path, 0o600),
        Err(e) => return Err(e),
    }
    let directory = wake_directory(path);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => tighten(&directory, 0o700),
        Err(e) => return Err(e),
    }
    // SQLite gives its helper files the mode of the database, which may have been another when they were made.
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        tighten(Path::new(&name), 0o600);
    }
    let lock = File::open(&directory)?;
    lock.lock()?;
    Ok(lock)
}

/// Takes away what others may do with a file that holds password hashes and keys, and tells that they could.
fn tighten(path: &Path, mode: u32) {
    let Ok(found) = std::fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777) else {
        return;
    };
    if found & !mode == 0 {
        return;
    }
    let path_shown = path.display();
    match std::fs::set_permissions(path, Permissions::from_mode(found & mode)) {
        Ok(()) => tracing::warn!(path = %path_shown, mode = format!("{found:o}"),
            "others could use the database file; now only its owner can"),
        Err(error) => tracing::warn!(path = %path_shown, mode = format!("{found:o}"), %error,
            "others can use the database file, and its mode cannot be changed"),
    }
}

fn migrator(steps: &[Step], text: fn(&Step) -> &'static str) -> Migrator {
    let migration = |step: &Step| {
        let (version, description, ..) = *step;
        Migration::new(version, description.into(), MigrationType::Simple, text(step).into_sql_str(), false)
    };
    Migrator::with_migrations(steps.iter().map(migration).collect())
}

async fn up_to(pools: &Pools, steps: &[Step]) -> Result<()> {
    let outcome = match pools {
        Pools::Postgres(server) => {
            let unhurried = server.unhurried();
            let outcome = migrator(steps, |(_, _, postgres, _)| postgres).run(&unhurried).await;
            unhurried.close().await;
            outcome
        }
        Pools::Sqlite { writer, .. } => migrator(steps, |(_, _, _, sqlite)| sqlite).run(writer).await,
    };
    outcome.map_err(schema_error)
}

async fn deploy_to(pools: &Pools, steps: &[Step], force: bool) -> Result<()> {
    match (standing(pools, steps).await?, force) {
        (Standing::Empty, _) => {}
        // Programs that run would find tables that are not theirs.
        (Standing::Behind { .. }, false) => refuse_live_hosts(pools).await?,
        (Standing::Current, false) => {
            return Err(Error::refused(
                "database already contains QVD tables (force drops them with all they hold)",
            ));
        }
        (Standing::Foreign { has, wants }, false) => return Err(foreign(has, wants)),
        (_, true) => {
            refuse_live_hosts(pools).await?;
            drop_all(pools).await?;
        }
    }
    up_to(pools, steps).await?;
    isolate(pools).await;
    Ok(())
}

/// How a database's schema stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Empty,
    Current,
    /// What is applied is the beginning of ours.
    Behind {
        has: i64,
        wants: i64,
    },
    /// A newer program's, or not ours.
    Foreign {
        has: i64,
        wants: i64,
    },
}

async fn standing(pools: &Pools, steps: &[Step]) -> Result<Standing> {
    const APPLIED: Sql = sql!("read the schema version":
        "select version, checksum from _sqlx_migrations where success order by version");
    if !is_deployed(pools).await? {
        return Ok(Standing::Empty);
    }
    let applied = pools.read(&APPLIED, params![]).await?;
    let applied: Vec<Applied> =
        applied.iter().map(|row| Ok((row.get("version")?, row.get("checksum")?))).collect::<Result<_>>()?;
    let wanted: Vec<Applied> = match pools {
        Pools::Postgres(_) => migrator(steps, |(_, _, postgres, _)| postgres),
        Pools::Sqlite { .. } => migrator(steps, |(_, _, _, sqlite)| sqlite),
    }
    .iter()
    .map(|migration| (migration.version, migration.checksum.to_vec()))
    .collect();
    Ok(compare(&applied, &wanted))
}

/// A migration's number and the checksum of its text.
type Applied = (i64, Vec<u8>);

fn compare(applied: &[Applied], wanted: &[Applied]) -> Standing {
    let last = |steps: &[Applied]| steps.last().map(|(version, _)| *version).unwrap_or_default();
    let (has, wants) = (last(applied), last(wanted));
    if applied == wanted {
        Standing::Current
    } else if wanted.starts_with(applied) {
        Standing::Behind { has, wants }
    } else {
        Standing::Foreign { has, wants }
    }
}

fn foreign(has: i64, wants: i64) -> Error {
    Error::Schema {
        reason: format!(
            "the database holds schema {has} as another program has it, this program needs {wants} (install the same \
             version everywhere)"
        ),
    }
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

/// Not everybody may alter a database; guarded writes are right without it.
async fn isolate(pools: &Pools) {
    let Pools::Postgres(server) = pools else { return };
    let altered = sqlx::raw_sql(
        "do $$ begin
            execute format('alter database %I set default_transaction_isolation = serializable', current_database());
         end $$",
    );
    if let Err(e) = altered.execute(server.pool()).await {
        tracing::warn!(error = %e, "cannot make serializable the database's default isolation");
    }
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

/// All or nothing: a script that fails half way leaves the tables as they were.
async fn drop_all(pools: &Pools) -> Result<()> {
    const SCRIPT: &str = include_str!("../migrations/drop.sql");
    let dropped = async {
        match pools {
            Pools::Postgres(server) => {
                let mut transaction = server.pool().begin().await?;
                sqlx::raw_sql(SCRIPT).execute(&mut *transaction).await?;
                transaction.commit().await
            }
            Pools::Sqlite { writer, .. } => {
                let mut transaction = writer.begin_with("begin immediate").await?;
                sqlx::raw_sql(SCRIPT).execute(&mut *transaction).await?;
                transaction.commit().await
            }
        }
    };
    dropped.await.map_err(|e| Error::of("drop the tables", e))
}

fn schema_error(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            Error::of("bring the schema up to date", source)
        }
        other => Error::Schema { reason: format!("the database holds another program's schema: {other}") },
    }
}

#[cfg(test)]
mod tests {
    use qvd_core::ErrorKind;

    use super::*;
    use crate::testkit::TemporaryPostgres;
    use crate::{Backend, Db};

    /// What a later version might bring; the schema around it is made up, so that it stays true whatever ours becomes.
    const STEPS: &[Step] = &[
        (
            1,
            "first",
            "create table vm_runtimes (vm_id bigint); create table hosts (id bigint, name text);
             create table host_runtimes (host_id bigint, state text, lease_until timestamptz)",
            "create table vm_runtimes (vm_id integer); create table hosts (id integer, name text);
             create table host_runtimes (host_id integer, state text, lease_until integer)",
        ),
        (
            2,
            "second",
            "alter table vm_runtimes add column wish text",
            "alter table vm_runtimes add column wish text",
        ),
    ];
    const WISHES: Sql = sql!("look for a wish": "select wish from vm_runtimes");
    const LIVE: Sql = sql!("have a running host":
        "insert into host_runtimes (host_id, state, lease_until) select 1, 'running', " NOW " + $1");
    const NAMED: Sql = sql!("name the host": "insert into hosts (id, name) values (1, 'n1')");
    const DEAD: Sql = sql!("stop the host": "update host_runtimes set state = 'stopped'");

    async fn upgrade(pools: &Pools) {
        let (first, both) = (&STEPS[..1], STEPS);
        deploy_to(pools, first, false).await.unwrap();
        assert_eq!(standing(pools, first).await.unwrap(), Standing::Current);
        assert_eq!(standing(pools, both).await.unwrap(), Standing::Behind { has: 1, wants: 2 });

        pools.write(&NAMED, params![]).await.unwrap();
        pools.write(&LIVE, params![std::time::Duration::from_secs(60)]).await.unwrap();
        let live = deploy_to(pools, both, false).await.unwrap_err();
        assert_eq!(live.to_string(), "node n1 is running; stop it first");
        assert!(pools.read(&WISHES, params![]).await.is_err(), "nothing was changed");

        pools.write(&DEAD, params![]).await.unwrap();
        deploy_to(pools, both, false).await.unwrap();
        assert!(pools.read(&WISHES, params![]).await.unwrap().is_empty());
        assert_eq!(deploy_to(pools, both, false).await.unwrap_err().kind(), ErrorKind::Conflict);
        let older = deploy_to(pools, first, false).await.unwrap_err();
        assert_eq!(older.kind(), ErrorKind::Unsupported, "{older}");
        let mut reworded = both.to_vec();
        reworded[1] = (2, "second", "select 1", "select 1");
        let changed = standing(pools, &reworded).await.unwrap();
        assert_eq!(changed, Standing::Foreign { has: 2, wants: 2 }, "the same number, another text");
    }

    #[tokio::test]
    async fn an_older_schema_is_brought_up_to_date_once_no_host_runs() {
        upgrade(&Pools::sqlite_memory().await.unwrap().0).await;
        let Some(postgres) = TemporaryPostgres::start().await else { return };
        let db = Db::connect(&postgres.empty_database().await).await.unwrap();
        upgrade(db.pools()).await;
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

    #[test]
    fn a_schema_is_ours_older_or_foreign() {
        let steps = |versions: &[i64]| versions.iter().map(|v| (*v, vec![0])).collect::<Vec<Applied>>();
        let ours = steps(&[1, 2, 3]);
        assert_eq!(compare(&ours, &ours), Standing::Current);
        assert_eq!(compare(&steps(&[1, 2]), &ours), Standing::Behind { has: 2, wants: 3 });
        assert_eq!(compare(&[], &ours), Standing::Behind { has: 0, wants: 3 });
        let mut changed = ours.clone();
        changed[1].1 = vec![1];
        for foreign in [steps(&[1, 2, 3, 4]), steps(&[1, 3]), steps(&[7]), changed] {
            assert!(matches!(compare(&foreign, &ours), Standing::Foreign { .. }), "{foreign:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_could_read_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qvd.db");
        Db::open(&Backend::Sqlite { path: path.clone() }).await.unwrap().close().await;
        let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&path, 0o664);
        set(&wake_directory(&path), 0o755);
        Db::open(&Backend::Sqlite { path: path.clone() }).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&wake_directory(&path))), (0o600, 0o700));
    }
}
