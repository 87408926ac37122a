//! Which addresses virtual machines may get: from `vm.network.ip.start` up to just below the broadcast address.

use std::net::Ipv4Addr;

use qvd_db::AddressRange;

/// The range from its first address and the netmask, a prefix length or a dotted mask; none when the mask is neither.
/// Empty (`last` below `first`) when the network has no room.
pub(super) fn range(first: Ipv4Addr, netmask: &str) -> Option<AddressRange> {
    let broadcast = first.to_bits() | !mask(netmask)?;
    let last = Ipv4Addr::from_bits(broadcast.saturating_sub(1));
    Some(AddressRange { first, last, reserved: Vec::new() })
}

fn mask(text: &str) -> Option<u32> {
    let text = text.trim();
    let bits = match text.parse::<u32>() {
        Ok(prefix @ 0..=32) => u32::MAX.checked_shl(32 - prefix).unwrap_or(0),
        Ok(_) => return None,
        Err(_) => text.parse::<Ipv4Addr>().ok()?.to_bits(),
    };
    let is_contiguous = bits.leading_ones() + bits.trailing_zeros() >= 32;
    is_contiguous.then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(first: &str, mask: &str) -> Option<(String, String)> {
        let range = range(first.parse().unwrap(), mask)?;
        Some((range.first.to_string(), range.last.to_string()))
    }

    #[test]
    fn the_range_ends_below_the_broadcast_address() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(ends("10.3.15.50", "24"), pair("10.3.15.50", "10.3.15.254"));
        assert_eq!(ends("192.168.7.1", "255.255.255.252"), pair("192.168.7.1", "192.168.7.2"));
        assert_eq!(ends("10.0.0.100", "255.255.0.0"), ends("10.0.0.100", "16"));
        assert_eq!(ends("0.0.0.1", "0"), pair("0.0.0.1", "255.255.255.254"));
    }

    #[test]
    fn a_network_of_one_address_has_no_room() {
        assert_eq!(ends("10.0.0.1", "32"), Some(("10.0.0.1".to_owned(), "10.0.0.0".to_owned())));
    }

    #[test]
    fn masks_with_holes_and_other_texts_are_none() {
        for bad in ["33", "-1", "255.0.255.0", "0.0.0.255", "mask", ""] {
            assert_eq!(ends("10.0.0.1", bad), None, "{bad}");
        }
    }
}
