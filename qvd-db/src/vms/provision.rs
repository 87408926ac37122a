//! A user who comes for the first time: the row of the user and a virtual machine, in one transaction.

use qvd_core::{OsfId, TenantId, UserId, VmId};

use super::addresses::free_address;
use super::{AddressRange, NewVm, Vms, insert};
use crate::db::{Tx, transaction};
use crate::error::{Error, Result};
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What a user is to have.
#[derive(Clone, Debug)]
pub struct Provision {
    /// Tenant of the user.
    pub tenant: TenantId,
    /// Login, normalised.
    pub login: String,
    /// Flavour of the virtual machine.
    pub osf_id: OsfId,
    /// Tag that names its image.
    pub di_tag: String,
    /// So many names are tried: `LOGIN-1`, `LOGIN-2`, …
    pub max_names: u32,
    /// Where its address is taken from; none gives it no address.
    pub addresses: Option<AddressRange>,
}

/// What a user has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// The user's row.
    pub user: UserId,
    /// The row was made just now.
    pub user_is_new: bool,
    /// The virtual machine that was made just now, if none of that flavour was there.
    pub new_vm: Option<VmId>,
}

impl Vms<'_> {
    /// Gives a user a row, without a password, and one virtual machine of a flavour, where they are missing. Of several
    /// who do so at once for the same user, one makes them and the others find them. A blocked user gets nothing, and
    /// none is answered.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when all names are taken, or no address is free; [`Error::Missing`] flavour;
    /// [`Error::Invalid`] for a login or name that is too long. Then nothing was made, the user neither.
    pub async fn provision(self, wanted: &Provision) -> Result<Option<Provisioned>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = transaction!(self.db, |tx| { provision_one(tx, wanted).await });
            match outcome {
                // Another made it in between: the same user, or a machine of this name or address.
                Err(Error::Duplicate { .. }) if tries < MOST => {}
                outcome => return outcome,
            }
        }
    }
}

async fn provision_one(tx: &mut Tx, wanted: &Provision) -> Result<Option<Provisioned>> {
    const OWNED: Sql = sql!("look for a VM of the user":
        "select id from vms where user_id = $1 and osf_id = $2 and deleted_at is null limit 1");
    let (user, user_is_new) = match find_user(tx, wanted).await? {
        Some(row) if row.get("blocked")? => return Ok(None),
        Some(row) => (row.get("id")?, false),
        None => (add_user(tx, wanted).await?, true),
    };
    if tx.row(&OWNED, params![user, wanted.osf_id]).await?.is_some() {
        return Ok(Some(Provisioned { user, user_is_new, new_vm: None }));
    }
    let ip = match &wanted.addresses {
        Some(range) => Some(free_address(tx, range).await?.to_string()),
        None => None,
    };
    let name = free_name(tx, wanted).await?;
    let vm = NewVm { name, user_id: user, osf_id: wanted.osf_id, di_tag: wanted.di_tag.clone(), ip };
    let new_vm = Some(insert(tx, &vm).await?);
    Ok(Some(Provisioned { user, user_is_new, new_vm }))
}

/// Locked, so that two who come at once do not both find no machine.
async fn find_user(tx: &mut Tx, wanted: &Provision) -> Result<Option<Row>> {
    const FIND: Sql = sql!("look for a user":
        "select id, blocked from users where tenant_id = $1 and login = $2" FOR_UPDATE);
    tx.row(&FIND, params![wanted.tenant, &wanted.login]).await
}

async fn add_user(tx: &mut Tx, wanted: &Provision) -> Result<UserId> {
    const ADD: Sql = sql!("add a user": "insert into users (tenant_id, login) values ($1, $2) returning id");
    let added = tx.row(&ADD, params![wanted.tenant, &wanted.login]).await.map_err(|e| {
        e.or_duplicate(("users", "tenant_id_login"), "user login", &wanted.login)
            .or_invalid("a login has 1 to 64 characters")
            .or_referenced(|| Error::missing(format!("tenant {}", wanted.tenant)))
    })?;
    added.ok_or_else(|| Error::missing(format!("user {}", wanted.login)))?.get("id")
}

async fn free_name(tx: &mut Tx, wanted: &Provision) -> Result<String> {
    const TAKEN: Sql =
        sql!("look for a VM of that name": "select id from vms where tenant_id = $1 and name = $2");
    for number in 1..=wanted.max_names {
        let name = format!("{}-{number}", wanted.login);
        if tx.row(&TAKEN, params![wanted.tenant, &name]).await?.is_none() {
            return Ok(name);
        }
    }
    let Provision { login, max_names, .. } = wanted;
    Err(Error::refused(format!(
        "VMs named {login}-1 to {login}-{max_names} exist already; none is left for user {login}"
    )))
}

/// Tries to find what others make at the same time.
const MOST: u32 = 16;
