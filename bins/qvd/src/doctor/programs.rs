//! Programs that QVD runs: are they there, and which version.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use qvd_core::config::Config;
use tokio::process::Command;

use super::finding::{Finding, failed, fine};

/// What is looked for: what it is, the key of its command, the package that brings it, the argument that makes it
/// tell its version, whether nothing works without it.
const PROGRAMS: &[(&str, &str, &str, Option<&str>, bool)] = &[
    ("nxagent", "command.nxagent", "nxagent", Some("-version"), true),
    ("nxproxy", "command.nxproxy", "nxproxy", Some("-v"), true),
    (
        "desktop session",
        "command.x-session",
        "x11-common, and a desktop such as xfce4-session or icewm",
        None,
        false,
    ),
    ("xkbcomp", "", "x11-xkb-utils", Some("-version"), false),
];

/// Looks for all of them.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, key, package, version, required) in PROGRAMS {
        let program = if key.is_empty() {
            (*what).to_owned()
        } else {
            config.command(key).into_iter().next().unwrap_or_default()
        };
        let finding = match find(&program) {
            Some(path) => {
                let version = match version {
                    Some(argument) => version_of(&path, argument).await,
                    None => None,
                };
                Finding { version, ..fine(what, path.display().to_string()) }
            }
            None => failed(
                what,
                &format!("'{program}' is not there"),
                &format!("apt-get install {package}{}", or_key(key)),
            ),
        };
        findings.push(if *required { finding } else { finding.optional() });
    }
    findings
}

fn or_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("; or set {key} to where it is") }
}

/// Where a program is: as written when it has a slash, else by `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.is_empty() {
        return None;
    }
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(executable);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(executable)
}

/// The first line with a digit that the program prints when asked for its version.
async fn version_of(program: &PathBuf, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(5), output).await.ok()?.ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
    Some(line.trim().chars().take(60).collect())
}
