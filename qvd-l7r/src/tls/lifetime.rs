//! When certificates end, and what to say of it before they do. Pure: texts and times in.

use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer as _};

use super::material::{Material, certificates, parse};

/// Something that is valid until a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// The key that holds it, and whose it is.
    what: String,
    /// Seconds since 1970.
    end: u64,
}

/// What is left of a lifetime, if it is worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remaining {
    Over,
    Days(u64),
}

impl Lifetime {
    /// Everything in the material that ends. Revocation lists end when the next one was promised.
    pub(super) fn all(material: &Material) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        for (key, text) in
            [("l7r.ssl.cert", Some(&material.certificate)), ("l7r.ssl.ca", material.ca.as_ref())]
        {
            let Some(text) = text else { continue };
            for certificate in certificates(key, text)? {
                all.push(Self::of_certificate(key, &certificate)?);
            }
        }
        if let Some(text) = &material.crl {
            for list in CertificateRevocationListDer::pem_slice_iter(text.as_bytes()) {
                let list = list.map_err(|e| format!("l7r.ssl.crl: {e}"))?;
                all.extend(Self::of_list(&list)?);
            }
        }
        Ok(all)
    }

    fn of_certificate(key: &str, certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = parse(key, certificate)?;
        let what = format!("{key} ({})", parsed.subject());
        Ok(Self { what, end: seconds(parsed.validity().not_after) })
    }

    fn of_list(list: &CertificateRevocationListDer<'_>) -> Result<Option<Self>, String> {
        let (_, parsed) =
            CertificateRevocationList::from_der(list).map_err(|e| format!("l7r.ssl.crl: {e}"))?;
        let what = format!("l7r.ssl.crl ({})", parsed.issuer());
        Ok(parsed.next_update().map(|end| Self { what, end: seconds(end) }))
    }

    /// Seconds since 1970.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Says what is over, or will be within `notice`.
    pub(crate) fn tell(&self, now: SystemTime, notice: Duration) {
        match self.remaining(now, notice) {
            None => {}
            Some(Remaining::Over) => {
                tracing::error!("{} is over; set another one with 'qa config ssl'", self.what);
            }
            Some(Remaining::Days(days)) => {
                tracing::warn!(days, "{} ends soon; set another one with 'qa config ssl'", self.what);
            }
        }
    }

    fn remaining(&self, now: SystemTime, notice: Duration) -> Option<Remaining> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        match self.end.checked_sub(now) {
            None | Some(0) => Some(Remaining::Over),
            Some(left) if left <= notice.as_secs() => Some(Remaining::Days(left / DAY.as_secs())),
            Some(_) => None,
        }
    }
}

fn seconds(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0)
}

/// How often it is said.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::self_signed;

    #[test]
    fn the_end_is_told_weeks_ahead_and_behind() {
        let lifetime = Lifetime { what: "x".into(), end: 100 * 86_400 };
        let day = |day: u64| SystemTime::UNIX_EPOCH + DAY * u32::try_from(day).unwrap();
        let notice = DAY * 30;
        for (today, remaining) in [
            (69, None),
            (70, Some(Remaining::Days(30))),
            (99, Some(Remaining::Days(1))),
            (100, Some(Remaining::Over)),
            (200, Some(Remaining::Over)),
        ] {
            assert_eq!(lifetime.remaining(day(today), notice), remaining, "{today}");
        }
    }

    #[test]
    fn certificates_authorities_and_lists_are_all_looked_at() {
        let mut material = self_signed("node1", None).unwrap();
        material.ca = Some(material.certificate.clone());
        let all = Lifetime::all(&material).unwrap();
        let told: Vec<&str> = all.iter().map(|lifetime| lifetime.what.as_str()).collect();
        assert_eq!(told, ["l7r.ssl.cert (CN=node1)", "l7r.ssl.ca (CN=node1)"]);
        let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(all[0].end() > soon + 365 * 86_400);
    }
}
