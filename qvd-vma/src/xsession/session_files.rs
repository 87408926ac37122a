//! The files that a session's programs read: written whole or not at all, for one reader.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::options::{flag, is_windows, printing_port, property, slave_port};
use crate::account::Account;

/// Writes a file with this mode, owned by this account, and only then gives it its name.
pub(super) fn write(path: &Path, content: &[u8], mode: u32, owner: Option<&Account>) -> io::Result<()> {
    let aside = aside(path);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(content)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(account) = owner.filter(|account| !account.is_own()) {
        nix::unistd::fchown(&file, Some(account.uid), Some(account.gid))?;
    }
    fs::rename(&aside, path)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a file"),
    }
}

/// Pairs of the printing settings file.
pub(super) fn printing_pairs(
    properties: &[(String, String)],
    enabled: bool,
    display: u16,
) -> Vec<(String, String)> {
    let wanted = enabled && flag(properties, "qvd.client.printing.enabled");
    let os = property(properties, "qvd.client.os").unwrap_or_default();
    let mut pairs = vec![
        ("qvd.printing.enabled".to_owned(), u8::from(wanted).to_string()),
        ("qvd.client.os".to_owned(), if is_windows(properties) { "windows" } else { os }.to_owned()),
        ("qvd.printing.port".to_owned(), printing_port(display).to_string()),
        ("qvd.slave.port".to_owned(), slave_port(display).to_string()),
    ];
    if let Some(flavor) = property(properties, "qvd.client.printing.flavor") {
        pairs.push(("qvd.client.printing.flavor".to_owned(), flavor.to_owned()));
    }
    pairs
}

/// Pairs as the text of a properties file.
pub(super) fn properties_text(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| qvd_core::config::properties::entry(name, value)).collect()
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_readable_by_its_owner_only_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slave.conf");
        write(&path, b"first", 0o400, None).unwrap();
        write(&path, b"second", 0o400, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        remove(&path);
        remove(&path);
        assert!(!path.exists());
    }

    #[test]
    fn printing_settings_follow_client_and_machine() {
        let asked = [
            ("qvd.client.os".to_owned(), "winnt".to_owned()),
            ("qvd.client.printing.enabled".to_owned(), "1".to_owned()),
        ];
        let text = |enabled| properties_text(&printing_pairs(&asked, enabled, 100));
        assert!(text(true).contains("qvd.printing.enabled") && text(true).contains("windows"));
        assert_eq!(printing_pairs(&asked, true, 100)[0].1, "1");
        assert_eq!(printing_pairs(&asked, false, 100)[0].1, "0");
        assert_eq!(printing_pairs(&asked, true, 100)[2].1, "2100");
    }
}
