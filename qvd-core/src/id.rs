//! Typed ids: no function takes a bare integer where it means a thing of the database.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Wraps a raw value as stored in the database.
            pub const fn new(raw: i64) -> Self {
                Self(raw)
            }

            /// The raw value as stored in the database.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// A tenant: the name space of users, flavours and virtual machines.
    TenantId;
    /// A user.
    UserId;
    /// A virtual machine.
    VmId;
    /// A host: one server node.
    HostId;
    /// An operating system flavour.
    OsfId;
    /// A disk image.
    DiId;
    /// One run of a virtual machine: a fencing token that grows by one at every claim and is never reset.
    RunId;
}

impl TenantId {
    /// The tenant that exists in every installation.
    pub const DEFAULT: TenantId = TenantId(1);
}

/// One connection through the router, unique among all routers; guards the session columns of a
/// virtual machine's row. Printed as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// Makes an id of random bytes; the caller brings the randomness (version and variant bits are set here).
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        let raw = u128::from_be_bytes(bytes);
        let versioned = raw & !(0xf << 76) | (0x4 << 76);
        Self(versioned & !(0x3 << 62) | (0x2 << 62))
    }

    /// Wraps a stored value.
    pub const fn from_u128(raw: u128) -> Self {
        Self(raw)
    }

    /// The value to store.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (v >> 96) as u32,
            (v >> 80) as u16,
            (v >> 64) as u16,
            (v >> 48) as u16,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_prints_as_a_random_uuid() {
        let id = SessionId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(SessionId::from_u128(id.as_u128()), id);
    }

    #[test]
    fn ids_parse_and_print_as_integers() {
        assert_eq!("42".parse::<VmId>().unwrap(), VmId::new(42));
        assert!("4x".parse::<VmId>().is_err());
        assert_eq!(HostId::new(7).to_string(), "7");
    }
}
