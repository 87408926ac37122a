//! The authenticator named `default`: users and password hashes of the database.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::model::User;
use qvd_core::{Secret, TenantId, UserId};
use qvd_db::password::{self, Check};
use qvd_db::{Db, Guard};

use super::hashing::HASHING;
use super::proofs::Proofs;

/// Checks passwords against `users.password_hash`.
///
/// Unknown users, users without a password and blocked users cost as much time as known ones. A digest of an older
/// installation is accepted once more and replaced. The empty password is nobody's. A password that was right within the
/// last minute is not hashed again while what is stored is the same; clones share what they remember.
#[derive(Clone, Debug)]
pub struct Default {
    db: Db,
    legacy_salt: Secret<String>,
    proofs: Arc<Proofs>,
    #[cfg(test)]
    hashed: Arc<std::sync::atomic::AtomicU32>,
}

impl Default {
    /// An authenticator over these users; the salt of old digests is `l7r.auth.plugin.default.salt`.
    pub fn new(db: Db, config: &Config) -> Self {
        Self::with_salt(db, config.secret("l7r.auth.plugin.default.salt"))
    }

    pub(super) fn with_salt(db: Db, legacy_salt: Secret<String>) -> Self {
        Self {
            db,
            legacy_salt,
            proofs: Arc::new(Proofs::new()),
            #[cfg(test)]
            hashed: Arc::default(),
        }
    }

    /// What the password is to what is stored for the user; a proof of the last minute is as good as a hash.
    async fn check(&self, user: Option<&User>, password: &Secret<Vec<u8>>) -> Result<Check, AuthError> {
        let stored = user.and_then(|user| Some((user.id, user.password_hash.clone()?)));
        if let Some((user, stored)) = &stored
            && self.proofs.hold(*user, stored.expose(), password.expose(), Instant::now())
        {
            return Ok(Check::Right);
        }
        #[cfg(test)]
        self.hashed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let check = {
            let (stored, password, salt) = (stored.clone(), password.clone(), self.legacy_salt.clone());
            let hashed = HASHING.run(move || {
                // Somebody unknown takes as long as somebody known.
                let text = stored.as_ref().map_or(password::DECOY, |(_, s)| s.expose().as_str());
                password::verify(text, password.expose(), salt.expose().as_bytes())
            });
            hashed.await.map_err(|e| AuthError::new(NAME, "check the password", e))?
        };
        if let (Check::Right, Some((user, stored))) = (check, &stored) {
            self.proofs.note(*user, stored.expose(), password.expose(), Instant::now());
        }
        Ok(check)
    }

    /// Replaces a weak form, if nobody set another password meanwhile. A failure costs nothing but the next try.
    async fn rehash(&self, user: UserId, old: &Secret<String>, password: &Secret<Vec<u8>>) {
        let hashed = {
            let password = password.clone();
            HASHING.run(move || password::hash(password.expose())).await
        };
        let new = match hashed {
            Ok(Ok(new)) => new,
            Ok(Err(error)) => return tracing::warn!(%user, "password not rehashed: {error}"),
            Err(gone) => return tracing::warn!(%user, "password not rehashed: {gone}"),
        };
        match self.db.users().set_password_hash(user, Some(old.expose()), new.expose()).await {
            Ok(Guard::Updated(..)) => {
                self.proofs.note(user, new.expose(), password.expose(), Instant::now());
                tracing::info!(%user, "password rehashed");
            }
            Ok(Guard::Unchanged(..) | Guard::NotFound) => {}
            Err(error) => tracing::warn!(%user, "password not rehashed: {}", chain(&error)),
        }
    }
}

#[async_trait]
impl Authenticator for Default {
    fn name(&self) -> &str {
        NAME
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
            .map_err(|e| AuthError::new(NAME, "look the user up", e))?;
        let check = self.check(user.as_ref(), &attempt.password).await?;
        let Some(user) = user.filter(|user| check != Check::Wrong && !user.blocked) else {
            return Ok(Verdict::NotMine);
        };
        if let (Check::Outdated, Some(old)) = (check, &user.password_hash) {
            self.rehash(user.id, old, &attempt.password).await;
        }
        Ok(Verdict::Accepted(Login::new().with_user(user.id)))
    }
}

const NAME: &str = "default";

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use qvd_db::Backend;

    struct World {
        db: Db,
        alice: UserId,
        passwords: Default,
    }

    impl World {
        async fn with(stored: &str) -> Self {
            let db = Db::open(&Backend::SqliteMemory).await.unwrap();
            let alice = db.users().add(TenantId::DEFAULT, "alice", Some(stored)).await.unwrap();
            let passwords = Default::new(db.clone(), &Config::defaults());
            Self { db, alice, passwords }
        }

        /// Whether the password is accepted, and how many were hashed for that.
        async fn login(&self, login: &str, password: &str) -> (bool, u32) {
            let before = self.passwords.hashed.load(Ordering::Relaxed);
            let verdict = self.passwords.authenticate(&Attempt::new(login, password)).await.unwrap();
            let hashed = self.passwords.hashed.load(Ordering::Relaxed) - before;
            (matches!(verdict, Verdict::Accepted(_)), hashed)
        }
    }

    #[tokio::test]
    async fn a_password_that_was_right_is_hashed_once_and_a_wrong_one_each_time() {
        let world = World::with(password::hash(b"wonder").unwrap().expose()).await;
        assert_eq!(world.login("alice", "wonder").await, (true, 1));
        assert_eq!(world.login("alice", "wonder").await, (true, 0));
        for _ in 0..2 {
            assert_eq!(world.login("alice", "wonde").await, (false, 1));
            assert_eq!(world.login("nobody", "wonder").await, (false, 1));
        }
        assert_eq!(world.login("alice", "wonder").await, (true, 0), "a failure ends no proof");
        let users = world.db.users();
        assert!(users.set_blocked(world.alice, true).await.unwrap().is_updated());
        assert!(!world.login("alice", "wonder").await.0);
        assert!(users.set_blocked(world.alice, false).await.unwrap().is_updated());

        // The same password under another salt is another stored text.
        let again = password::hash(b"wonder").unwrap();
        assert!(users.set_password_hash(world.alice, None, again.expose()).await.unwrap().is_updated());
        assert_eq!(world.login("alice", "wonder").await, (true, 1));
        let changed = password::hash(b"changed").unwrap();
        assert!(users.set_password_hash(world.alice, None, changed.expose()).await.unwrap().is_updated());
        assert_eq!(world.login("alice", "wonder").await, (false, 1));
    }

    #[tokio::test]
    async fn a_digest_that_was_replaced_is_proof_of_its_replacement() {
        let world = World::with(&password::legacy_digest(b"qvd1234", b"wonder")).await;
        assert_eq!(world.login("alice", "wonder").await, (true, 1));
        assert_eq!(world.login("alice", "wonder").await, (true, 0));
    }

    #[tokio::test]
    async fn no_more_passwords_are_hashed_at_once_than_there_are_processors() {
        use std::sync::atomic::AtomicUsize;
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let processors = std::thread::available_parallelism().unwrap().get();
        let work = (0..4 * processors).map(|_| {
            tokio::spawn(HASHING.run(|| {
                MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _ = password::hash(b"wonder");
                NOW.fetch_sub(1, Ordering::SeqCst);
            }))
        });
        for done in work.collect::<Vec<_>>() {
            done.await.unwrap().unwrap();
        }
        assert!((1..=processors).contains(&MOST.load(Ordering::SeqCst)), "{MOST:?}");
    }
}
