//! The directory of a standalone site: who uses it, and the configuration file that it starts with.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use qvd_bin_common::Failure;
use qvd_core::ErrorKind;

/// The data directory of a site, held by this process alone.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    // The lock lives as long as this file is open.
    _lock: File,
}

impl DataDir {
    /// Makes the directory when it is not there, and takes it.
    ///
    /// # Errors
    ///
    /// When another process has it; the text names that process.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let failed = |what: &str| format!("cannot {what} the data directory '{}'", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| Failure::new(ErrorKind::Invalid, failed("make")).because(e))?;
        let path = path
            .canonicalize()
            .map_err(|e| Failure::new(ErrorKind::Invalid, failed("resolve")).because(e))?;
        let lock = take_lock(&path.join("standalone.lock"))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The site's configuration file, written on first use.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        let file = self.path.join("node.conf");
        if !file.exists() {
            let failed =
                |e| Failure::new(ErrorKind::Invalid, format!("cannot write '{}'", file.display())).because(e);
            let mut options = OpenOptions::new();
            let mut out = options.write(true).create_new(true).mode(0o600).open(&file).map_err(failed)?;
            out.write_all(first_config(&self.path, &host_name()).as_bytes()).map_err(failed)?;
        }
        for part in ["log", "run", "storage", "tmp"] {
            let dir = self.path.join(part);
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| {
                Failure::new(ErrorKind::Invalid, format!("cannot make '{}'", dir.display())).because(e)
            })?;
        }
        Ok(file)
    }
}

fn take_lock(file: &Path) -> Result<File, Failure> {
    let failed = |e| Failure::new(ErrorKind::Invalid, format!("cannot lock '{}'", file.display())).because(e);
    let mut options = OpenOptions::new();
    let mut lock =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(file).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let dir = file.parent().unwrap_or(file).display();
            let text = format!(
                "the data directory '{dir}' is in use by process {}; end that one first, or choose another",
                holder.trim()
            );
            return Err(Failure::new(ErrorKind::Conflict, text));
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    lock.set_len(0).and_then(|()| lock.rewind()).map_err(failed)?;
    write!(lock, "{}", std::process::id()).map_err(failed)?;
    Ok(lock)
}

/// What a new site is configured with.
fn first_config(dir: &Path, node: &str) -> String {
    // A backslash is an escape in this syntax; everything else of a path is not special.
    let dir = dir.display().to_string().replace('\\', "\\\\");
    format!(
        "# This site's configuration, made at its first start; change what you like and start it again.\n\
         nodename = {node}\n\
         database.driver = sqlite\n\
         database.path = {dir}/qvd.db\n\
         path.run = {dir}/run\n\
         path.log = {dir}/log\n\
         path.tmp = {dir}/tmp\n\
         path.storage.root = {dir}/storage\n\
         vm.hypervisor = process\n\
         vm.network.use_dhcp = 0\n\
         internal.vm.network.firewall.enable = 0\n"
    )
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    if name.is_empty() { "standalone".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::config::Config;

    #[test]
    fn the_first_configuration_has_no_mistake() {
        let text = first_config(Path::new("/srv/my desktops"), "node1");
        let config = Config::builder().file("node.conf", &text).build().unwrap();
        assert_eq!(config.text("database.path"), "/srv/my desktops/qvd.db");
        assert_eq!(config.text("path.storage.homefs"), "/srv/my desktops/storage/homefs");
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    }

    #[test]
    fn a_second_start_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::take(dir.path()).unwrap();
        let refused = DataDir::take(dir.path()).unwrap_err();
        assert!(
            refused.to_string().contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        DataDir::take(dir.path()).unwrap();
    }
}
