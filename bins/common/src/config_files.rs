//! Which configuration files are read, in which order.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use qvd_core::ErrorKind;
use qvd_core::config::Config;

use crate::exit::Failure;

/// The files of one program, in reading order: a later file wins over an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    files: Vec<PathBuf>,
    required: Vec<PathBuf>,
}

impl ConfigFiles {
    /// The files of a server node: `/etc/qvd/qvd.conf`, `/etc/qvd/node.conf` and `/etc/qvd/node.conf.d/*.conf` in
    /// byte order. `chosen` (option `-f`) or else `QVD_CONFIG` replaces node.conf and its directory, and must exist.
    pub fn node(chosen: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        Self::under(Path::new("/etc/qvd"), chosen, env)
    }

    /// As [`ConfigFiles::node`], with another directory in the place of `/etc/qvd`.
    pub fn under(etc: &Path, chosen: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        if let Some(file) = chosen {
            return Self::default().optional(etc.join("qvd.conf")).required(file);
        }
        if let Some(file) = env("QVD_CONFIG").filter(|text| !text.is_empty()) {
            return Self::default().required(file);
        }
        let mut files = Self::default().optional(etc.join("qvd.conf")).optional(etc.join("node.conf"));
        for part in sorted_parts(&etc.join("node.conf.d")) {
            files = files.optional(part);
        }
        files
    }

    /// Adds a file that is skipped when it does not exist.
    #[must_use]
    pub fn optional(mut self, file: impl Into<PathBuf>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Adds a file that must exist.
    #[must_use]
    pub fn required(mut self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.required.push(file.clone());
        self.files.push(file);
        self
    }

    /// The files, in reading order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.files
    }

    fn read(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut texts = Vec::new();
        for file in &self.files {
            match fs::read_to_string(file) {
                Ok(text) => texts.push((file.display().to_string(), text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && !self.required.contains(file) => {}
                Err(e) => {
                    return Err(Failure::new(
                        ErrorKind::Invalid,
                        format!("cannot read the configuration file '{}'", file.display()),
                    )
                    .because(e));
                }
            }
        }
        Ok(texts)
    }

    /// Files that others can read although they contain the database's password.
    fn exposed(&self, texts: &[(String, String)]) -> Vec<String> {
        let holds_password = |text: &str| {
            text.lines().any(|line| {
                line.trim_start()
                    .strip_prefix("database.password")
                    .is_some_and(|rest| !rest.trim().is_empty())
            })
        };
        let open = |name: &str| fs::metadata(name).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
        let exposed = texts.iter().filter(|(name, text)| holds_password(text) && open(name));
        exposed.map(|(name, _)| name.clone()).collect()
    }
}

/// Reads the files, then `QVD_SET` from the environment, then `overrides` (the command line), and checks everything.
/// Warnings go to standard error, because the log is not open yet.
///
/// # Errors
///
/// A file that is present but unreadable, a required file that is absent, or the list of all bad settings.
pub fn load_config(
    files: &ConfigFiles,
    env: &dyn Fn(&str) -> Option<String>,
    overrides: &[(String, String)],
) -> Result<Config, Failure> {
    let texts = files.read()?;
    let invalid = |e| Failure::new(ErrorKind::Invalid, "cannot use the configuration".to_owned()).because(e);
    let mut builder = Config::builder();
    for (name, text) in &texts {
        builder = builder.file(name, text);
    }
    if let Some(settings) = env("QVD_SET") {
        builder = builder.environment(&settings);
    }
    for (key, value) in overrides {
        builder = builder.set(key, value);
    }
    let config = builder.build().map_err(invalid)?;
    for warning in config.warnings() {
        eprintln!("Warning: {warning}");
    }
    for name in files.exposed(&texts) {
        eprintln!("Warning: {name} holds database.password and can be read by everybody; chmod 0640 it");
    }
    Ok(config)
}

fn sorted_parts(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut parts: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "conf"))
        .collect();
    parts.sort();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_env(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_chosen_file_replaces_the_node_files_and_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("node.conf.d")).unwrap();
        for name in ["20-b.conf", "10-a.conf", "note.txt"] {
            fs::write(dir.path().join("node.conf.d").join(name), "").unwrap();
        }
        let usual = ConfigFiles::under(dir.path(), None, &no_env);
        let names: Vec<_> =
            usual.paths().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["qvd.conf", "node.conf", "10-a.conf", "20-b.conf"]);

        let chosen = ConfigFiles::under(dir.path(), Some(Path::new("/nonexistent/x.conf")), &no_env);
        assert_eq!(chosen.paths().len(), 2);
        let failure = load_config(&chosen, &no_env, &[]).unwrap_err();
        assert!(failure.to_string().contains("/nonexistent/x.conf"), "{failure}");

        let named = ConfigFiles::under(dir.path(), None, &|key| {
            (key == "QVD_CONFIG").then(|| "/elsewhere/node.conf".to_owned())
        });
        assert_eq!(named.paths(), [PathBuf::from("/elsewhere/node.conf")]);
    }

    #[test]
    fn later_layers_win_over_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.conf"), "nodename = a\nlog.level = WARN\nl7r.port = 1\n").unwrap();
        let files = ConfigFiles::under(dir.path(), None, &no_env);
        let env = |key: &str| (key == "QVD_SET").then(|| "nodename=b;log.level=ERROR".to_owned());
        let config = load_config(&files, &env, &[("nodename".to_owned(), "c".to_owned())]).unwrap();
        assert_eq!(config.text("nodename"), "c");
        assert_eq!(config.text("log.level"), "ERROR");
        assert_eq!(config.port("l7r.port"), 1);
    }

    #[test]
    fn every_bad_value_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.conf"), "l7r.port = 84x3\ninternal.hkd.max_heavy = many\n").unwrap();
        let failure = load_config(&ConfigFiles::under(dir.path(), None, &no_env), &no_env, &[])
            .unwrap_err()
            .to_string();
        let text = qvd_core::error::chain(
            &load_config(&ConfigFiles::under(dir.path(), None, &no_env), &no_env, &[]).unwrap_err(),
        )
        .to_string();
        assert!(text.contains("l7r.port") && text.contains("internal.hkd.max_heavy"), "{failure}: {text}");
    }

    #[test]
    fn a_readable_password_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.conf");
        fs::write(&file, "database.password = x\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let files = ConfigFiles::default().required(&file);
        let texts = files.read().unwrap();
        assert_eq!(files.exposed(&texts).len(), 1);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(files.exposed(&texts).is_empty());
    }
}
