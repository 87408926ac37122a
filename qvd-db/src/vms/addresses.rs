//! Which address a new virtual machine gets.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use qvd_core::VmId;

use super::{NewVm, Vms, insert};
use crate::db::transaction;
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
        const USED: Sql = sql!("list addresses in use":
            "select " INET_TEXT "(ip) as address from vms where ip is not null union all select address from hosts");
        transaction!(self.db, |tx| {
            let mut used = HashSet::new();
            for row in tx.rows(&USED, params![]).await? {
                // A host may be known by a name; that takes no address away.
                if let Ok(ip) = row.get::<String>("address")?.parse() {
                    used.insert(ip);
                }
            }
            let Some(ip) = range.highest_free(&used) else {
                let AddressRange { first, last, .. } = range;
                let size = range.size();
                return Err(Error::refused(format!(
                    "no free IP address from {first} to {last} ({size} addresses)"
                )));
            };
            insert(tx, &NewVm { ip: Some(ip.to_string()), ..vm.clone() }).await
        })
    }
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
    fn an_empty_range_has_no_address() {
        let range = AddressRange {
            first: Ipv4Addr::new(10, 0, 0, 2),
            last: Ipv4Addr::new(10, 0, 0, 1),
            reserved: Vec::new(),
        };
        assert_eq!(range.highest_free(&HashSet::new()), None);
    }
}
