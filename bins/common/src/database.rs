//! The database that the configuration names.

use qvd_core::config::Config;
use qvd_core::{ErrorKind, Secret, TenantId};
use qvd_db::{Backend, Db, Keepalive, Tls};

use crate::exit::Failure;

/// The database that `database.*` names: `database.driver` is `postgresql` or `sqlite` (with `database.path`).
///
/// # Errors
///
/// When a value that this driver needs is not set.
pub fn backend(config: &Config) -> Result<Backend, Failure> {
    let missing = |key: &str| {
        Failure::new(
            ErrorKind::Invalid,
            format!("configuration key '{key}' is not set; write it into the configuration file"),
        )
    };
    let set = |key: &str| config.get(key).filter(|text| !text.is_empty());
    let count = |key: &str| u32::try_from(config.integer(key)).unwrap_or_default();
    match config.text("database.driver").as_str() {
        "sqlite" => {
            set("database.path").ok_or_else(|| missing("database.path"))?;
            Ok(Backend::Sqlite { path: config.path("database.path") })
        }
        _ => {
            let password = set("database.password").ok_or_else(|| missing("database.password"))?;
            Ok(Backend::Postgres {
                host: config.text("database.host"),
                port: config.port("database.port"),
                name: config.text("database.name"),
                user: config.text("database.user"),
                password: Secret::new(password),
                tls: match config.text("database.tls").as_str() {
                    "disable" => Tls::Disable,
                    "require" => Tls::Require,
                    "verify-full" => {
                        Tls::VerifyFull { ca: set("database.tls.ca").map(|_| config.path("database.tls.ca")) }
                    }
                    _ => Tls::Prefer,
                },
                pool_size: count("internal.database.pool.size").max(2),
                connect_timeout: config.seconds("internal.database.client.connect.timeout"),
                answer_timeout: config.seconds("internal.database.client.answer.timeout"),
                keepalive: Keepalive {
                    idle: config.seconds("internal.database.client.socket.keepidle"),
                    interval: config.seconds("internal.database.client.socket.keepintvl"),
                    count: count("internal.database.client.socket.keepcnt"),
                },
            })
        }
    }
}

/// Opens the database of the configuration, once.
///
/// # Errors
///
/// See [`backend`]; else the database's own answer, whose kind says whether trying again may help.
pub async fn open_db(config: &Config) -> Result<Db, Failure> {
    let backend = backend(config)?;
    Db::open(&backend)
        .await
        .map_err(|e| Failure::new(e.kind(), "cannot open the database".to_owned()).because(e))
}

/// Lays the database's settings over the files'. Bad values keep what the files say and are logged.
///
/// # Errors
///
/// When the settings cannot be read.
pub async fn add_database_config(config: &Config, db: &Db) -> Result<Config, Failure> {
    let rows = db.config().load(TenantId::DEFAULT).await.map_err(|e| {
        Failure::new(e.kind(), "cannot read the configuration of the database".to_owned()).because(e)
    })?;
    let (config, problems) = config.with_database(rows);
    for problem in problems {
        tracing::error!(%problem, "database configuration: the previous value stays");
    }
    Ok(config)
}
