//! Who a user is: the authenticator trait, the chain that combines authenticators, and the proof of a login.

mod chain;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use async_trait::async_trait;

pub use chain::{Chain, ChainBuilder, Denial, Identity};

use crate::error::ErrorKind;
use crate::id::{UserId, VmId};
use crate::model::Properties;
use crate::secret::Secret;

/// One attempt to log in, as the client sent it.
#[derive(Clone, Debug)]
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

/// What an authenticator knows after it accepted, and what later ones may complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user's row, when known.
    pub user_id: Option<UserId>,
    /// Replaces the normalised login when set (a directory's canonical name).
    pub canonical_login: Option<String>,
    /// Properties for the session; they beat every other source.
    pub params: Properties,
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
/// Dropping the future ends the attempt; the chain bounds each call by a time limit of its caller.
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
///             Ok(Verdict::Accepted(Login::default()))
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
}
