//! The handle: opening, health, transactions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::Secret;

use crate::backend::{Pools, WriteTransaction, to_the_end};
use crate::error::Result;
use crate::migrate;
use crate::notify::{Channel, Hub, Subscription};
use crate::retry::Attempts;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::{Value, params};

/// Which database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// A file of one machine; made when missing.
    Sqlite {
        /// The file. A directory `<path>.wake` beside it wakes other processes.
        path: PathBuf,
    },
    /// Memory, for tests and examples; ends with its last handle.
    SqliteMemory,
    /// A server.
    Postgres {
        /// Host name, address, or the directory of its unix socket (begins with `/`).
        host: String,
        /// Port.
        port: u16,
        /// Name of the database.
        name: String,
        /// Role to log in as.
        user: String,
        /// Its password.
        password: Secret<String>,
        /// Most connections at a time, the one that listens not counted.
        pool_size: u32,
        /// How long to wait for a connection.
        connect_timeout: Duration,
    },
}

/// A database. Cheap to clone; clones share connections.
///
/// # Cancellation
///
/// Every operation may be dropped at any point. One that writes has then either happened as a whole or not at
/// all; which of the two, the dropper must read.
///
/// # Errors
///
/// [`Error::Away`](crate::Error::Away) whenever the database cannot be reached: no operation waits for it longer than
/// the connect time-out.
///
/// # Example
///
/// ```
/// # use qvd_db::{Backend, Db, Result};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let db = Db::open(&Backend::SqliteMemory).await?;
/// db.health().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Db {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pools: Pools,
    hub: Hub,
}

impl Db {
    /// Connects and checks the schema. A SQLite database is brought up to date on the way; a server is not (see
    /// [`Db::deploy`]).
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away), [`Error::Schema`](crate::Error::Schema) when the tables are missing or
    /// another version's, [`Error::Setting`](crate::Error::Setting) when the file cannot be made.
    pub async fn open(backend: &Backend) -> Result<Self> {
        let db = Self::connect(backend).await?;
        migrate::check(&db.inner.pools).await?;
        Ok(db)
    }

    /// Connects without looking at the schema of a server, for [`Db::deploy`].
    ///
    /// # Errors
    ///
    /// As [`Db::open`], without `Schema`.
    pub async fn connect(backend: &Backend) -> Result<Self> {
        let (pools, hub) = match backend {
            Backend::Sqlite { path } => {
                let _alone = migrate::claim_file(path).await?;
                let pools = Pools::sqlite_file(path).await?;
                migrate::up(&pools).await?;
                let hub = Hub::sqlite(&pools, Some(path.clone()));
                (pools, hub)
            }
            Backend::SqliteMemory => {
                let pools = Pools::sqlite_memory().await?;
                migrate::up(&pools).await?;
                let hub = Hub::sqlite(&pools, None);
                (pools, hub)
            }
            Backend::Postgres { host, port, name, user, password, pool_size, connect_timeout } => {
                let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
                    .port(*port)
                    .database(name)
                    .username(user)
                    .password(password.expose())
                    .application_name("qvd");
                let options = if host.starts_with('/') { options.socket(host) } else { options.host(host) };
                let pools = Pools::postgres(options.clone(), *pool_size, *connect_timeout);
                (pools, Hub::postgres(options, *connect_timeout))
            }
        };
        Ok(Self { inner: Arc::new(Inner { pools, hub }) })
    }

    /// Makes all tables. With `force`, drops them first: there is no way back.
    ///
    /// On PostgreSQL the database's default isolation becomes serializable, if the role may set it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`](crate::Error::Refused) when there are tables already and `force` is not given, or when it
    /// is and a host still holds its lease.
    pub async fn deploy(&self, force: bool) -> Result<()> {
        migrate::deploy(&self.inner.pools, force).await
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn health(&self) -> Result<()> {
        const PING: Sql = sql!("reach the database": "select 1 as one");
        self.read(&PING, params![]).await.map(drop)
    }

    /// Listens for changes. The first hint is always [`Hint::Rescan`](crate::Hint::Rescan), given as soon as
    /// nothing can be missed any more.
    ///
    /// Must be called inside a tokio runtime.
    pub fn subscribe(&self, channels: &[Channel]) -> Subscription {
        self.inner.hub.subscribe(channels)
    }

    /// Closes all connections of all clones and waits until they are closed; later operations find the database away.
    pub async fn close(&self) {
        self.inner.pools.close().await;
    }

    /// Runs a statement that only reads; again when a serializable server gave it up in favour of a writer.
    pub(crate) async fn read(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        let mut attempts = Attempts::new();
        loop {
            let outcome = self.inner.pools.read(sql, params.clone()).await;
            if let Some(outcome) = attempts.settle(outcome).await {
                return outcome;
            }
        }
    }

    /// Runs a statement that only reads and yields one row at most.
    pub(crate) async fn read_one(&self, sql: &Sql, params: Vec<Value>) -> Result<Option<Row>> {
        Ok(self.read(sql, params).await?.pop())
    }

    /// Runs one statement that writes, again when it collided.
    pub(crate) async fn write(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        let mut attempts = Attempts::new();
        loop {
            let outcome = self.inner.pools.write(sql, params.clone()).await;
            if let Some(outcome) = attempts.settle(outcome).await {
                return outcome;
            }
        }
    }

    /// Begins a transaction; see [`transaction!`].
    pub(crate) async fn begin(&self) -> Result<Tx> {
        Ok(Tx { inner: self.inner.pools.begin().await?, notices: Vec::new() })
    }
}

/// A transaction that may write, with the notices it will send.
pub(crate) struct Tx {
    inner: WriteTransaction,
    notices: Vec<(Channel, String)>,
}

impl Tx {
    pub(crate) async fn rows(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        self.inner.rows(sql, params).await
    }

    /// The only row, if there is one.
    pub(crate) async fn row(&mut self, sql: &Sql, params: Vec<Value>) -> Result<Option<Row>> {
        Ok(self.rows(sql, params).await?.pop())
    }

    /// Wakes the listeners of a channel once this transaction is committed, and only then.
    pub(crate) fn notify(&mut self, channel: Channel, payload: String) {
        let notice = (channel, payload);
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    pub(crate) async fn commit(mut self, db: &Db) -> Result<()> {
        const NOTIFY: Sql = Sql {
            operation: "announce the change",
            postgres: "select pg_notify($1, $2)",
            // The hub announces it after the commit.
            sqlite: "",
        };
        if self.inner.is_postgres() {
            for (channel, payload) in &self.notices {
                self.inner.rows(&NOTIFY, params![channel.name(), payload]).await?;
            }
            return self.inner.commit().await;
        }
        // Nobody would be told of a commit whose waiter is dropped before it announces.
        let db = db.clone();
        to_the_end("commit", async move {
            self.inner.commit().await?;
            db.inner.hub.announce(&self.notices);
            Ok(())
        })
        .await
    }
}

/// `transaction!(db, |tx| { …; Ok(value) })`: runs the body in a transaction and commits it; the whole body runs
/// again when it collided with another writer. An error rolls back.
macro_rules! transaction {
    ($db:expr, |$tx:ident| $body:block) => {{
        let db: &$crate::Db = $db;
        let mut attempts = $crate::retry::Attempts::new();
        loop {
            let outcome = async {
                let mut transaction = db.begin().await?;
                let $tx = &mut transaction;
                let value = $crate::db::body(async { $body }).await?;
                transaction.commit(db).await?;
                $crate::error::Result::Ok(value)
            }
            .await;
            if let Some(outcome) = attempts.settle(outcome).await {
                break outcome;
            }
        }
    }};
}
pub(crate) use transaction;

/// Gives the body of a transaction its type.
pub(crate) fn body<T, F: Future<Output = Result<T>>>(future: F) -> F {
    future
}
