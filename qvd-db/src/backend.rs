//! The only place that knows which database it is: pools, transactions, parameters, rows.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Arguments, ConnectOptions as _, Connection as _, Sqlite, Transaction};

use crate::error::{Error, Result};
use crate::moment::{span_micros, to_micros};
use crate::row::Row;
use crate::server::{Limits, PostgresTransaction, Server};
use crate::sql::{NOW_PARAMETER, Sql};
use crate::value::Value;

/// Connections to one database.
#[derive(Clone, Debug)]
pub(crate) enum Pools {
    /// A server.
    Postgres(Server),
    /// A file, or memory. One connection writes, in the order in which it is asked for, so that writers of this
    /// process never meet in SQLite's own lock; in memory it is the only one.
    Sqlite {
        /// The one that writes.
        writer: SqlitePool,
        /// The ones that read.
        readers: SqlitePool,
        /// The file; memory has none.
        file: Option<PathBuf>,
    },
}

/// A transaction that may write.
pub(crate) enum WriteTransaction {
    Postgres(PostgresTransaction),
    Sqlite(Transaction<'static, Sqlite>),
}

impl Pools {
    /// Connections to a server. Nothing is connected yet.
    pub(crate) fn postgres(options: PgConnectOptions, size: u32, limits: Limits) -> Self {
        Self::Postgres(Server::new(options, size, limits))
    }

    /// Connections to a database file, which is made when missing; the one that writes once more by itself.
    pub(crate) async fn sqlite_file(path: &Path) -> Result<(Self, SqlitePool)> {
        let options =
            sqlite_options().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        // The writer first: it makes the file and turns on the write-ahead log.
        let writer = sqlite_pool(1)
            // A commit that a full disk refused leaves the connection in a transaction that is none any more, and
            // every later one would fail: it is replaced.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }));
        let writer = writer.connect_with(options.clone()).await;
        let writer = writer.map_err(|e| Error::of("open the database file", e))?;
        let readers = sqlite_pool(READERS).connect_lazy_with(options);
        Ok((Self::Sqlite { writer: writer.clone(), readers, file: Some(path.to_owned()) }, writer))
    }

    /// A database in memory that ends with its last handle; its connection once more by itself.
    pub(crate) async fn sqlite_memory() -> Result<(Self, SqlitePool)> {
        // A second connection would be a second, empty database; an idle one that is closed would lose all.
        let pool = sqlite_pool(1).connect_with(sqlite_options().in_memory(true)).await;
        let pool = pool.map_err(|e| Error::of("make a database in memory", e))?;
        Ok((Self::Sqlite { writer: pool.clone(), readers: pool.clone(), file: None }, pool))
    }

    /// Runs a statement that only reads.
    pub(crate) async fn read(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(server) => server.rows(sql, params).await,
            Self::Sqlite { readers, .. } => sqlite_pooled(readers, sql, params).await,
        }
    }

    /// Runs one statement that writes, a transaction of its own.
    pub(crate) async fn write(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(server) => server.rows(sql, params).await,
            Self::Sqlite { writer, .. } => sqlite_pooled(writer, sql, params).await,
        }
    }

    /// As [`Pools::write`], on a connection that nothing else uses: what keeps a host alive does not queue behind
    /// what the host does.
    pub(crate) async fn write_reserved(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(server) => server.rows_reserved(sql, params).await,
            Self::Sqlite { writer, .. } => sqlite_pooled(writer, sql, params).await,
        }
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<WriteTransaction> {
        Ok(match self {
            Self::Postgres(server) => WriteTransaction::Postgres(server.begin().await?),
            // A transaction that reads first and then wants to write fails at once when another has written.
            Self::Sqlite { writer, .. } => {
                let begun = writer.begin_with("begin immediate").await;
                WriteTransaction::Sqlite(begun.map_err(|e| Error::of("begin a transaction", e))?)
            }
        })
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Closes all connections and waits until they are.
    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres(server) => server.close().await,
            Self::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

impl WriteTransaction {
    pub(crate) async fn rows(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        match self {
            Self::Postgres(transaction) => transaction.rows(sql, params).await,
            Self::Sqlite(transaction) => sqlite_rows(&mut **transaction, sql, params).await,
        }
    }

    pub(crate) async fn commit(self) -> Result<()> {
        match self {
            Self::Postgres(transaction) => transaction.commit().await,
            Self::Sqlite(transaction) => transaction.commit().await.map_err(|e| Error::of("commit", e)),
        }
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
    // All rows: a statement with `returning` has done its work only when the last was fetched.
    let rows = sqlx::query_with(sql.sqlite, arguments).fetch_all(executor).await;
    let rows = rows.map_err(|e| Error::of(sql.operation, e))?;
    Ok(rows.into_iter().map(|row| Row::sqlite(sql.operation, row)).collect())
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
        .busy_timeout(SQLITE_LOCK)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
}

fn sqlite_pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(SQLITE_TURN)
}

/// Connections of one process that read a database file at the same time.
const READERS: u32 = 4;

/// How long a statement waits for a lock that another process holds on the file.
const SQLITE_LOCK: Duration = Duration::from_secs(5);

/// How long a task waits until a connection of this process is free. With two waits for the lock (see
/// [`crate::retry`]) this makes the half minute that [`crate::Db`] promises.
const SQLITE_TURN: Duration = Duration::from_secs(20);
