//! The keys `auth.oidc.*`, checked once.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use qvd_core::config::Config;

use super::claims::Rules;
use super::issuer::Issuer;
use super::keys::asymmetric;
use crate::auth::keys::{given, required, wrong};
use crate::auth::trust;
use crate::error::Result;

/// Everything that a token is measured by.
#[derive(Debug)]
pub(in crate::auth) struct Settings {
    pub(super) issuer: Issuer,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) rules: Rules,
}

impl Settings {
    pub(in crate::auth) fn from_config(config: &Config) -> Result<Self> {
        const ISSUER: &str = "auth.oidc.issuer";
        let name = required(config, ISSUER, "https://login.example.com")?;
        let rules = Rules {
            issuer: name.clone(),
            client_id: required(config, "auth.oidc.client_id", "qvd")?,
            audience: given(config, "auth.oidc.audience"),
            login_claim: required(config, "auth.oidc.login_claim", "preferred_username")?,
            leeway: leeway(config)?,
            case_sensitive: config.flag("model.user.login.case-sensitive"),
        };
        let algorithms = algorithms(config)?;
        let tls = trust::client(config, "auth.oidc.cafile")?;
        let issuer = Issuer::new(&name, &tls).map_err(|problem| wrong(ISSUER, problem))?;
        Ok(Self { issuer, algorithms, rules })
    }
}

/// A token that ended long ago must not count as one whose clock is a little off.
fn leeway(config: &Config) -> Result<Duration> {
    const KEY: &str = "auth.oidc.leeway";
    let leeway = config.seconds(KEY);
    if leeway > MOST_LEEWAY {
        return Err(wrong(KEY, format!("{} s is more than {} s", leeway.as_secs(), MOST_LEEWAY.as_secs())));
    }
    Ok(leeway)
}

fn algorithms(config: &Config) -> Result<Vec<Algorithm>> {
    const KEY: &str = "auth.oidc.algs";
    let names = config.list(KEY);
    if names.is_empty() {
        return Err(wrong(KEY, "names no algorithm (as in RS256)"));
    }
    let known = |name: &String| {
        asymmetric(name).ok_or_else(|| wrong(KEY, format!("'{name}' is not one of {ALGORITHMS}")))
    };
    names.iter().map(known).collect()
}

const MOST_LEEWAY: Duration = Duration::from_secs(600);

const ALGORITHMS: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(set: &[(&str, &str)]) -> Result<Settings> {
        let base = [("auth.oidc.issuer", "https://login.example.com/realm"), ("auth.oidc.client_id", "qvd")];
        let config = base.iter().chain(set).fold(Config::builder(), |c, (key, value)| c.set(*key, *value));
        Settings::from_config(&config.build().unwrap())
    }

    #[test]
    fn defaults_do() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.rules.login_claim, "preferred_username");
        assert_eq!((settings.rules.audience, settings.rules.leeway.as_secs()), (None, 60));
        let usual = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
        assert_eq!(settings.algorithms, usual);
    }

    #[test]
    fn issuers_are_https_or_on_this_machine() {
        for issuer in [
            "https://login.example.com",
            "https://login.example.com/",
            "https://login.example.com:8443/realms/qvd",
            "http://localhost:4593/api/oidc",
            "http://127.0.0.1:4593",
            "http://[::1]:4593/x",
        ] {
            assert!(settings(&[("auth.oidc.issuer", issuer)]).is_ok(), "{issuer}");
        }
        for issuer in [
            "http://login.example.com",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "http://localhost@example.com",
            "https://user:secret@login.example.com",
            "https://login.example.com?tenant=1",
            "https://login.example.com#x",
            "ldap://login.example.com",
        ] {
            let error = settings(&[("auth.oidc.issuer", issuer)]).unwrap_err().to_string();
            assert!(error.starts_with("auth.oidc.issuer: "), "{issuer}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (key, value) in [
            ("auth.oidc.issuer", ""),
            ("auth.oidc.client_id", ""),
            ("auth.oidc.login_claim", ""),
            ("auth.oidc.algs", ""),
            ("auth.oidc.algs", "none"),
            ("auth.oidc.algs", "RS256,HS256"),
            ("auth.oidc.algs", "rs256"),
            ("auth.oidc.leeway", "1d"),
            ("auth.oidc.cafile", "/no/such/file"),
        ] {
            let error = settings(&[(key, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: ")), "{key}={value}: {error}");
        }
    }
}
