//! What the figures were measured on.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::peers::{Peer, find};

/// Lines on the machine, the build and the peers' versions, as Markdown.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Router and generator are built by one cargo call; the directory has the profile's name.
    let own = std::env::current_exe().ok();
    let profile = own.as_deref().and_then(|path| path.parent()?.file_name()).unwrap_or_default();
    let slow = if cfg!(debug_assertions) { " (not optimised: figures mean nothing)" } else { "" };
    let mut lines = vec![
        format!("machine: {model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("load before: {}", load()),
        format!("build: profile {}{slow}", profile.display()),
        "TLS: generator and ours: rustls with aws-lc-rs".to_owned(),
    ];
    for (program, arg, library) in
        [("haproxy", "-vv", "Running on OpenSSL version"), ("nginx", "-V", "built with")]
    {
        let Some(output) = find(program).and_then(|file| Command::new(file).arg(arg).output().ok()) else {
            lines.push(format!("peer: {program} is not installed: left out"));
            continue;
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let library = text.lines().find_map(|line| line.split_once(library)).map_or("", |(_, name)| name);
        let version = text.lines().next().unwrap_or_default();
        lines.push(format!("peer: {version}; TLS: {}", library.trim_start_matches([':', ' '])));
    }
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// A line for each party on what TLS agreed upon with it.
///
/// # Errors
///
/// When one of them shakes no hands.
pub async fn describe_encryption(peers: &[Peer]) -> Result<String> {
    let mut text = String::new();
    for peer in peers {
        if let Some(agreed) = peer.encryption().await? {
            text += &format!("- {}: {agreed}\n", peer.name);
        }
    }
    Ok(text)
}

/// The machine's load.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// Takes all descriptors that this process may have; with fewer the larger figures fail with a clear error of their own.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
