//! The handle: opening, health, transactions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qvd_core::Secret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::backend::{Pools, WriteTransaction, to_the_end};
use crate::error::Result;
use crate::migrate;
use crate::notify::{Channel, Hub, Subscription};
use crate::retry::Attempts;
use crate::row::Row;
use crate::server::Limits;
use crate::sql::{Sql, sql};
use crate::value::{Value, params};
use crate::vms::state_payload;

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
        /// How connections are encrypted. A unix socket never is.
        tls: Tls,
        /// Most connections at a time; the one that reports for a host and the one that listens are not counted.
        pool_size: u32,
        /// How long to wait for a connection.
        connect_timeout: Duration,
        /// How long to wait for the answer to a statement.
        answer_timeout: Duration,
        /// When the server takes us for dead and gives our locks back.
        keepalive: Keepalive,
    },
}

/// How connections to a server are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Disable,
    /// If the server can; it is not asked who it is.
    #[default]
    Prefer,
    /// Always; the server is not asked who it is.
    Require,
    /// Always, and the server's certificate names its host and comes from a known authority.
    VerifyFull {
        /// File of authorities to know besides the public ones, PEM.
        ca: Option<PathBuf>,
    },
}

/// How the server notices that a client vanished without a word: silent clients are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between two probes.
    pub interval: Duration,
    /// Unanswered probes that end the connection.
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(20), interval: Duration::from_secs(5), count: 4 }
    }
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
/// [`Error::Away`](crate::Error::Away) whenever the database cannot be reached or does not answer. No step waits longer
/// for a server than its connect time-out, when it needs a connection, and its answer time-out, when it has asked; for
/// a file, than half a minute in all.
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
    /// Connects and checks the schema: it is this version's, or a newer one that says that this version's programs can
    /// work with it. A SQLite database is brought up to date on the way, as by [`Db::deploy`]; a server is not.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away), [`Error::Schema`](crate::Error::Schema) when the tables are missing or
    /// none that this version can work with, [`Error::Setting`](crate::Error::Setting) when the file cannot be made,
    /// [`Error::Refused`](crate::Error::Refused) when a file's tables cannot be brought up to date because a host
    /// holds its lease.
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
                let (pools, writer) = Pools::sqlite_file(path).await?;
                migrate::up(&pools).await?;
                let hub = Hub::sqlite(writer, Some(path.clone()));
                (pools, hub)
            }
            Backend::SqliteMemory => {
                let (pools, writer) = Pools::sqlite_memory().await?;
                migrate::up(&pools).await?;
                let hub = Hub::sqlite(writer, None);
                (pools, hub)
            }
            Backend::Postgres { pool_size, connect_timeout, answer_timeout, .. } => {
                let options = server_options(backend);
                let limits = Limits { connect: *connect_timeout, answer: *answer_timeout };
                let pools = Pools::postgres(options.clone(), *pool_size, limits);
                (pools, Hub::postgres(options, limits))
            }
        };
        Ok(Self { inner: Arc::new(Inner { pools, hub }) })
    }

    /// Makes all tables, or brings those of an older version up to date: while nodes run, if programs of that version
    /// can work with the outcome. With `force`, drops them first: there is no way back.
    ///
    /// On PostgreSQL the database's default isolation becomes serializable, if the role may set it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`](crate::Error::Refused) when there is nothing to do (the tables are this version's, or newer ones
    /// that it can work with) and `force` is not given, or when a host still holds its lease and its programs could
    /// not work with what is to come; [`Error::Schema`](crate::Error::Schema) when the tables are another program's, or
    /// a newer version's that this one cannot work with, or is to drop; [`Error::Contended`](crate::Error::Contended)
    /// when somebody keeps a table busy.
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

    /// Runs one statement that moves one machine's row, and wakes those who wait for it. The statement returns what a
    /// hint says and ends in `TELL_STATE`: the database is asked once for all of it.
    pub(crate) async fn write_state(&self, sql: &Sql, params: Vec<Value>) -> Result<Option<Row>> {
        if self.inner.pools.is_postgres() {
            return Ok(self.write(sql, params).await?.pop());
        }
        // Nobody would be told of a write whose waiter is dropped before it announces.
        let (db, sql) = (self.clone(), *sql);
        to_the_end(sql.operation, async move {
            let row = db.write(&sql, params).await?.pop();
            if let Some(row) = &row {
                db.inner.hub.announce(&[(Channel::VmState, state_payload(row)?)]);
            }
            Ok(row)
        })
        .await
    }

    /// As [`Db::write`], on a connection that nothing else uses.
    pub(crate) async fn write_reserved(&self, sql: &Sql, params: Vec<Value>) -> Result<Vec<Row>> {
        let mut attempts = Attempts::new();
        loop {
            let outcome = self.inner.pools.write_reserved(sql, params.clone()).await;
            if let Some(outcome) = attempts.settle(outcome).await {
                return outcome;
            }
        }
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn pools(&self) -> &Pools {
        &self.inner.pools
    }

    /// Begins a transaction; see [`transaction!`].
    pub(crate) async fn begin(&self) -> Result<Tx> {
        Ok(Tx { inner: self.inner.pools.begin().await?, notices: Vec::new() })
    }
}

/// What the driver must know of a server. Everything is set: the library would take what is not from the environment
/// (`PGSSLMODE` and the like), where nobody who reads our configuration would look for it.
fn server_options(backend: &Backend) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().application_name("qvd");
    let Backend::Postgres { host, port, name, user, password, tls, keepalive, .. } = backend else {
        return options;
    };
    let options = options.port(*port).database(name).username(user).password(password.expose());
    if host.starts_with('/') {
        return options.socket(host).ssl_mode(PgSslMode::Disable);
    }
    let (mode, ca) = match tls {
        Tls::Disable => (PgSslMode::Disable, None),
        Tls::Prefer => (PgSslMode::Prefer, None),
        Tls::Require => (PgSslMode::Require, None),
        Tls::VerifyFull { ca } => (PgSslMode::VerifyFull, ca.as_ref()),
    };
    let options = options.host(host).ssl_mode(mode);
    let options = match ca {
        Some(ca) => options.ssl_root_cert(ca),
        None => options.ssl_root_cert_from_pem(Vec::new()),
    };
    // At the server's end: what hangs at ours is found by the answer time-out.
    options.options([
        ("tcp_keepalives_idle", keepalive.idle.as_secs().max(1)),
        ("tcp_keepalives_interval", keepalive.interval.as_secs().max(1)),
        ("tcp_keepalives_count", u64::from(keepalive.count.max(1))),
    ])
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
