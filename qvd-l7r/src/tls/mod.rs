//! TLS of the client port: certificates by name, what is spoken, who must show a certificate.
//!
//! The provider is aws-lc. No ALPN is negotiated: a client that offers `h2`, and nothing else even, must end up with
//! HTTP/1.1, and a list of ours would end its handshake.
//!
//! | module | what it knows |
//! |---|---|
//! | `material` | texts in PEM form; which certificate is shown for which name |
//! | `policy` | versions and cipher suites |
//! | `clients` | certificates of clients |
//! | `lifetime` | when certificates end |
//! | `selfsigned` | making a certificate |

mod clients;
mod lifetime;
mod material;
mod policy;
mod selfsigned;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use qvd_core::config::Config;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use sha2::{Digest, Sha256};

pub(crate) use lifetime::{DAY, Lifetime};
pub(crate) use material::Material;
pub(crate) use policy::Policy;
pub(crate) use selfsigned::self_signed;

use crate::error::{Error, Result};
use material::ByName;

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
    /// Keys that change by themselves. They outlive certificates: whoever has a ticket need not notice a new one.
    tickets: Arc<dyn ProducesTickets>,
    current: RwLock<Current>,
}

/// One greeting, and what it was made of.
#[derive(Clone, Debug)]
struct Current {
    material: Material,
    policy: Policy,
    checks_clients: bool,
    server: Arc<ServerConfig>,
    fingerprint: Fingerprint,
    lifetimes: Arc<[Lifetime]>,
}

/// What [`Tls::replace`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// Nothing differs.
    Nothing,
    /// Something else than the certificate that is shown first.
    Rest,
    /// The certificate that is shown first.
    Certificate,
}

impl Tls {
    pub(crate) fn new(material: &Material, config: &Config) -> Result<Self> {
        let tickets =
            aws_lc_rs::Ticketer::new().map_err(|e| Error::Certificate { problem: e.to_string() })?;
        let current = Current::new(material, config, &tickets)?;
        current.remark();
        Ok(Self { tickets, current: RwLock::new(current) })
    }

    /// For a connection that begins now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.read(|current| current.server.clone())
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.read(|current| current.fingerprint)
    }

    /// What ends some day.
    pub(crate) fn lifetimes(&self) -> Arc<[Lifetime]> {
        self.read(|current| current.lifetimes.clone())
    }

    /// Greets later connections with other material, or by another policy.
    pub(crate) fn replace(&self, material: &Material, config: &Config) -> Result<Replaced> {
        let policy = Policy::from_config(config)?;
        let checks_clients = config.flag("l7r.client.cert.require");
        let is_same = |current: &Current| {
            current.material == *material
                && current.policy == policy
                && current.checks_clients == checks_clients
        };
        if self.read(is_same) {
            return Ok(Replaced::Nothing);
        }
        let fresh = Current::new(material, config, &self.tickets)?;
        fresh.remark();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.fingerprint != fresh.fingerprint;
        *current = fresh;
        Ok(if changed { Replaced::Certificate } else { Replaced::Rest })
    }

    fn read<T>(&self, what: impl FnOnce(&Current) -> T) -> T {
        what(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn new(material: &Material, config: &Config, tickets: &Arc<dyn ProducesTickets>) -> Result<Self> {
        let unusable = |problem: String| Error::Certificate { problem };
        let policy = Policy::from_config(config)?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: policy.suites.clone(),
            ..aws_lc_rs::default_provider()
        });
        let certificates = ByName::new(material, &provider).map_err(unusable)?;
        let lifetimes = Lifetime::all(material).map_err(unusable)?.into();
        let fingerprint = Fingerprint::of(certificates.first());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&policy.versions)
            .map_err(|e| unusable(e.to_string()))?;
        let verifier = clients::verifier(material, config, &provider)?;
        let checks_clients = verifier.is_some();
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(certificates));
        server.ignore_client_order = true;
        // A ticket holds what a cache would: nothing is kept, no lock taken, per session.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        if checks_clients {
            // A resumed handshake would not look at the client's certificate again.
            server.send_tls13_tickets = 0;
        } else {
            // The second connection of clients that list on one and connect on another needs no full handshake.
            server.ticketer = tickets.clone();
        }
        let (material, server) = (material.clone(), Arc::new(server));
        Ok(Self { material, policy, checks_clients, server, fingerprint, lifetimes })
    }

    fn remark(&self) {
        for remark in &self.policy.remarks {
            tracing::warn!("{remark}");
        }
    }
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
        let same = tls.replace(&material, &Config::defaults()).unwrap();
        assert_eq!(same, Replaced::Nothing, "the same certificate");
        let stricter = Config::builder().set("l7r.ssl.options.SSL_version", "TLSv1_3").build().unwrap();
        assert_eq!(tls.replace(&material, &stricter).unwrap(), Replaced::Rest);
        let other = self_signed("node1", None).unwrap();
        assert_eq!(tls.replace(&other, &stricter).unwrap(), Replaced::Certificate);
        assert!(!format!("{material:?} {tls:?}").contains("PRIVATE"), "keys do not show");
    }

    #[test]
    fn broken_material_is_named() {
        let mut material = self_signed("n", None).unwrap();
        material.certificate = "no pem".into();
        let error = Tls::new(&material, &Config::defaults()).unwrap_err().to_string();
        assert!(error.contains("l7r.ssl.cert"), "{error}");
    }
}
