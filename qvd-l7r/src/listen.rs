//! Where the router listens: the addresses of the configuration, or sockets that were opened for it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as OpenSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll};

use qvd_core::config::Config;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Error, Result};

/// Listens on what `l7r.address` and `l7r.port` name, outside of any runtime: a program does this while it still may,
/// becomes somebody else, and hands the sockets to [`RouterBuilder::listeners`](crate::RouterBuilder::listeners).
///
/// `*` is every address of IPv4 and of IPv6, as far as this machine speaks both.
///
/// # Errors
///
/// [`Error::Setting`] names an address that is none; [`Error::Bind`] one that cannot be listened on.
pub fn listen(config: &Config) -> Result<Vec<OpenSocket>> {
    open(&configured(config)?)
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    address: SocketAddr,
    /// Left out where the machine has no such family.
    dispensable: bool,
}

impl Wanted {
    pub(crate) fn exactly(address: SocketAddr) -> Self {
        Self { address, dispensable: false }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What the configuration asks for.
pub(crate) fn configured(config: &Config) -> Result<Vec<Wanted>> {
    let port = config.port("l7r.port");
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    for text in config.list("l7r.address") {
        for (address, dispensable) in named(&text)? {
            if seen.insert(address) {
                wanted.push(Wanted { address: SocketAddr::new(address, port), dispensable });
            }
        }
    }
    // What listens on all addresses of a family leaves none for others.
    let all: Vec<IpAddr> = seen.iter().copied().filter(IpAddr::is_unspecified).collect();
    wanted.retain(|w| {
        let ip = w.address.ip();
        ip.is_unspecified() || !all.iter().any(|a| a.is_ipv4() == ip.is_ipv4())
    });
    Ok(wanted)
}

fn named(text: &str) -> Result<Vec<(IpAddr, bool)>> {
    let both = |v4: Ipv4Addr, v6: Ipv6Addr| vec![(IpAddr::V4(v4), false), (IpAddr::V6(v6), true)];
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match text {
        "*" => Ok(both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)),
        "localhost" => Ok(both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)),
        _ => bare.parse().map(|address| vec![(address, false)]).map_err(|_| Error::Setting {
            key: "l7r.address",
            problem: format!("'{text}' is no IP address of this machine ('*' listens on all)"),
        }),
    }
}

/// Listens on all of them, or on none.
pub(crate) fn open(wanted: &[Wanted]) -> Result<Vec<OpenSocket>> {
    let mut sockets = Vec::with_capacity(wanted.len());
    // Port 0 takes a free one, the same for all.
    let mut free = None;
    for Wanted { mut address, dispensable } in wanted.iter().copied() {
        if address.port() == 0 {
            address.set_port(free.unwrap_or(0));
        }
        match open_one(address) {
            Ok(socket) => {
                free = socket.local_addr().ok().map(|a| a.port());
                sockets.push(socket);
            }
            Err(source) if dispensable && is_absent(&source) => {
                tracing::info!(%address, "not listened on: this machine has no such addresses");
            }
            Err(source) => return Err(Error::Bind { address, source }),
        }
    }
    Ok(sockets)
}

fn open_one(address: SocketAddr) -> io::Result<OpenSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Clients of IPv4 are known by their own addresses, and both families can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    // A router that starts again need not wait for its last life's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_SUCH_FAMILY)
}

/// Sockets that listen; there is at least one.
#[derive(Debug)]
pub(crate) struct Listeners {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    /// The one that is asked first, in turn.
    next: usize,
}

impl Listeners {
    /// Takes sockets over; must be called within a runtime.
    pub(crate) fn new(open: Vec<OpenSocket>) -> Result<Self> {
        let mut listeners = Self { sockets: Vec::new(), addresses: Vec::new(), next: 0 };
        for socket in open {
            let accept = |source| Error::Accept { source };
            let address = socket.local_addr().map_err(accept)?;
            socket.set_nonblocking(true).map_err(accept)?;
            listeners.sockets.push(TcpListener::from_std(socket).map_err(accept)?);
            listeners.addresses.push(address);
        }
        if listeners.sockets.is_empty() {
            let problem = "names no address to listen on".to_owned();
            return Err(Error::Setting { key: "l7r.address", problem });
        }
        Ok(listeners)
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The same sockets once more, for somebody else to accept from.
    pub(crate) fn shared(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// The next connection of any of them.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub(crate) async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let count = self.sockets.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            if let Poll::Ready(accepted) = self.sockets[at].poll_accept(cx) {
                self.next = (at + 1) % count;
                // A socket of both families, as service managers open them, tells IPv4 clients in the words of IPv6.
                return Poll::Ready(
                    accepted.map(|(stream, peer)| {
                        (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))
                    }),
                );
            }
        }
        Poll::Pending
    }
}

/// Connections that the kernel keeps for a router that is busy.
const BACKLOG: i32 = 4096;

/// EAFNOSUPPORT of Linux.
const NO_SUCH_FAMILY: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(addresses: &str) -> Result<Vec<String>> {
        let config = Config::builder().set("l7r.address", addresses).set("l7r.port", "8443").build().unwrap();
        Ok(configured(&config)?.iter().map(|w| w.address.to_string()).collect())
    }

    #[test]
    fn a_star_is_both_families_and_a_list_is_each_of_its_addresses() {
        assert_eq!(wanted("*").unwrap(), ["0.0.0.0:8443", "[::]:8443"]);
        assert_eq!(wanted("localhost").unwrap(), ["127.0.0.1:8443", "[::1]:8443"]);
        assert_eq!(
            wanted("10.0.0.1, [fd00::1] ,::1").unwrap(),
            ["10.0.0.1:8443", "[fd00::1]:8443", "[::1]:8443"]
        );
        assert_eq!(wanted("10.0.0.1,10.0.0.1").unwrap(), ["10.0.0.1:8443"]);
        assert_eq!(wanted("10.0.0.1, *, ::1").unwrap(), ["0.0.0.0:8443", "[::]:8443"]);
        assert_eq!(wanted("10.0.0.1, ::").unwrap(), ["10.0.0.1:8443", "[::]:8443"]);
        assert!(wanted("10.0.0.1, nowhere").unwrap_err().to_string().contains("'nowhere'"));
    }

    #[test]
    fn one_that_cannot_be_listened_on_is_named_unless_its_family_is_absent() {
        let taken = OpenSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = open(&[Wanted { address, dispensable: true }]).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        // An address of documentation that no machine has.
        let foreign = SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 0);
        assert!(open(&[Wanted::exactly(foreign)]).is_err());
        assert!(open(&[Wanted { address: foreign, dispensable: true }]).unwrap().is_empty());
        assert!(Listeners::new(Vec::new()).is_err());
    }
}
