//! An authenticator that reads its answers from a script.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::auth::{Access, Attempt, AuthError, Authenticator, Identity, Login, Verdict};
use crate::id::{UserId, VmId};
use crate::secret::Secret;
use crate::testkit::script::{Script, lock};

/// A method of the authenticator that was called; what was passed is not kept, since passwords are among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthCall {
    /// `authenticate`.
    Authenticate,
    /// `verify_second_factor`.
    SecondFactor,
    /// `after_login`.
    AfterLogin,
    /// `before_list`.
    BeforeList,
    /// `before_connect`.
    BeforeConnect,
    /// `access`.
    Access,
    /// `list`.
    List,
}

/// Knows the users that a test gives it; can be made to fail, wait, grant or list.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use qvd_core::auth::{Attempt, Authenticator, Verdict};
/// use qvd_core::testkit::fakes::{AuthCall, ScriptedAuthenticator};
///
/// let auth = ScriptedAuthenticator::named("script").with_user("alice", "wonder", None);
/// let verdict = auth.authenticate(&Attempt::new("alice", "wonder")).await.unwrap();
/// assert!(matches!(verdict, Verdict::Accepted(_)));
/// auth.fail_next(AuthCall::Authenticate, "directory away");
/// assert!(auth.authenticate(&Attempt::new("alice", "wonder")).await.is_err());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ScriptedAuthenticator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    world: Mutex<World>,
    script: Script<AuthCall, String>,
}

#[derive(Debug, Default)]
struct World {
    users: HashMap<String, (Secret<Vec<u8>>, Option<UserId>)>,
    token: Option<Secret<String>>,
    grants: Vec<VmId>,
    list: Option<Vec<VmId>>,
    calls: Vec<AuthCall>,
}

impl ScriptedAuthenticator {
    /// An authenticator that knows nobody.
    pub fn named(name: &str) -> Self {
        let inner = Inner { name: name.to_owned(), world: Mutex::default(), script: Script::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a user under its normalised login.
    pub fn with_user(self, login: &str, password: &str, id: Option<UserId>) -> Self {
        let password = Secret::new(password.as_bytes().to_vec());
        lock(&self.inner.world).users.insert(login.to_owned(), (password, id));
        self
    }

    /// Takes the last six bytes of each password for a second factor, which must be this.
    pub fn with_second_factor(self, token: &str) -> Self {
        lock(&self.inner.world).token = Some(Secret::new(token.to_owned()));
        self
    }

    /// Grants everybody access to this machine.
    pub fn with_grant(self, vm: VmId) -> Self {
        lock(&self.inner.world).grants.push(vm);
        self
    }

    /// Has a list of its own.
    pub fn with_list(self, vms: impl IntoIterator<Item = VmId>) -> Self {
        lock(&self.inner.world).list = Some(vms.into_iter().collect());
        self
    }

    /// The next call of this method cannot decide, for this reason.
    pub fn fail_next(&self, call: AuthCall, reason: &str) {
        self.inner.script.fail_next(call, reason.to_owned());
    }

    /// Calls of this method wait until [`release`](ScriptedAuthenticator::release).
    pub fn hold(&self, call: AuthCall) {
        self.inner.script.hold(call);
    }

    /// Lets waiting calls of this method go on.
    pub fn release(&self, call: AuthCall) {
        self.inner.script.release(call);
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<AuthCall> {
        lock(&self.inner.world).calls.clone()
    }

    /// Waits until this method has been called at least `times` times.
    pub async fn called(&self, call: AuthCall, times: usize) {
        self.inner.script.entered(call, times).await;
    }

    async fn enter(&self, call: AuthCall, operation: &'static str) -> Result<(), AuthError> {
        lock(&self.inner.world).calls.push(call);
        match self.inner.script.enter(call).await {
            Some(reason) => Err(AuthError::new(self.inner.name.clone(), operation, reason)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Authenticator for ScriptedAuthenticator {
    fn name(&self) -> &str {
        &self.inner.name
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        self.enter(AuthCall::Authenticate, "check a password").await?;
        Ok(match lock(&self.inner.world).users.get(&attempt.normalized_login) {
            Some((password, user_id)) if *password == attempt.password => {
                let mut login = Login::new();
                login.user_id = *user_id;
                Verdict::Accepted(login)
            }
            Some(_) | None => Verdict::NotMine,
        })
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        lock(&self.inner.world).token.as_ref()?;
        let (password, token) = password.split_at_checked(password.len().checked_sub(6)?)?;
        Some((password.to_vec(), Secret::new(String::from_utf8_lossy(token).into_owned())))
    }

    async fn verify_second_factor(&self, _: &str, token: &Secret<String>) -> Result<bool, AuthError> {
        self.enter(AuthCall::SecondFactor, "check a second factor").await?;
        Ok(lock(&self.inner.world).token.as_ref() == Some(token))
    }

    async fn after_login(&self, _: &Attempt, _: &mut Login) -> Result<(), AuthError> {
        self.enter(AuthCall::AfterLogin, "complete a login").await
    }

    async fn before_list(&self, _: &Identity) -> Result<(), AuthError> {
        self.enter(AuthCall::BeforeList, "prepare a list").await
    }

    async fn before_connect(&self, _: &Identity, _: VmId) -> Result<(), AuthError> {
        self.enter(AuthCall::BeforeConnect, "prepare a connect").await
    }

    async fn access(&self, _: &Identity, vm: VmId) -> Result<Access, AuthError> {
        self.enter(AuthCall::Access, "decide on access").await?;
        let granted = lock(&self.inner.world).grants.contains(&vm);
        Ok(if granted { Access::Grant } else { Access::NoOpinion })
    }

    async fn list(&self, _: &Identity) -> Result<Option<Vec<VmId>>, AuthError> {
        self.enter(AuthCall::List, "list machines").await?;
        Ok(lock(&self.inner.world).list.clone())
    }
}
