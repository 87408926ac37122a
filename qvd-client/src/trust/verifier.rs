//! What rustls is given as a verifier: it keeps the certificates and checks only that the server holds the key.
//!
//! The verdict is made after the handshake and before anything is sent ([`crate::connect`]), because a user may have
//! to be asked, which takes longer than a handshake may.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Collects what a server shows.
#[derive(Debug)]
pub(crate) struct Collector {
    algorithms: WebPkiSupportedAlgorithms,
    shown: Mutex<Vec<CertificateDer<'static>>>,
}

impl Collector {
    pub(crate) fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms, shown: Mutex::default() })
    }

    /// The certificates of the handshake, the server's own first; empty before they came.
    pub(crate) fn shown(&self) -> Vec<CertificateDer<'static>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }
}

impl ServerCertVerifier for Collector {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|der| der.clone().into_owned()).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
            .or_else(|error| self.verify_by_bare_key(error, message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
            .or_else(|error| self.verify_by_bare_key(error, message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Collector {
    /// For certificates that the usual parser refuses as such (version 1, odd extensions): the key alone is taken from
    /// them. A signature that was checked and found wrong stays wrong.
    fn verify_by_bare_key(
        &self,
        error: Error,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let checked_and_wrong = matches!(
            error,
            Error::InvalidCertificate(CertificateError::BadSignature) | Error::PeerMisbehaved(_)
        );
        let Some((_, parsed)) = X509Certificate::from_der(cert).ok().filter(|_| !checked_and_wrong) else {
            return Err(error);
        };
        let candidates = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
        let Some((_, candidates)) = candidates else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        let key = parsed.public_key().subject_public_key.data.as_ref();
        let holds_key = candidates.iter().any(|algorithm| {
            is_key_of(&parsed, algorithm.public_key_alg_id().as_ref())
                && algorithm.verify_signature(key, message, dss.signature()).is_ok()
        });
        if holds_key {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }
}

/// Whether the certificate's key is of this algorithm, given as the inside of its DER sequence.
fn is_key_of(certificate: &X509Certificate<'_>, algorithm: &[u8]) -> bool {
    // A SubjectPublicKeyInfo is a sequence that begins with the algorithm's sequence.
    let inside = sequence(certificate.public_key().raw).and_then(sequence);
    inside == Some(algorithm)
}

/// Content of the DER sequence at the start of `der`.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return rest.get(..usize::from(first));
    }
    let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    if length.len() > 4 {
        return None;
    }
    rest.get(..length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_of_a_key_is_found() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let collector = Collector::new(&provider);
        let fitting = |scheme| {
            let found = collector.algorithms.mapping.iter().find(|(s, _)| *s == scheme);
            found.unwrap().1.iter().any(|a| is_key_of(&parsed, a.public_key_alg_id().as_ref()))
        };
        assert!(fitting(SignatureScheme::ECDSA_NISTP256_SHA256));
        assert!(!fitting(SignatureScheme::RSA_PSS_SHA256));
    }

    #[test]
    fn sequences_are_cut_within_bounds() {
        assert_eq!(sequence(&[0x30, 2, 1, 2, 9]), Some(&[1, 2][..]));
        assert_eq!(sequence(&[0x30, 0x81, 1, 7]), Some(&[7][..]));
        for bad in
            [&[][..], &[0x30], &[0x31, 0], &[0x30, 5, 1], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x84, 255]]
        {
            assert_eq!(sequence(bad), None, "{bad:?}");
        }
    }
}
