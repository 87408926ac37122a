//! Certificates that were accepted: `accepted_certs.json`, shared with the original clients.
//!
//! An object; key `sha256$FINGERPRINT`, value `algo`, `fingerprint`, `description` (fields of the subject) and `errors`
//! (numbers that were accepted). This project adds `hosts` (servers that showed it), so that a change can be told from a
//! first visit; entries without it count for every server. A certificate that needed no acceptance has no `errors`.
//! Unknown members are kept.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Fingerprint, Report};
use crate::error::{Error, Result};

/// Accepted certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustStore {
    entries: Map<String, Value>,
}

impl TrustStore {
    /// Reads the text of a store.
    ///
    /// # Errors
    ///
    /// When it is not a JSON object.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { entries: serde_json::from_str(text)? })
    }

    /// The text of the store.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.entries.clone()))
    }

    /// Reads a file; an absent one is an empty store.
    ///
    /// # Errors
    ///
    /// [`Error::TrustStore`] when it is there and cannot be read or understood: forgetting would turn a changed
    /// certificate into an unknown one.
    pub fn load(path: &Path) -> Result<Self> {
        let failed = |source| store_error("read", path, source);
        match fs::read_to_string(path) {
            Ok(text) => Self::from_json(&text).map_err(|e| failed(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Remembers a report in a file: what other clients wrote meanwhile stays.
    ///
    /// # Errors
    ///
    /// [`Error::TrustStore`].
    pub fn remember_in(path: &Path, report: &Report) -> Result<()> {
        let mut store = Self::load(path)?;
        store.remember(report);
        store.save(path).map_err(|source| store_error("save", path, source))
    }

    /// Whether every problem of the report was accepted for that certificate, and for that server.
    pub fn has_accepted(&self, report: &Report) -> bool {
        let own = self.entry(report.fingerprint());
        let for_server = own.is_some_and(|entry| match hosts(entry) {
            Some(hosts) => hosts.contains(&report.server.as_str()),
            None => true,
        });
        for_server
            && report.problems.iter().all(|problem| {
                let Some(certificate) = report.chain.get(problem.depth) else { return false };
                self.entry(certificate.fingerprint).is_some_and(|entry| {
                    let number = u64::from(problem.flaw.number());
                    let errors = entry.get("errors").and_then(Value::as_array);
                    errors.is_some_and(|errors| errors.iter().any(|e| e.as_u64() == Some(number)))
                })
            })
    }

    /// Whether this certificate is the last that was remembered for its server.
    pub fn knows(&self, report: &Report) -> bool {
        self.remembered_for(&report.server) == Some(report.fingerprint())
    }

    /// Fingerprint that was last remembered for a server.
    pub fn remembered_for(&self, server: &str) -> Option<Fingerprint> {
        let entry = self.entries.values().find(|entry| hosts(entry).is_some_and(|h| h.contains(&server)))?;
        entry.get("fingerprint")?.as_str()?.parse().ok()
    }

    /// Accepts what a report says, for its server; forgets what that server showed before. Of the certificates behind
    /// the server's own, those with flaws are kept.
    pub fn remember(&mut self, report: &Report) {
        self.forget(&report.server);
        for (depth, certificate) in report.chain.iter().enumerate() {
            if depth > 0 && report.problems.iter().all(|p| p.depth != depth) {
                continue;
            }
            let key = key(certificate.fingerprint);
            let entry = self.entries.entry(key).or_insert_with(|| {
                json!({
                    "algo": "sha256",
                    "fingerprint": certificate.fingerprint.to_string(),
                    "description": certificate.fields,
                    "errors": [],
                })
            });
            let found = report.problems.iter().filter(|p| p.depth == depth).map(|p| p.flaw.number());
            add_all(entry, "errors", found.map(Value::from));
            if depth == 0 {
                add_all(entry, "hosts", [Value::from(report.server.as_str())]);
            }
        }
    }

    /// Takes a server out of every entry; an entry that was only for it goes.
    fn forget(&mut self, server: &str) {
        self.entries.retain(|_, entry| {
            let Some(hosts) = entry.get_mut("hosts").and_then(Value::as_array_mut) else { return true };
            let before = hosts.len();
            hosts.retain(|host| host.as_str() != Some(server));
            hosts.len() == before || !hosts.is_empty()
        });
    }

    fn entry(&self, fingerprint: Fingerprint) -> Option<&Value> {
        self.entries.get(&key(fingerprint))
    }

    /// Writes beside the file and renames, readable by its owner alone.
    fn save(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(self.to_json().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

fn key(fingerprint: Fingerprint) -> String {
    format!("sha256${fingerprint}")
}

fn hosts(entry: &Value) -> Option<Vec<&str>> {
    Some(entry.get("hosts")?.as_array()?.iter().filter_map(Value::as_str).collect())
}

/// Adds values to an array member that does not hold them yet.
fn add_all(entry: &mut Value, member: &str, values: impl IntoIterator<Item = Value>) {
    let Some(object) = entry.as_object_mut() else { return };
    let array = object.entry(member).or_insert_with(|| json!([]));
    if !array.is_array() {
        *array = json!([]);
    }
    let Some(array) = array.as_array_mut() else { return };
    for value in values {
        if !array.contains(&value) {
            array.push(value);
        }
    }
}

fn store_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::TrustStore { operation, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::trust::Flaw;
    use crate::trust::tests::report;

    #[test]
    fn the_file_of_an_original_client_is_understood_and_kept() {
        let known = report("a:1", 1, &[Flaw::SelfSigned, Flaw::WrongHost(Vec::new())]);
        let text = format!(
            r#"{{"sha256${0}":{{"algo":"sha256","fingerprint":"{0}","description":{{"cn":"x"}},"errors":[18,1001],"note":1}}}}"#,
            known.fingerprint()
        );
        let mut store = TrustStore::from_json(&text).unwrap();
        assert!(store.has_accepted(&known));
        assert!(!store.has_accepted(&report("a:1", 1, &[Flaw::Expired])));
        assert_eq!(store.remembered_for("a:1"), None);
        store.remember(&report("b:2", 2, &[Flaw::SelfSigned]));
        let again = TrustStore::from_json(&store.to_json()).unwrap();
        assert!(again.has_accepted(&known) && again.to_json().contains("\"note\": 1"));
    }

    #[test]
    fn a_replaced_certificate_is_forgotten() {
        let (old, new) = (report("a:1", 1, &[Flaw::SelfSigned]), report("a:1", 2, &[Flaw::SelfSigned]));
        let mut store = TrustStore::default();
        store.remember(&old);
        store.remember(&report("b:1", 1, &[Flaw::SelfSigned]));
        store.remember(&new);
        assert!(store.has_accepted(&new) && !store.has_accepted(&old));
        assert_eq!(store.remembered_for("a:1"), Some(new.fingerprint()));
        assert_eq!(store.remembered_for("b:1"), Some(old.fingerprint()), "the other server keeps it");
    }

    #[test]
    fn files_are_private_absent_is_empty_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("accepted_certs.json");
        assert_eq!(TrustStore::load(&path).unwrap(), TrustStore::default());
        let accepted = report("a:1", 1, &[Flaw::SelfSigned]);
        TrustStore::remember_in(&path, &accepted).unwrap();
        assert!(TrustStore::load(&path).unwrap().has_accepted(&accepted));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::write(&path, "[1").unwrap();
        let text = TrustStore::load(&path).unwrap_err().to_string();
        assert!(text.contains("accepted_certs.json"), "{text}");
    }
}
