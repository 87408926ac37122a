//! The only place that knows which database it is: pools, transactions, parameters, rows.

use std::path::Path;
use std::time::{Duration, SystemTime};

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Arguments, ConnectOptions as _, Connection as _, Postgres, Sqlite, Transaction};

use crate::error::{Error, Result};
use crate::moment::{Moment, span_micros, to_micros};
use crate::row::Row;
use crate::sql::{NOW_PARAMETER, Sql};
use crate::value::Value;

/// Connections to one database.
#[derive(Clone, Debug)]
pub(crate) enum Pools {
    /// A server.
    Postgres(PgPool),
    /// A file, or memory. One connection writes, in the order in which it is asked for, so that writers of this
    /// process never meet in SQLite's own lock; in memory it is the only one.
    Sqlite {
        /// The one that writes.
        writer: SqlitePool,
        /// The ones that read.
        readers: SqlitePool,
    },
}

/// A transaction that may write.
pub(crate) enum WriteTransaction {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
}

impl Pools {
    /// A pool of connections to a server. Nothing is connected yet.
    pub(crate) fn postgres(options: PgConnectOptions, size: u32, connect_timeout: Duration) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(size.max(1))
            .acquire_timeout(connect_timeout)
            // A ping before every statement would double its cost; one after a rest finds connections that a
            // restarted server or a firewall has cut.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > REST {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(POSTGRES_SESSION).execute(connection).await?;
                    Ok(())
                })
            })
            // A statement is not an event of ours; what failed says so itself.
            .connect_lazy_with(options.disable_statement_logging());
        Self::Postgres(pool)
    }

    /// Connections to a database file, which is made when missing.
    pub(crate) async fn sqlite_file(path: &Path) -> Result<Self> {
        let options =
            sqlite_options().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        // The writer first: it makes the file and turns on the write-ahead log.
        let writer = sqlite_pool(1).connect_with(options.clone()).await;
        let writer = writer.map_err(|e| Error::of("open the database file", e))?;
        let readers = sqlite_pool(READERS).connect_lazy_with(options);
        Ok(Self::Sqlite { writer, readers })
    }

    /// A database in memory that ends with its last handle.
    pub(crate) async fn sqlite_memory() -> Result<Self> {
        // A second connection would be a second, empty database; an idle one that is closed would lose all.
        let pool = sqlite_pool(1).connect_with(sqlite_options().in_memory(true)).await;
        let pool = pool.map_err(|e| Error::of("make a database in memory", e))?;
        Ok(Self::Sqlite { writer: pool.clone(), readers: pool })
    }

    /// Runs a statement that only reads.
    pub(crate) async fn read(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(pool) => postgres_rows(pool, sql, params).await,
            Self::Sqlite { readers, .. } => sqlite_pooled(readers, sql, params).await,
        }
    }

    /// Runs one statement that writes, a transaction of its own.
    pub(crate) async fn write(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(pool) => postgres_rows(pool, sql, params).await,
            Self::Sqlite { writer, .. } => sqlite_pooled(writer, sql, params).await,
        }
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<WriteTransaction> {
        const OPERATION: &str = "begin a transaction";
        Ok(match self {
            // The driver forgets a transaction whose `begin` was dropped half way: the connection would go back to
            // the pool inside it, and what the next user writes without a transaction would never be committed.
            Self::Postgres(pool) => {
                let pool = pool.clone();
                let begun =
                    to_the_end(
                        OPERATION,
                        async move { pool.begin().await.map_err(|e| Error::of(OPERATION, e)) },
                    );
                WriteTransaction::Postgres(begun.await?)
            }
            // A transaction that reads first and then wants to write fails at once when another has written.
            Self::Sqlite { writer, .. } => WriteTransaction::Sqlite(
                writer.begin_with("begin immediate").await.map_err(|e| Error::of(OPERATION, e))?,
            ),
        })
    }

    /// Closes all connections and waits until they are.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres(pool) => pool.close().await,
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

impl WriteTransaction {
    pub(crate) async fn rows(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(transaction) => postgres_rows(&mut **transaction, sql, params).await,
            Self::Sqlite(transaction) => sqlite_rows(&mut **transaction, sql, params).await,
        }
    }

    pub(crate) async fn commit(self) -> Result<()> {
        let committed = match self {
            Self::Postgres(transaction) => transaction.commit().await,
            Self::Sqlite(transaction) => transaction.commit().await,
        };
        committed.map_err(|e| Error::of("commit", e))
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

/// Runs something to its end, whether or not the one who waits for it is dropped.
pub(crate) async fn to_the_end<T: Send + 'static>(
    operation: &'static str,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(future).await {
        Ok(outcome) => outcome,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(Error::of(operation, sqlx::Error::WorkerCrashed)),
        },
    }
}

// `fetch_all` throughout: a statement with `returning` has done its work only when all rows were fetched.

async fn postgres_rows<'e>(
    executor: impl sqlx::Executor<'e, Database = Postgres>,
    sql: &Sql,
    params: Vec<Value>,
) -> Result<Vec<Row>> {
    let mut arguments = PgArguments::default();
    for value in params {
        bind_postgres(&mut arguments, value).map_err(|e| Error::of(sql.operation, sqlx::Error::Encode(e)))?;
    }
    let rows = sqlx::query_with(sql.postgres, arguments).fetch_all(executor).await;
    let rows = rows.map_err(|e| Error::of(sql.operation, e))?;
    Ok(rows.into_iter().map(|row| Row::postgres(sql.operation, row)).collect())
}

async fn sqlite_pooled(pool: &SqlitePool, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
    // The time is read when the connection is ours, not when we begin to wait for it.
    let mut connection = pool.acquire().await.map_err(|e| Error::of(sql.operation, e))?;
    sqlite_rows(&mut *connection, sql, params).await
}

async fn sqlite_rows<'e>(
    executor: impl sqlx::Executor<'e, Database = Sqlite>,
    sql: &Sql,
    mut params: Vec<Value>,
) -> Result<Vec<Row>> {
    debug_assert!(params.len() < NOW_PARAMETER, "{} has a parameter where the time is", sql.operation);
    params.resize(NOW_PARAMETER - 1, Value::Integer(None));
    params.push(Value::Time(Some(SystemTime::now())));
    let mut arguments = SqliteArguments::default();
    for value in params {
        bind_sqlite(&mut arguments, value).map_err(|e| Error::of(sql.operation, sqlx::Error::Encode(e)))?;
    }
    let rows = sqlx::query_with(sql.sqlite, arguments).fetch_all(executor).await;
    let rows = rows.map_err(|e| Error::of(sql.operation, e))?;
    Ok(rows.into_iter().map(|row| Row::sqlite(sql.operation, row)).collect())
}

fn bind_postgres(arguments: &mut PgArguments, value: Value) -> Result<(), sqlx::error::BoxDynError> {
    match value {
        Value::Integer(n) => arguments.add(n),
        Value::Real(n) => arguments.add(n),
        Value::Boolean(b) => arguments.add(b),
        Value::Text(s) => arguments.add(s),
        Value::Uuid(u) => arguments.add(u),
        Value::Time(t) => arguments.add(t.map(Moment)),
        Value::Span(span) => {
            arguments.add(PgInterval { months: 0, days: 0, microseconds: span_micros(span) })
        }
    }
}

fn bind_sqlite(arguments: &mut SqliteArguments, value: Value) -> Result<(), sqlx::error::BoxDynError> {
    match value {
        Value::Integer(n) => arguments.add(n),
        Value::Real(n) => arguments.add(n),
        Value::Boolean(b) => arguments.add(b),
        Value::Text(s) => arguments.add(s),
        Value::Uuid(u) => arguments.add(u.map(uuid::Uuid::hyphenated)),
        Value::Time(t) => arguments.add(t.map(to_micros)),
        Value::Span(span) => arguments.add(span_micros(span)),
    }
}

fn sqlite_options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
}

fn sqlite_pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(Duration::from_secs(30))
}

/// Connections of one process that read a database file at the same time.
const READERS: u32 = 4;

/// After this rest a connection to a server is tried before it is used.
const REST: Duration = Duration::from_secs(1);

/// Every session with a server. A statement that waits longer for a lock than ten seconds is tried again; a
/// transaction whose owner fell asleep is ended, so that it cannot hold its locks for ever.
///
/// What we commit is durable whatever the server's setting: a lease that was given and forgotten gives a home away.
const POSTGRES_SESSION: &str = "set time zone 'UTC'; set lock_timeout = '10s'; set statement_timeout = '60s'; \
     set idle_in_transaction_session_timeout = '60s'; \
     select set_config('synchronous_commit', 'on', false) \
     where current_setting('synchronous_commit') in ('off', 'local', 'remote_write')";
