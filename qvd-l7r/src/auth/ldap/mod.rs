//! The authenticator named `ldap`: users of a directory, Active Directory among them (protocol page §7.3).
//!
//! | step | with | right | wrong |
//! |---|---|---|---|
//! | bind as the user | `userbindpattern`, if there is one | accepted, without attributes | go on |
//! | bind to search | `binddn` and `bindpass`, else the user's password, else nobody | go on | not mine; a refused `bindpass` is our fault, not the user's: undecided |
//! | search | base, scope, deref, filter | exactly one entry | not mine |
//! | bind as the entry found | the user's password | accepted | not mine, unless `racf_allowregex` matches what the directory says |
//!
//! The empty password is refused before anything is sent: a directory takes a bind without one for a bind as nobody,
//! and says yes. A directory that is away, busy or silent could not decide.

mod directory;
mod settings;

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
use qvd_core::config::Config;

use directory::{Bound, Directory, Entry};
pub(super) use settings::Settings;

use crate::error::Result;

/// Checks passwords against a directory.
///
/// Each attempt has a connection of its own, so that no bind outlives it.
#[derive(Debug)]
pub struct Ldap(Settings);

impl Ldap {
    /// An authenticator with the keys `auth.ldap.*`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`](crate::Error::Setting) names the key that cannot be used.
    pub fn from_config(config: &Config) -> Result<Self> {
        Ok(Self::new(Settings::from_config(config)?))
    }

    pub(super) fn new(settings: Settings) -> Self {
        Self(settings)
    }

    async fn check(&self, login: &str, password: &str) -> Result<Verdict, AuthError> {
        let mut directory = Directory::connect(&self.0).await?;
        let verdict = self.ask(&mut directory, login, password).await;
        directory.leave().await;
        verdict
    }

    async fn ask(
        &self,
        directory: &mut Directory,
        login: &str,
        password: &str,
    ) -> Result<Verdict, AuthError> {
        if let Some(dn) = self.0.user_dn(login)
            && directory.bind(&dn, password).await? == Bound::Yes
        {
            return Ok(Verdict::Accepted(Login::new()));
        }
        if !self.bind_to_search(directory, login, password).await? {
            return Ok(Verdict::NotMine);
        }
        let Some(entry) = directory.find(&self.0, login).await? else { return Ok(Verdict::NotMine) };
        let racf = match directory.bind(&entry.dn, password).await? {
            Bound::Yes => None,
            Bound::InvalidCredentials(said) if self.0.racf_allows(&said) => Some(said),
            Bound::InvalidCredentials(_) | Bound::Refused(_) => return Ok(Verdict::NotMine),
        };
        Ok(Verdict::Accepted(self.login(entry, racf)))
    }

    /// Whether the search may go on.
    async fn bind_to_search(
        &self,
        directory: &mut Directory,
        login: &str,
        password: &str,
    ) -> Result<bool, AuthError> {
        let Some(dn) = self.0.search_dn(login) else {
            // A bind that failed before left the connection as nobody's.
            return Ok(true);
        };
        let Some(own) = &self.0.bind_password else {
            return Ok(directory.bind(&dn, password).await? == Bound::Yes);
        };
        match directory.bind(&dn, own.expose()).await? {
            Bound::Yes => Ok(true),
            Bound::InvalidCredentials(said) | Bound::Refused(said) => {
                let problem = format!("auth.ldap.binddn and auth.ldap.bindpass are refused: {said}");
                Err(AuthError::new(NAME, "bind to search", problem))
            }
        }
    }

    fn login(&self, entry: Entry, racf: Option<String>) -> Login {
        let mut login = Login::new();
        let mut told = |key: &str, value: &Option<String>| {
            if let Some(value) = value {
                login.params.insert(key.to_owned(), value.clone());
            }
        };
        told("qvd.vm.user.uid", &entry.uid_number);
        told("qvd.vm.user.gid", &entry.gid_number);
        told("qvd.vm.user.ldap.name", &entry.uid);
        told("qvd.vm.user.ldap.home", &entry.home);
        told("qvd.auth.ldap.racf_detailed_error", &racf);
        if self.0.set_home {
            told("qvd.vm.user.home", &entry.home);
        }
        if self.0.normalize {
            login.canonical_login = entry.uid;
        }
        login
    }
}

#[async_trait]
impl Authenticator for Ldap {
    fn name(&self) -> &str {
        NAME
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        let password = text(attempt.password.expose());
        if password.is_empty() || attempt.normalized_login.is_empty() {
            return Ok(Verdict::NotMine);
        }
        self.check(&attempt.normalized_login, &password).await
    }
}

/// Directories want UTF-8; some clients send Latin-1.
fn text(password: &[u8]) -> String {
    match std::str::from_utf8(password) {
        Ok(utf8) => utf8.to_owned(),
        Err(_) => password.iter().map(|b| char::from(*b)).collect(),
    }
}

const NAME: &str = "ldap";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Bounded;
    use tokio::net::TcpListener;

    fn at(listener: &TcpListener) -> Arc<dyn Authenticator> {
        let config = Config::builder()
            .set("auth.ldap.host", listener.local_addr().unwrap().to_string())
            .set("auth.ldap.base", "dc=example,dc=com")
            .build()
            .unwrap();
        Arc::new(Ldap::from_config(&config).unwrap())
    }

    #[tokio::test]
    async fn the_empty_password_is_refused_before_anything_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let verdict = at(&listener).authenticate(&Attempt::new("alice", "")).await.unwrap();
        assert_eq!(verdict, Verdict::NotMine);
        let listener = listener.into_std().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody came");
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_takes_the_question_and_says_nothing_could_not_decide_within_ten_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begun = tokio::time::Instant::now();
        let silent = Bounded::wrap(at(&listener));
        let error = silent.authenticate(&Attempt::new("alice", "wonder")).await.unwrap_err();
        assert!(begun.elapsed() <= std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(!qvd_core::error::chain(&error).to_string().contains("wonder"), "{error:?}");
    }

    #[test]
    fn passwords_that_are_no_utf8_are_read_as_latin_1() {
        assert_eq!(text("señal".as_bytes()), "señal");
        assert_eq!(text(b"se\xf1al"), "señal");
    }
}
