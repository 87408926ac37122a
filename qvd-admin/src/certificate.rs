//! Whether a certificate and its key can be used together. Looks at texts only.

use jiff::{Timestamp, Zoned};
use qvd_db::SslMaterial;
use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::error::{Error, Result};

/// Refuses what no router could serve with; answers what the administrator should know.
pub(crate) fn check(material: &SslMaterial, now: &Zoned) -> Result<Vec<String>> {
    let chain = blocks("cert", material.cert.as_deref().unwrap_or_default(), "CERTIFICATE")?;
    let key = KeyPair::from_pem(material.key.as_ref().map_or("", |key| key.expose())).map_err(|_| {
        Error::invalid("key", "the private key is no PEM text of a private key without a password")
    })?;
    if let Some(ca) = &material.ca {
        blocks("ca", ca, "CERTIFICATE")?;
    }
    if let Some(crl) = &material.crl {
        blocks("crl", crl, "X509 CRL")?;
    }
    let own = parse("cert", &chain[0])?;
    if own.public_key().raw != key.subject_public_key_info() {
        return Err(Error::invalid("key", "private key does not match the certificate"));
    }
    Ok(validity(&own, now.timestamp()).into_iter().chain(weakness(&own)).collect())
}

fn blocks(field: &'static str, text: &str, label: &str) -> Result<Vec<Pem>> {
    let wrong = || Error::invalid(field, format!("the {field} file holds no PEM block '{label}'"));
    let blocks: Vec<_> =
        Pem::iter_from_buffer(text.as_bytes()).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let blocks: Vec<_> = blocks.into_iter().filter(|block| block.label == label).collect();
    if blocks.is_empty() { Err(wrong()) } else { Ok(blocks) }
}

fn parse<'a>(field: &'static str, block: &'a Pem) -> Result<X509Certificate<'a>> {
    block
        .parse_x509()
        .map_err(|_| Error::invalid(field, format!("the {field} file holds no X.509 certificate")))
}

fn validity(certificate: &X509Certificate<'_>, now: Timestamp) -> Option<String> {
    let moment = |seconds| Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |t| t.to_string());
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if until < now.as_second() {
        Some(format!("the certificate expired on {}", moment(until)))
    } else if from > now.as_second() {
        Some(format!("the certificate is not valid before {}", moment(from)))
    } else {
        None
    }
}

fn weakness(certificate: &X509Certificate<'_>) -> Option<String> {
    const SHORTEST_RSA_BITS: usize = 2048;
    match certificate.public_key().parsed().ok()? {
        x509_parser::public_key::PublicKey::RSA(key) if key.key_size() < SHORTEST_RSA_BITS => {
            Some(format!("the certificate is weak: its RSA key has only {} bits", key.key_size()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(until: (i32, u8, u8)) -> (String, String) {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn material(cert: &str, key: &str) -> SslMaterial {
        SslMaterial {
            cert: Some(cert.to_owned()),
            key: Some(qvd_core::Secret::new(key.to_owned())),
            ..SslMaterial::default()
        }
    }

    fn now() -> Zoned {
        "2026-01-01T00:00:00[UTC]".parse().unwrap()
    }

    #[test]
    fn a_matching_pair_is_taken() {
        let (cert, key) = pair((2040, 1, 1));
        assert_eq!(check(&material(&cert, &key), &now()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_expired_certificate_is_taken_with_a_warning() {
        let (cert, key) = pair((2020, 1, 1));
        let warnings = check(&material(&cert, &key), &now()).unwrap();
        assert_eq!(warnings, ["the certificate expired on 2020-01-01T00:00:00Z"]);
    }

    #[test]
    fn a_foreign_key_and_foreign_texts_are_refused() {
        let (cert, key) = pair((2040, 1, 1));
        let (_, other) = pair((2040, 1, 1));
        let said = |m: &SslMaterial| check(m, &now()).unwrap_err().to_string();
        assert_eq!(said(&material(&cert, &other)), "private key does not match the certificate");
        assert_eq!(said(&material("hello", &key)), "the cert file holds no PEM block 'CERTIFICATE'");
        assert!(said(&material(&cert, "hello")).starts_with("the private key is no PEM text"));
        let with_ca = SslMaterial { ca: Some(key.clone()), ..material(&cert, &key) };
        assert_eq!(said(&with_ca), "the ca file holds no PEM block 'CERTIFICATE'");
    }
}
