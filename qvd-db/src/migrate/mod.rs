//! Embedded, ordered migrations, one directory for each database: what is missing, whether it may be applied now, and
//! whether this program can work with what is there. The steps themselves, and what each of them may do, are in
//! [`steps`].

mod file;
mod standing;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

pub(crate) use file::{claim_file, wake_directory};
#[cfg(feature = "testkit")]
pub(crate) use steps::MIGRATIONS;
pub(crate) use steps::{Effect, Step};

use self::standing::{Applied, Standing};
use crate::backend::Pools;
use crate::error::{Error, Result};
use crate::retry::Attempts;
use crate::sql::{Sql, sql};
use crate::value::params;

/// Makes all tables of a database file, or applies what is missing. What a newer or another program made is left as it
/// is; [`check`] tells.
pub(crate) async fn up(pools: &Pools) -> Result<()> {
    match standing(pools, steps::MIGRATIONS).await? {
        Standing::Empty => apply(pools, steps::MIGRATIONS, Effect::Breaking).await,
        Standing::Behind { has, .. } => catch_up(pools, steps::MIGRATIONS, has).await,
        Standing::Current | Standing::Ahead { .. } | Standing::Foreign { .. } => Ok(()),
    }
}

/// Makes all tables, or applies what is missing; with `force` drops what is there first.
pub(crate) async fn deploy(pools: &Pools, force: bool) -> Result<()> {
    deploy_to(pools, steps::MIGRATIONS, force).await
}

/// Whether this program can work with what is applied; warns when isolation is weaker than wished.
pub(crate) async fn check(pools: &Pools) -> Result<()> {
    check_for(pools, steps::MIGRATIONS).await?;
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

/// [`check`] for a program that knows these steps.
async fn check_for(pools: &Pools, steps: &[Step]) -> Result<()> {
    let standing = standing(pools, steps).await?;
    standing.usable()?;
    if let Standing::Ahead { has, wants, .. } = standing {
        tracing::info!(has, wants, "the database holds a newer schema that this program can work with");
    }
    Ok(())
}

/// [`deploy`] for a program that knows these steps.
pub(crate) async fn deploy_to(pools: &Pools, steps: &[Step], force: bool) -> Result<()> {
    // A server keeps two that migrate apart by itself.
    let _alone = match pools {
        Pools::Sqlite { file: Some(file), .. } => Some(claim_file(file).await?),
        _ => None,
    };
    match (standing(pools, steps).await?, force) {
        (Standing::Empty, _) => apply(pools, steps, Effect::Breaking).await?,
        (Standing::Behind { has, .. }, false) => catch_up(pools, steps, has).await?,
        (Standing::Current, false) => {
            return Err(Error::refused(
                "database already contains QVD tables (force drops them with all they hold)",
            ));
        }
        (ahead @ Standing::Ahead { has, .. }, false) => {
            ahead.usable()?;
            return Err(Error::refused(format!(
                "database already contains the QVD tables of a newer version (schema {has}), with which this one \
                 works"
            )));
        }
        // We do not know all of its tables.
        (Standing::Ahead { has, wants, .. }, true) => {
            return Err(Error::Schema {
                reason: format!(
                    "the database holds schema {has}, this program knows {wants} and cannot drop it (use 'qvd db \
                     deploy' of the newer version)"
                ),
            });
        }
        (foreign @ Standing::Foreign { .. }, false) => foreign.usable()?,
        (Standing::Current | Standing::Behind { .. } | Standing::Foreign { .. }, true) => {
            refuse_live_hosts(pools).await?;
            drop_all(pools).await?;
            apply(pools, steps, Effect::Breaking).await?;
        }
    }
    isolate(pools).await;
    Ok(())
}

/// Applies what came after a version: while nodes run, if none of it breaks their programs.
async fn catch_up(pools: &Pools, steps: &[Step], has: i64) -> Result<()> {
    let breaks = |step: &Step| step.version > has && step.effect == Effect::Breaking;
    if steps.iter().any(breaks) {
        // Programs that run would find tables that are not theirs.
        refuse_live_hosts(pools).await?;
        apply(pools, steps, Effect::Breaking).await
    } else {
        apply(pools, steps, Effect::Additive).await
    }
}

fn migrator(steps: &[Step], text: fn(&Step) -> &'static str) -> Migrator {
    let migration = |step: &Step| {
        let description = step.description.into();
        Migration::new(step.version, description, MigrationType::Simple, text(step).into_sql_str(), false)
    };
    Migrator::with_migrations(steps.iter().map(migration).collect())
}

/// Applies what is missing. Additive steps are applied beside programs that work: what has to wait long for a table
/// gives up, because every statement of theirs queues behind it.
async fn apply(pools: &Pools, steps: &[Step], effect: Effect) -> Result<()> {
    let mut attempts = Attempts::new();
    loop {
        let outcome = match pools {
            Pools::Postgres(server) => {
                let lock = match effect {
                    Effect::Additive => LONGEST_LOCK_WAIT,
                    Effect::Breaking => Duration::ZERO,
                };
                let unhurried = server.unhurried(lock);
                let outcome = migrator(steps, |step| step.postgres).run(&unhurried).await;
                unhurried.close().await;
                outcome
            }
            Pools::Sqlite { writer, .. } => migrator(steps, |step| step.sqlite).run(writer).await,
        };
        if let Some(outcome) = attempts.settle(outcome.map_err(schema_error)).await {
            return outcome;
        }
    }
}

async fn standing(pools: &Pools, steps: &[Step]) -> Result<Standing> {
    const APPLIED: Sql = sql!("read the schema version":
        "select version, checksum from _sqlx_migrations where success order by version");
    const FLOOR: Sql = sql!("read the oldest usable schema version": "select version from schema_floor");
    if !is_deployed(pools).await? {
        return Ok(Standing::Empty);
    }
    let applied = pools.read(&APPLIED, params![]).await?;
    let applied: Vec<Applied> =
        applied.iter().map(|row| Ok((row.get("version")?, row.get("checksum")?))).collect::<Result<_>>()?;
    let wanted: Vec<Applied> = match pools {
        Pools::Postgres(_) => migrator(steps, |step| step.postgres),
        Pools::Sqlite { .. } => migrator(steps, |step| step.sqlite),
    }
    .iter()
    .map(|migration| (migration.version, migration.checksum.to_vec()))
    .collect();
    let standing = Standing::of(&applied, &wanted, i64::MAX);
    if !matches!(standing, Standing::Ahead { .. }) {
        return Ok(standing);
    }
    // Ours among the applied: its table is there. No row means that nobody can work with it.
    let floor = pools.read(&FLOOR, params![]).await?;
    let floor = floor.first().map_or(Ok(i64::MAX), |row| row.get("version"))?;
    Ok(Standing::of(&applied, &wanted, floor))
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
    const SCRIPT: &str = include_str!("../../migrations/drop.sql");
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

/// How long an additive step waits for a table, and with it all that comes behind it.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(3);
