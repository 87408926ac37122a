//! The commands that do by hand what the demonstration did.

use std::path::Path;

use anyhow::{Context as _, Result};
use qvd_system_tests::site::{Account, Site};

/// The lines to type; `kept` says whether the site goes on running.
pub(crate) fn commands(site: &Site, account: &Account, kept: bool) -> Result<Vec<String>> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let programs = own.parent().unwrap_or(Path::new("/"));
    let mut lines = vec![format!("export PATH={}:\"$PATH\"", quoted(programs))];
    lines.push(format!("export QVD_CONFIG={}", quoted(&site.config())));
    let mut port = format!(" -p {}", site.port());
    if !kept {
        let data = site.config().parent().map(quoted).unwrap_or_default();
        lines.push(format!("qvd standalone --data-dir {data} &   # its ready line names the port"));
        if site.port() == 8443 {
            port.clear();
        }
    }
    lines.push("qa vm list".to_owned());
    lines.push(format!(
        "qvdclient -h 127.0.0.1{port} -u {} --accept-certificate {}",
        account.login,
        site.fingerprint()
    ));
    Ok(lines)
}

/// A path as a shell reads it back.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(quoted(Path::new("/srv/qvd-1.0")), "/srv/qvd-1.0");
        assert_eq!(quoted(Path::new("/srv/it's mine")), "'/srv/it'\\''s mine'");
    }
}
