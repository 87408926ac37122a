//! Authenticators that come with the router, named as in `l7r.auth.plugins`.

mod auto;
mod bounded;
mod default;
mod hashing;
mod keys;
mod ldap;
mod oidc;
mod proofs;
mod tester;
mod throttle;
mod tokens;
mod totp;
mod trust;

use std::sync::Arc;

use qvd_core::Secret;
use qvd_core::auth::{Authenticator, Chain};
use qvd_core::config::Config;
use qvd_db::Db;

pub use auto::Auto;
pub(crate) use bounded::Bounded;
pub use default::Default;
pub(crate) use hashing::HASHING;
pub use ldap::Ldap;
pub use oidc::Oidc;
pub use tester::AuthTester;
pub(crate) use throttle::Throttle;
pub(crate) use tokens::{Tokens, Wish, issue};
pub use totp::{SECRET_PROPERTY as TOTP_SECRET_PROPERTY, Totp};

use crate::error::{Error, Result};

/// The chain that the configuration names.
///
/// # Errors
///
/// [`Error::Setting`] names the key: a name that is no authenticator of this router, a key of one that cannot be used,
/// or a list in which nobody checks passwords or tokens. Nobody may log in under rules that were not understood.
pub fn chain_from_config(db: &Db, config: &Config) -> Result<Chain> {
    let builder = Chain::builder().case_sensitive(config.flag("model.user.login.case-sensitive"));
    let plans = plans(config)?;
    Ok(plans.into_iter().fold(builder, |builder, plan| builder.plugin(plan.build(db))).build())
}

/// Whether a chain can be made of the configuration, as far as it tells without the database.
pub(crate) fn check(config: &Config) -> Result<()> {
    plans(config).map(drop)
}

/// An authenticator with its keys read, to which only the database is missing.
enum Plan {
    Default { salt: Secret<String> },
    Ldap(ldap::Settings),
    Oidc(Box<oidc::Settings>),
    Auto(auto::Settings),
    Totp(totp::Settings),
    AuthTester,
}

impl Plan {
    /// The one place that knows the names.
    fn named(name: &str, config: &Config) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "default" => Ok(Self::Default { salt: config.secret("l7r.auth.plugin.default.salt") }),
            "ldap" => ldap::Settings::from_config(config).map(Self::Ldap),
            "oidc" => oidc::Settings::from_config(config).map(Box::new).map(Self::Oidc),
            "auto" => auto::Settings::from_config(config).map(Self::Auto),
            "totp" => totp::Settings::from_config(config).map(Self::Totp),
            "authtester" => Ok(Self::AuthTester),
            _ => {
                let problem = format!("'{name}' is no authenticator of this router (those are: {NAMES})");
                Err(Error::Setting { key: PLUGINS, problem })
            }
        }
    }

    fn build(self, db: &Db) -> Arc<dyn Authenticator> {
        match self {
            Self::Default { salt } => Arc::new(Default::with_salt(db.clone(), salt)),
            Self::Ldap(settings) => Arc::new(Ldap::new(settings)),
            Self::Oidc(settings) => Arc::new(Oidc::new(*settings)),
            Self::Auto(settings) => Arc::new(Auto::new(db.clone(), settings)),
            Self::Totp(settings) => Arc::new(Totp::new(db.clone(), settings)),
            Self::AuthTester => Arc::new(AuthTester),
        }
    }

    /// Auto and totp only add to what another one found.
    fn lets_in(&self) -> bool {
        match self {
            Self::Default { .. } | Self::Ldap(_) | Self::Oidc(_) | Self::AuthTester => true,
            Self::Auto(_) | Self::Totp(_) => false,
        }
    }
}

fn plans(config: &Config) -> Result<Vec<Plan>> {
    let names = config.list(PLUGINS);
    let plans = names.iter().map(|name| Plan::named(name, config)).collect::<Result<Vec<_>>>()?;
    if !plans.iter().any(Plan::lets_in) {
        let problem = format!(
            "'{}' names nobody who checks passwords or tokens; add default or ldap, or oidc for tokens alone",
            names.join(",")
        );
        return Err(Error::Setting { key: PLUGINS, problem });
    }
    Ok(plans)
}

const PLUGINS: &str = "l7r.auth.plugins";

const NAMES: &str = "default, ldap, oidc, auto, totp, authtester";

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(set: &[(&str, &str)]) -> Result<()> {
        let config = set.iter().fold(Config::builder(), |config, (key, value)| config.set(*key, *value));
        check(&config.build().unwrap())
    }

    #[test]
    fn names_are_known_in_any_case_and_all_that_are_listed_are() {
        let keys = [
            ("auth.ldap.host", "h"),
            ("auth.ldap.base", "dc=x"),
            ("auth.oidc.issuer", "https://login.example.com"),
            ("auth.oidc.client_id", "qvd"),
            ("auth.auto.osf_id", "1"),
        ];
        for names in [NAMES.to_owned(), NAMES.to_ascii_uppercase(), " Default , TOTP ".to_owned()] {
            checked(&[&[(PLUGINS, names.as_str())][..], &keys].concat()).unwrap();
        }
        let error = checked(&[(PLUGINS, "default,kerberos")]).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{PLUGINS}: 'kerberos' is no authenticator of this router (those are: {NAMES})")
        );
    }

    #[test]
    fn a_list_in_which_nobody_checks_passwords_is_refused() {
        for names in ["totp", "auto,totp", ""] {
            let error = checked(&[(PLUGINS, names), ("auth.auto.osf_id", "1")]).unwrap_err().to_string();
            assert!(error.starts_with(PLUGINS) && error.contains("add default or ldap"), "{names}: {error}");
        }
    }

    #[test]
    fn keys_of_an_authenticator_matter_only_when_it_is_named() {
        assert!(checked(&[("auth.ldap.filter", "(broken")]).is_ok());
        let error = checked(&[(PLUGINS, "ldap"), ("auth.ldap.host", "h")]).unwrap_err();
        assert!(error.to_string().starts_with("auth.ldap.base: "), "{error}");
        let error = checked(&[(PLUGINS, "default,auto")]).unwrap_err();
        assert!(error.to_string().starts_with("auth.auto.osf_id: "), "{error}");
    }

    #[test]
    fn the_manuals_old_name_of_the_list_counts_with_a_warning_and_loses_against_the_present_one() {
        let config = Config::builder().set("l7r.auth.mode", "ldap").build().unwrap();
        assert!(check(&config).unwrap_err().to_string().starts_with("auth.ldap.host: "));
        assert!(config.warnings().iter().any(|w| w.contains("l7r.auth.mode") && w.contains(PLUGINS)));
        let config = Config::builder().set("l7r.auth.mode", "ldap").set(PLUGINS, "default").build().unwrap();
        check(&config).unwrap();
    }
}
