//! Whom authenticators believe that the server that they ask is who it says.

use std::path::Path;
use std::sync::Arc;

use qvd_core::config::Config;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::auth::keys::{given, wrong};
use crate::error::Result;

/// A client that believes the certificates in the file that the key `ca` names, or else those of the system.
pub(super) fn client(config: &Config, ca: &'static str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let (from, certificates) = match given(config, ca) {
        Some(file) => (file.clone(), in_file(Path::new(&file), ca)?),
        None => ("the system".to_owned(), rustls_native_certs::load_native_certs().certs),
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(wrong(ca, format!("no usable certificate in {from}, so that no server can be believed")));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(ca, error.to_string()))?;
    Ok(Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

fn in_file(file: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |error: &dyn std::fmt::Display| wrong(key, format!("{}: {error}", file.display()));
    let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| unusable(&error))
}
