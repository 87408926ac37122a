//! The X authority file: which cookie is for which display. Pure; the file's bytes are handed in.

use std::net::{Ipv4Addr, Ipv6Addr};

use qvd_core::Secret;

/// The one kind of authorization that is understood here; the others died with their networks.
pub(super) const COOKIE_NAME: &[u8] = b"MIT-MAGIC-COOKIE-1";

const INTERNET: u16 = 0;
const INTERNET6: u16 = 6;
const LOCAL: u16 = 256;
const WILD: u16 = 0xffff;

/// A cookie; whoever knows it may do anything on the display.
#[derive(Clone, Debug)]
pub(super) struct Cookie(Secret<Vec<u8>>);

impl Cookie {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Secret::new(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A display's host, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    family: u16,
    bytes: Vec<u8>,
}

impl Address {
    /// Unix sockets and loopback: the name of this host.
    pub(super) fn of_this_host() -> Self {
        let name = nix::unistd::gethostname().unwrap_or_default();
        Self { family: LOCAL, bytes: name.into_encoded_bytes() }
    }

    pub(super) fn internet(ip: Ipv4Addr) -> Self {
        Self { family: INTERNET, bytes: ip.octets().to_vec() }
    }

    pub(super) fn internet6(ip: Ipv6Addr) -> Self {
        Self { family: INTERNET6, bytes: ip.octets().to_vec() }
    }
}

/// The first cookie for a display, by the rules of Xlib: a wild record is for every host, one without a number for
/// every display. What follows a damaged record is not looked at.
pub(super) fn find_cookie(file: &[u8], address: &Address, number: u16) -> Option<Cookie> {
    let number = number.to_string();
    let mut rest = file;
    while let Some(record) = Record::read(&mut rest) {
        let is_host =
            record.family == WILD || (record.family == address.family && record.address == address.bytes);
        let is_display = record.number.is_empty() || record.number == number.as_bytes();
        if is_host && is_display && record.name == COOKIE_NAME {
            return Some(Cookie::new(record.data.to_vec()));
        }
    }
    None
}

struct Record<'a> {
    family: u16,
    address: &'a [u8],
    number: &'a [u8],
    name: &'a [u8],
    data: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        Some(Self {
            family: read_u16(rest)?,
            address: read_counted(rest)?,
            number: read_counted(rest)?,
            name: read_counted(rest)?,
            data: read_counted(rest)?,
        })
    }
}

fn read_u16(rest: &mut &[u8]) -> Option<u16> {
    let (bytes, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*bytes))
}

fn read_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(read_u16(rest)?);
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(family: u16, fields: [&[u8]; 4]) -> Vec<u8> {
        let mut bytes = family.to_be_bytes().to_vec();
        for field in fields {
            bytes.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    #[test]
    fn a_cookie_is_found_by_host_and_display() {
        let file = [
            record(LOCAL, [b"other", b"0", COOKIE_NAME, b"a"]),
            record(LOCAL, [b"desk", b"0", b"XDM-AUTHORIZATION-1", b"b"]),
            record(LOCAL, [b"desk", b"0", COOKIE_NAME, b"c"]),
            record(INTERNET, [&[192, 0, 2, 7], b"10", COOKIE_NAME, b"d"]),
            record(WILD, [b"", b"7", COOKIE_NAME, b"e"]),
            record(LOCAL, [b"desk", b"", COOKIE_NAME, b"f"]),
            record(INTERNET6, [&Ipv6Addr::LOCALHOST.octets(), b"3", COOKIE_NAME, b"g"]),
        ]
        .concat();
        let desk = Address { family: LOCAL, bytes: b"desk".to_vec() };
        let found = |address: &Address, number| {
            find_cookie(&file, address, number).map(|cookie| char::from(cookie.bytes()[0]))
        };
        assert_eq!(found(&desk, 0), Some('c'));
        assert_eq!(found(&desk, 7), Some('e'));
        assert_eq!(found(&desk, 9), Some('f'));
        let far = Address::internet(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!((found(&far, 10), found(&far, 1)), (Some('d'), None));
        assert_eq!(found(&Address::internet6(Ipv6Addr::LOCALHOST), 3), Some('g'));
        assert!(!format!("{:?}", Cookie::new(b"c00kie".to_vec())).contains("99"), "it does not show itself");
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_no_trouble(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_cookie(&file, &Address::of_this_host(), 0);
        }
    }
}
