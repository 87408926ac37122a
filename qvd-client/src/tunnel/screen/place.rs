//! Where an X display is reached, as `DISPLAY` writes it.

use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};

use super::authority::Address;
use crate::connect::Stream;

/// Where the display with TCP port 0 would listen.
const TCP_BASE: u16 = 6000;

/// Where an X display is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Local(u16),
    Tcp(String, u16),
}

/// A connection to a display, and the address under which its cookie is filed.
pub(super) struct Reached {
    pub(super) stream: Box<dyn Stream>,
    pub(super) address: Address,
}

impl Place {
    /// `:0`, `:0.1`, `unix:0`, `localhost:10.0` and `[::1]:10`.
    pub(super) fn parse(display: &str) -> Option<Self> {
        let (host, rest) = display.rsplit_once(':')?;
        let number = rest.split('.').next()?.parse().ok()?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match host {
            "" | "unix" => Some(Self::Local(number)),
            _ if number > u16::MAX - TCP_BASE => None,
            host => Some(Self::Tcp(host.to_owned(), number)),
        }
    }

    pub(super) fn number(&self) -> u16 {
        match self {
            Self::Local(number) | Self::Tcp(_, number) => *number,
        }
    }

    pub(super) async fn connect(&self) -> io::Result<Reached> {
        match self {
            Self::Local(number) => {
                let stream = Box::new(connect_local(*number).await?);
                Ok(Reached { stream, address: Address::of_this_host() })
            }
            Self::Tcp(host, number) => {
                let stream = TcpStream::connect((host.as_str(), TCP_BASE + number)).await?;
                // A comfort: a session works without it.
                let _ = stream.set_nodelay(true);
                let address = match stream.peer_addr()?.ip().to_canonical() {
                    ip if ip.is_loopback() => Address::of_this_host(),
                    IpAddr::V4(ip) => Address::internet(ip),
                    IpAddr::V6(ip) => Address::internet6(ip),
                };
                Ok(Reached { stream: Box::new(stream), address })
            }
        }
    }
}

/// Path of a local display's socket; its name in the abstract namespace as well.
pub(super) fn socket_path(number: u16) -> String {
    format!("/tmp/.X11-unix/X{number}")
}

async fn connect_local(number: u16) -> io::Result<UnixStream> {
    let path = socket_path(number);
    let hidden = SocketAddr::from_abstract_name(path.as_bytes())
        .and_then(|address| std::os::unix::net::UnixStream::connect_addr(&address))
        .and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
    match hidden {
        Ok(stream) => UnixStream::from_std(stream),
        Err(_) => UnixStream::connect(path).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_understood() {
        for (text, place) in [
            (":0", Some(Place::Local(0))),
            ("unix:7.1", Some(Place::Local(7))),
            ("unix:0", Some(Place::Local(0))),
            ("localhost:10.0", Some(Place::Tcp("localhost".into(), 10))),
            ("[::1]:10", Some(Place::Tcp("::1".into(), 10))),
            ("nonsense", None),
            (":x", None),
            ("host:60000", None),
        ] {
            assert_eq!(Place::parse(text), place, "{text}");
        }
    }
}
