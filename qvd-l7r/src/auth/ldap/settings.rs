//! The keys `auth.ldap.*`, checked once, and what they make of a login.

use std::sync::Arc;

use ldap3::{DerefAliases, Scope, dn_escape, ldap_escape};
use qvd_core::Secret;
use qvd_core::config::Config;
use regex::Regex;
use rustls::ClientConfig;

use crate::auth::keys::{given, is_loopback, required, wrong};
use crate::auth::trust;
use crate::error::Result;

/// Everything that an attempt needs to know of the directory.
#[derive(Debug)]
pub(in crate::auth) struct Settings {
    pub(super) url: String,
    pub(super) start_tls: bool,
    /// Who vouches for the server; none when nothing is encrypted.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) base: String,
    pub(super) scope: Scope,
    pub(super) deref: DerefAliases,
    pub(super) bind_password: Option<Secret<String>>,
    pub(super) normalize: bool,
    pub(super) set_home: bool,
    filter: String,
    bind_dn: Option<String>,
    user_bind_pattern: Option<String>,
    racf: Option<Regex>,
}

impl Settings {
    pub(in crate::auth) fn from_config(config: &Config) -> Result<Self> {
        let (server, start_tls) = (server(config)?, config.flag("auth.ldap.starttls"));
        if start_tls && server.is_tls {
            return Err(wrong(
                "auth.ldap.starttls",
                "is for ldap:// URLs; ldaps:// is TLS from the beginning",
            ));
        }
        let tls = match server.is_tls || start_tls {
            true => Some(trust::client(config, "auth.ldap.cafile")?),
            false => None,
        };
        if tls.is_none() && !server.is_local {
            tracing::warn!(
                "passwords go to {} unencrypted; set auth.ldap.starttls, or an ldaps:// URL as auth.ldap.host",
                server.url
            );
        }
        Ok(Self {
            url: server.url,
            start_tls,
            tls,
            base: required(config, "auth.ldap.base", "dc=example,dc=com")?,
            scope: scope(config)?,
            deref: deref(config)?,
            bind_password: given(config, "auth.ldap.bindpass").map(Secret::new),
            normalize: config.flag("auth.ldap.name.normalize"),
            set_home: config.flag("auth.ldap.home.set"),
            filter: filter(config)?,
            bind_dn: given(config, "auth.ldap.binddn"),
            user_bind_pattern: user_bind_pattern(config)?,
            racf: racf(config)?,
        })
    }

    /// The account that `userbindpattern` makes of a login.
    pub(super) fn user_dn(&self, login: &str) -> Option<String> {
        self.user_bind_pattern.as_deref().map(|pattern| in_dn(pattern, login))
    }

    /// The account that searches; none searches as nobody.
    pub(super) fn search_dn(&self, login: &str) -> Option<String> {
        self.bind_dn.as_deref().map(|pattern| in_dn(pattern, login))
    }

    /// The filter for a login, in which nothing of the login means anything (RFC 4515).
    pub(super) fn filter(&self, login: &str) -> String {
        self.filter.replace(LOGIN, &ldap_escape(login))
    }

    /// Whether what the directory says about refused credentials lets the user in all the same.
    pub(super) fn racf_allows(&self, said: &str) -> bool {
        !said.is_empty() && self.racf.as_ref().is_some_and(|racf| racf.is_match(said))
    }
}

/// A name with the login as one value in it (RFC 4514).
fn in_dn(pattern: &str, login: &str) -> String {
    pattern.replace(LOGIN, &dn_escape(login))
}

struct Server {
    url: String,
    is_tls: bool,
    is_local: bool,
}

/// A name, a name with a port, or an `ldap://` or `ldaps://` URL of these.
fn server(config: &Config) -> Result<Server> {
    const KEY: &str = "auth.ldap.host";
    let text = required(config, KEY, "ldaps://ldap.example.com")?;
    let (scheme, rest) = text.split_once("://").unwrap_or(("ldap", &text));
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "ldap" => false,
        "ldaps" => true,
        other => return Err(wrong(KEY, format!("'{other}://' is not ldap:// or ldaps://"))),
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    let end_of_address = place.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match place[end_of_address..].rfind(':') {
        Some(colon) => {
            let (host, port) = place.split_at(end_of_address + colon);
            let port = port[1..].parse().ok().filter(|port| *port != 0);
            (host, port.ok_or_else(|| wrong(KEY, format!("'{text}' has no port number behind the colon")))?)
        }
        None => (place, if is_tls { 636_u16 } else { 389 }),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)),
    };
    if !is_host {
        return Err(wrong(
            KEY,
            format!("'{text}' is not a server's name or URL (as in ldaps://ldap.example.com)"),
        ));
    }
    let is_local = is_loopback(bare.unwrap_or(host));
    let scheme = if is_tls { "ldaps" } else { "ldap" };
    Ok(Server { url: format!("{scheme}://{host}:{port}"), is_tls, is_local })
}

fn scope(config: &Config) -> Result<Scope> {
    match config.text("auth.ldap.scope").as_str() {
        "base" => Ok(Scope::Base),
        "one" => Ok(Scope::OneLevel),
        "sub" => Ok(Scope::Subtree),
        other => Err(wrong("auth.ldap.scope", format!("'{other}' is not one of base, one, sub"))),
    }
}

fn deref(config: &Config) -> Result<DerefAliases> {
    match config.text("auth.ldap.deref").as_str() {
        "never" => Ok(DerefAliases::Never),
        "search" => Ok(DerefAliases::Searching),
        "find" => Ok(DerefAliases::Finding),
        "always" => Ok(DerefAliases::Always),
        other => {
            Err(wrong("auth.ldap.deref", format!("'{other}' is not one of never, search, find, always")))
        }
    }
}

/// A filter without the login would let everybody in under the password of the one entry that it finds.
fn filter(config: &Config) -> Result<String> {
    const KEY: &str = "auth.ldap.filter";
    let filter = required(config, KEY, "(uid=%u)")?;
    if !filter.contains(LOGIN) {
        return Err(wrong(KEY, format!("'{filter}' does not hold %u, the login")));
    }
    if ldap3::parse_filter(filter.replace(LOGIN, "x")).is_err() {
        return Err(wrong(KEY, format!("'{filter}' is not a search filter (as in (uid=%u))")));
    }
    Ok(filter)
}

fn user_bind_pattern(config: &Config) -> Result<Option<String>> {
    const KEY: &str = "auth.ldap.userbindpattern";
    match given(config, KEY) {
        Some(pattern) if !pattern.contains(LOGIN) => {
            Err(wrong(KEY, format!("'{pattern}' does not hold %u, the login")))
        }
        pattern => Ok(pattern),
    }
}

fn racf(config: &Config) -> Result<Option<Regex>> {
    const KEY: &str = "auth.ldap.racf_allowregex";
    let compile = |pattern: String| Regex::new(&pattern).map_err(|error| wrong(KEY, error.to_string()));
    given(config, KEY).map(compile).transpose()
}

/// What stands for the login in patterns.
const LOGIN: &str = "%u";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(set: &[(&str, &str)]) -> Result<Settings> {
        let base = [("auth.ldap.host", "ldap.example.com"), ("auth.ldap.base", "dc=example,dc=com")];
        let config = base.iter().chain(set).fold(Config::builder(), |c, (key, value)| c.set(*key, *value));
        Settings::from_config(&config.build().unwrap())
    }

    #[test]
    fn nothing_of_a_login_means_anything_in_a_filter_or_a_name() {
        let settings = settings(&[
            ("auth.ldap.filter", "(|(uid=%u)(cn=%u))"),
            ("auth.ldap.binddn", "uid=%u,dc=example"),
            ("auth.ldap.userbindpattern", "%u@example.com"),
        ])
        .unwrap();
        assert_eq!(settings.filter("a)(uid=b"), r"(|(uid=a\29\28uid=b)(cn=a\29\28uid=b))");
        assert_eq!(settings.filter("*\0\\"), r"(|(uid=\2a\00\5c)(cn=\2a\00\5c))");
        assert_eq!(settings.search_dn("a,ou=b+c\"").unwrap(), r"uid=a\2cou\3db\2bc\22,dc=example");
        assert_eq!(settings.user_dn(" #x ").unwrap(), r"\20#x\20@example.com");
        assert_eq!(settings.user_dn("alice").unwrap(), "alice@example.com");
    }

    #[test]
    fn servers_are_names_or_urls() {
        for (host, url) in [
            ("ldap.example.com", "ldap://ldap.example.com:389"),
            ("ldap.example.com:1389", "ldap://ldap.example.com:1389"),
            ("LDAP://example.com:389/", "ldap://example.com:389"),
            ("ldaps://myldap.mydomain.com:1636", "ldaps://myldap.mydomain.com:1636"),
            ("ldaps://10.0.0.1", "ldaps://10.0.0.1:636"),
            ("ldap://[::1]:1389", "ldap://[::1]:1389"),
            ("ldap://[::1]", "ldap://[::1]:389"),
        ] {
            assert_eq!(settings(&[("auth.ldap.host", host)]).unwrap().url, url);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (key, value) in [
            ("auth.ldap.host", ""),
            ("auth.ldap.host", "http://example.com"),
            ("auth.ldap.host", "ldap://"),
            ("auth.ldap.host", "ldap://user@example.com"),
            ("auth.ldap.host", "ldap://example.com/dc=example"),
            ("auth.ldap.host", "example.com:0"),
            ("auth.ldap.host", "::1"),
            ("auth.ldap.base", ""),
            ("auth.ldap.filter", "(uid=%u"),
            ("auth.ldap.filter", "(uid=admin)"),
            ("auth.ldap.userbindpattern", "cn=admin"),
            ("auth.ldap.racf_allowregex", "^R00{2,1}"),
        ] {
            let error = settings(&[(key, value)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{key}: ")), "{key}={value}: {error}");
        }
        let both = settings(&[("auth.ldap.host", "ldaps://example.com"), ("auth.ldap.starttls", "1")]);
        assert!(both.unwrap_err().to_string().starts_with("auth.ldap.starttls: "));
        let absent = [("auth.ldap.host", "ldaps://example.com"), ("auth.ldap.cafile", "/no/such/file")];
        assert!(settings(&absent).unwrap_err().to_string().starts_with("auth.ldap.cafile: /no/such/file: "));
    }

    #[test]
    fn scope_and_deref_are_words_that_the_configuration_knows() {
        for (key, value) in [("auth.ldap.scope", "subtree"), ("auth.ldap.deref", "sometimes")] {
            let error = Config::builder().set(key, value).build().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn only_what_the_regex_allows_is_allowed() {
        let settings = settings(&[("auth.ldap.racf_allowregex", "^R004109 ")]).unwrap();
        assert!(settings.racf_allows("R004109 The password has expired"));
        assert!(!settings.racf_allows("R004110 The userid has been revoked"));
        assert!(!settings.racf_allows(""));
    }

    #[test]
    fn passwords_do_not_show() {
        let settings = settings(&[("auth.ldap.bindpass", "s3cret")]).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
