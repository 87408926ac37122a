//! Certificates and keys as texts, and which of them belong together.
//!
//! The text of `l7r.ssl.cert` may hold several certificates, each followed by its chain, and that of `l7r.ssl.key` the
//! key of each, in any order: the key says whose it is. A client is shown the one for the name that it asks for, and the
//! first when it asks for none or for one that is not there.

use std::collections::HashMap;
use std::sync::Arc;

use qvd_core::Secret;
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Texts in PEM form, as `ssl_configs` holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    pub(crate) certificate: String,
    pub(crate) key: Secret<String>,
    pub(crate) ca: Option<String>,
    pub(crate) crl: Option<String>,
}

/// Every certificate of a PEM text.
pub(super) fn certificates(key: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(|e| format!("{key}: {e}"))?;
    if read.is_empty() { Err(format!("{key} holds no certificate")) } else { Ok(read) }
}

/// Certificates by the names that they are for.
#[derive(Debug)]
pub(super) struct ByName {
    first: Arc<CertifiedKey>,
    /// Lower case; one with `*` in front stands for any first label.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    /// Puts certificates and keys together.
    ///
    /// # Errors
    ///
    /// What cannot be used, named by its key.
    pub(super) fn new(material: &Material, provider: &CryptoProvider) -> Result<Self, String> {
        let chain = certificates("l7r.ssl.cert", &material.certificate)?;
        let mut keys = keys(&material.key, provider)?;
        let mut pairs: Vec<(Vec<CertificateDer<'static>>, Arc<dyn SigningKey>)> = Vec::new();
        for certificate in chain {
            let wanted = parse("l7r.ssl.cert", &certificate)?.public_key().raw.to_vec();
            let is_its = |key: &Arc<dyn SigningKey>| key.public_key().is_some_and(|k| k.as_ref() == wanted);
            match (keys.iter().position(is_its), pairs.last_mut()) {
                (Some(at), _) => pairs.push((vec![certificate], keys.swap_remove(at))),
                (None, Some((chain, _))) => chain.push(certificate),
                (None, None) => return Err("l7r.ssl.key is not the key of l7r.ssl.cert".to_owned()),
            }
        }
        if !keys.is_empty() {
            return Err(format!(
                "l7r.ssl.key holds {} keys that belong to no certificate of l7r.ssl.cert",
                keys.len()
            ));
        }
        let pairs: Vec<_> =
            pairs.into_iter().map(|(chain, key)| Arc::new(CertifiedKey::new(chain, key))).collect();
        let first = pairs.first().cloned().ok_or("l7r.ssl.cert holds no certificate")?;
        let mut names: HashMap<String, Vec<_>> = HashMap::new();
        for pair in &pairs {
            for name in dns_names(&pair.cert[0])? {
                names.entry(name).or_default().push(pair.clone());
            }
        }
        Ok(Self { first, names })
    }

    /// The certificate that clients see who ask for none by name.
    pub(super) fn first(&self) -> &CertificateDer<'static> {
        // A pair is made with a certificate.
        &self.first.cert[0]
    }

    /// The certificate for a name, of a kind that the client can check.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        let fitting = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wild = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
            self.names.get(&name).or_else(|| self.names.get(&wild?))
        });
        let Some(fitting) = fitting else { return self.first.clone() };
        let checkable = fitting.iter().find(|pair| pair.key.choose_scheme(schemes).is_some());
        checkable.or(fitting.first()).unwrap_or(&self.first).clone()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()))
    }
}

fn keys(pem: &Secret<String>, provider: &CryptoProvider) -> Result<Vec<Arc<dyn SigningKey>>, String> {
    let read: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem.expose().as_bytes()).collect();
    let read = read.map_err(|e| format!("l7r.ssl.key: {e}"))?;
    if read.is_empty() {
        return Err("l7r.ssl.key holds no private key without a password".to_owned());
    }
    read.into_iter()
        .map(|key| provider.key_provider.load_private_key(key).map_err(|e| format!("l7r.ssl.key: {e}")))
        .collect()
}

pub(super) fn parse<'a>(key: &str, certificate: &'a [u8]) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|e| format!("{key}: {e}"))
}

fn dns_names(certificate: &[u8]) -> Result<Vec<String>, String> {
    let parsed = parse("l7r.ssl.cert", certificate)?;
    let names = parsed.subject_alternative_name().map_err(|e| format!("l7r.ssl.cert: {e}"))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(dns.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
    use rustls::crypto::aws_lc_rs;

    fn pair(names: &[&str], algorithm: &'static SignatureAlgorithm) -> (String, String) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        (CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn by_name(certificates: &[&str], keys: &[&str]) -> Result<ByName, String> {
        let material = Material {
            certificate: certificates.concat(),
            key: Secret::new(keys.concat()),
            ca: None,
            crl: None,
        };
        ByName::new(&material, &aws_lc_rs::default_provider())
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn each_name_has_its_certificate_and_the_rest_the_first() {
        let (one, one_key) = pair(&["one.example"], &PKCS_ECDSA_P256_SHA256);
        let (issuer, _) = pair(&["issuer"], &PKCS_ECDSA_P256_SHA256);
        let (two, two_key) = pair(&["Two.example", "*.two.example"], &PKCS_ECDSA_P256_SHA256);
        let all = by_name(&[&one, &issuer, &two], &[&two_key, &one_key]).unwrap();
        assert_eq!(all.first.cert, [der(&one), der(&issuer)], "with its chain");
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        for (name, shown) in [
            (None, &one),
            (Some("one.example"), &one),
            (Some("two.example"), &two),
            (Some("any.TWO.example"), &two),
            (Some("a.any.two.example"), &one),
            (Some("elsewhere"), &one),
        ] {
            assert_eq!(all.choose(name, &schemes).cert[0], der(shown), "{name:?}");
        }
    }

    #[test]
    fn of_two_kinds_for_a_name_the_client_gets_the_one_that_it_can_check() {
        let (modern, modern_key) = pair(&["a"], &PKCS_ED25519);
        let (usual, usual_key) = pair(&["a"], &PKCS_ECDSA_P256_SHA256);
        let both = by_name(&[&modern, &usual], &[&modern_key, &usual_key]).unwrap();
        let shown = |scheme| both.choose(Some("a"), &[scheme]).cert[0].clone();
        assert_eq!(shown(SignatureScheme::ED25519), der(&modern));
        assert_eq!(shown(SignatureScheme::ECDSA_NISTP256_SHA256), der(&usual));
        assert_eq!(shown(SignatureScheme::RSA_PKCS1_SHA256), der(&modern), "none: it will say so");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (one, one_key) = pair(&["one"], &PKCS_ECDSA_P256_SHA256);
        let (_, other_key) = pair(&["other"], &PKCS_ECDSA_P256_SHA256);
        let said = |certificates: &[&str], keys: &[&str]| by_name(certificates, keys).unwrap_err();
        assert_eq!(said(&[&one], &[&other_key]), "l7r.ssl.key is not the key of l7r.ssl.cert");
        assert!(said(&[&one], &[&one_key, &other_key]).contains("1 keys that belong to no certificate"));
        assert_eq!(said(&["no pem"], &[&one_key]), "l7r.ssl.cert holds no certificate");
        assert!(said(&[&one], &[&one]).starts_with("l7r.ssl.key holds no private key"));
    }
}
