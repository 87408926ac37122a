//! From DER bytes to a [`Report`]: everything that is wrong is found, nothing fails.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::{Fingerprint, Flaw, Presented, Problem, Report};

/// Authorities whose word counts, and certificates that count by themselves.
#[derive(Clone, Debug)]
pub struct TrustAnchors {
    roots: Arc<RootCertStore>,
    exact: HashSet<Fingerprint>,
}

impl Default for TrustAnchors {
    fn default() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), exact: HashSet::new() }
    }
}

impl TrustAnchors {
    /// Trusts these certificates; those that cannot be authorities (damaged, version 1) count by themselves alone.
    pub fn new<'a>(certificates: impl IntoIterator<Item = CertificateDer<'a>>) -> Self {
        let mut roots = RootCertStore::empty();
        let mut exact = HashSet::new();
        for certificate in certificates {
            exact.insert(Fingerprint::of(&certificate));
            // What is refused here is still known by its fingerprint.
            let _ = roots.add(certificate.into_owned());
        }
        Self { roots: Arc::new(roots), exact }
    }

    /// How many certificates are trusted.
    pub fn len(&self) -> usize {
        self.exact.len()
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty()
    }
}

/// Looks at what a server showed.
pub(crate) fn inspect(
    server: &str,
    host: &str,
    chain: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    algorithms: &WebPkiSupportedAlgorithms,
    now: SystemTime,
) -> Report {
    let chain_flaw = chain_flaw(chain, anchors, algorithms, now);
    let chain_holds = chain_flaw.is_none();
    let mut problems: Vec<Problem> = chain_flaw.map(|flaw| Problem { depth: 0, flaw }).into_iter().collect();
    let mut presented = Vec::new();
    for (depth, der) in chain.iter().enumerate() {
        // A chain that holds may have had no need of all its certificates: an outdated cross-signature, a root.
        let mut add = |flaw| {
            if depth == 0 || !chain_holds {
                problems.push(Problem { depth, flaw });
            }
        };
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => {
                own_flaws(&certificate, depth, now, &mut add);
                if depth == 0 && !is_for(&certificate, host) {
                    add(Flaw::WrongHost(names(&certificate)));
                }
                presented.push(describe(der, &certificate));
            }
            Err(_) => {
                add(Flaw::Other("it cannot be read".to_owned()));
                presented.push(Presented::unreadable(der));
            }
        }
    }
    Report { server: server.to_owned(), chain: presented, problems }
}

/// Bits of an RSA key that a provider refuses to work with, when the first certificate has one.
pub(crate) fn short_rsa_key(chain: &[CertificateDer<'_>]) -> Option<u32> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    rsa_bits(&certificate).filter(|bits| *bits < 2048)
}

fn own_flaws(certificate: &X509Certificate<'_>, depth: usize, now: SystemTime, add: &mut impl FnMut(Flaw)) {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    if seconds > certificate.validity().not_after.timestamp() {
        add(Flaw::Expired);
    }
    if seconds < certificate.validity().not_before.timestamp() {
        add(Flaw::NotYetValid);
    }
    let is_root = depth > 0 && certificate.issuer().as_raw() == certificate.subject().as_raw();
    if let Some(name) = weak_hash(certificate).filter(|_| !is_root) {
        add(Flaw::WeakHash(name));
    }
    if let Some(bits) = rsa_bits(certificate).filter(|bits| *bits <= 1024) {
        add(Flaw::WeakKey(bits));
    }
}

/// The one flaw of the chain as a whole.
fn chain_flaw(
    chain: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    algorithms: &WebPkiSupportedAlgorithms,
    now: SystemTime,
) -> Option<Flaw> {
    let (leaf, intermediates) = chain.split_first()?;
    if anchors.exact.contains(&Fingerprint::of(leaf)) {
        return None;
    }
    let parsed = X509Certificate::from_der(leaf).ok().map(|(_, certificate)| certificate);
    // Whether its time is right is told apart; the signatures are checked at a moment when it is.
    let moment = parsed.as_ref().map_or(now, |certificate| within_validity(certificate, now));
    let since_epoch = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let verified = ParsedCertificate::try_from(leaf).and_then(|certificate| {
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &anchors.roots,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            algorithms.all,
        )
    });
    match verified {
        Ok(()) => None,
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)) => Some(Flaw::Revoked),
        Err(_) => Some(untrusted(chain, parsed.as_ref())),
    }
}

fn untrusted(chain: &[CertificateDer<'_>], leaf: Option<&X509Certificate<'_>>) -> Flaw {
    let vouches_for_itself = |c: &X509Certificate<'_>| c.issuer().as_raw() == c.subject().as_raw();
    if leaf.is_some_and(vouches_for_itself) {
        return Flaw::SelfSigned;
    }
    let last = chain.last().and_then(|der| X509Certificate::from_der(der).ok());
    match last {
        Some((_, last)) if chain.len() > 1 && vouches_for_itself(&last) => Flaw::UntrustedRoot,
        Some(_) | None => Flaw::UnknownIssuer,
    }
}

fn within_validity(certificate: &X509Certificate<'_>, now: SystemTime) -> SystemTime {
    let (from, until) = (system_time(certificate.validity().not_before.timestamp()), {
        system_time(certificate.validity().not_after.timestamp())
    });
    match (from, until) {
        (Some(from), Some(until)) if from <= until => now.clamp(from, until),
        (Some(_) | None, _) => now,
    }
}

fn system_time(seconds: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn weak_hash(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.2" => Some("MD2"),
        "1.2.840.113549.1.1.3" => Some("MD4"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => Some("SHA-1"),
        _ => None,
    }
}

fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<u32> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => {
            let leading_zeros = key.modulus.iter().take_while(|b| **b == 0).count();
            let first = key.modulus.get(leading_zeros)?;
            let bits = (key.modulus.len() - leading_zeros) * 8 - first.leading_zeros() as usize;
            u32::try_from(bits).ok()
        }
        _ => None,
    }
}

/// Whether a certificate is for a host. The common name counts only where no alternative name is given.
fn is_for(certificate: &X509Certificate<'_>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
    let address: Option<IpAddr> = host.parse().ok();
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return common_name(certificate).is_some_and(|name| name_matches(&name, host));
    };
    alternatives.value.general_names.iter().any(|name| match (name, address) {
        (GeneralName::IPAddress(bytes), Some(address)) => ip(bytes) == Some(address),
        (GeneralName::DNSName(pattern), None) => name_matches(pattern, host),
        _ => false,
    })
}

/// Exact, or with `*` as the whole first label of a name with at least two more.
fn name_matches(pattern: &str, host: &str) -> bool {
    let pattern = pattern.trim_end_matches('.');
    if pattern.eq_ignore_ascii_case(host) {
        return !pattern.starts_with('*');
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(rest), Some((_, domain))) => rest.contains('.') && rest.eq_ignore_ascii_case(domain),
        (Some(_) | None, _) => false,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return common_name(certificate).as_deref().map(crate::list::printable).into_iter().collect();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(crate::list::printable(name)),
        GeneralName::IPAddress(bytes) => ip(bytes).map(|address| address.to_string()),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

fn describe(der: &CertificateDer<'_>, certificate: &X509Certificate<'_>) -> Presented {
    let mut fields = BTreeMap::new();
    for attribute in certificate.subject().iter_attributes() {
        let name = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "cn".to_owned(),
            "2.5.4.6" => "c".to_owned(),
            "2.5.4.7" => "l".to_owned(),
            "2.5.4.8" => "st".to_owned(),
            "2.5.4.10" => "o".to_owned(),
            "2.5.4.11" => "ou".to_owned(),
            "1.2.840.113549.1.9.1" => "emailaddress".to_owned(),
            other => other.to_owned(),
        };
        if let Ok(value) = attribute.as_str() {
            fields.insert(name, crate::list::printable(value));
        }
    }
    Presented {
        fingerprint: Fingerprint::of(der),
        subject: crate::list::printable(&certificate.subject().to_string()),
        issuer: crate::list::printable(&certificate.issuer().to_string()),
        fields,
        names: names(certificate),
        not_before: system_time(certificate.validity().not_before.timestamp()),
        not_after: system_time(certificate.validity().not_after.timestamp()),
    }
}

impl Presented {
    fn unreadable(der: &CertificateDer<'_>) -> Self {
        Self {
            fingerprint: Fingerprint::of(der),
            subject: String::new(),
            issuer: String::new(),
            fields: BTreeMap::new(),
            names: Vec::new(),
            not_before: None,
            not_after: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn algorithms() -> WebPkiSupportedAlgorithms {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        CertificateParams::new(names).unwrap()
    }

    fn self_signed(params: CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn flaws(host: &str, chain: &[CertificateDer<'_>], anchors: &TrustAnchors) -> Vec<Flaw> {
        let report = inspect("s:1", host, chain, anchors, &algorithms(), SystemTime::now());
        report.problems.into_iter().map(|p| p.flaw).collect()
    }

    #[test]
    fn a_self_signed_certificate_is_just_that() {
        let der = self_signed(params(&["vdi.example", "192.0.2.7"]));
        let nobody = TrustAnchors::default();
        assert_eq!(flaws("vdi.example", slice::from_ref(&der), &nobody), [Flaw::SelfSigned]);
        assert_eq!(flaws("192.0.2.7", slice::from_ref(&der), &nobody), [Flaw::SelfSigned]);
        let names = vec!["vdi.example".to_owned(), "192.0.2.7".to_owned()];
        let wrong = [Flaw::SelfSigned, Flaw::WrongHost(names)];
        assert_eq!(flaws("other.example", slice::from_ref(&der), &nobody), wrong);
        assert_eq!(flaws("vdi.example", slice::from_ref(&der), &TrustAnchors::new([der.clone()])), []);
    }

    #[test]
    fn an_authority_vouches_and_time_is_told_apart() {
        let mut ca = params(&[]);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "Test authority");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let signed = |mut params: CertificateParams, from: i32, until: i32| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der().clone()
        };
        let anchors = TrustAnchors::new([ca.der().clone()]);
        let good = signed(params(&["vdi.example"]), 2000, 4000);
        assert_eq!(flaws("VDI.example.", slice::from_ref(&good), &anchors), []);
        assert_eq!(
            flaws("vdi.example", slice::from_ref(&good), &TrustAnchors::default()),
            [Flaw::UnknownIssuer]
        );
        let with_root = [good, ca.der().clone()];
        assert_eq!(flaws("vdi.example", &with_root, &TrustAnchors::default()), [Flaw::UntrustedRoot]);
        let old = signed(params(&["vdi.example"]), 2000, 2001);
        assert_eq!(flaws("vdi.example", &[old], &anchors), [Flaw::Expired]);
        let early = signed(params(&["vdi.example"]), 3999, 4000);
        assert_eq!(flaws("vdi.example", &[early], &anchors), [Flaw::NotYetValid]);
    }

    #[test]
    fn certificates_that_a_good_chain_does_not_need_have_no_say() {
        let authority = |name: &str, until| {
            let mut ca = params(&[]);
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            ca.distinguished_name.push(DnType::CommonName, name);
            ca.not_after = date_time_ymd(until, 1, 1);
            CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap()
        };
        let (ca, outdated) = (authority("Test authority", 4000), authority("Old authority", 2001));
        let leaf =
            params(&["vdi.example"]).signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der().clone();
        let anchors = TrustAnchors::new([ca.der().clone()]);
        let chain = [leaf, outdated.der().clone()];
        assert_eq!(flaws("vdi.example", &chain, &anchors), []);
        assert_eq!(flaws("other.example", &chain, &anchors), [Flaw::WrongHost(vec!["vdi.example".into()])]);
        let all = [Flaw::UntrustedRoot, Flaw::Expired];
        assert_eq!(flaws("vdi.example", &chain, &TrustAnchors::default()), all, "nothing holds");
    }

    #[test]
    fn names_match_by_label() {
        for (pattern, host, yes) in [
            ("vdi.example", "vdi.example", true),
            ("*.example.org", "vdi.example.org", true),
            ("*.example.org", "a.vdi.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("*", "vdi", false),
            ("v*.example.org", "vdi.example.org", false),
            ("", "vdi", false),
        ] {
            assert_eq!(name_matches(pattern, host), yes, "{pattern} {host}");
        }
    }

    #[test]
    fn garbage_is_a_problem_and_not_a_panic() {
        let garbage = CertificateDer::from(b"not DER".to_vec());
        let found = flaws("vdi.example", &[garbage], &TrustAnchors::default());
        assert_eq!(found, [Flaw::UnknownIssuer, Flaw::Other("it cannot be read".to_owned())]);
    }
}
