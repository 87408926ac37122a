//! Where the certificate comes from: files that the configuration names, the database, or made here and stored there.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use qvd_core::Secret;
use qvd_core::config::{Config, Source};
use qvd_core::error::chain;
use qvd_db::{Db, SslMaterial};

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::tls::{DAY, Material, Replaced, Tls, self_signed};

/// The certificate of the files or the database; when there is none, one is made and stored, so that it stays the same
/// for all nodes and over every restart.
pub(crate) async fn load_or_make(db: &Db, node: &str, config: &Config) -> Result<Tls> {
    if let Some(material) = load(db, config).await? {
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

/// Greets later connections with what is there now; one that cannot be used leaves the previous one in place.
pub(crate) async fn follow(db: &Db, tls: &Tls, config: &Config, metrics: &Metrics) {
    let replaced = match load(db, config).await {
        Ok(Some(material)) => tls.replace(&material, config),
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match replaced {
        Ok(Replaced::Nothing) => return,
        Ok(Replaced::Certificate) => tracing::info!(fingerprint = %tls.fingerprint(), "certificate changed"),
        Ok(Replaced::Rest) => tracing::info!("certificates or what is spoken changed"),
        Err(error) => return tracing::error!("the previous certificate stays: {}", chain(&error)),
    }
    tell_of_ends(tls, config, metrics);
}

/// Says once a day what ends soon; never ends by itself.
pub(crate) async fn watch(tls: &Tls, config: impl Fn() -> Config, metrics: &Metrics) {
    loop {
        tell_of_ends(tls, &config(), metrics);
        tokio::time::sleep(DAY).await;
    }
}

fn tell_of_ends(tls: &Tls, config: &Config, metrics: &Metrics) {
    let (now, notice) = (SystemTime::now(), config.seconds("l7r.certificate.notice"));
    let lifetimes = tls.lifetimes();
    for lifetime in &*lifetimes {
        lifetime.tell(now, notice);
    }
    let first = lifetimes.iter().map(|lifetime| lifetime.end()).min();
    metrics.certificate_end_seconds.set(first.unwrap_or(0));
}

async fn load(db: &Db, config: &Config) -> Result<Option<Material>> {
    if let Some(material) = of_files(config)? {
        return Ok(Some(material));
    }
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

/// Those that the configuration names. The default paths are where other versions wrote what the database holds; only
/// what somebody set himself is read.
fn of_files(config: &Config) -> Result<Option<Material>> {
    let is_set = |key: &str| config.has(key) && !matches!(config.source(key), None | Some(Source::Default));
    match (is_set(CERT), is_set(KEY)) {
        (false, false) => return Ok(None),
        (true, true) => {}
        (true, false) | (false, true) => {
            let (key, other) = if is_set(CERT) { (CERT, KEY) } else { (KEY, CERT) };
            return Err(Error::Setting { key, problem: format!("is used only together with {other}") });
        }
    }
    let optional = |key| is_set(key).then(|| read(config, key, Readers::Anybody)).transpose();
    Ok(Some(Material {
        certificate: read(config, CERT, Readers::Anybody)?,
        key: Secret::new(read(config, KEY, Readers::OwnerAndGroup)?),
        ca: optional(CA)?,
        crl: optional(CRL)?,
    }))
}

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    Anybody,
    OwnerAndGroup,
}

fn read(config: &Config, key: &'static str, readers: Readers) -> Result<String> {
    let path = config.path(key);
    read_file(&path, readers).map_err(|problem| Error::Setting { key, problem })
}

fn read_file(path: &Path, readers: Readers) -> Result<String, String> {
    let failed = |e: std::io::Error| {
        format!("cannot read '{}': {e} (the router reads it as the account of l7r.as_user)", path.display())
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if readers == Readers::OwnerAndGroup && mode & 0o007 != 0 {
        let path = path.display();
        return Err(format!(
            "'{path}' holds a private key and is open to everybody (mode {mode:04o}); say 'chmod o= {path}'"
        ));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

const CERT: &str = "path.l7r.ssl.cert";
const KEY: &str = "path.l7r.ssl.key";
const CA: &str = "path.l7r.ssl.ca";
const CRL: &str = "path.l7r.ssl.crl";

/// Most bytes of a file; lists of revoked certificates can be long.
const MOST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    #[test]
    fn files_are_read_when_both_are_named_and_the_key_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = self_signed("node1", None).unwrap();
        write(&cert, &made.certificate).unwrap();
        write(&key, made.key.expose()).unwrap();
        let config = |keys: &[(&'static str, &Path)]| {
            let builder = Config::builder();
            let set = keys.iter().fold(builder, |b, (key, path)| b.set(*key, path.display().to_string()));
            set.build().unwrap()
        };
        let both = config(&[(CERT, &cert), (KEY, &key)]);

        assert_eq!(of_files(&Config::defaults()).unwrap(), None, "the default paths are not looked at");
        let error = of_files(&config(&[(CERT, &cert)])).unwrap_err().to_string();
        assert!(error.contains(KEY) && error.contains(CERT), "{error}");
        for (mode, refused) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            match of_files(&both) {
                Ok(material) => assert!(!refused && material.as_ref() == Some(&made), "{mode:o}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(refused && error.contains("chmod o="), "{mode:o}: {error}");
                }
            }
        }
        std::fs::remove_file(&cert).unwrap();
        let error = of_files(&both).unwrap_err().to_string();
        assert!(error.contains(&cert.display().to_string()), "{error}");
    }
}
