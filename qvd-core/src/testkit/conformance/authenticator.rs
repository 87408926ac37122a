//! Laws of [`Authenticator`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Law, Report, ensure, words};
use crate::auth::{Attempt, Authenticator, Verdict};
use crate::secret::Secret;
use crate::testkit::cancel::at_every_await;

const ACCEPTS: Law = Law::new("accepts", "The right password of a known user is accepted, again and again.")
    .needs("known user");
const WRONG: Law = Law::new("wrong-password", "A wrong password is not-mine, so that the next one is asked.")
    .needs("known user");
const UNKNOWN: Law = Law::new("unknown-user", "An unknown user is not-mine.");
const ODD: Law =
    Law::new("odd-input", "No login and no password of whatever bytes is accepted or makes it panic.");
const ENVIRONMENT: Law = Law::new("environment", "What the client shared does not make an identity.");
const NORMALIZE: Law = Law::new("normalize", "Normalising a login twice is normalising it once.");
const SPLIT: Law =
    Law::new("split", "A second factor is the end of the password, and nothing of either is lost.");
const CANCEL: Law =
    Law::new("cancel", "An attempt that was dropped at any await does not change the next one's verdict.")
        .needs("known user");

/// An authenticator and, if it has any, a user that it knows.
#[derive(Clone)]
pub struct AuthenticatorSubject {
    authenticator: Arc<dyn Authenticator>,
    user: Option<(String, Secret<Vec<u8>>)>,
    limit: Duration,
}

impl fmt::Debug for AuthenticatorSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatorSubject")
            .field("authenticator", &self.authenticator)
            .finish_non_exhaustive()
    }
}

impl AuthenticatorSubject {
    /// An authenticator that knows nobody (yet).
    pub fn new(authenticator: Arc<dyn Authenticator>) -> Self {
        Self { authenticator, user: None, limit: Duration::from_secs(60) }
    }

    /// A user that it accepts; `login` as it is after normalisation.
    #[must_use]
    pub fn user(mut self, login: &str, password: &[u8]) -> Self {
        self.user = Some((login.to_owned(), Secret::new(password.to_vec())));
        self
    }

    /// Limit for each law.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The known user's attempt.
    fn right(&self) -> Attempt {
        let (login, password) = self
            .user
            .as_ref()
            .map_or(("", &[][..]), |(login, password)| (login.as_str(), password.expose().as_slice()));
        Attempt::new(login, password)
    }

    async fn verdict(&self, attempt: &Attempt) -> Result<Verdict, String> {
        self.authenticator.authenticate(attempt).await.map_err(|e| words(&e))
    }
}

/// Runs the suite.
///
/// # Panics
///
/// When a law is broken; the message is the report.
pub async fn authenticator(subject: AuthenticatorSubject) -> Report {
    let report = authenticator_report(subject).await;
    report.assert_kept();
    report
}

/// Runs the suite and reports.
pub async fn authenticator_report(subject: AuthenticatorSubject) -> Report {
    let mut report = Report::new(format!("authenticator {}", subject.authenticator.name()));
    let (limit, knows) = (subject.limit, subject.user.is_some());
    report.check(ACCEPTS, knows, limit, accepts(subject.clone())).await;
    report.check(WRONG, knows, limit, wrong_password(subject.clone())).await;
    report.check(UNKNOWN, knows, limit, unknown_user(subject.clone())).await;
    report.check(ODD, knows, limit, odd_input(subject.clone())).await;
    report.check(ENVIRONMENT, knows, limit, environment(subject.clone())).await;
    report.check(NORMALIZE, knows, limit, normalize(subject.clone())).await;
    report.check(SPLIT, knows, limit, split(subject.clone())).await;
    report.check(CANCEL, knows, limit, cancel(subject)).await;
    report
}

async fn accepts(subject: AuthenticatorSubject) -> Result<(), String> {
    for _ in 0..2 {
        let verdict = subject.verdict(&subject.right()).await?;
        ensure(matches!(verdict, Verdict::Accepted(_)), || format!("{verdict:?}"))?;
    }
    Ok(())
}

/// Passwords that are nearly right.
fn near_misses(right: &[u8]) -> Vec<Vec<u8>> {
    let mut misses =
        vec![Vec::new(), [right, b" "].concat(), [right, b"\0"].concat(), [b" ", right].concat()];
    if let Some((last, rest)) = right.split_last() {
        misses.push(rest.to_vec());
        misses.push([rest, &[last ^ 1]].concat());
    }
    misses
}

async fn wrong_password(subject: AuthenticatorSubject) -> Result<(), String> {
    let right = subject.right();
    for miss in near_misses(right.password.expose()) {
        let verdict = subject.verdict(&Attempt::new(right.login.clone(), miss.clone())).await?;
        ensure(verdict == Verdict::NotMine, || {
            format!("{verdict:?} for a password of {} bytes", miss.len())
        })?;
    }
    Ok(())
}

async fn unknown_user(subject: AuthenticatorSubject) -> Result<(), String> {
    for login in ["nobody-has-this-name-ever", "nobody@no-such-tenant.invalid"] {
        let verdict = subject.verdict(&Attempt::new(login, "x")).await?;
        ensure(verdict == Verdict::NotMine, || format!("{verdict:?} for '{login}'"))?;
    }
    Ok(())
}

/// Texts that were somebody's end at some time.
fn odd_texts() -> Vec<String> {
    let mut texts: Vec<String> =
        ["", " ", "\0", "a\0b", "\n", "%s%n", "' OR '1'='1", "*)(uid=*", "\u{202e}", "😀"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    texts.push("x".repeat(100_000));
    texts.push("é".repeat(5_000));
    texts
}

async fn odd_input(subject: AuthenticatorSubject) -> Result<(), String> {
    let known = subject.right().login;
    let mut passwords: Vec<Vec<u8>> = odd_texts().into_iter().map(String::into_bytes).collect();
    passwords.push(vec![0xff, 0xfe, 0xc3, 0x28]);
    // Each odd login with a few passwords, the known one with all: checking a password is meant to be slow.
    let few = passwords[..2].to_vec();
    let odd_logins = odd_texts().into_iter().map(|login| (login, few.clone()));
    for (login, passwords) in odd_logins.chain([(known, passwords)]) {
        for password in &passwords {
            // That it cannot decide about such a thing is an answer too.
            let Ok(verdict) =
                subject.authenticator.authenticate(&Attempt::new(login.clone(), password.clone())).await
            else {
                continue;
            };
            ensure(!matches!(verdict, Verdict::Accepted(_)), || {
                format!("accepted a login of {} and a password of {} bytes", login.len(), password.len())
            })?;
        }
    }
    Ok(())
}

async fn environment(subject: AuthenticatorSubject) -> Result<(), String> {
    let login = subject.right().login;
    let claims: BTreeMap<String, Vec<u8>> = ["USER", "LOGNAME", "REMOTE_USER", "QVDLOGIN"]
        .into_iter()
        .map(|name| (name.to_owned(), login.clone().into_bytes()))
        .collect();
    for claimed in [login.as_str(), "root"] {
        let attempt = Attempt::new(claimed, "not the password").with_environment(claims.clone());
        let verdict = subject.verdict(&attempt).await?;
        ensure(!matches!(verdict, Verdict::Accepted(_)), || {
            format!("accepted '{claimed}' by its environment")
        })?;
    }
    Ok(())
}

async fn normalize(subject: AuthenticatorSubject) -> Result<(), String> {
    for login in odd_texts().into_iter().chain(["Alice".to_owned(), "alice@Example.org".to_owned()]) {
        let Some(once) = subject.authenticator.normalize_login(&login) else { continue };
        let twice = subject.authenticator.normalize_login(&once);
        ensure(twice.as_ref() == Some(&once), || format!("'{login}' → '{once}' → {twice:?}"))?;
    }
    Ok(())
}

async fn split(subject: AuthenticatorSubject) -> Result<(), String> {
    for password in odd_texts().into_iter().map(String::into_bytes).chain([b"secret123456".to_vec()]) {
        let Some((rest, token)) = subject.authenticator.split_second_factor(&password) else { continue };
        let joined = [rest.as_slice(), token.expose().as_bytes()].concat();
        ensure(joined == password, || {
            format!("{} bytes became {} and {}", password.len(), rest.len(), token.expose().len())
        })?;
    }
    Ok(())
}

async fn cancel(subject: AuthenticatorSubject) -> Result<(), String> {
    let right = subject.right();
    let attempt = || subject.authenticator.authenticate(&right);
    let still_accepts = || async {
        let verdict = subject.verdict(&right).await?;
        ensure(matches!(verdict, Verdict::Accepted(_)), || format!("{verdict:?}"))
    };
    at_every_await(attempt, still_accepts).await.map(|_| ())
}
