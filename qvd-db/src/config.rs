//! Configuration kept in the database, and the certificates of the router.

use qvd_core::{Secret, TenantId};

use crate::db::{Db, Tx, transaction};
use crate::error::Result;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// PEM texts of the router; none where nothing is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SslMaterial {
    /// Certificate, with what the client needs to build a chain.
    pub cert: Option<String>,
    /// Its private key.
    pub key: Option<Secret<String>>,
    /// Authorities of client certificates.
    pub ca: Option<String>,
    /// Certificates that were withdrawn.
    pub crl: Option<String>,
}

/// Configuration rows of a database.
#[derive(Clone, Copy, Debug)]
pub struct ConfigRows<'db> {
    db: &'db Db,
}

impl Db {
    /// Configuration.
    pub fn config(&self) -> ConfigRows<'_> {
        ConfigRows { db: self }
    }
}

impl ConfigRows<'_> {
    /// All keys of a tenant with their values, by key.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn load(self, tenant: TenantId) -> Result<Vec<(String, String)>> {
        const LOAD: Sql = sql!("load the configuration":
            "select key, value from configs where tenant_id = $1 order by key");
        let rows = self.db.read(&LOAD, params![tenant]).await?;
        rows.iter().map(|row| Ok((row.get("key")?, row.get("value")?))).collect()
    }

    /// Sets keys of the default tenant, all or none, and tells everybody once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) for a key or value that is too long.
    pub async fn set_all(self, pairs: &[(String, String)]) -> Result<()> {
        const SET: Sql = sql!("set configuration keys":
            "insert into configs (tenant_id, key, value) values ($1, $2, $3)
             on conflict (tenant_id, key) do update set value = excluded.value, updated_at = " NOW);
        let written = transaction!(self.db, |tx| {
            for (key, value) in pairs {
                tx.rows(&SET, params![TenantId::DEFAULT, key, value]).await?;
            }
            tx.notify(Channel::ConfigChanged, String::new());
            Ok(())
        });
        written.map_err(|e| {
            e.or_invalid("a configuration key has 1 to 255 characters and its value at most 32768")
        })
    }

    /// Deletes keys of the default tenant and tells how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn delete(self, keys: &[String]) -> Result<u64> {
        const DELETE: Sql = sql!("delete configuration keys":
            "delete from configs where tenant_id = $1 and key = $2 returning key");
        transaction!(self.db, |tx| {
            let mut deleted = 0;
            for key in keys {
                deleted += tx.rows(&DELETE, params![TenantId::DEFAULT, key]).await?.len() as u64;
            }
            tx.notify(Channel::ConfigChanged, String::new());
            Ok(deleted)
        })
    }

    /// Deletes all keys of the default tenant and tells how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn delete_all(self) -> Result<u64> {
        const DELETE: Sql = sql!("delete all configuration keys":
            "delete from configs where tenant_id = $1 returning key");
        transaction!(self.db, |tx| {
            let deleted = tx.rows(&DELETE, params![TenantId::DEFAULT]).await?.len() as u64;
            tx.notify(Channel::ConfigChanged, String::new());
            Ok(deleted)
        })
    }

    /// The certificates of the router.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn ssl(self) -> Result<SslMaterial> {
        material(self.db.read(&LOAD_SSL, params![]).await?)
    }

    /// Stores these certificates, unless there is one already: what an administrator stored, or another router made at
    /// the same moment, stays. Yields what is stored then.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn set_ssl_if_absent(self, made: &SslMaterial) -> Result<SslMaterial> {
        // Whoever inserts the first of the two decides; the other writer waits for it and then finds a row.
        const FIRST: Sql = sql!("store the first certificate":
            "insert into ssl_configs (key, value)
             select $1, $2 where not exists (select 1 from ssl_configs where key in ('l7r.ssl.cert', 'l7r.ssl.key'))
             on conflict (key) do nothing returning key");
        transaction!(self.db, |tx| {
            let first = match &made.cert {
                Some(cert) => tx.row(&FIRST, params![CERT, cert]).await?.is_some(),
                None => false,
            };
            if first {
                write_ssl(tx, made).await?;
            }
            material(tx.rows(&LOAD_SSL, params![]).await?)
        })
    }

    /// Replaces the certificates of the router (what is none is deleted) and tells everybody.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn set_ssl(self, material: &SslMaterial) -> Result<()> {
        transaction!(self.db, |tx| { write_ssl(tx, material).await })
    }
}

const LOAD_SSL: Sql = sql!("load the certificates": "select key, value from ssl_configs");

fn material(rows: Vec<Row>) -> Result<SslMaterial> {
    let mut material = SslMaterial::default();
    for row in rows {
        let value: String = row.get("value")?;
        match row.get::<String>("key")?.as_str() {
            CERT => material.cert = Some(value),
            KEY => material.key = Some(Secret::new(value)),
            CA => material.ca = Some(value),
            CRL => material.crl = Some(value),
            // Another version's; not ours to judge.
            _ => {}
        }
    }
    Ok(material)
}

async fn write_ssl(tx: &mut Tx, material: &SslMaterial) -> Result<()> {
    const SET: Sql = sql!("store a certificate":
        "insert into ssl_configs (key, value) values ($1, $2)
         on conflict (key) do update set value = excluded.value, updated_at = " NOW);
    const DELETE: Sql = sql!("delete a certificate": "delete from ssl_configs where key = $1");
    let texts = [
        (CERT, material.cert.as_ref()),
        (KEY, material.key.as_ref().map(Secret::expose)),
        (CA, material.ca.as_ref()),
        (CRL, material.crl.as_ref()),
    ];
    for (key, text) in texts {
        match text {
            Some(text) => tx.rows(&SET, params![key, text]).await?,
            None => tx.rows(&DELETE, params![key]).await?,
        };
    }
    tx.notify(Channel::ConfigChanged, String::new());
    Ok(())
}

const CERT: &str = "l7r.ssl.cert";
const KEY: &str = "l7r.ssl.key";
const CA: &str = "l7r.ssl.ca";
const CRL: &str = "l7r.ssl.crl";
