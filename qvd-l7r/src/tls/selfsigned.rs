//! A certificate of our own making, for installations that have none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use qvd_core::Secret;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::Material;
use crate::error::{Error, Result};

/// Makes a key and a certificate that names the node, its address and the loopback.
///
/// Nobody vouches for it: clients show its fingerprint and remember it.
pub(crate) fn self_signed(node: &str, address: Option<IpAddr>) -> Result<Material> {
    let unmade = |e: rcgen::Error| Error::Certificate { problem: format!("none could be made: {e}") };
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, node);
    params.distinguished_name = name;
    params.subject_alt_names = names(node, address);
    let now = SystemTime::now();
    // A client's clock may be a little late.
    params.not_before = (now - DAY).into();
    params.not_after = (now + VALIDITY).into();
    let key = KeyPair::generate().map_err(unmade)?;
    let certificate = params.self_signed(&key).map_err(unmade)?;
    Ok(Material {
        certificate: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
        ca: None,
        crl: None,
    })
}

fn names(node: &str, address: Option<IpAddr>) -> Vec<SanType> {
    let dns = [node, "localhost"].into_iter().filter_map(|n| n.try_into().ok().map(SanType::DnsName));
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let addresses = loopback.into_iter().chain(address.filter(|a| !a.is_loopback()));
    dns.chain(addresses.map(SanType::IpAddress)).collect()
}

const DAY: Duration = Duration::from_secs(86_400);

const VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
