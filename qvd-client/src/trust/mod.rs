//! Whether a server's certificate is good enough, and who says so.
//!
//! Nothing fails while the certificate is read: what is wrong with it is collected in a [`Report`]. [`assess`] compares
//! the report with the [`Policy`] and with what the server showed before ([`TrustStore`]); where neither decides, a
//! [`Judge`] is asked, before any credential was sent.
//!
//! A certificate without flaws is remembered as well. It may be replaced by another such without a word, as it is each
//! time an authority renews it; but a doubtful one in its place is a change.

mod fingerprint;
pub(crate) mod inspect;
mod store;
pub(crate) mod verifier;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::time::SystemTime;

use async_trait::async_trait;

pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use inspect::TrustAnchors;
pub use store::TrustStore;

/// A flaw of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flaw {
    /// The certificate vouches for itself.
    SelfSigned,
    /// The chain ends in an authority that nobody here trusts.
    UntrustedRoot,
    /// The issuer is not known.
    UnknownIssuer,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It was withdrawn.
    Revoked,
    /// It is for another name; the names it is for.
    WrongHost(Vec<String>),
    /// Signed with a hash that can be forged; its name.
    WeakHash(&'static str),
    /// Its RSA key has so few bits that it can be broken.
    WeakKey(u32),
    /// Something else.
    Other(String),
}

impl Flaw {
    /// The number under which acceptance is remembered: OpenSSL's, or above 1000 those of the QVD clients.
    pub const fn number(&self) -> u32 {
        match self {
            Self::Other(_) => 1,
            Self::NotYetValid => 9,
            Self::Expired => 10,
            Self::SelfSigned => 18,
            Self::UntrustedRoot => 19,
            Self::UnknownIssuer => 20,
            // OpenSSL's, of a revocation list; the clients' own 2001 is for the answer of a responder (OCSP).
            Self::Revoked => 23,
            Self::WrongHost(_) => 1001,
            Self::WeakHash(_) => 1002,
            Self::WeakKey(_) => 1003,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfSigned => f.write_str("it is self-signed"),
            Self::UntrustedRoot => f.write_str("its authority is not trusted here"),
            Self::UnknownIssuer => f.write_str("its issuer is not known here"),
            Self::Expired => f.write_str("it has expired"),
            Self::NotYetValid => f.write_str("it is not valid yet"),
            Self::Revoked => f.write_str("it was revoked"),
            Self::WrongHost(names) if names.is_empty() => f.write_str("it names no host"),
            Self::WrongHost(names) => write!(f, "it is for {}", names.join(", ")),
            Self::WeakHash(name) => write!(f, "it is signed with {name}, which can be forged"),
            Self::WeakKey(bits) => write!(f, "its key has only {bits} bits"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A flaw and the certificate that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Place in the chain; 0 is the server's own certificate.
    pub depth: usize,
    /// What is wrong.
    pub flaw: Flaw,
}

/// A certificate as the server showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presented {
    /// SHA-256 of its DER form.
    pub fingerprint: Fingerprint,
    /// Who it is for, one line.
    pub subject: String,
    /// Who vouches for it, one line.
    pub issuer: String,
    /// Fields of the subject, names in lower case (`cn`, `o`, …).
    pub fields: BTreeMap<String, String>,
    /// Host names and addresses it is for.
    pub names: Vec<String>,
    /// Begin of its time.
    pub not_before: Option<SystemTime>,
    /// End of its time.
    pub not_after: Option<SystemTime>,
}

/// What a server showed and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Server and port, as dialled.
    pub server: String,
    /// Its certificates, its own one first; never empty.
    pub chain: Vec<Presented>,
    /// Everything that is wrong with them.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Fingerprint of the server's own certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.chain[0].fingerprint
    }

    /// The problems as one line.
    pub fn summary(&self) -> String {
        let mut words: Vec<String> = self.problems.iter().map(|p| p.flaw.to_string()).collect();
        words.dedup();
        words.join("; ")
    }
}

/// Which flaws a user may accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// [`Flaw::WrongHost`].
    pub allow_bad_host: bool,
    /// [`Flaw::Revoked`].
    pub allow_revoked: bool,
    /// [`Flaw::SelfSigned`], [`Flaw::UntrustedRoot`], [`Flaw::UnknownIssuer`].
    pub allow_untrusted: bool,
    /// [`Flaw::Expired`].
    pub allow_expired: bool,
    /// [`Flaw::NotYetValid`].
    pub allow_not_yet_valid: bool,
    /// [`Flaw::WeakHash`].
    pub allow_weak_hash: bool,
    /// [`Flaw::WeakKey`].
    pub allow_weak_key: bool,
    /// [`Flaw::Other`].
    pub allow_other: bool,
}

impl Default for Policy {
    /// The defaults of the `client.ssl.allow_*` keys: everything but revoked certificates and weak keys.
    fn default() -> Self {
        Self {
            allow_bad_host: true,
            allow_revoked: false,
            allow_untrusted: true,
            allow_expired: true,
            allow_not_yet_valid: true,
            allow_weak_hash: true,
            allow_weak_key: false,
            allow_other: true,
        }
    }
}

impl Policy {
    /// Whether a user may accept this flaw.
    pub const fn allows(&self, flaw: &Flaw) -> bool {
        match flaw {
            Flaw::WrongHost(_) => self.allow_bad_host,
            Flaw::Revoked => self.allow_revoked,
            Flaw::SelfSigned | Flaw::UntrustedRoot | Flaw::UnknownIssuer => self.allow_untrusted,
            Flaw::Expired => self.allow_expired,
            Flaw::NotYetValid => self.allow_not_yet_valid,
            Flaw::WeakHash(_) => self.allow_weak_hash,
            Flaw::WeakKey(_) => self.allow_weak_key,
            Flaw::Other(_) => self.allow_other,
        }
    }
}

/// What a [`Judge`] is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the server showed.
    pub report: Report,
    /// The certificate that this server had before, trusted or accepted: this is another one, and somebody may sit in
    /// between.
    pub changed_from: Option<Fingerprint>,
}

/// A judge's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No.
    Reject,
    /// Yes, this time.
    Once,
    /// Yes, and remember it; a remembered one that it replaces is forgotten.
    Always,
}

/// Decides on a certificate that neither the authorities nor the memory vouch for.
///
/// # Contract
///
/// Called at most once per connection, before anything secret was sent. A question with `changed_from` must not be
/// accepted without somebody having been told of the change.
///
/// # Cancellation
///
/// The caller drops the future when it gives up; nothing is accepted then.
///
/// # Errors
///
/// None; rejecting is the answer when there is nobody to ask.
///
/// # Example
///
/// ```
/// use qvd_client::trust::{Decision, Judge, Question};
///
/// /// Trusts on first use, never a change.
/// #[derive(Debug)]
/// struct FirstUse;
///
/// #[async_trait::async_trait]
/// impl Judge for FirstUse {
///     async fn decide(&self, question: &Question) -> Decision {
///         if question.changed_from.is_none() { Decision::Always } else { Decision::Reject }
///     }
/// }
/// ```
#[async_trait]
pub trait Judge: Debug + Send + Sync + 'static {
    /// The answer.
    async fn decide(&self, question: &Question) -> Decision;
}

/// Judges that need nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fixed {
    /// Rejects everything.
    RejectAll,
    /// Accepts everything, this time, except a change.
    AcceptUnlessChanged,
    /// Accepts and remembers the certificate with this fingerprint, also as a change; rejects every other.
    Only(Fingerprint),
}

#[async_trait]
impl Judge for Fixed {
    async fn decide(&self, question: &Question) -> Decision {
        match self {
            Self::RejectAll => Decision::Reject,
            Self::AcceptUnlessChanged if question.changed_from.is_none() => Decision::Once,
            Self::AcceptUnlessChanged => Decision::Reject,
            Self::Only(wanted) if question.report.fingerprint() == *wanted => Decision::Always,
            Self::Only(_) => Decision::Reject,
        }
    }
}

/// What policy and memory make of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// Nothing is wrong.
    Trusted(Report),
    /// What is wrong was accepted before, for exactly this certificate.
    Remembered,
    /// Somebody has to decide.
    Ask(Question),
    /// Nobody may accept it.
    Unacceptable(Report),
}

/// Compares a report with policy and memory. Pure.
pub fn assess(report: Report, store: &TrustStore, policy: &Policy) -> Assessment {
    if report.problems.is_empty() {
        return Assessment::Trusted(report);
    }
    if report.problems.iter().any(|p| !policy.allows(&p.flaw)) {
        return Assessment::Unacceptable(report);
    }
    if store.has_accepted(&report) {
        return Assessment::Remembered;
    }
    let changed_from = store.remembered_for(&report.server).filter(|known| *known != report.fingerprint());
    Assessment::Ask(Question { report, changed_from })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report(server: &str, seed: u8, flaws: &[Flaw]) -> Report {
        let presented = Presented {
            fingerprint: Fingerprint::of(&[seed]),
            subject: format!("CN=host{seed}"),
            issuer: format!("CN=host{seed}"),
            fields: BTreeMap::from([("cn".to_owned(), format!("host{seed}"))]),
            names: Vec::new(),
            not_before: None,
            not_after: None,
        };
        let problems = flaws.iter().map(|flaw| Problem { depth: 0, flaw: flaw.clone() }).collect();
        Report { server: server.to_owned(), chain: vec![presented], problems }
    }

    #[test]
    fn nothing_wrong_is_trusted_and_fatal_flaws_ask_nobody() {
        let (store, policy) = (TrustStore::default(), Policy::default());
        assert!(matches!(assess(report("a:1", 1, &[]), &store, &policy), Assessment::Trusted(_)));
        for flaw in [Flaw::WeakKey(1024), Flaw::Revoked] {
            let both = report("a:1", 1, &[Flaw::SelfSigned, flaw]);
            assert!(matches!(assess(both, &store, &policy), Assessment::Unacceptable(_)));
        }
        let strict = Policy { allow_untrusted: false, ..Policy::default() };
        let mut store = TrustStore::default();
        store.remember(&report("a:1", 1, &[Flaw::SelfSigned]));
        let remembered_but_forbidden = assess(report("a:1", 1, &[Flaw::SelfSigned]), &store, &strict);
        assert!(matches!(remembered_but_forbidden, Assessment::Unacceptable(_)));
    }

    #[test]
    fn a_change_is_noticed_for_the_same_server_only() {
        let mut store = TrustStore::default();
        let policy = Policy::default();
        let first = report("a:1", 1, &[Flaw::SelfSigned]);
        store.remember(&first);
        assert_eq!(assess(first.clone(), &store, &policy), Assessment::Remembered);
        let asked = |report| match assess(report, &store, &policy) {
            Assessment::Ask(question) => question.changed_from,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(report("a:1", 2, &[Flaw::SelfSigned])), Some(first.fingerprint()));
        assert_eq!(asked(report("b:1", 2, &[Flaw::SelfSigned])), None);
        assert_eq!(asked(report("b:1", 1, &[Flaw::SelfSigned])), None, "accepted for another server");
        let worse = report("a:1", 1, &[Flaw::SelfSigned, Flaw::Expired]);
        assert_eq!(asked(worse), None, "the same certificate with a new flaw is no change");
    }

    #[test]
    fn a_trusted_server_that_becomes_doubtful_has_changed_and_a_renewal_has_not() {
        let (mut store, policy) = (TrustStore::default(), Policy::default());
        let (good, renewed) = (report("a:1", 1, &[]), report("a:1", 2, &[]));
        let doubtful = report("a:1", 3, &[Flaw::SelfSigned]);
        let changed_from = |store: &TrustStore| match assess(doubtful.clone(), store, &policy) {
            Assessment::Ask(question) => question.changed_from,
            other => panic!("{other:?}"),
        };
        assert_eq!(changed_from(&store), None, "a first visit");
        assert!(!store.knows(&good));
        store.remember(&good);
        assert!(store.knows(&good) && !store.knows(&renewed));
        assert_eq!(assess(renewed.clone(), &store, &policy), Assessment::Trusted(renewed.clone()));
        store.remember(&renewed);
        assert_eq!(changed_from(&store), Some(renewed.fingerprint()));
        let expired = report("a:1", 2, &[Flaw::Expired]);
        assert!(
            matches!(assess(expired, &store, &policy), Assessment::Ask(question) if question.changed_from.is_none()),
            "it was good once, which accepts no flaw of it"
        );
    }

    #[tokio::test]
    async fn fixed_judges() {
        let question =
            |changed_from| Question { report: report("a:1", 1, &[Flaw::SelfSigned]), changed_from };
        let other = Fingerprint::of(b"other");
        let cases = [
            (Fixed::RejectAll, None, Decision::Reject),
            (Fixed::AcceptUnlessChanged, None, Decision::Once),
            (Fixed::AcceptUnlessChanged, Some(other), Decision::Reject),
            (Fixed::Only(Fingerprint::of(&[1])), Some(other), Decision::Always),
            (Fixed::Only(other), None, Decision::Reject),
        ];
        for (judge, changed, decision) in cases {
            assert_eq!(judge.decide(&question(changed)).await, decision, "{judge:?}");
        }
    }
}
