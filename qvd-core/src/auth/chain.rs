//! The combination rules of authenticators, in one place.
//!
//! | step | rule over the configured order |
//! |---|---|
//! | normalise | trim, lower-case unless case matters, then each in turn; none = rejected |
//! | split a second factor | the first that splits |
//! | password | the first that accepts; later ones are not asked; one that could not decide is passed over |
//! | second factor | only if split: any that verifies; none = rejected for good |
//! | token | instead of the four above: the first that accepts, as with passwords; it says whose it is |
//! | after login | all, also those that did not accept |
//! | before list, before connect | all |
//! | list | the first that has one, else the user's own machines |
//! | access | the owner, or any that grants; to the one machine alone that a login is for |

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::auth::{Access, Attempt, AuthError, Authenticator, Login, Verdict};
use crate::id::{UserId, VmId};
use crate::model::Properties;
use crate::secret::{Names, Secret};

/// Proof of a login. Only [`Chain::authenticate`] and [`Chain::authenticate_token`] make one. Its `Debug` shows the names of the properties alone.
#[derive(Clone)]
pub struct Identity {
    login: String,
    user_id: Option<UserId>,
    params: Properties,
    only_vm: Option<VmId>,
    expires_at: Option<SystemTime>,
    delegated: bool,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("login", &self.login)
            .field("user_id", &self.user_id)
            .field("params", &Names(self.params.keys().map(String::as_str)))
            .field("only_vm", &self.only_vm)
            .field("expires_at", &self.expires_at)
            .field("delegated", &self.delegated)
            .finish()
    }
}

impl Identity {
    /// The login after normalisation, or the canonical one that an authenticator gave.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The user's row, when an authenticator knew it; otherwise the caller looks it up by login.
    pub fn user_id(&self) -> Option<UserId> {
        self.user_id
    }

    /// Completes the identity with the row found by login.
    pub fn with_user_id(mut self, user: UserId) -> Self {
        self.user_id = Some(user);
        self
    }

    /// Properties that authenticators gave, `qvd.vm.user.name` among them.
    pub fn params(&self) -> &Properties {
        &self.params
    }

    /// Whether this login is for that virtual machine at all; whether the user may use it is another question.
    pub fn is_for(&self, vm: VmId) -> bool {
        self.only_vm.is_none_or(|only| only == vm)
    }

    /// When what the client showed stops being right; none when it does not by itself.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Whether it stands on an earlier login; a further one must not stand on it.
    pub fn is_delegated(&self) -> bool {
        self.delegated
    }
}

/// Why nobody accepted.
#[derive(Debug)]
#[non_exhaustive]
pub enum Denial {
    /// Wrong login, password or second factor.
    Rejected,
    /// Nobody accepted and somebody could not decide.
    Undecided(AuthError),
    /// Accepted, but completing the login failed.
    Incomplete(AuthError),
}

/// Authenticators in configured order.
#[derive(Clone, Debug)]
pub struct Chain {
    plugins: Vec<Arc<dyn Authenticator>>,
    case_sensitive: bool,
}

/// Collects the parts of a [`Chain`].
#[derive(Debug, Default)]
pub struct ChainBuilder {
    plugins: Vec<Arc<dyn Authenticator>>,
    case_sensitive: bool,
}

impl ChainBuilder {
    /// Appends an authenticator.
    pub fn plugin(mut self, plugin: Arc<dyn Authenticator>) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Whether `Alice` and `alice` are two users (`model.user.login.case-sensitive`).
    pub fn case_sensitive(mut self, yes: bool) -> Self {
        self.case_sensitive = yes;
        self
    }

    /// The chain.
    pub fn build(self) -> Chain {
        Chain { plugins: self.plugins, case_sensitive: self.case_sensitive }
    }
}

impl Chain {
    /// Starts an empty chain, which rejects everybody.
    pub fn builder() -> ChainBuilder {
        ChainBuilder::default()
    }

    /// The same chain with something around each authenticator: a time limit, a count of calls.
    #[must_use]
    pub fn wrapped(self, wrap: impl Fn(Arc<dyn Authenticator>) -> Arc<dyn Authenticator>) -> Self {
        Self { plugins: self.plugins.into_iter().map(wrap).collect(), ..self }
    }

    /// The same chain with one more authenticator behind the others.
    #[must_use]
    pub fn followed_by(mut self, plugin: Arc<dyn Authenticator>) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Runs the whole login.
    ///
    /// # Errors
    ///
    /// [`Denial`]; only [`Denial::Rejected`] means that the credentials are wrong.
    ///
    /// # Cancellation
    ///
    /// Dropping it ends the attempt; provisioning that had begun may have taken effect.
    pub async fn authenticate(&self, mut attempt: Attempt) -> Result<Identity, Denial> {
        attempt.normalized_login = self.normalize(&attempt.login).ok_or(Denial::Rejected)?;
        let token = self.split_second_factor(&mut attempt);
        let login = self.first_accepted(&attempt).await?;
        // Before the second factor, which belongs to whom the directory says it is.
        if let Some(canonical) = &login.canonical_login {
            attempt.normalized_login.clone_from(canonical);
        }
        if let Some(token) = token {
            self.second_factor(&attempt.normalized_login, &token).await?;
        }
        self.complete(attempt, login).await
    }

    /// Runs the whole login of somebody who shows a token; of the attempt, only where it comes from counts.
    ///
    /// # Errors
    ///
    /// As [`Chain::authenticate`].
    ///
    /// # Cancellation
    ///
    /// As [`Chain::authenticate`].
    pub async fn authenticate_token(
        &self,
        mut attempt: Attempt,
        token: &Secret<String>,
    ) -> Result<Identity, Denial> {
        let mut undecided = None;
        for plugin in &self.plugins {
            match plugin.authenticate_token(&attempt, token).await {
                Ok(Verdict::Accepted(login)) => {
                    let whose = login.canonical_login.clone().filter(|login| !login.is_empty());
                    let nobodys = || {
                        Denial::Incomplete(AuthError::new(
                            plugin.name(),
                            "say whose a token is",
                            "it gave no login",
                        ))
                    };
                    attempt.normalized_login = whose.ok_or_else(nobodys)?;
                    return self.complete(attempt, login).await;
                }
                Ok(Verdict::NotMine) => {}
                Ok(Verdict::Rejected(_)) => return Err(Denial::Rejected),
                Err(error) => undecided = Some(error),
            }
        }
        Err(undecided.map_or(Denial::Rejected, Denial::Undecided))
    }

    /// Runs every authenticator's hook before a list.
    ///
    /// # Errors
    ///
    /// The first hook's failure.
    pub async fn before_list(&self, identity: &Identity) -> Result<(), AuthError> {
        for plugin in &self.plugins {
            plugin.before_list(identity).await?;
        }
        Ok(())
    }

    /// Runs every authenticator's hook before a connect.
    ///
    /// # Errors
    ///
    /// The first hook's failure.
    pub async fn before_connect(&self, identity: &Identity, vm: VmId) -> Result<(), AuthError> {
        for plugin in &self.plugins {
            plugin.before_connect(identity, vm).await?;
        }
        Ok(())
    }

    /// Whether the identity may use a machine that `owner` owns.
    ///
    /// # Errors
    ///
    /// An authenticator could not decide and nobody granted.
    pub async fn allows(&self, identity: &Identity, vm: VmId, owner: UserId) -> Result<bool, AuthError> {
        if !identity.is_for(vm) {
            return Ok(false);
        }
        if identity.user_id == Some(owner) {
            return Ok(true);
        }
        let mut undecided = None;
        for plugin in &self.plugins {
            match plugin.access(identity, vm).await {
                Ok(Access::Grant) => return Ok(true),
                Ok(Access::NoOpinion) => {}
                Err(error) => undecided = Some(error),
            }
        }
        undecided.map_or(Ok(false), Err)
    }

    /// The first own list of an authenticator, or `None` for the user's own machines.
    ///
    /// # Errors
    ///
    /// The asked authenticator's failure.
    pub async fn list(&self, identity: &Identity) -> Result<Option<Vec<VmId>>, AuthError> {
        for plugin in &self.plugins {
            if let Some(list) = plugin.list(identity).await? {
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// A login as the authenticators will see it; `None` when none of its forms can be anybody's.
    pub fn normalize(&self, login: &str) -> Option<String> {
        let trimmed = login.trim();
        let start = if self.case_sensitive { trimmed.to_owned() } else { trimmed.to_lowercase() };
        let login = self.plugins.iter().try_fold(start, |login, plugin| plugin.normalize_login(&login))?;
        (!login.is_empty()).then_some(login)
    }

    async fn complete(&self, attempt: Attempt, mut login: Login) -> Result<Identity, Denial> {
        login.params.entry("qvd.vm.user.name".to_owned()).or_insert_with(|| attempt.normalized_login.clone());
        for plugin in &self.plugins {
            plugin.after_login(&attempt, &mut login).await.map_err(Denial::Incomplete)?;
        }
        let Login { user_id, params, only_vm, expires_at, delegated, .. } = login;
        Ok(Identity { login: attempt.normalized_login, user_id, params, only_vm, expires_at, delegated })
    }

    fn split_second_factor(&self, attempt: &mut Attempt) -> Option<Secret<String>> {
        let (password, token) =
            self.plugins.iter().find_map(|p| p.split_second_factor(attempt.password.expose()))?;
        attempt.password = Secret::new(password);
        Some(token)
    }

    async fn first_accepted(&self, attempt: &Attempt) -> Result<Login, Denial> {
        let mut undecided = None;
        for plugin in &self.plugins {
            match plugin.authenticate(attempt).await {
                Ok(Verdict::Accepted(login)) => return Ok(login),
                Ok(Verdict::NotMine) => {}
                Ok(Verdict::Rejected(_)) => return Err(Denial::Rejected),
                Err(error) => undecided = Some(error),
            }
        }
        Err(undecided.map_or(Denial::Rejected, Denial::Undecided))
    }

    async fn second_factor(&self, login: &str, token: &Secret<String>) -> Result<(), Denial> {
        let mut undecided = None;
        for plugin in &self.plugins {
            match plugin.verify_second_factor(login, token).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => undecided = Some(error),
            }
        }
        Err(undecided.map_or(Denial::Rejected, Denial::Undecided))
    }
}
