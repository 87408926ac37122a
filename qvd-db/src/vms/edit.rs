//! What an administrator may change of virtual machines afterwards.

use std::time::SystemTime;

use qvd_core::state::{UserState, VmCommand, VmState};
use qvd_core::{DiId, HostId, OsfId, UserId, VmId};

use super::{Vms, canonical_ip};
use crate::db::{Tx, transaction};
use crate::error::{Error, Result};
use crate::notify::Channel;
use crate::sql::{Sql, sql};
use crate::value::params;

/// A change of one limit of a running virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitChange {
    /// As it is.
    #[default]
    Keep,
    /// No limit.
    Clear,
    /// This limit, if the machine runs from another image than the one that its tag names; no limit if it runs from
    /// that one; as it is if it is stopped.
    Set(SystemTime),
}

/// Changes of virtual machines. What is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmChanges {
    /// Name.
    pub name: Option<String>,
    /// Tag that names the image at each start.
    pub di_tag: Option<String>,
    /// Address; the inner none takes it away.
    pub ip: Option<Option<String>>,
    /// Owner; only of a machine that is stopped, not about to start, and to which nobody is connected.
    pub user_id: Option<UserId>,
    /// Flavour; as the owner.
    pub osf_id: Option<OsfId>,
    /// When the user is asked to leave.
    pub soft: LimitChange,
    /// When the machine is stopped.
    pub hard: LimitChange,
}

impl Vms<'_> {
    /// Changes virtual machines, all of them or none; tells how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] of `VM name` or `VM address`; [`Error::Refused`] when the owner or flavour of one that is
    /// in use is to change; [`Error::Missing`] user or flavour; [`Error::Invalid`].
    pub async fn edit(self, ids: &[VmId], changes: &VmChanges) -> Result<u64> {
        transaction!(self.db, |tx| {
            let mut changed = 0;
            for id in ids {
                changed += u64::from(edit_one(tx, *id, changes).await?);
            }
            Ok(changed)
        })
    }
}

/// Whether the machine is there.
async fn edit_one(tx: &mut Tx, id: VmId, changes: &VmChanges) -> Result<bool> {
    // The flavour before the machine, as a change of tag does it: while limits are set, its tags stay what they are.
    const LOCK_OSF: Sql = sql!("look at the VM's OSF":
        "select id from osfs where id = (select osf_id from vms where id = $1) or id = $2 order by id" FOR_SHARE);
    const LOCK: Sql = sql!("look at a VM":
        "select vm_state, vm_cmd, user_state from vm_runtimes where vm_id = $1" FOR_UPDATE);
    const EDIT: Sql = sql!("change a VM":
        "update vms
         set name = coalesce($2, name), di_tag = coalesce($3, di_tag),
             ip = case when $4 then $5" AS_INET " else ip end,
             user_id = coalesce($6, user_id), osf_id = coalesce($7, osf_id),
             updated_at = " NOW ", version = version + 1
         where id = $1 and deleted_at is null returning id");
    let VmChanges { name, di_tag, ip, user_id, osf_id, .. } = changes;
    let limits = (changes.soft, changes.hard) != (LimitChange::Keep, LimitChange::Keep);
    if limits {
        tx.rows(&LOCK_OSF, params![id, *osf_id]).await?;
    }
    let Some(row) = tx.row(&LOCK, params![id]).await? else { return Ok(false) };
    let state: VmState = row.get("vm_state")?;
    if user_id.is_some() || osf_id.is_some() {
        if state != VmState::Stopped {
            return Err(Error::refused(format!("VM {id} is {state}; stop it to change its owner or OSF")));
        }
        if row.find::<VmCommand>("vm_cmd")?.is_some() {
            let reason = format!("VM {id} is about to start; stop it to change its owner or OSF");
            return Err(Error::refused(reason));
        }
        if row.get::<UserState>("user_state")? != UserState::Disconnected {
            let reason = format!("a user is connected to VM {id}; disconnect it to change its owner or OSF");
            return Err(Error::refused(reason));
        }
    }
    let address = ip.as_ref().and_then(Option::as_deref).map(canonical_ip).transpose()?;
    let params =
        params![id, name.as_deref(), di_tag.as_deref(), ip.is_some(), address.as_deref(), *user_id, *osf_id];
    let edited = tx.rows(&EDIT, params).await.map_err(|e| {
        e.or_duplicate(("vms", "tenant_id_name"), "VM name", name.as_deref().unwrap_or_default())
            .or_duplicate(("vms", "ip"), "VM address", address.as_deref().unwrap_or_default())
            .or_referenced(|| Error::missing("user or OSF"))
            .or_invalid("a VM has a name of 1 to 64 and a DI tag of 1 to 128 characters")
    })?;
    if edited.is_empty() {
        return Ok(false);
    }
    if limits {
        change_limits(tx, id, state, changes).await?;
    }
    Ok(true)
}

async fn change_limits(tx: &mut Tx, id: VmId, state: VmState, changes: &VmChanges) -> Result<()> {
    const LOOK: Sql = sql!("look at the image of a VM":
        "select r.host_id, r.current_di_id, r.vm_expiration_soft, r.vm_expiration_hard,
                (select t.di_id from di_tags t where t.osf_id = v.osf_id and t.tag = v.di_tag) as next_di_id
         from vm_runtimes r join vms v on v.id = r.vm_id where r.vm_id = $1");
    const LIMIT: Sql = sql!("set expiration dates":
        "update vm_runtimes
         set vm_expiration_soft = $2, vm_expiration_hard = $3, expire_alerted_at = null, version = version + 1
         where vm_id = $1 returning vm_id");
    let Some(row) = tx.row(&LOOK, params![id]).await? else { return Ok(()) };
    let next: Option<DiId> = row.find("next_di_id")?;
    let is_current = next.is_some() && next == row.find("current_di_id")?;
    let limit = |change, present: Option<SystemTime>| match change {
        LimitChange::Keep => present,
        LimitChange::Clear => None,
        LimitChange::Set(_) if state == VmState::Stopped => present,
        LimitChange::Set(_) if is_current => None,
        LimitChange::Set(time) => Some(time),
    };
    let soft = limit(changes.soft, row.find("vm_expiration_soft")?);
    let hard = limit(changes.hard, row.find("vm_expiration_hard")?);
    tx.rows(&LIMIT, params![id, soft, hard]).await?;
    if let Some(host) = row.find::<HostId>("host_id")? {
        tx.notify(Channel::VmCommands(host), String::new());
    }
    Ok(())
}
