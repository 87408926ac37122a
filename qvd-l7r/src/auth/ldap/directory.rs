//! A connection to the directory: binds and one search, with answers told from outages.

use std::time::Duration;

use ldap3::{
    LdapConnAsync, LdapConnSettings, LdapError, LdapResult, SearchEntry, SearchOptions, SearchResult,
};
use qvd_core::auth::AuthError;

use super::NAME;
use super::settings::Settings;

/// What a bind came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// These are the credentials.
    Yes,
    /// Result 49, with what the directory said about it.
    InvalidCredentials(String),
    /// Refused for another reason of the account's: locked, unknown, may not bind.
    Refused(String),
}

/// The entry of a user, as far as anybody wants to know.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dn: String,
    pub(super) uid: Option<String>,
    pub(super) uid_number: Option<String>,
    pub(super) gid_number: Option<String>,
    pub(super) home: Option<String>,
}

pub(super) struct Directory(ldap3::Ldap);

impl Directory {
    /// Connects and, where it is wanted, changes to TLS before anything is said.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, AuthError> {
        let mut options = LdapConnSettings::new().set_conn_timeout(CONNECT).set_starttls(settings.start_tls);
        if let Some(tls) = &settings.tls {
            options = options.set_config(tls.clone());
        }
        let (connection, directory) =
            LdapConnAsync::with_settings(options, &settings.url).await.map_err(|error| {
                let problem = format!("{}: {}", settings.url, said(&error));
                AuthError::new(NAME, "reach the directory", problem)
            })?;
        // It ends with the last handle.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!("connection to the directory broke: {}", said(&error));
            }
        });
        Ok(Self(directory))
    }

    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<Bound, AuthError> {
        const WHAT: &str = "bind";
        let result = self.0.simple_bind(dn, password).await.map_err(|error| broken(WHAT, &error))?;
        match result.rc {
            SUCCESS => Ok(Bound::Yes),
            INVALID_CREDENTIALS => Ok(Bound::InvalidCredentials(result.text)),
            rc if is_outage(rc) => Err(AuthError::new(NAME, WHAT, answer(&result))),
            _ => Ok(Bound::Refused(answer(&result))),
        }
    }

    /// The entry of a login; none when there is none, or more than one.
    pub(super) async fn find(
        &mut self,
        settings: &Settings,
        login: &str,
    ) -> Result<Option<Entry>, AuthError> {
        const WHAT: &str = "search";
        // The second one is enough to know that it is not the only one.
        let options = SearchOptions::new().deref(settings.deref).sizelimit(2);
        let SearchResult(found, result) = self
            .0
            .with_search_options(options)
            .search(&settings.base, settings.scope, &settings.filter(login), ATTRIBUTES)
            .await
            .map_err(|error| broken(WHAT, &error))?;
        if is_outage(result.rc) {
            return Err(AuthError::new(NAME, WHAT, answer(&result)));
        }
        let mut entries = found.into_iter().map(SearchEntry::construct);
        match (result.rc, entries.next(), entries.next()) {
            (SUCCESS, Some(entry), None) => Ok(Some(Entry::from(entry))),
            (SUCCESS, None, _) => Ok(None),
            (SUCCESS | SIZE_LIMIT_EXCEEDED, ..) => {
                tracing::warn!(
                    login,
                    "several entries of the directory match auth.ldap.filter: nobody's login"
                );
                Ok(None)
            }
            _ => {
                tracing::warn!(login, "the directory refuses the search: {}", answer(&result));
                Ok(None)
            }
        }
    }

    /// Says good-bye; a directory that no longer listens hears nothing.
    pub(super) async fn leave(mut self) {
        let _ = self.0.unbind().await;
    }
}

impl From<SearchEntry> for Entry {
    fn from(entry: SearchEntry) -> Self {
        let first = |name: &str| {
            let values = entry.attrs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            values.and_then(|(_, values)| values.first()).filter(|value| !value.is_empty()).cloned()
        };
        Self {
            uid: first("uid"),
            uid_number: first("uidNumber"),
            gid_number: first("gidNumber"),
            home: first("homeDirectory"),
            dn: entry.dn,
        }
    }
}

fn broken(operation: &'static str, error: &LdapError) -> AuthError {
    AuthError::new(NAME, operation, said(error))
}

/// What went wrong, without what was sent: some of the library's errors hold the request.
fn said(error: &LdapError) -> String {
    match error {
        LdapError::Io { source } => source.to_string(),
        LdapError::Rustls { source } => source.to_string(),
        LdapError::Timeout { .. } => format!("no answer within {} s", CONNECT.as_secs()),
        LdapError::LdapResult { result } => answer(result),
        LdapError::UrlParsing { .. } | LdapError::UnknownScheme(_) | LdapError::DNSName { .. } => {
            "not a server's name".to_owned()
        }
        _ => "the connection broke".to_owned(),
    }
}

fn answer(result: &LdapResult) -> String {
    match result.text.as_str() {
        "" => format!("result {}", result.rc),
        text => format!("result {}: {text}", result.rc),
    }
}

/// Whether the directory says that it could not do it now or so, which tells nothing about the user.
fn is_outage(rc: u32) -> bool {
    matches!(rc, 1 | 2 | 3 | 7 | 8 | 11 | 13 | 51 | 52 | 80)
}

const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const INVALID_CREDENTIALS: u32 = 49;

const ATTRIBUTES: [&str; 4] = ["uid", "uidNumber", "gidNumber", "homeDirectory"];

/// A directory that does not take a connection in this time is away.
const CONNECT: Duration = Duration::from_secs(5);
