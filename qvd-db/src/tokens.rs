//! Users' tokens: short texts that stand for a login made earlier. Only their digests are stored.

use std::fmt;
use std::time::{Duration, SystemTime};

use qvd_core::model::Properties;
use qvd_core::{Secret, UserId, VmId};
use sha2::{Digest as _, Sha256};

use crate::db::{Db, transaction};
use crate::error::{Error, Result};
use crate::hosts::only;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What a token is to stand for. Its `Debug` does not show the properties, of which one may be a secret.
#[derive(Clone)]
pub struct NewToken {
    /// Whose it is.
    pub user: UserId,
    /// The one virtual machine that it is for; none means all that the user may use.
    pub vm: Option<VmId>,
    /// Whether it may be used until its end, or once.
    pub multi_use: bool,
    /// Until its end.
    pub lifetime: Duration,
    /// What the login gave to the session.
    pub params: Properties,
}

/// A token that was right. Its `Debug` does not show the properties.
#[derive(Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// Whose it is.
    pub user: UserId,
    /// That user's login.
    pub login: String,
    /// The one virtual machine that it is for.
    pub vm: Option<VmId>,
    /// When it ends.
    pub expires_at: SystemTime,
    /// What the login gave to the session.
    pub params: Properties,
}

/// A token as administrators see it: nothing here lets anybody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken {
    /// Whose it is.
    pub user_id: UserId,
    /// That user's login.
    pub login: String,
    /// The one virtual machine that it is for.
    pub vm_id: Option<VmId>,
    /// Whether it may be used until its end, or once.
    pub multi_use: bool,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
    /// When it was first used.
    pub used_at: Option<SystemTime>,
}

/// Users' tokens of a database.
#[derive(Clone, Copy, Debug)]
pub struct UserTokens<'db> {
    db: &'db Db,
}

impl Db {
    /// Users' tokens.
    pub fn user_tokens(&self) -> UserTokens<'_> {
        UserTokens { db: self }
    }
}

impl UserTokens<'_> {
    /// Stores a token's digest, and yields when the token ends. All tokens that have ended go, and the user's oldest
    /// beyond [`UserTokens::MOST_OF_A_USER`].
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] user or virtual machine.
    pub async fn add(self, token: &Secret<String>, new: &NewToken) -> Result<SystemTime> {
        // Two that store at once would each see the other's token missing from the count.
        const ALONE: Sql = sql!("look at a user": "select id from users where id = $1" FOR_UPDATE);
        const SWEEP: Sql = sql!("forget tokens that have ended":
            "delete from user_tokens where expires_at <= " NOW);
        const TRIM: Sql = sql!("forget a user's oldest tokens":
            "delete from user_tokens where user_id = $1 and token_digest not in
             (select token_digest from user_tokens where user_id = $1
              order by created_at desc, token_digest limit $2)");
        const INSERT: Sql = sql!("store a token":
            "insert into user_tokens (token_digest, user_id, vm_id, multi_use, params, created_at, expires_at)
             values ($1, $2, $3, $4, $5" AS_JSON ", " NOW ", " NOW " + $6) returning expires_at");
        let NewToken { user, vm, multi_use, lifetime, params } = new;
        let digest = digest(token);
        let json = serde_json::json!(params).to_string();
        transaction!(self.db, |tx| {
            if tx.row(&ALONE, params![*user]).await?.is_none() {
                return Err(Error::missing(format!("user {user}")));
            }
            tx.rows(&SWEEP, params![]).await?;
            tx.rows(&TRIM, params![*user, Self::MOST_OF_A_USER - 1]).await?;
            let row = params![&digest, *user, *vm, *multi_use, &json, *lifetime];
            let gone = || Error::missing(vm.map_or_else(|| format!("user {user}"), |vm| format!("vm {vm}")));
            only(tx.rows(&INSERT, row).await.map_err(|e| e.or_referenced(gone))?)?.get("expires_at")
        })
    }

    /// Uses a token. None: there is no such token, it has ended, its user is blocked, or it was for one use and that is
    /// more than [`UserTokens::GRACE`] ago. One that has ended is deleted.
    ///
    /// The first use alone sets the time of it, however many there are at once.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn redeem(self, token: &Secret<String>) -> Result<Option<Redeemed>> {
        // Guesses write nothing.
        const KNOWN: Sql =
            sql!("look for a token": "select 1 as one from user_tokens where token_digest = $1");
        const USE: Sql = sql!("use a token":
            "update user_tokens set used_at = coalesce(used_at, " NOW ")
             where token_digest = $1 and expires_at > " NOW "
               and (multi_use or used_at is null or used_at > " NOW " - $2)
               and exists (select 1 from users u where u.id = user_tokens.user_id and not u.blocked)
             returning user_id, vm_id, expires_at, params" JSON_TEXT " as params,
               (select u.login from users u where u.id = user_tokens.user_id) as login");
        const END: Sql = sql!("forget a token that has ended":
            "delete from user_tokens where token_digest = $1
               and (expires_at <= " NOW " or (not multi_use and used_at <= " NOW " - $2))");
        let digest = digest(token);
        if self.db.read_one(&KNOWN, params![&digest]).await?.is_none() {
            return Ok(None);
        }
        let used = self.db.write(&USE, params![&digest, Self::GRACE]).await?;
        match used.first() {
            Some(row) => redeemed(row).map(Some),
            None => {
                self.db.write(&END, params![&digest, Self::GRACE]).await?;
                Ok(None)
            }
        }
    }

    /// The tokens that have not ended, by user and time.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn list(self) -> Result<Vec<UserToken>> {
        const LIST: Sql = sql!("list tokens":
            "select t.user_id, u.login, t.vm_id, t.multi_use, t.created_at, t.expires_at, t.used_at
             from user_tokens t join users u on u.id = t.user_id
             where t.expires_at > " NOW " and (t.multi_use or t.used_at is null or t.used_at > " NOW " - $1)
             order by t.user_id, t.created_at, t.token_digest");
        self.db.read(&LIST, params![Self::GRACE]).await?.iter().map(user_token).collect()
    }

    /// Ends all tokens of these users, all or none; yields how many had not ended by themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn revoke(self, users: &[UserId]) -> Result<u64> {
        const REVOKE: Sql = sql!("revoke a user's tokens":
            "delete from user_tokens where user_id = $1
             returning (expires_at > " NOW " and (multi_use or used_at is null or used_at > " NOW " - $2)) as counts");
        transaction!(self.db, |tx| {
            let mut revoked = 0;
            for user in users {
                for row in tx.rows(&REVOKE, params![*user, Self::GRACE]).await? {
                    revoked += u64::from(row.get::<bool>("counts")?);
                }
            }
            Ok(revoked)
        })
    }

    /// A token for one use is good for so long after it: a client lists on one connection and connects on another.
    pub const GRACE: Duration = Duration::from_secs(60);

    /// A user has no more tokens than this; the oldest make room.
    pub const MOST_OF_A_USER: u32 = 32;
}

/// A token is random and long: a plain digest can be looked up and gives nothing away.
fn digest(token: &Secret<String>) -> String {
    Sha256::digest(token.expose().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn redeemed(row: &Row) -> Result<Redeemed> {
    let params: String = row.get("params")?;
    // Not with what the column holds: one of the properties may be a secret.
    let broken = |_| Error::Broken {
        operation: "use a token",
        source: sqlx::Error::ColumnDecode {
            index: "params".to_owned(),
            source: "not an object of texts".into(),
        },
    };
    Ok(Redeemed {
        user: row.get("user_id")?,
        login: row.get("login")?,
        vm: row.find("vm_id")?,
        expires_at: row.get("expires_at")?,
        params: serde_json::from_str(&params).map_err(broken)?,
    })
}

fn user_token(row: &Row) -> Result<UserToken> {
    Ok(UserToken {
        user_id: row.get("user_id")?,
        login: row.get("login")?,
        vm_id: row.find("vm_id")?,
        multi_use: row.get("multi_use")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        used_at: row.find("used_at")?,
    })
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken")
            .field("user", &self.user)
            .field("vm", &self.vm)
            .field("multi_use", &self.multi_use)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Redeemed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeemed")
            .field("user", &self.user)
            .field("login", &self.login)
            .field("vm", &self.vm)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
