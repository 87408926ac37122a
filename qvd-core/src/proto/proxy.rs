//! The PROXY protocol, versions 1 and 2: what a balancer says of its client before the client's first byte.
//!
//! Only reading: QVD is behind balancers, never one itself. Addresses are taken from TCP over IPv4 and IPv6; what a
//! balancer says of anything else, or of itself ([`Header::Own`]), leaves the connection with the address that it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is carried for this client.
    Client(SocketAddr),
    /// The connection is the balancer's own (a health check), or it cannot tell whose.
    Own,
}

/// Why bytes are no header; the connection is closed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It does not begin as a header does.
    #[error("no PROXY header")]
    Absent,
    /// It begins as one and goes on otherwise.
    #[error("malformed PROXY header")]
    Malformed,
    /// It is longer than [`MAX_HEADER`].
    #[error("PROXY header too long")]
    TooLong,
}

/// Most bytes of a header. Version 2 could announce 64 KiB; addresses and what balancers add to them need some hundred.
pub const MAX_HEADER: usize = 2 << 10;

/// Reads a header from the start of `buf`.
///
/// `Ok(None)` means that more bytes are needed, and that all of `buf` belongs to the header;
/// `Ok(Some((header, used)))` leaves `buf[used..]` for what the client sent.
///
/// # Errors
///
/// [`ProxyError`], as soon as it is certain.
///
/// ```
/// use qvd_core::proto::proxy::{Header, ProxyError, parse};
/// let bytes = b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 8443\r\nGET /";
/// assert_eq!(parse(bytes), Ok(Some((Header::Client("192.0.2.7:51000".parse().unwrap()), 42))));
/// assert_eq!(parse(&bytes[..20]), Ok(None));
/// assert_eq!(parse(b"GET /"), Err(ProxyError::Absent));
/// ```
pub fn parse(buf: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    if starts_alike(buf, SIGNATURE) {
        return version_2(buf);
    }
    if starts_alike(buf, PREFIX) {
        return version_1(buf);
    }
    Err(ProxyError::Absent)
}

/// Whether one of them begins with the other.
fn starts_alike(buf: &[u8], text: &[u8]) -> bool {
    let length = buf.len().min(text.len());
    buf[..length] == text[..length]
}

fn version_1(buf: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let within = &buf[..buf.len().min(MAX_LINE)];
    let Some(end) = within.iter().position(|b| *b == b'\n') else {
        return if buf.len() < MAX_LINE { Ok(None) } else { Err(ProxyError::TooLong) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(ProxyError::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    Ok(Some((line_of_version_1(line).ok_or(ProxyError::Malformed)?, end + 1)))
}

/// Exactly one blank between the words, as the protocol wants it: two readers must not see two things in one line.
fn line_of_version_1(line: &str) -> Option<Header> {
    let mut words = line.split(' ');
    (words.next()? == "PROXY").then_some(())?;
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows is to be ignored.
        return Some(Header::Own);
    }
    let (source, destination, source_port, destination_port) =
        (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
            _ => None,
        }
    };
    let client = SocketAddr::new(address(source)?, port(source_port)?);
    address(destination)?;
    port(destination_port)?;
    Some(Header::Client(client))
}

/// The conversion alone would take a sign for a part of the number, and any count of zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn version_2(buf: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let Some(version_and_command) = buf.get(SIGNATURE.len()) else { return Ok(None) };
    let is_own = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed),
    };
    let Some(family) = buf.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let addresses = match family {
        0x11 => Some(Addresses::V4),
        0x21 => Some(Addresses::V6),
        // UNSPEC, datagrams, unix sockets.
        0x00..=0x02 | 0x10 | 0x12 | 0x20 | 0x22 | 0x30..=0x32 => None,
        _ => return Err(ProxyError::Malformed),
    };
    let Some(length) = buf.get(SIGNATURE.len() + 2..FIXED) else { return Ok(None) };
    let used = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if used > MAX_HEADER {
        return Err(ProxyError::TooLong);
    }
    let least = if is_own { 0 } else { addresses.map_or(0, Addresses::length) };
    if used - FIXED < least {
        return Err(ProxyError::Malformed);
    }
    let Some(payload) = buf.get(FIXED..used) else { return Ok(None) };
    let header = match addresses {
        Some(addresses) if !is_own => Header::Client(addresses.source(payload).ok_or(ProxyError::Malformed)?),
        _ => Header::Own,
    };
    Ok(Some((header, used)))
}

#[derive(Clone, Copy)]
enum Addresses {
    V4,
    V6,
}

impl Addresses {
    /// Bytes of two addresses and two ports; more may follow, which says nothing that is used here.
    const fn length(self) -> usize {
        match self {
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }

    fn source(self, payload: &[u8]) -> Option<SocketAddr> {
        let (ip, port): (IpAddr, &[u8]) = match self {
            Self::V4 => (<[u8; 4]>::try_from(payload.get(..4)?).ok()?.into(), payload.get(8..10)?),
            Self::V6 => (<[u8; 16]>::try_from(payload.get(..16)?).ok()?.into(), payload.get(32..34)?),
        };
        Some(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes([port[0], port[1]])))
    }
}

/// How version 2 begins: bytes that no other protocol does.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const PREFIX: &[u8] = b"PROXY ";

/// Most bytes of a line of version 1, its end included.
const MAX_LINE: usize = 107;

/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, payload].concat()
    }

    fn client(text: &str) -> Header {
        Header::Client(text.parse().unwrap())
    }

    /// Every strict beginning wants more; the whole is read and what follows left alone.
    fn whole(bytes: &[u8]) -> Header {
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
        }
        let followed = [bytes, b"\x16\x03\x01"].concat();
        let (header, used) = parse(&followed).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        header
    }

    #[test]
    fn lines_of_version_1() {
        assert_eq!(whole(b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 8443\r\n"), client("192.0.2.7:51000"));
        assert_eq!(whole(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), client("[2001:db8::7]:1"));
        assert_eq!(whole(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), client("192.0.2.7:1"), "one name each");
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Header::Own);
        assert_eq!(whole(b"PROXY UNKNOWN ffff::1 what ever 65535\r\n"), Header::Own);
    }

    #[test]
    fn what_is_no_line_of_version_1() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000 8443\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000 8443 1\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 51000 8443\r\n",
            "PROXY TCP4 ::1 ::1 51000 8443\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 51000 8443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 8443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 007 8443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 8443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.x 1 8443\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 8443\r\n",
            "PROXY \u{e9}\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyError::Malformed), "{line:?}");
        }
        assert_eq!(parse(b"proxy TCP4 "), Err(ProxyError::Absent));
        assert_eq!(parse(b"\x16\x03\x01"), Err(ProxyError::Absent));
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'a'; 200]].concat();
        assert_eq!(parse(&endless[..MAX_LINE - 1]), Ok(None));
        assert_eq!(parse(&endless[..MAX_LINE]), Err(ProxyError::TooLong));
    }

    #[test]
    fn version_2() {
        let four = [[192, 0, 2, 7], [10, 0, 0, 1], [0xc7, 0x38, 0x20, 0xfb]].concat();
        assert_eq!(whole(&v2(0x21, 0x11, &four)), client("192.0.2.7:51000"));
        let more = [four.as_slice(), &[4, 0, 1, 0]].concat();
        assert_eq!(whole(&v2(0x21, 0x11, &more)), client("192.0.2.7:51000"), "what else it says is skipped");
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 7;
        six[32..34].copy_from_slice(&[0, 80]);
        assert_eq!(whole(&v2(0x21, 0x21, &six)), client("[2001::7]:80"));
        assert_eq!(whole(&v2(0x20, 0x00, &[])), Header::Own);
        assert_eq!(
            whole(&v2(0x20, 0x11, &four)),
            Header::Own,
            "addresses of a health check are not a client's"
        );
        assert_eq!(whole(&v2(0x21, 0x31, &[0; 216])), Header::Own);
        assert_eq!(whole(&v2(0x21, 0x00, &[])), Header::Own);
    }

    #[test]
    fn what_is_no_header_of_version_2() {
        for (bytes, error) in [
            (v2(0x11, 0x11, &[0; 12]), ProxyError::Malformed),
            (v2(0x22, 0x11, &[0; 12]), ProxyError::Malformed),
            (v2(0x21, 0x41, &[0; 12]), ProxyError::Malformed),
            (v2(0x21, 0x11, &[0; 11]), ProxyError::Malformed),
            (v2(0x21, 0x21, &[0; 35]), ProxyError::Malformed),
            (v2(0x21, 0x11, &[0; MAX_HEADER]), ProxyError::TooLong),
        ] {
            // The payload need not come for that.
            assert_eq!(parse(&bytes[..FIXED]), Err(error), "{:?}", &bytes[..FIXED]);
        }
        assert_eq!(parse(b"\r\n\r\nGET"), Err(ProxyError::Absent));
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_more_bytes_never_change_an_answer(
            start in 0usize..3,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..300,
        ) {
            let bytes = [[b"".as_slice(), PREFIX, SIGNATURE][start], &bytes].concat();
            let early = parse(&bytes[..cut.min(bytes.len())]);
            if early != Ok(None) {
                prop_assert_eq!(parse(&bytes), early);
            }
            if let Ok(Some((_, used))) = early {
                prop_assert!(used <= MAX_HEADER);
            }
        }
    }
}
