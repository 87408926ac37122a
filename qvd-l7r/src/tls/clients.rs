//! Certificates of clients, where they are required.

use std::sync::Arc;

use qvd_core::config::Config;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::material::{Material, certificates};
use crate::error::{Error, Result};

/// Who checks clients' certificates; none when they need not have one.
pub(super) fn verifier(
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
    for certificate in certificates("l7r.ssl.ca", ca).map_err(&unusable)? {
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
