//! Users.

use qvd_core::{Secret, UserId};
use qvd_db::Guard;

use super::host::named;
use super::rows::{Found, UserRow};
use super::{Admin, Outcome};
use crate::error::{Error, Result};
use crate::filter::Filter;

/// A user to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Login, as typed.
    pub login: String,
    /// Password.
    pub password: Secret<String>,
}

impl Admin {
    /// Adds a user. The login is stored trimmed and, unless `model.user.login.case-sensitive`, in lower case.
    ///
    /// # Errors
    ///
    /// Login empty or taken; password empty.
    pub async fn add_user(&self, user: NewUser) -> Result<UserId> {
        let login = self.normal_login(&user.login);
        named("login", &login, 64)?;
        if login.chars().any(char::is_control) {
            return Err(Error::invalid("login", "login can not hold control characters"));
        }
        let hash = hashed(user.password).await?;
        Ok(self.db.users().add(self.tenant(), &login, Some(hash.expose())).await?)
    }

    /// The users that match, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn users(&self, filter: &Filter) -> Result<Vec<Found<UserRow>>> {
        let rows = self.db.users().list().await?.into_iter().map(|user| UserRow { user });
        self.select(rows.collect(), filter).await
    }

    /// The user with this login.
    ///
    /// # Errors
    ///
    /// No such user.
    pub async fn user_by_login(&self, login: &str) -> Result<UserId> {
        let user = self.db.users().by_login(self.tenant(), &self.normal_login(login)).await?;
        user.map(|user| user.id).ok_or_else(|| Error::NotFound(format!("No such user: {login}")))
    }

    /// Changes a user's password.
    ///
    /// # Errors
    ///
    /// No such user; password empty.
    pub async fn set_password(&self, user: UserId, password: Secret<String>) -> Result<()> {
        let hash = hashed(password).await?;
        match self.db.users().set_password_hash(user, None, hash.expose()).await? {
            Guard::Updated(()) | Guard::Unchanged(()) => Ok(()),
            Guard::NotFound => Err(Error::NotFound(format!("No such user: {user}"))),
        }
    }

    /// Deletes users, all or none of them.
    ///
    /// # Errors
    ///
    /// One of them owns virtual machines; then nothing is deleted.
    pub async fn delete_users(&self, users: &[Found<UserRow>]) -> Result<Outcome<UserId>> {
        let vms = self.db.vms().list().await?;
        for user in users.iter().map(|found| &found.row.user) {
            let owned = vms.iter().filter(|vm| vm.vm.user_id == user.id).count();
            if owned > 0 {
                let text = format!("user {} ({}) owns {owned} VMs (delete them first)", user.id, user.login);
                return Err(Error::InUse(text));
            }
        }
        let ids: Vec<UserId> = users.iter().map(|user| user.row.user.id).collect();
        let done = self.db.users().delete_all(&ids).await?;
        Ok(Outcome { done, ..Outcome::default() })
    }

    pub(super) fn normal_login(&self, typed: &str) -> String {
        let login = typed.trim();
        if self.config.flag("model.user.login.case-sensitive") {
            login.to_owned()
        } else {
            login.to_lowercase()
        }
    }
}

/// Hashing keeps a processor busy for a while, which is no work for a thread that others wait for.
async fn hashed(password: Secret<String>) -> Result<Secret<String>> {
    let hash =
        tokio::task::spawn_blocking(move || qvd_db::password::hash(password.expose().as_bytes())).await;
    hash.map_err(|_| Error::InvalidState("the password could not be hashed".to_owned()))?.map_err(Error::from)
}
