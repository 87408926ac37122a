//! TLS of the client port: the certificate from the database, or one made here, and its fingerprint.
//!
//! TLS 1.2 and 1.3 with the provider aws-lc; no ALPN is negotiated, since a client that offers `h2` must end up
//! with HTTP/1.1.

mod selfsigned;

use std::fmt;
use std::sync::{Arc, RwLock};

use qvd_core::Secret;
use qvd_core::config::Config;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

pub(crate) use selfsigned::self_signed;

use crate::error::{Error, Result};

/// Texts in PEM form, as `ssl_configs` holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    pub(crate) certificate: String,
    pub(crate) key: Secret<String>,
    pub(crate) ca: Option<String>,
    pub(crate) crl: Option<String>,
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256:")?;
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What new connections are greeted with; may be replaced while connections live.
#[derive(Debug)]
pub(crate) struct Tls {
    current: RwLock<(Arc<ServerConfig>, Fingerprint)>,
}

impl Tls {
    pub(crate) fn new(material: &Material, config: &Config) -> Result<Self> {
        Ok(Self { current: RwLock::new(server_config(material, config)?) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.read().0)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.read().1
    }

    /// Greets later connections with other material; true when the certificate changed.
    pub(crate) fn replace(&self, material: &Material, config: &Config) -> Result<bool> {
        let fresh = server_config(material, config)?;
        let mut current = self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changed = current.1 != fresh.1;
        *current = fresh;
        Ok(changed)
    }

    fn read(&self) -> (Arc<ServerConfig>, Fingerprint) {
        self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

fn server_config(material: &Material, config: &Config) -> Result<(Arc<ServerConfig>, Fingerprint)> {
    let unusable = |problem: String| Error::Certificate { problem };
    let chain = certificates(&material.certificate).map_err(&unusable)?;
    let leaf = chain.first().ok_or_else(|| unusable("l7r.ssl.cert holds no certificate".to_owned()))?;
    let fingerprint = Fingerprint::of(leaf);
    let key = PrivateKeyDer::from_pem_slice(material.key.expose().as_bytes())
        .map_err(|e| unusable(format!("l7r.ssl.key: {e}")))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(&config.text("l7r.ssl.options.SSL_version"))?)
        .map_err(|e| unusable(e.to_string()))?;
    let verifier = client_verifier(material, config, &provider)?;
    let checks_clients = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|e| unusable(e.to_string()))?;
    if checks_clients {
        // A resumed handshake would not look at the client's certificate again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    } else {
        // The second connection of clients that list on one and connect on another needs no full handshake.
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| unusable(e.to_string()))?;
    }
    Ok((Arc::new(server), fingerprint))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("l7r.ssl.cert or l7r.ssl.ca: {e}"))
}

/// The policy text of old installations is a colon list, `!` excludes. Below TLS 1.2 nothing can be had.
fn versions(policy: &str) -> Result<&'static [&'static SupportedProtocolVersion]> {
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    let words: Vec<String> = policy.split(':').map(|w| w.trim().to_ascii_lowercase()).collect();
    let excluded = |name: &str| words.iter().any(|w| w.strip_prefix('!') == Some(name));
    let only_13 =
        words.iter().all(|w| w.starts_with('!') || w == "tlsv1_3") && words.iter().any(|w| w == "tlsv1_3");
    match (excluded("tlsv1_2") || only_13, excluded("tlsv1_3")) {
        (false, false) => Ok(&BOTH),
        (true, false) => Ok(&BOTH[..1]),
        (false, true) => Ok(&BOTH[1..]),
        (true, true) => Err(Error::Setting {
            key: "l7r.ssl.options.SSL_version",
            problem: format!("'{policy}' leaves neither TLS 1.2 nor TLS 1.3"),
        }),
    }
}

fn client_verifier(
    material: &Material,
    config: &Config,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
    if !config.flag("l7r.client.cert.require") {
        return Ok(None);
    }
    let unusable = |problem: String| Error::Certificate { problem };
    let ca = material.ca.as_deref().ok_or(Error::Setting {
        key: "l7r.client.cert.require",
        problem: "needs a CA; set one with 'qa config ssl ca=…' or turn it off".to_owned(),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca).map_err(&unusable)? {
        roots.add(certificate).map_err(|e| unusable(format!("l7r.ssl.ca: {e}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(crl) = &material.crl {
        let lists: Vec<CertificateRevocationListDer<'static>> =
            CertificateRevocationListDer::pem_slice_iter(crl.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| unusable(format!("l7r.ssl.crl: {e}")))?;
        // One whose issuer has no list here is refused: a list that says nothing of it is no permission.
        builder = builder.with_crls(lists).only_check_end_entity_revocation();
    }
    builder.build().map(Some).map_err(|e| unusable(format!("l7r.ssl.ca: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_certificate_serves_and_keeps_its_fingerprint() {
        let material = self_signed("node1", None).unwrap();
        let tls = Tls::new(&material, &Config::defaults()).unwrap();
        let printed = tls.fingerprint().to_string();
        assert_eq!(printed.len(), "SHA256:".len() + 32 * 3 - 1);
        assert!(!tls.replace(&material, &Config::defaults()).unwrap(), "the same certificate");
        assert!(tls.replace(&self_signed("node1", None).unwrap(), &Config::defaults()).unwrap());
        assert!(!format!("{material:?}").contains("PRIVATE"), "keys do not show");
    }

    #[test]
    fn the_version_policy_of_old_installations_means_two_and_three() {
        assert_eq!(versions("TLSv1_2:!SSLv3:!SSLv2:!TLSv1").unwrap().len(), 2);
        assert_eq!(versions("").unwrap().len(), 2);
        assert_eq!(versions("TLSv1_3").unwrap(), [&rustls::version::TLS13]);
        assert_eq!(versions("SSLv23:!TLSv1_3").unwrap(), [&rustls::version::TLS12]);
        assert!(versions("!TLSv1_2:!TLSv1_3").is_err());
    }

    #[test]
    fn broken_material_is_named() {
        let mut material = self_signed("n", None).unwrap();
        material.certificate = "no pem".into();
        let error = Tls::new(&material, &Config::defaults()).unwrap_err().to_string();
        assert!(error.contains("l7r.ssl.cert"), "{error}");
    }
}
