//! Who is at the other end of a connection: credentials checked once, remembered for the connection's life
//! (protocol page §2.4).

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use qvd_core::auth::{Attempt, Denial, Identity};
use qvd_core::error::chain;
use qvd_core::proto::basic::Credentials;
use qvd_core::{HostId, TenantId, UserId};
use qvd_db::HostCounter;
use subtle::ConstantTimeEq;

use crate::front::{Reply, Request};
use crate::shared::Shared;

/// Somebody whose credentials were accepted, with the row that is theirs.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) identity: Identity,
    pub(crate) user: UserId,
}

/// One connection's memory of who it is.
#[derive(Debug)]
pub(crate) struct Login {
    peer: SocketAddr,
    accepted: Option<(Credentials, Known)>,
}

impl Login {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { peer, accepted: None }
    }

    /// Whether somebody has logged in here.
    pub(crate) fn is_known(&self) -> bool {
        self.accepted.is_some()
    }

    /// Checks a request's credentials; the same ones as before are not checked again.
    pub(crate) async fn check(
        &mut self,
        shared: &Shared,
        host: HostId,
        request: &Request,
    ) -> Result<Known, Reply> {
        let credentials = request.credentials.as_ref().ok_or(Reply::Unauthorized)?;
        if let Some((before, known)) = &self.accepted
            && same(before, credentials)
        {
            return Ok(known.clone());
        }
        let begun = tokio::time::Instant::now();
        // Failures are counted for whom they are meant, however it is written.
        let login = shared.chain.normalize(&credentials.login).unwrap_or_default();
        shared.metrics.auth_attempts_total.add(1);
        shared.counters.count(host, HostCounter::AuthAttempts);
        let attempt = Attempt::new(credentials.login.clone(), credentials.password.expose().clone())
            .with_peer(self.peer.ip())
            .with_environment(request.environment.clone());
        let asked = tokio::time::timeout(LIMIT, shared.chain.authenticate(attempt)).await;
        let outcome = match asked {
            Ok(Ok(identity)) => self.complete(shared, identity).await,
            Ok(Err(denial)) => Err(self.refused(&denial)),
            Err(_) => {
                tracing::error!(client = %self.peer, "login undecided: no answer within {} s", LIMIT.as_secs());
                Err(Reply::LoginUndecided)
            }
        };
        match outcome {
            Ok(known) => {
                shared.metrics.auth_ok_total.add(1);
                shared.counters.count(host, HostCounter::AuthOk);
                lock(shared).succeeded(self.peer.ip(), &login);
                tracing::info!(login = known.identity.login(), user = %known.user, client = %self.peer, "logged in");
                self.accepted = Some((credentials.clone(), known.clone()));
                Ok(known)
            }
            Err(Reply::Unauthorized) => {
                let wait = lock(shared).failed(self.peer.ip(), &login, Instant::now());
                tracing::info!(login = credentials.login, client = %self.peer, "login refused");
                // From the beginning: how long the check took shows who or what refused.
                tokio::time::sleep_until(begun + wait).await;
                Err(Reply::Unauthorized)
            }
            Err(reply) => Err(reply),
        }
    }

    /// An authenticator that knows no users leaves the row to be found by login.
    async fn complete(&self, shared: &Shared, identity: Identity) -> Result<Known, Reply> {
        if let Some(user) = identity.user_id() {
            return Ok(Known { identity, user });
        }
        match shared.db.users().by_login(TenantId::DEFAULT, identity.login()).await {
            Ok(Some(user)) if !user.blocked => {
                Ok(Known { identity: identity.with_user_id(user.id), user: user.id })
            }
            Ok(Some(_) | None) => Err(Reply::Unauthorized),
            Err(error) => {
                tracing::error!(client = %self.peer, "login undecided: {}", chain(&error));
                Err(Reply::LoginUndecided)
            }
        }
    }

    fn refused(&self, denial: &Denial) -> Reply {
        match denial {
            Denial::Rejected => Reply::Unauthorized,
            Denial::Undecided(error) => {
                tracing::error!(client = %self.peer, "login undecided: {}", chain(error));
                Reply::LoginUndecided
            }
            Denial::Incomplete(error) => {
                tracing::error!(client = %self.peer, "login not completed: {}", chain(error));
                Reply::Internal
            }
            other => {
                tracing::error!(client = %self.peer, "login refused in an unknown way: {other:?}");
                Reply::LoginUndecided
            }
        }
    }
}

/// Byte-identical, told in a time that does not depend on where they differ.
fn same(a: &Credentials, b: &Credentials) -> bool {
    let logins = a.login.as_bytes().ct_eq(b.login.as_bytes());
    bool::from(logins & a.password.expose().ct_eq(b.password.expose()))
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, crate::auth::Throttle> {
    shared.throttle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All authenticators together may take this long.
const LIMIT: Duration = Duration::from_secs(30);
