//! Who a user is: the authenticator trait, the chain that combines authenticators, and the proof of a login.

mod chain;
#[cfg(test)]
mod chain_tests;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::time::SystemTime;

use async_trait::async_trait;

pub use chain::{Chain, ChainBuilder, Denial, Identity};

use crate::error::ErrorKind;
use crate::id::{UserId, VmId};
use crate::model::Properties;
use crate::secret::{Names, Secret};

/// One attempt to log in, as the client sent it. Its `Debug` shows neither password nor shared values.
#[derive(Clone)]
#[non_exhaustive]
pub struct Attempt {
    /// Login as sent.
    pub login: String,
    /// Login after trimming, case folding and every authenticator's `normalize_login`.
    pub normalized_login: String,
    /// Password, without the second factor once that was split off.
    pub password: Secret<Vec<u8>>,
    /// Where the client connects from.
    pub peer: Option<IpAddr>,
    /// Environment variables that the client shared. Client-controlled: never an identity.
    pub environment: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("login", &self.login)
            .field("normalized_login", &self.normalized_login)
            .field("peer", &self.peer)
            .field("environment", &Names(self.environment.keys().map(String::as_str)))
            .finish_non_exhaustive()
    }
}

impl Attempt {
    /// An attempt without shared environment from an unknown address.
    pub fn new(login: impl Into<String>, password: impl Into<Vec<u8>>) -> Self {
        let login = login.into();
        Self {
            normalized_login: login.clone(),
            login,
            password: Secret::new(password.into()),
            peer: None,
            environment: BTreeMap::new(),
        }
    }

    /// Sets the client's address.
    pub fn with_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the shared environment.
    pub fn with_environment(mut self, environment: BTreeMap<String, Vec<u8>>) -> Self {
        self.environment = environment;
        self
    }
}

/// What an authenticator knows after it accepted, and what later ones may complete. Its `Debug` shows the names of the
/// properties, not their values: a ticket for the desktop may be among them.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Login {
    /// The user's row, when known.
    pub user_id: Option<UserId>,
    /// Replaces the normalised login when set (a directory's canonical name).
    pub canonical_login: Option<String>,
    /// Properties for the session; they beat every other source.
    pub params: Properties,
    /// The one virtual machine that this login is for, when it is not for all that the user may use.
    pub only_vm: Option<VmId>,
    /// When what the client showed stops being right; none when it does not by itself.
    pub expires_at: Option<SystemTime>,
    /// It stands on an earlier login, and must not be what a further one stands on.
    pub delegated: bool,
}

impl Login {
    /// A login that knows nothing but that it is right.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the user's row.
    #[must_use]
    pub fn with_user(mut self, user: UserId) -> Self {
        self.user_id = Some(user);
        self
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user_id", &self.user_id)
            .field("canonical_login", &self.canonical_login)
            .field("params", &Names(self.params.keys().map(String::as_str)))
            .field("only_vm", &self.only_vm)
            .field("expires_at", &self.expires_at)
            .field("delegated", &self.delegated)
            .finish()
    }
}

/// An authenticator's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Unknown here, or a wrong password here: ask the next one.
    NotMine,
    /// This is the user.
    Accepted(Login),
    /// Refused for good (a failed second factor): nobody else is asked.
    Rejected(String),
}

/// Whether an identity may use a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// It may.
    Grant,
    /// No opinion; the owner may anyway.
    NoOpinion,
}

/// Checks users.
///
/// # Contract
///
/// * An unknown user and a wrong password are both [`Verdict::NotMine`], so that the next authenticator is asked.
/// * A failure to decide (directory away) is an error, never a verdict: an outage is not a denial.
/// * [`after_login`](Authenticator::after_login) runs for every authenticator of the chain, also for those that
///   did not accept; provisioning lives there.
/// * Nothing that the client shared ([`Attempt::environment`]) is an identity.
///
/// # Cancellation
///
/// Dropping the future ends the attempt. Callers own time limits: the router gives each call 10 s, after which this
/// authenticator could not decide and the next one is asked.
///
/// # Errors
///
/// [`AuthError`]: could not decide. The next authenticator is asked; if none accepts, the client sees 503.
///
/// # Example
///
/// ```
/// use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
///
/// /// Accepts one user.
/// #[derive(Debug)]
/// struct OnlyAlice;
///
/// #[async_trait::async_trait]
/// impl Authenticator for OnlyAlice {
///     fn name(&self) -> &str { "only-alice" }
///     async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
///         if attempt.normalized_login == "alice" && attempt.password.expose() == b"wonder" {
///             Ok(Verdict::Accepted(Login::new()))
///         } else {
///             Ok(Verdict::NotMine)
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Authenticator: Debug + Send + Sync + 'static {
    /// Name, as in `l7r.auth.plugins`.
    fn name(&self) -> &str;

    /// Decides on login and password.
    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError>;

    /// Decides on a token that came instead of login and password (`Authorization: Bearer`). The attempt has neither;
    /// who accepts sets [`Login::canonical_login`], for nobody else knows whose the token is.
    async fn authenticate_token(
        &self,
        attempt: &Attempt,
        token: &Secret<String>,
    ) -> Result<Verdict, AuthError> {
        let _ = (attempt, token);
        Ok(Verdict::NotMine)
    }

    /// Rewrites a login before anybody is asked; `None` means that it can be nobody's login.
    fn normalize_login(&self, login: &str) -> Option<String> {
        Some(login.to_owned())
    }

    /// Splits a second factor off the password; `None` means that this one has none.
    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        let _ = password;
        None
    }

    /// Checks the second factor that was split off, once some authenticator accepted the password.
    async fn verify_second_factor(&self, login: &str, token: &Secret<String>) -> Result<bool, AuthError> {
        let _ = (login, token);
        Ok(false)
    }

    /// Completes a login: sets the user, provisions, adds properties.
    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        let _ = (attempt, login);
        Ok(())
    }

    /// Runs before each list of virtual machines.
    async fn before_list(&self, identity: &Identity) -> Result<(), AuthError> {
        let _ = identity;
        Ok(())
    }

    /// Runs before each connect, once it is allowed.
    async fn before_connect(&self, identity: &Identity, vm: VmId) -> Result<(), AuthError> {
        let _ = (identity, vm);
        Ok(())
    }

    /// Whether this identity may use this virtual machine.
    async fn access(&self, identity: &Identity, vm: VmId) -> Result<Access, AuthError> {
        let _ = (identity, vm);
        Ok(Access::NoOpinion)
    }

    /// An own list of virtual machines, or `None` for the user's own.
    async fn list(&self, identity: &Identity) -> Result<Option<Vec<VmId>>, AuthError> {
        let _ = identity;
        Ok(None)
    }
}

/// An authenticator could not decide.
#[derive(Debug, thiserror::Error)]
#[error("authenticator {plugin} could not {operation}")]
pub struct AuthError {
    /// Name of the authenticator.
    pub plugin: String,
    /// What was tried.
    pub operation: &'static str,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl AuthError {
    /// Names the authenticator, what it tried, and what went wrong.
    pub fn new(
        plugin: impl Into<String>,
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { plugin: plugin.into(), operation, source: source.into() }
    }

    /// Classification: always an outage.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_passwords_nor_shared_values_are_shown() {
        let shared = BTreeMap::from([("TOKEN".to_owned(), b"t0ken".to_vec())]);
        let attempt = Attempt::new("alice", "wonder").with_environment(shared);
        let mut login = Login::new().with_user(UserId::new(7));
        login.params.insert("auth_token".to_owned(), "t0ken".to_owned());
        let shown = format!("{attempt:?} {:?}", Verdict::Accepted(login));
        assert!(
            shown.contains("alice") && shown.contains("TOKEN") && shown.contains("auth_token"),
            "{shown}"
        );
        for secret in ["wonder", "t0ken", &format!("{:?}", b"wonder"), &format!("{:?}", b"t0ken")] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }
}
