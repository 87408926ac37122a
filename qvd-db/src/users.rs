//! Users.

use qvd_core::model::User;
use qvd_core::{Secret, TenantId, UserId};

use crate::db::{Db, Tx, transaction};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::hosts::only;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// Users of a database.
#[derive(Clone, Copy, Debug)]
pub struct Users<'db> {
    db: &'db Db,
}

impl Db {
    /// Users.
    pub fn users(&self) -> Users<'_> {
        Users { db: self }
    }
}

impl Users<'_> {
    /// Adds a user. The login is stored as it is: normalise it before.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] of `user login`; [`Error::Invalid`] for an empty or too long login;
    /// [`Error::Missing`] tenant.
    pub async fn add(self, tenant: TenantId, login: &str, password_hash: Option<&str>) -> Result<UserId> {
        const INSERT: Sql = sql!("add a user":
            "insert into users (tenant_id, login, password_hash) values ($1, $2, $3) returning id");
        let rows = self.db.write(&INSERT, params![tenant, login, password_hash]).await.map_err(|e| {
            e.or_duplicate(("users", "tenant_id_login"), "user login", login)
                .or_invalid("a login has 1 to 64 characters")
                .or_referenced(|| Error::missing(format!("tenant {tenant}")))
        })?;
        only(rows)?.get("id")
    }

    /// The user of that login.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn by_login(self, tenant: TenantId, login: &str) -> Result<Option<User>> {
        const BY_LOGIN: Sql =
            sql!("load a user": "select " USER " from users where tenant_id = $1 and login = $2");
        self.db.read_one(&BY_LOGIN, params![tenant, login]).await?.as_ref().map(user).transpose()
    }

    /// The user of that id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn load(self, id: UserId) -> Result<Option<User>> {
        const BY_ID: Sql = sql!("load a user": "select " USER " from users where id = $1");
        self.db.read_one(&BY_ID, params![id]).await?.as_ref().map(user).transpose()
    }

    /// All users, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn list(self) -> Result<Vec<User>> {
        const LIST: Sql = sql!("list users": "select " USER " from users order by id");
        self.db.read(&LIST, params![]).await?.iter().map(user).collect()
    }

    /// Replaces a password hash: with `expected`, only while the stored one still is that; so an upgrade at login
    /// never undoes a change of password.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_password_hash(
        self,
        id: UserId,
        expected: Option<&str>,
        hash: &str,
    ) -> Result<Guard<()>> {
        const SET: Sql = sql!("set a password":
            "update users set password_hash = $2, updated_at = " NOW ", version = version + 1
             where id = $1 and ($3 or password_hash = $4) returning id");
        let rows = self.db.write(&SET, params![id, hash, expected.is_none(), expected]).await?;
        self.outcome(id, rows).await
    }

    /// Blocks or unblocks a user. Sessions go on.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_blocked(self, id: UserId, blocked: bool) -> Result<Guard<()>> {
        const SET: Sql = sql!("block a user":
            "update users set blocked = $2, updated_at = " NOW ", version = version + 1 where id = $1 returning id");
        let rows = self.db.write(&SET, params![id, blocked]).await?;
        self.outcome(id, rows).await
    }

    /// Deletes a user who owns no virtual machine.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`], with the number of virtual machines.
    pub async fn delete(self, id: UserId) -> Result<Guard<()>> {
        transaction!(self.db, |tx| { delete_one(tx, id).await })
    }

    /// As [`Users::delete`] for several users, all of them or none; yields those that were there.
    ///
    /// # Errors
    ///
    /// As [`Users::delete`].
    pub async fn delete_all(self, ids: &[UserId]) -> Result<Vec<UserId>> {
        transaction!(self.db, |tx| {
            let mut deleted = Vec::new();
            for id in ids {
                if delete_one(tx, *id).await?.is_updated() {
                    deleted.push(*id);
                }
            }
            Ok(deleted)
        })
    }

    async fn outcome(self, id: UserId, rows: Vec<Row>) -> Result<Guard<()>> {
        if !rows.is_empty() {
            return Ok(Guard::Updated(()));
        }
        Ok(self.load(id).await?.map_or(Guard::NotFound, |_| Guard::Unchanged(())))
    }
}

async fn delete_one(tx: &mut Tx, id: UserId) -> Result<Guard<()>> {
    const LOOK: Sql = sql!("look at a user":
        "select login, (select count(*) from vms where user_id = users.id) as vms from users where id = $1");
    const DELETE: Sql = sql!("delete a user": "delete from users where id = $1");
    let Some(row) = tx.row(&LOOK, params![id]).await? else { return Ok(Guard::NotFound) };
    let subject = format!("user {id} ({})", row.get::<String>("login")?);
    let vms: i64 = row.get("vms")?;
    if vms > 0 {
        return Err(Error::InUse { subject, relation: format!("owns {vms} VMs") });
    }
    // A virtual machine may have come in between.
    let owner = || Error::InUse { subject: subject.clone(), relation: "owns VMs".to_owned() };
    tx.rows(&DELETE, params![id]).await.map_err(|e| e.or_referenced(owner))?;
    Ok(Guard::Updated(()))
}

fn user(row: &Row) -> Result<User> {
    Ok(User {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        login: row.get("login")?,
        password_hash: row.find("password_hash")?.map(Secret::new),
        blocked: row.get("blocked")?,
    })
}
