//! Connections that come through a balancer: whose headers are believed, and reading one.
//!
//! A balancer of `l7r.proxy_protocol` says in a PROXY header whom it carries, before anything else. A connection from
//! there without a header, or with one that is malformed, is closed: its client could not be told from others. From
//! everywhere else nothing is read as a header, so that nobody can lend himself an address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use qvd_core::config::Config;
use qvd_core::proto::proxy::{self, Header, ProxyError};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// Networks of balancers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balancers(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Balancers {
    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        let read = |text: &String| {
            Network::parse(text).ok_or_else(|| Error::Setting {
                key: "l7r.proxy_protocol",
                problem: format!("'{text}' is no network (such as 10.0.0.0/8 or fd00::/8)"),
            })
        };
        config.list("l7r.proxy_protocol").iter().map(read).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl Network {
    /// One address without `/` is a network of itself.
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(longest), |bits| bits.trim().parse().ok())?;
        (bits <= longest).then_some(Self { address, bits })
    }

    fn contains(&self, other: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        // A shift by the whole width is what no bits at all mean.
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Why a balancer's connection is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotProxied {
    #[error("{0}")]
    Header(#[from] ProxyError),
    /// How balancers look whether somebody listens.
    #[error("closed without a word")]
    Silent,
    #[error("closed before its PROXY header was complete")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header and not one byte more. Yields the client's address; that of the balancer when it speaks for itself.
pub(crate) async fn client_of(
    stream: &mut TcpStream,
    balancer: SocketAddr,
) -> Result<SocketAddr, NotProxied> {
    let mut buffer = vec![0; proxy::MAX_HEADER];
    let mut taken = 0;
    loop {
        // What is looked at stays with the socket until it is known to belong to the header.
        let seen = taken + stream.peek(&mut buffer[taken..]).await?;
        if seen == taken {
            return Err(if taken == 0 { NotProxied::Silent } else { NotProxied::Closed });
        }
        let (header, end) = match proxy::parse(&buffer[..seen])? {
            Some((header, used)) => (Some(header), used),
            None => (None, seen),
        };
        stream.read_exact(&mut buffer[taken..end]).await?;
        taken = end;
        match header {
            Some(Header::Client(client)) => return Ok(client),
            Some(Header::Own) => return Ok(balancer),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancers(text: &str) -> Balancers {
        let config = Config::builder().set("l7r.proxy_protocol", text).build().unwrap();
        Balancers::from_config(&config).unwrap()
    }

    #[test]
    fn networks_hold_what_they_name() {
        let some = balancers("10.0.0.0/8, 192.0.2.7, fd00::/8");
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("::ffff:10.1.1.1", true),
            ("fdff::1", true),
            ("fe00::1", false),
            ("::1", false),
        ] {
            assert_eq!(some.contain(address.parse().unwrap()), inside, "{address}");
        }
        assert!(balancers("0.0.0.0/0").contain("203.0.113.9".parse().unwrap()));
        assert!(!balancers("0.0.0.0/0").contain("fd00::1".parse().unwrap()));
        assert!(balancers("::/0").contain("fd00::1".parse().unwrap()));
        assert!(!balancers("").contain("127.0.0.1".parse().unwrap()), "nobody is believed unasked");
    }
}
