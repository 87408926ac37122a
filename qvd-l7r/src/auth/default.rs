//! The authenticator named `default`: users and password hashes of the database.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::model::User;
use qvd_core::{Secret, TenantId};
use qvd_db::password::{self, Check};
use qvd_db::{Db, Guard};
use tokio::sync::Semaphore;

/// Checks passwords against `users.password_hash`.
///
/// Unknown users, users without a password and blocked users cost as much time as known ones. A digest of an older
/// installation is accepted once more and replaced. The empty password is nobody's.
#[derive(Clone, Debug)]
pub struct Default {
    db: Db,
    legacy_salt: Secret<String>,
}

impl Default {
    /// An authenticator over these users; the salt of old digests is `l7r.auth.plugin.default.salt`.
    pub fn new(db: Db, config: &Config) -> Self {
        Self { db, legacy_salt: config.secret("l7r.auth.plugin.default.salt") }
    }

    /// Replaces a weak form, if nobody set another password meanwhile. A failure costs nothing but the next try.
    async fn rehash(&self, user: &User, old: &Secret<String>, password: &Secret<Vec<u8>>) {
        let password = password.clone();
        let hashed = on_a_blocking_thread(move || password::hash(password.expose())).await;
        let stored = match hashed {
            Ok(Ok(hash)) => {
                self.db.users().set_password_hash(user.id, Some(old.expose()), hash.expose()).await
            }
            Ok(Err(error)) => return tracing::warn!(user = %user.id, "password not rehashed: {error}"),
            Err(gone) => return tracing::warn!(user = %user.id, "password not rehashed: {gone}"),
        };
        match stored {
            Ok(Guard::Updated(..)) => tracing::info!(user = %user.id, "password rehashed"),
            Ok(Guard::Unchanged(..) | Guard::NotFound) => {}
            Err(error) => tracing::warn!(user = %user.id, "password not rehashed: {}", chain(&error)),
        }
    }
}

#[async_trait]
impl Authenticator for Default {
    fn name(&self) -> &str {
        "default"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        if attempt.password.expose().is_empty() {
            return Ok(Verdict::NotMine);
        }
        let user = self
            .db
            .users()
            .by_login(TenantId::DEFAULT, &attempt.normalized_login)
            .await
            .map_err(|e| AuthError::new("default", "look the user up", e))?;
        let stored = user.as_ref().and_then(|u| u.password_hash.clone());
        let check = {
            let stored = stored.clone();
            let (password, salt) = (attempt.password.clone(), self.legacy_salt.clone());
            on_a_blocking_thread(move || {
                // Somebody unknown takes as long as somebody known.
                let text = stored.as_ref().map_or(password::DECOY, |s| s.expose().as_str());
                password::verify(text, password.expose(), salt.expose().as_bytes())
            })
            .await
            .map_err(|e| AuthError::new("default", "check the password", e))?
        };
        match (user, stored, check) {
            (Some(user), Some(old), Check::Right | Check::Outdated) if !user.blocked => {
                if check == Check::Outdated {
                    self.rehash(&user, &old, &attempt.password).await;
                }
                Ok(Verdict::Accepted(Login::new().with_user(user.id)))
            }
            _ => Ok(Verdict::NotMine),
        }
    }
}

/// Runs something that keeps a processor busy; no more of them at once than there are processors, so that a storm
/// of logins does not take the memory and time of everything else.
async fn on_a_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    static SLOTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
        Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get())))
    });
    // The semaphore is never closed; without a permit the work is merely not counted.
    let permit = SLOTS.clone().acquire_owned().await.ok();
    tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    })
    .await
}
