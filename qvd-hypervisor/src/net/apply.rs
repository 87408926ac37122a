//! Runs `ip`: the host's end of a machine's network, and the machine's.

use std::io;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::plan::MachineNetwork;

/// Gives the machine whose first process is `init` its end of the network.
///
/// # Errors
///
/// What `ip` says; `AlreadyExists` when another installation has an interface of that name.
pub fn connect(network: &MachineNetwork, init: i32) -> io::Result<()> {
    make_room(network)?;
    network.on_the_host(init).iter().try_for_each(|words| ip(words).map(drop))
}

/// Sets up the machine's end; the caller is inside.
///
/// # Errors
///
/// What `ip` says.
pub fn set_up_inside(network: &MachineNetwork) -> io::Result<()> {
    network.inside().iter().try_for_each(|words| ip(words).map(drop))
}

/// Names of the host's interfaces that were made by `owner`.
///
/// # Errors
///
/// What `ip` says.
pub fn devices_of(owner: &str) -> io::Result<Vec<String>> {
    Ok(links(&[])?.into_iter().filter(|link| link.ifalias == owner).map(|link| link.ifname).collect())
}

/// Removes the host's end of a machine's network, if it is there and was made by `owner`; the other end goes with it.
///
/// # Errors
///
/// What `ip` says.
pub fn remove(device: &str, owner: &str) -> io::Result<()> {
    if !devices_of(owner)?.iter().any(|found| found == device) {
        return Ok(());
    }
    let removed = ip(&["link", "delete", "dev", device]);
    // The kernel removes it as well, when its machine's namespace is gone.
    if removed.is_err() && !devices_of(owner)?.iter().any(|found| found == device) {
        Ok(())
    } else {
        removed.map(drop)
    }
}

/// Whether there is a bridge of that name.
///
/// # Errors
///
/// What `ip` says.
pub fn bridge_exists(name: &str) -> io::Result<bool> {
    Ok(links(&["type", "bridge"])?.iter().any(|link| link.ifname == name))
}

/// The interface of the last run may still be there: the kernel takes its time to empty a namespace.
fn make_room(network: &MachineNetwork) -> io::Result<()> {
    match links(&[])?.into_iter().find(|link| link.ifname == network.device) {
        None => Ok(()),
        Some(old) if old.ifalias == network.owner => remove(&network.device, &network.owner),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "there is an interface '{}' that is not ours: set internal.vm.network.device.prefix",
                network.device
            ),
        )),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    ifname: String,
    ifalias: String,
}

fn links(filter: &[&str]) -> io::Result<Vec<Link>> {
    let words: Vec<&str> = ["-j", "link", "show"].iter().chain(filter).copied().collect();
    let text = ip(&words)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("ip -j link show: {error}")))
}

fn ip<W: AsRef<str>>(words: &[W]) -> io::Result<Vec<u8>> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let named = |problem: String| format!("ip {}: {problem}", words.join(" "));
    let output = Command::new("ip").args(&words).stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(error.kind(), named(format!("{error} (apt-get install iproute2)")))
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(named(said.trim().to_owned())))
}
