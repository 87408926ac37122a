//! Which versions and cipher suites are spoken: the words of old installations, read for what this router can speak.
//!
//! `l7r.ssl.options.SSL_version` is a colon list. `TLSv1_3` alone is TLS 1.3 and nothing else; every other list means 1.2
//! and 1.3, as `TLSv1_2:…` and `SSLv23:…` did ("1.2 and better"), less what `!TLSv1_2` or `!TLSv1_3` excludes. Versions
//! below cannot be had, whatever is written.
//!
//! `l7r.ssl.options.SSL_cipher_list` is a cipher list of OpenSSL. Its words choose among the suites of TLS 1.2:
//!
//! | words | suites |
//! |---|---|
//! | `ALL`, `DEFAULT`, `HIGH`, `TLSv1.2`, `ECDHE`, `EECDH`, `kECDHE`, `kEECDH` | all six |
//! | `aRSA`; `aECDSA`, `ECDSA` | by the kind of certificate |
//! | `AESGCM`, `AES`, `FIPS`; `AES128`; `AES256`; `CHACHA20` | by cipher |
//! | `ECDHE-RSA-AES128-GCM-SHA256`, `TLS_ECDHE_RSA_WITH_…` | that suite |
//! | `aNULL`, `RC4`, `3DES`, `MEDIUM`, `kRSA`, `DHE`, `SHA1`, … | none: nothing of this kind is ever spoken |
//!
//! `A+B` is both at once, `-A` takes away, `!A` for good; `@STRENGTH` and `@SECLEVEL` change nothing. A list that only
//! excludes begins with all. TLS 1.3 has suites of its own: named ones (`TLS_AES_256_GCM_SHA384`) choose among them, no
//! name means all three, and what `!` excludes is excluded there, too.
//!
//! The router's order decides, AES-GCM first: it is what processors do best.

use qvd_core::config::Config;
use rustls::crypto::aws_lc_rs::cipher_suite as suites;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::error::{Error, Result};

/// What may be spoken, and what the administrator should know about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    /// In order of preference.
    pub(crate) suites: Vec<SupportedCipherSuite>,
    pub(crate) remarks: Vec<String>,
}

impl Policy {
    /// # Errors
    ///
    /// [`Error::Setting`] when nothing is left to speak.
    pub(crate) fn from_config(config: &Config) -> Result<Self> {
        Self::read(&config.text(VERSIONS), &config.text(CIPHERS))
    }

    fn read(versions: &str, ciphers: &str) -> Result<Self> {
        let mut remarks = Vec::new();
        let versions = read_versions(versions, &mut remarks)?;
        let chosen = read_ciphers(ciphers, &mut remarks);
        let of = |version: &SupportedProtocolVersion| -> Vec<SupportedCipherSuite> {
            chosen.iter().filter(|s| s.suite.version() == version).map(|s| *s.suite).collect()
        };
        let suites: Vec<_> = versions.iter().flat_map(|version| of(version)).collect();
        if suites.is_empty() {
            let problem = format!("'{ciphers}' leaves no cipher suite of the versions in {VERSIONS}");
            return Err(Error::Setting { key: CIPHERS, problem });
        }
        for version in &versions {
            if of(version).is_empty() {
                remarks
                    .push(format!("{CIPHERS} leaves no suite of {:?}, which is not spoken", version.version));
            }
        }
        Ok(Self { versions, suites, remarks })
    }
}

fn read_versions(policy: &str, remarks: &mut Vec<String>) -> Result<Vec<&'static SupportedProtocolVersion>> {
    // TLSv1.2 and TLSv1_2 are written as people like.
    let words: Vec<String> = split(policy).map(|w| w.to_ascii_lowercase().replace('.', "_")).collect();
    for word in &words {
        let name = word.strip_prefix('!').unwrap_or(word);
        if !VERSION_WORDS.contains(&name) {
            remarks.push(format!("{VERSIONS}: '{word}' is no version"));
        } else if name == word && TOO_OLD.contains(&name) {
            remarks.push(format!("{VERSIONS}: '{word}' is not spoken any more"));
        }
    }
    let excluded = |name: &str| words.iter().any(|w| w.strip_prefix('!') == Some(name));
    let mut chosen = words.iter().filter(|w| !w.starts_with('!')).peekable();
    let only_13 = chosen.peek().is_some() && chosen.all(|w| w == "tlsv1_3");
    let mut versions = Vec::new();
    if !excluded("tlsv1_3") {
        versions.push(&rustls::version::TLS13);
    }
    if !excluded("tlsv1_2") && !only_13 {
        versions.push(&rustls::version::TLS12);
    }
    if versions.is_empty() {
        let problem = format!("'{policy}' leaves neither TLS 1.2 nor TLS 1.3");
        return Err(Error::Setting { key: VERSIONS, problem });
    }
    Ok(versions)
}

/// Suites that the list leaves, in the router's order.
fn read_ciphers(list: &str, remarks: &mut Vec<String>) -> Vec<&'static Suite> {
    let words: Vec<&str> = split(list).filter(|w| !w.starts_with('@')).collect();
    let is_positive = |w: &&&str| !w.starts_with(['!', '-', '+']);
    let names_13 =
        |w: &str| SUITES.iter().any(|s| s.is_13() && s.names.iter().any(|n| n.eq_ignore_ascii_case(w)));
    let begins_with_all = |is_13: bool| !words.iter().filter(is_positive).any(|w| names_13(w) == is_13);
    let (all_12, all_13) = (begins_with_all(false), begins_with_all(true));
    let mut left: Vec<(&'static Suite, bool)> =
        SUITES.iter().map(|s| (s, if s.is_13() { all_13 } else { all_12 })).collect();
    let mut excluded: Vec<&str> = Vec::new();
    for word in words {
        let (sign, name) = match word.split_at_checked(1) {
            Some((sign @ ("!" | "-" | "+"), name)) => (sign, name),
            _ => ("", word),
        };
        let parts = || name.split('+');
        for part in parts().filter(|part| !is_known(part)) {
            remarks.push(format!("{CIPHERS}: '{part}' names nothing that this router knows"));
        }
        for (suite, is_in) in &mut left {
            if !parts().all(|part| suite.is_meant_by(part)) {
                continue;
            }
            match sign {
                "!" | "-" => *is_in = false,
                // Order is the router's affair.
                "+" => {}
                _ => *is_in |= !suite.is_13() || names_13(name),
            }
        }
        if sign == "!" {
            excluded.push(name);
        }
    }
    let is_out =
        |suite: &Suite| excluded.iter().any(|name| name.split('+').all(|part| suite.is_meant_by(part)));
    left.into_iter().filter(|(suite, is_in)| *is_in && !is_out(suite)).map(|(suite, _)| suite).collect()
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split([':', ',', ' ', ';']).map(str::trim).filter(|word| !word.is_empty())
}

fn is_known(word: &str) -> bool {
    SUITES.iter().any(|suite| suite.is_meant_by(word)) || NEVER.iter().any(|w| w.eq_ignore_ascii_case(word))
}

/// A suite and the words that mean it.
struct Suite {
    suite: &'static SupportedCipherSuite,
    names: [&'static str; 2],
    words: &'static [&'static str],
}

impl Suite {
    fn is_13(&self) -> bool {
        self.names[1].is_empty()
    }

    fn is_meant_by(&self, word: &str) -> bool {
        let general: &[&str] = if self.is_13() { &["TLSv1.3"] } else { &GENERAL };
        [&self.names[..], self.words, general]
            .concat()
            .iter()
            .any(|mine| !mine.is_empty() && mine.eq_ignore_ascii_case(word))
    }
}

/// All that there are, in the router's order.
static SUITES: [Suite; 9] = [
    Suite {
        suite: &suites::TLS13_AES_256_GCM_SHA384,
        names: ["TLS_AES_256_GCM_SHA384", ""],
        words: &["AES", "AES256", "AESGCM"],
    },
    Suite {
        suite: &suites::TLS13_AES_128_GCM_SHA256,
        names: ["TLS_AES_128_GCM_SHA256", ""],
        words: &["AES", "AES128", "AESGCM"],
    },
    Suite {
        suite: &suites::TLS13_CHACHA20_POLY1305_SHA256,
        names: ["TLS_CHACHA20_POLY1305_SHA256", ""],
        words: &["CHACHA20"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        names: ["ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
        words: &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "FIPS"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        names: ["ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
        words: &["aRSA", "AES", "AES256", "AESGCM", "FIPS"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        names: ["ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        words: &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "FIPS"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        names: ["ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
        words: &["aRSA", "AES", "AES128", "AESGCM", "FIPS"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        names: ["ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"],
        words: &["aECDSA", "ECDSA", "CHACHA20"],
    },
    Suite {
        suite: &suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        names: ["ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
        words: &["aRSA", "CHACHA20"],
    },
];

/// Words that mean every suite of TLS 1.2.
const GENERAL: [&str; 8] = ["ALL", "DEFAULT", "HIGH", "TLSv1.2", "ECDHE", "EECDH", "kECDHE", "kEECDH"];

/// Words of OpenSSL that mean nothing of what there is, and are written to say so.
const NEVER: [&str; 47] = [
    "aNULL",
    "eNULL",
    "NULL",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "MEDIUM",
    "LOW",
    "EXPORT",
    "EXP",
    "EXPORT40",
    "EXPORT56",
    "MD5",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA384",
    "RC2",
    "RC4",
    "DES",
    "3DES",
    "IDEA",
    "SEED",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "AESCCM",
    "AESCCM8",
    "GOST94",
    "RSA",
    "kRSA",
    "DH",
    "DHE",
    "EDH",
    "kDHE",
    "kEDH",
    "ADH",
    "AECDH",
    "DSS",
    "aDSS",
    "PSK",
    "SRP",
    "SSLv2",
    "SSLv3",
    "TLSv1",
];

const VERSION_WORDS: [&str; 8] =
    ["sslv2", "sslv3", "sslv23", "tls", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3"];

const TOO_OLD: [&str; 4] = ["sslv2", "sslv3", "tlsv1", "tlsv1_1"];

const VERSIONS: &str = "l7r.ssl.options.SSL_version";

const CIPHERS: &str = "l7r.ssl.options.SSL_cipher_list";

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: &str = "TLSv1_2";

    /// Names of the suites, in order, and how many remarks there are.
    fn read(versions: &str, ciphers: &str) -> (Vec<&'static str>, usize) {
        let policy = Policy::read(versions, ciphers).unwrap();
        let name = |s: &SupportedCipherSuite| SUITES.iter().find(|own| own.suite == s).unwrap().names[0];
        (policy.suites.iter().map(name).collect(), policy.remarks.len())
    }

    #[test]
    fn the_policy_of_old_installations_means_all_with_aes_gcm_first() {
        let (default, remarks) = {
            let policy = Policy::from_config(&Config::defaults()).unwrap();
            assert_eq!(policy.versions.len(), 2);
            (policy.suites, policy.remarks)
        };
        assert_eq!(default.len(), SUITES.len());
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!(read("", "").0.len(), SUITES.len());
        let (names, _) = read(EVERYTHING, "CHACHA20:AESGCM:@STRENGTH");
        assert_eq!(
            names[..3],
            ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]
        );
        assert!(names[3].contains("GCM") && names[8].contains("CHACHA20"), "{names:?}");
    }

    #[test]
    fn versions() {
        let count = |policy| Policy::read(policy, "ALL").unwrap().versions.len();
        assert_eq!(count("TLSv1_2:!SSLv3:!SSLv2:!TLSv1"), 2);
        assert_eq!(Policy::read("TLSv1_3", "ALL").unwrap().versions, [&rustls::version::TLS13]);
        assert_eq!(Policy::read("SSLv23:!TLSv1.3", "ALL").unwrap().versions, [&rustls::version::TLS12]);
        let error = Policy::read("!TLSv1_2:!TLSv1_3", "ALL").unwrap_err().to_string();
        assert!(error.contains("SSL_version") && error.contains("neither"), "{error}");
        for (policy, remarks) in [("TLSv1_1:TLSv1_2", 1), ("TLSv9", 1), ("!TLSv1_1:TLSv1_2", 0)] {
            assert_eq!(read(policy, "ALL").1, remarks, "{policy}");
        }
    }

    #[test]
    fn ciphers() {
        let of_12 = |list: &str| -> Vec<&str> {
            read(EVERYTHING, list).0.into_iter().filter(|n| !n.starts_with("TLS_")).collect()
        };
        assert_eq!(of_12("ECDHE-RSA-AES128-GCM-SHA256"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(of_12("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(
            of_12("ECDHE+AESGCM+aRSA"),
            ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]
        );
        assert_eq!(of_12("HIGH:-aECDSA:-CHACHA20:ECDHE-ECDSA-CHACHA20-POLY1305").len(), 3);
        assert_eq!(of_12("!CHACHA20:CHACHA20:HIGH").len(), 4, "what is excluded for good does not come back");
        assert_eq!(of_12("!aNULL:!MD5").len(), 6, "a list that only excludes");
        let all = read(EVERYTHING, "HIGH:!CHACHA20").0;
        assert!(all.len() == 6 && !all.iter().any(|n| n.contains("CHACHA20")), "in both versions: {all:?}");
        let named = read(EVERYTHING, "TLS_AES_128_GCM_SHA256:aRSA+AES128").0;
        assert_eq!(named, ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(read(EVERYTHING, "AES128").0.len(), 5, "words of 1.2 leave 1.3 alone");
    }

    #[test]
    fn what_says_nothing_is_named_and_what_leaves_nothing_is_refused() {
        let policy = Policy::read(EVERYTHING, "HIGH:FOO:!BAR+AES:AES256-SHA").unwrap();
        for (remark, word) in policy.remarks.iter().zip(["'FOO'", "'BAR'", "'AES256-SHA'"]) {
            assert!(remark.contains(word), "{remark}");
        }
        assert_eq!(policy.remarks.len(), 3);
        let only_13 = Policy::read(EVERYTHING, "kRSA").unwrap();
        assert_eq!((only_13.suites.len(), only_13.remarks.len()), (3, 1));
        for (versions, ciphers) in [("SSLv23:!TLSv1_3", "RC4"), (EVERYTHING, "HIGH:!AES:!CHACHA20")] {
            let error = Policy::read(versions, ciphers).unwrap_err();
            assert!(matches!(error, Error::Setting { key: CIPHERS, .. }), "{error}");
        }
    }
}
