//! Who is at the other end of a connection: credentials checked once, remembered for the connection's life
//! (protocol page §2.4).

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use qvd_core::auth::{Attempt, Denial, Identity};
use qvd_core::error::chain;
use qvd_core::proto::basic::{Authorization, Credentials};
use qvd_core::proto::jwt;
use qvd_core::{HostId, TenantId, UserId};
use qvd_db::HostCounter;
use subtle::ConstantTimeEq;

use crate::abuse::Abuse;
use crate::front::{Reply, Request};
use crate::shared::Shared;
use crate::strangers::Stranger;

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
    /// Somebody was accepted, if only by a token, which is not remembered.
    known: bool,
    /// Until then.
    stranger: Option<Stranger>,
}

impl Login {
    pub(crate) fn new(peer: SocketAddr, stranger: Stranger) -> Self {
        Self { peer, accepted: None, known: false, stranger: Some(stranger) }
    }

    /// A whole request came.
    pub(crate) fn answering(&mut self) {
        if let Some(stranger) = &mut self.stranger {
            stranger.answering();
        }
    }

    /// The next word is the client's.
    pub(crate) fn waiting(&mut self) {
        if let Some(stranger) = &mut self.stranger {
            stranger.waiting();
        }
    }

    /// Whether somebody has logged in here.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// Checks what a request shows. The same login and password as before are not checked again; a token is, each time:
    /// one that was revoked or has ended lets nobody in, however old the connection.
    pub(crate) async fn check(
        &mut self,
        shared: &Shared,
        host: HostId,
        request: &Request,
    ) -> Result<Known, Reply> {
        let shown = request.authorization.as_ref().ok_or(Reply::Unauthorized)?;
        if let (Some((before, known)), Authorization::Basic(credentials)) = (&self.accepted, shown)
            && same(before, credentials)
            && known.identity.expires_at().is_none_or(|end| SystemTime::now() < end)
        {
            return Ok(known.clone());
        }
        let begun = tokio::time::Instant::now();
        // Failures are counted for whom they are meant, however it is written.
        let login = match shown {
            Authorization::Basic(credentials) => {
                shared.chain.normalize(&credentials.login).unwrap_or_default()
            }
            Authorization::Bearer(token) if jwt::has_form(token.expose()) => ANY_SIGNED_TOKEN.to_owned(),
            Authorization::Bearer(_) => ANY_TOKEN.to_owned(),
        };
        shared.metrics.auth_attempts_total.add(1);
        shared.counters.count(host, HostCounter::AuthAttempts);
        let asked = tokio::time::timeout(LIMIT, self.ask(shared, request, shown)).await;
        let outcome = match asked {
            Ok(Ok(identity)) => self.complete(shared, identity).await,
            Ok(Err(denial)) => Err(self.refused(shared, &denial)),
            Err(_) => {
                let late = format_args!("no answer within {} s", LIMIT.as_secs());
                shared.saw(Abuse::Undecided, self.peer, &late);
                Err(Reply::LoginUndecided)
            }
        };
        match outcome {
            Ok(known) => {
                shared.metrics.auth_ok_total.add(1);
                shared.counters.count(host, HostCounter::AuthOk);
                lock(shared).succeeded(self.peer.ip(), &login);
                tracing::info!(login = known.identity.login(), user = %known.user, client = %self.peer, "logged in");
                self.known = true;
                self.stranger = None;
                if let Authorization::Basic(credentials) = shown {
                    self.accepted = Some((credentials.clone(), known.clone()));
                }
                Ok(known)
            }
            Err(Reply::Unauthorized) => {
                let wait = lock(shared).failed(self.peer.ip(), &login, Instant::now());
                match shown {
                    Authorization::Basic(credentials) => {
                        shared.saw(Abuse::WrongPassword, self.peer, &format_args!("{:?}", credentials.login));
                    }
                    Authorization::Bearer(_) => {
                        shared.saw(Abuse::WrongToken, self.peer, &"it is unknown, or has ended")
                    }
                }
                // From the beginning: how long the check took shows who or what refused.
                tokio::time::sleep_until(begun + wait).await;
                Err(Reply::Unauthorized)
            }
            Err(reply) => Err(reply),
        }
    }

    async fn ask(
        &self,
        shared: &Shared,
        request: &Request,
        shown: &Authorization,
    ) -> Result<Identity, Denial> {
        let attempt = |login: &str, password: &[u8]| {
            Attempt::new(login, password)
                .with_peer(self.peer.ip())
                .with_environment(request.environment.clone())
        };
        match shown {
            Authorization::Basic(credentials) => {
                let attempt = attempt(&credentials.login, credentials.password.expose());
                shared.chain.authenticate(attempt).await
            }
            Authorization::Bearer(token) => shared.chain.authenticate_token(attempt("", b""), token).await,
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
                shared.saw(Abuse::Undecided, self.peer, &chain(&error));
                Err(Reply::LoginUndecided)
            }
        }
    }

    fn refused(&self, shared: &Shared, denial: &Denial) -> Reply {
        match denial {
            Denial::Rejected => Reply::Unauthorized,
            Denial::Undecided(error) => {
                shared.saw(Abuse::Undecided, self.peer, &chain(error));
                Reply::LoginUndecided
            }
            Denial::Incomplete(error) => {
                shared.saw(Abuse::Undecided, self.peer, &format_args!("not completed: {}", chain(error)));
                Reply::Internal
            }
            other => {
                shared.saw(
                    Abuse::Undecided,
                    self.peer,
                    &format_args!("refused in an unknown way: {other:?}"),
                );
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

/// For whom wrong short tokens of an address count: no login holds a NUL.
const ANY_TOKEN: &str = "\0token";

/// For whom wrong tokens of identity providers count; one that has just ended is no guess at a short one.
const ANY_SIGNED_TOKEN: &str = "\0signed";

/// All authenticators together may take this long.
const LIMIT: Duration = Duration::from_secs(30);
