//! Connections to a PostgreSQL server, none of which waits without end.
//!
//! The server is asked to give up by itself (`statement_timeout`, `lock_timeout`). A server that cannot be heard any more does
//! not do so: each answer has a time-out of ours as well, and a connection that owes an answer is cut instead of used
//! again.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Arguments, ConnectOptions as _, Connection as _, Postgres};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::moment::{Moment, span_micros};
use crate::row::Row;
use crate::sql::Sql;
use crate::value::Value;

/// How long we wait for a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a connection.
    pub(crate) connect: Duration,
    /// For an answer.
    pub(crate) answer: Duration,
}

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pool: PgPool,
    /// One connection, for what must not queue behind anything.
    reserved: PgPool,
    answer: Duration,
}

impl Server {
    pub(crate) fn new(options: PgConnectOptions, size: u32, limits: Limits) -> Self {
        // A statement is not an event of ours; what failed says so itself.
        let options = options.disable_statement_logging();
        Self {
            pool: pool(options.clone(), size.max(1), limits),
            reserved: pool(options, 1, limits),
            answer: limits.answer,
        }
    }

    /// For what has its own way with connections.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For migrations: what changes a large table takes longer than a statement of ours may. A lock is waited for
    /// so long (zero: without end).
    pub(crate) fn unhurried(&self, lock: Duration) -> PgPool {
        let connect = self.pool.options().get_acquire_timeout();
        let options = (*self.pool.connect_options()).clone();
        let options = options.options([("lock_timeout", lock.as_millis())]);
        PgPoolOptions::new().max_connections(1).acquire_timeout(connect).connect_lazy_with(options)
    }

    /// Runs a statement, a transaction of its own.
    pub(crate) async fn rows(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        Borrowed::from(&self.pool, self.answer, sql.operation).await?.rows(sql, params).await
    }

    /// The same on the reserved connection.
    pub(crate) async fn rows_reserved(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        Borrowed::from(&self.reserved, self.answer, sql.operation).await?.rows(sql, params).await
    }

    pub(crate) async fn begin(&self) -> Result<PostgresTransaction> {
        const OPERATION: &str = "begin a transaction";
        let mut connection = Borrowed::from(&self.pool, self.answer, OPERATION).await?;
        connection.command(OPERATION, "begin").await?;
        Ok(PostgresTransaction { connection, open: true })
    }

    pub(crate) async fn close(&self) {
        tokio::join!(self.pool.close(), self.reserved.close());
    }
}

/// A transaction. Dropped without a commit, it is rolled back behind the caller.
pub(crate) struct PostgresTransaction {
    connection: Borrowed,
    open: bool,
}

impl PostgresTransaction {
    pub(crate) async fn rows(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        self.connection.rows(sql, params).await
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        // Whatever the answer is, it is over then; without one, the connection is cut.
        self.open = false;
        self.connection.command("commit", "commit").await
    }
}

impl Drop for PostgresTransaction {
    fn drop(&mut self) {
        if !self.open || self.connection.owed {
            return;
        }
        let mut connection = self.connection.take();
        // Without a runtime nobody can wait for the answer: the connection is cut, which rolls back as well.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            // Failed or in vain, the connection is cut.
            let _ = connection.command("roll back", "rollback").await;
        });
    }
}

/// A connection of a pool. It goes back only when every answer has come; otherwise it is cut: whoever got it next
/// would wait for the answer to what another asked.
struct Borrowed {
    connection: Option<PoolConnection<Postgres>>,
    answer: Duration,
    /// Something was asked and not answered.
    owed: bool,
}

impl Borrowed {
    async fn from(pool: &PgPool, answer: Duration, operation: &'static str) -> Result<Self> {
        let connection = pool.acquire().await.map_err(|e| Error::of(operation, e))?;
        Ok(Self { connection: Some(connection), answer, owed: false })
    }

    /// Moves the connection out; what is left owes it.
    fn take(&mut self) -> Self {
        Self {
            connection: self.connection.take(),
            answer: self.answer,
            owed: std::mem::replace(&mut self.owed, true),
        }
    }

    async fn rows(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        let mut arguments = PgArguments::default();
        for value in params {
            bind(&mut arguments, value).map_err(|e| Error::of(sql.operation, sqlx::Error::Encode(e)))?;
        }
        let limit = self.answer;
        let asked = sqlx::query_with(sql.postgres, arguments).fetch_all(self.ask(sql.operation)?);
        // All rows: a statement with `returning` has done its work only when the last was fetched.
        let answer = timeout(limit, asked).await;
        let rows = self.answered(sql.operation, answer)?;
        Ok(rows.into_iter().map(|row| Row::postgres(sql.operation, row)).collect())
    }

    /// Runs a statement without parameters and rows.
    async fn command(&mut self, operation: &'static str, text: &'static str) -> Result<()> {
        let limit = self.answer;
        let asked = sqlx::raw_sql(text).execute(self.ask(operation)?);
        let answer = timeout(limit, asked).await;
        self.answered(operation, answer).map(drop)
    }

    fn ask(&mut self, operation: &'static str) -> Result<&mut PgConnection> {
        self.owed = true;
        match &mut self.connection {
            Some(connection) => Ok(&mut **connection),
            None => Err(Error::of(operation, sqlx::Error::PoolClosed)),
        }
    }

    fn answered<T>(
        &mut self,
        operation: &'static str,
        answer: Result<sqlx::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T> {
        let answer = answer.unwrap_or_else(|_| Err(silence(self.answer)));
        let answer = answer.map_err(|e| Error::of(operation, e));
        // What took the server away has most likely taken the connection as well.
        self.owed = matches!(answer, Err(Error::Away { .. }));
        answer
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.owed
        {
            drop(connection.detach());
        }
    }
}

fn pool(options: PgConnectOptions, size: u32, limits: Limits) -> PgPool {
    let session = session(limits.answer);
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(limits.connect)
        // A ping before every statement would double its cost; one after a rest finds connections that a
        // restarted server or a firewall has cut.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for > REST {
                    timeout(PONG, connection.ping()).await.map_err(|_| silence(PONG))??;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            let session = session.clone();
            Box::pin(async move {
                sqlx::raw_sql(sqlx::AssertSqlSafe(session)).execute(connection).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

/// What every session begins with. A lock is waited for a third of the time for an answer (and once more, see
/// [`crate::retry`]); the server gives a statement up before we do, so that its answer tells what became of it. A
/// transaction whose owner fell asleep is ended, so that it cannot hold its locks for ever.
///
/// What we commit is durable whatever the server's setting: a lease that was given and forgotten gives a home away.
fn session(answer: Duration) -> String {
    let lock = (answer / 3).as_millis().max(1);
    let statement = (answer - answer / 10).as_millis().max(1);
    format!(
        "set time zone 'UTC'; set lock_timeout = {lock}; set statement_timeout = {statement}; \
         set idle_in_transaction_session_timeout = '60s'; \
         select set_config('synchronous_commit', 'on', false) \
         where current_setting('synchronous_commit') in ('off', 'local', 'remote_write')"
    )
}

fn silence(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {} s", limit.as_secs_f64());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

fn bind(arguments: &mut PgArguments, value: Value) -> Result<(), sqlx::error::BoxDynError> {
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

/// After this rest a connection is tried before it is used.
const REST: Duration = Duration::from_secs(1);

/// How long that may take: another connection is made instead of waiting for one that a firewall forgot.
const PONG: Duration = Duration::from_secs(2);
