//! Configuration values and the router's certificate.

use qvd_core::config::{Scope, registry};
use qvd_db::SslMaterial;

use super::Admin;
use crate::certificate;
use crate::error::{Error, Result};
use crate::filter::matches_wildcards;

/// One configuration value in force.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, expanded.
    pub value: String,
    /// The value as it was written.
    pub raw: String,
    /// Where it comes from: `default`, `file:PATH:LINE`, `database`, …
    pub source: String,
    /// Whether it is to be shown only when asked for by name.
    pub secret: bool,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("source", &self.source).finish_non_exhaustive()
    }
}

/// What [`Admin::set_config`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSet {
    /// Keys of the certificate, which were left alone: they are set with [`Admin::set_ssl`].
    pub refused: Vec<String>,
    /// What the administrator should know: unknown keys, values without effect.
    pub warnings: Vec<String>,
}

impl Admin {
    /// The configuration in force here, by key: without `wanted` every known key that is not internal, else the keys
    /// that match one of these names (`*` and `?` allowed). Answers the names that match nothing, too.
    pub fn config_entries(&self, wanted: &[String]) -> (Vec<Entry>, Vec<String>) {
        let entries: Vec<_> = self
            .config
            .iter_effective()
            .map(|effective| Entry {
                key: effective.key.to_owned(),
                value: effective.value.to_owned(),
                raw: effective.raw.to_owned(),
                source: source(effective.source),
                secret: effective.secret,
            })
            .collect();
        let matching = |name: &str, key: &str| name == key || matches_wildcards(name, key);
        let missing = wanted.iter().filter(|name| !entries.iter().any(|entry| matching(name, &entry.key)));
        let missing = missing.cloned().collect();
        let chosen = |entry: &Entry| match wanted {
            [] => !entry.key.starts_with("internal."),
            names => names.iter().any(|name| matching(name, &entry.key)),
        };
        (entries.into_iter().filter(chosen).collect(), missing)
    }

    /// Stores values in the database, all or none, and announces the change.
    ///
    /// # Errors
    ///
    /// Nothing given; a value that its key does not take; with `strict` also a key that nobody knows.
    pub async fn set_config(&self, changes: &[(String, String)], strict: bool) -> Result<ConfigSet> {
        if changes.is_empty() {
            return Err(Error::Invalid { field: None, message: "nothing to set".to_owned() });
        }
        let (refused, changes): (Vec<_>, Vec<_>) =
            changes.iter().cloned().partition(|(key, _)| key.starts_with("l7r.ssl.") && !is_plain(key));
        let warnings = self.config.check_database(&changes).map_err(|problems| Error::Invalid {
            field: None,
            message: problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        let known = |key: &str| registry().get(key).is_some() || registry().retired(key).is_some();
        if let Some((key, _)) = changes.iter().find(|(key, _)| strict && !known(key)) {
            return Err(Error::NotFound(format!("unknown configuration key '{key}'")));
        }
        if !changes.is_empty() {
            self.db.config().set_all(&changes).await?;
        }
        Ok(ConfigSet { refused: refused.into_iter().map(|(key, _)| key).collect(), warnings })
    }

    /// Removes values from the database, all of them when no key is given, and announces the change. Answers how many
    /// there were.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn delete_config(&self, keys: &[String]) -> Result<u64> {
        Ok(match keys {
            [] => self.db.config().delete_all().await?,
            keys => self.db.config().delete(keys).await?,
        })
    }

    /// Stores the certificate of the routers, and announces the change. What is not given is removed. Answers what the
    /// administrator should know about it.
    ///
    /// # Errors
    ///
    /// A text that is no PEM; a key that is not the certificate's.
    pub async fn set_ssl(&self, material: SslMaterial) -> Result<Vec<String>> {
        let warnings = certificate::check(&material, &self.now())?;
        self.db.config().set_ssl(&material).await?;
        Ok(warnings)
    }
}

/// Keys below `l7r.ssl.` that are ordinary settings and not texts of certificates.
fn is_plain(key: &str) -> bool {
    registry().get(key).is_some_and(|spec| spec.scope != Scope::Db)
}

fn source(source: &qvd_core::config::Source) -> String {
    match source {
        qvd_core::config::Source::File { name, line } => format!("file:{name}:{line}"),
        other => other.to_string(),
    }
}
