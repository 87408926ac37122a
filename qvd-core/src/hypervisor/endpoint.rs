//! Where a running virtual machine is reached, and how the database spells that.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the agent and the desktop of a running virtual machine are reached.
///
/// The text form is what the database keeps as `vm_address`: an IP address, or `unix:DIR` for a
/// directory that holds the sockets [`VMA_SOCKET`] and [`X_SOCKET`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Own network.
    Ip {
        /// Address.
        address: IpAddr,
        /// TCP port of the agent.
        vma_port: u16,
        /// TCP port of the desktop.
        x_port: u16,
    },
    /// Unix sockets in a private directory that the machine itself cannot change.
    Unix {
        /// The directory.
        dir: PathBuf,
    },
}

/// Name of the agent's socket inside a [`Endpoint::Unix`] directory.
pub const VMA_SOCKET: &str = "vma.sock";

/// Path of the desktop's socket below a [`Endpoint::Unix`] directory. The X server of the machine binds it, so it is
/// in a directory of the machine's own; what lies there is not to be trusted.
pub const X_SOCKET: &str = "guest/nx.sock";

impl Endpoint {
    /// Reads the columns of a run-time row.
    ///
    /// # Errors
    ///
    /// [`InvalidEndpoint`] when the address is neither an IP address nor `unix:DIR`, or ports are missing.
    pub fn from_row(
        address: &str,
        vma_port: Option<u16>,
        x_port: Option<u16>,
    ) -> Result<Self, InvalidEndpoint> {
        if let Some(dir) = address.strip_prefix("unix:") {
            return Ok(Self::Unix { dir: PathBuf::from(dir) });
        }
        match (IpAddr::from_str(address), vma_port, x_port) {
            (Ok(address), Some(vma_port), Some(x_port)) => Ok(Self::Ip { address, vma_port, x_port }),
            _ => Err(InvalidEndpoint { address: address.to_owned() }),
        }
    }

    /// The text for `vm_address`.
    pub fn address_text(&self) -> String {
        match self {
            Self::Ip { address, .. } => address.to_string(),
            Self::Unix { dir } => format!("unix:{}", dir.display()),
        }
    }

    /// The agent's TCP port, for the row.
    pub fn vma_port(&self) -> Option<u16> {
        match self {
            Self::Ip { vma_port, .. } => Some(*vma_port),
            Self::Unix { .. } => None,
        }
    }

    /// The desktop's TCP port, for the row.
    pub fn x_port(&self) -> Option<u16> {
        match self {
            Self::Ip { x_port, .. } => Some(*x_port),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address_text())
    }
}

/// A stored address that cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{address}' with its ports is no address of a virtual machine")]
pub struct InvalidEndpoint {
    address: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_the_row() {
        let unix = Endpoint::Unix { dir: "/run/qvd/vms/7".into() };
        assert_eq!(unix.address_text(), "unix:/run/qvd/vms/7");
        assert_eq!(Endpoint::from_row(&unix.address_text(), unix.vma_port(), unix.x_port()).unwrap(), unix);
        let ip = Endpoint::Ip { address: [10, 3, 15, 254].into(), vma_port: 3030, x_port: 4100 };
        assert_eq!(Endpoint::from_row("10.3.15.254", Some(3030), Some(4100)).unwrap(), ip);
        assert!(Endpoint::from_row("10.3.15.254", None, Some(4100)).is_err());
        assert!(Endpoint::from_row("desk", Some(1), Some(2)).is_err());
    }
}
