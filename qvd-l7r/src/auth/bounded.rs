//! An authenticator with a time limit on each call: a directory that does not answer must not keep the next one from
//! being asked (protocol page §7.1).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use qvd_core::auth::{Access, Attempt, AuthError, Authenticator, Identity, Login, Verdict};
use qvd_core::{Secret, VmId};

/// A call that takes longer could not decide.
#[derive(Debug)]
pub(crate) struct Bounded(Arc<dyn Authenticator>);

impl Bounded {
    pub(crate) fn wrap(inner: Arc<dyn Authenticator>) -> Arc<dyn Authenticator> {
        Arc::new(Self(inner))
    }

    async fn within_limit<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| {
            let silence = format!("no answer within {} s", LIMIT.as_secs());
            Err(AuthError::new(self.0.name(), operation, silence))
        })
    }
}

#[async_trait]
impl Authenticator for Bounded {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        self.within_limit("check a password", self.0.authenticate(attempt)).await
    }

    async fn authenticate_token(
        &self,
        attempt: &Attempt,
        token: &Secret<String>,
    ) -> Result<Verdict, AuthError> {
        self.within_limit("check a token", self.0.authenticate_token(attempt, token)).await
    }

    fn normalize_login(&self, login: &str) -> Option<String> {
        self.0.normalize_login(login)
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        self.0.split_second_factor(password)
    }

    async fn verify_second_factor(&self, login: &str, token: &Secret<String>) -> Result<bool, AuthError> {
        self.within_limit("check a second factor", self.0.verify_second_factor(login, token)).await
    }

    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        self.within_limit("complete a login", self.0.after_login(attempt, login)).await
    }

    async fn before_list(&self, identity: &Identity) -> Result<(), AuthError> {
        self.within_limit("prepare a list", self.0.before_list(identity)).await
    }

    async fn before_connect(&self, identity: &Identity, vm: VmId) -> Result<(), AuthError> {
        self.within_limit("prepare a connect", self.0.before_connect(identity, vm)).await
    }

    async fn access(&self, identity: &Identity, vm: VmId) -> Result<Access, AuthError> {
        self.within_limit("decide on access", self.0.access(identity, vm)).await
    }

    async fn list(&self, identity: &Identity) -> Result<Option<Vec<VmId>>, AuthError> {
        self.within_limit("list machines", self.0.list(identity)).await
    }
}

const LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::auth::{Chain, Denial};
    use qvd_core::error::chain;
    use qvd_core::testkit::conformance::{self, AuthenticatorSubject};
    use qvd_core::testkit::fakes::{AuthCall, ScriptedAuthenticator};
    use tokio::time::Instant;

    fn silent(call: AuthCall) -> ScriptedAuthenticator {
        let silent = ScriptedAuthenticator::named("silent").with_user("alice", "wonder", None);
        silent.hold(call);
        silent
    }

    async fn login(plugins: impl IntoIterator<Item = ScriptedAuthenticator>) -> Result<Identity, Denial> {
        let chain =
            plugins.into_iter().fold(Chain::builder(), |chain, plugin| chain.plugin(Arc::new(plugin)));
        chain.build().wrapped(Bounded::wrap).authenticate(Attempt::new("alice", "wonder")).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_behind_a_silent_one_is_asked_in_time() {
        let begun = Instant::now();
        let second = ScriptedAuthenticator::named("second").with_user("alice", "wonder", None);
        assert_eq!(login([silent(AuthCall::Authenticate), second]).await.unwrap().login(), "alice");
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_a_denial() {
        match login([silent(AuthCall::Authenticate)]).await {
            Err(Denial::Undecided(error)) => assert_eq!(
                chain(&error).to_string(),
                "authenticator silent could not check a password: no answer within 10 s"
            ),
            other => panic!("{other:?}"),
        }
        assert!(matches!(login([silent(AuthCall::AfterLogin)]).await, Err(Denial::Incomplete(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn it_obeys_the_contract() {
        let inner = ScriptedAuthenticator::named("inner").with_user("alice", "wonder", None);
        let subject = AuthenticatorSubject::new(Bounded::wrap(Arc::new(inner)));
        conformance::authenticator(subject.user("alice", b"wonder")).await;
    }
}
