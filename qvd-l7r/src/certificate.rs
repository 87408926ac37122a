//! Where the certificate comes from: the database, or made here and stored there.

use std::net::IpAddr;

use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_db::{Db, SslMaterial};

use crate::error::{Error, Result};
use crate::tls::{Material, Tls, self_signed};

/// The stored certificate; when there is none, one is made and stored, so that it stays the same for all nodes and
/// over every restart.
pub(crate) async fn load_or_make(db: &Db, node: &str, config: &Config) -> Result<Tls> {
    if let Some(material) = load(db).await? {
        return Tls::new(&material, config);
    }
    let address: Option<IpAddr> = match db.hosts().by_name(node).await {
        Ok(host) => host.and_then(|h| h.address.parse().ok()),
        Err(_) => None,
    };
    let made = self_signed(node, address)?;
    let stored = SslMaterial {
        cert: Some(made.certificate.clone()),
        key: Some(made.key.clone()),
        ..SslMaterial::default()
    };
    // Another router may do the same at this moment, or an administrator store a better one; what is stored is what
    // everybody uses.
    let stored = db
        .config()
        .set_ssl_if_absent(&stored)
        .await
        .map_err(|source| Error::Database { operation: "store the certificate that was made", source })?;
    let is_ours = stored.cert.as_ref() == Some(&made.certificate);
    let tls = Tls::new(&complete(stored)?.unwrap_or(made), config)?;
    if is_ours {
        tracing::info!(fingerprint = %tls.fingerprint(), "made a self-signed certificate");
    }
    Ok(tls)
}

/// Greets later connections with the stored certificate; one that cannot be used leaves the previous one in place.
pub(crate) async fn follow(db: &Db, tls: &Tls, config: &Config) {
    let replaced = match load(db).await {
        Ok(Some(material)) => tls.replace(&material, config),
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match replaced {
        Ok(true) => tracing::info!(fingerprint = %tls.fingerprint(), "certificate changed"),
        Ok(false) => {}
        Err(error) => tracing::error!("the previous certificate stays: {}", chain(&error)),
    }
}

async fn load(db: &Db) -> Result<Option<Material>> {
    let stored = db
        .config()
        .ssl()
        .await
        .map_err(|source| Error::Database { operation: "load the certificate", source })?;
    complete(stored)
}

/// None when nothing is stored.
fn complete(stored: SslMaterial) -> Result<Option<Material>> {
    match (stored.cert, stored.key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(Material { certificate, key, ca: stored.ca, crl: stored.crl }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::Certificate { problem: "l7r.ssl.key is missing".to_owned() }),
        (None, Some(_)) => Err(Error::Certificate { problem: "l7r.ssl.cert is missing".to_owned() }),
    }
}
