//! Which address a new virtual machine gets.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use qvd_core::VmId;
use qvd_core::config::Config;

use super::{NewVm, Vms, insert};
use crate::db::{Tx, transaction};
use crate::error::{Error, Result};
use crate::sql::{Sql, sql};
use crate::value::params;

/// Addresses to choose from, the highest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Lowest address, itself included.
    pub first: Ipv4Addr,
    /// Highest address, itself included.
    pub last: Ipv4Addr,
    /// Addresses never given away: gateway, name servers.
    pub reserved: Vec<Ipv4Addr>,
}

impl AddressRange {
    /// What `vm.network.*` leaves for virtual machines: from `vm.network.ip.start` up to just below the broadcast
    /// address, without the gateway and the name server. Empty (`last` below `first`) when the network has no room.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the key that is not set.
    pub fn from_config(config: &Config) -> Result<Self> {
        let missing = |key: &str| Error::invalid(format!("configuration key '{key}' is not set"));
        let first = config.ipv4("vm.network.ip.start").ok_or_else(|| missing("vm.network.ip.start"))?;
        let prefix = config.netmask("vm.network.netmask").ok_or_else(|| missing("vm.network.netmask"))?;
        let reserved = ["vm.network.gateway", "vm.network.dns_server"];
        Ok(Self {
            first,
            last: last_of(first, prefix),
            reserved: reserved.iter().filter_map(|key| config.ipv4(key)).collect(),
        })
    }

    /// The highest address that is neither reserved nor in use.
    fn highest_free(&self, used: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        (self.first.to_bits()..=self.last.to_bits())
            .rev()
            .map(Ipv4Addr::from_bits)
            .find(|ip| !used.contains(ip) && !self.reserved.contains(ip))
    }

    fn size(&self) -> u64 {
        u64::from(self.last.to_bits()).saturating_sub(u64::from(self.first.to_bits())) + 1
    }
}

impl Vms<'_> {
    /// Adds a virtual machine with the highest free address of a range; `vm.ip` is ignored. Addresses of hosts are
    /// never given away.
    ///
    /// # Errors
    ///
    /// As [`Vms::add`]; [`Error::Refused`] when no address is free, naming the range and its size.
    pub async fn add_with_address(self, vm: NewVm, range: &AddressRange) -> Result<VmId> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_address(&vm, range).await {
                // Another took the very address in between.
                Err(Error::Duplicate { field: "VM address", .. }) if tries < MOST => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_address(self, vm: &NewVm, range: &AddressRange) -> Result<VmId> {
        transaction!(self.db, |tx| {
            let ip = free_address(tx, range).await?;
            insert(tx, &NewVm { ip: Some(ip.to_string()), ..vm.clone() }).await
        })
    }
}

/// The highest address of the range that nobody has.
pub(super) async fn free_address(tx: &mut Tx, range: &AddressRange) -> Result<Ipv4Addr> {
    const USED: Sql = sql!("list addresses in use":
        "select " INET_TEXT "(ip) as address from vms where ip is not null union all select address from hosts");
    let mut used = HashSet::new();
    for row in tx.rows(&USED, params![]).await? {
        // A host may be known by a name; that takes no address away.
        if let Ok(ip) = row.get::<String>("address")?.parse() {
            used.insert(ip);
        }
    }
    range.highest_free(&used).ok_or_else(|| {
        let AddressRange { first, last, .. } = range;
        let size = range.size();
        Error::refused(format!("no free IP address from {first} to {last} ({size} addresses)"))
    })
}

/// The last address below the broadcast address of the network that an address is in.
fn last_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits((address.to_bits() | hosts).saturating_sub(1))
}

/// Tries to get an address before giving up.
const MOST: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_downwards_and_reserved_ones_skipped() {
        let range = AddressRange {
            first: Ipv4Addr::new(10, 3, 15, 250),
            last: Ipv4Addr::new(10, 3, 15, 254),
            reserved: vec![Ipv4Addr::new(10, 3, 15, 254)],
        };
        let mut used = HashSet::new();
        for expected in [253, 252, 251, 250] {
            let ip = range.highest_free(&used).unwrap();
            assert_eq!(ip, Ipv4Addr::new(10, 3, 15, expected));
            used.insert(ip);
        }
        assert_eq!(range.highest_free(&used), None);
        assert_eq!(range.size(), 5);
    }

    #[test]
    fn the_range_ends_below_the_broadcast_address() {
        let ends = |first: &str, mask: &str| {
            let config = Config::builder()
                .set("vm.network.ip.start", first)
                .set("vm.network.netmask", mask)
                .set("vm.network.gateway", "10.0.0.250")
                .build()
                .unwrap();
            let range = AddressRange::from_config(&config).unwrap();
            assert_eq!(range.reserved, [Ipv4Addr::new(10, 0, 0, 250)]);
            (range.first.to_string(), range.last.to_string())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(ends("10.3.15.50", "24"), pair("10.3.15.50", "10.3.15.254"));
        assert_eq!(ends("192.168.7.1", "255.255.255.252"), pair("192.168.7.1", "192.168.7.2"));
        assert_eq!(ends("10.0.0.100", "255.255.0.0"), ends("10.0.0.100", "16"));
        assert_eq!(last_of(Ipv4Addr::new(0, 0, 0, 1), 0), Ipv4Addr::new(255, 255, 255, 254));
        assert_eq!(last_of(Ipv4Addr::new(10, 0, 0, 1), 32), Ipv4Addr::new(10, 0, 0, 0), "no room");
    }

    #[test]
    fn a_network_that_is_not_configured_is_named() {
        let error = AddressRange::from_config(&Config::defaults()).unwrap_err();
        assert_eq!(error.to_string(), "configuration key 'vm.network.ip.start' is not set");
    }

    #[test]
    fn an_empty_range_has_no_address() {
        let range = AddressRange {
            first: Ipv4Addr::new(10, 0, 0, 2),
            last: Ipv4Addr::new(10, 0, 0, 1),
            reserved: Vec::new(),
        };
        assert_eq!(range.highest_free(&HashSet::new()), None);
    }
}
