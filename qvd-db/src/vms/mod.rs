//! Virtual machines: the static part, and who may write what of the run-time row.
//!
//! | file | knows |
//! |---|---|
//! | here | adding, loading, blocking, deleting |
//! | `addresses` | which address a new one gets |
//! | `edit` | what an administrator may change afterwards |
//! | `overview` | what lists show |
//! | `orders` | claims and stop orders: routers and administrators write |
//! | `provision` | what a user gets who comes for the first time |
//! | `run` | the life of a run: the host's daemon writes, guarded by host and run id |
//! | `launch` | what the daemon needs to start one |

mod addresses;
mod edit;
mod launch;
mod orders;
mod overview;
mod provision;
mod rows;
mod run;

use std::net::IpAddr;

use qvd_core::model::{Vm, VmRuntime};
use qvd_core::{OsfId, UserId, VmId};

pub use addresses::AddressRange;
pub use edit::{LimitChange, VmChanges};
pub use launch::LaunchRow;
pub use orders::Claimant;
pub use overview::VmOverview;
pub use provision::{Provision, Provisioned};
pub(crate) use rows::{runtime, state_payload, vm};
pub use run::{Charged, Expiring, Pending};

use crate::db::{Db, Tx, transaction};
use crate::error::{Error, Result};
use crate::events::{self, NewEvent};
use crate::guard::Guard;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// A virtual machine to be added.
#[derive(Clone, Debug)]
pub struct NewVm {
    /// Name, unique in its user's tenant.
    pub name: String,
    /// Its owner.
    pub user_id: UserId,
    /// Its flavour.
    pub osf_id: OsfId,
    /// Tag that names the disk image at each start; need not exist yet.
    pub di_tag: String,
    /// Address of its own, if it gets one.
    pub ip: Option<String>,
}

/// Who blocked something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    /// An administrator.
    Admin,
    /// The host's daemon, after failures.
    Hkd,
}

impl BlockedBy {
    /// The text form of the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Hkd => "hkd",
        }
    }
}

/// Virtual machines of a database.
#[derive(Clone, Copy, Debug)]
pub struct Vms<'db> {
    db: &'db Db,
}

impl Db {
    /// Virtual machines.
    pub fn vms(&self) -> Vms<'_> {
        Vms { db: self }
    }
}

impl Vms<'_> {
    /// Adds a virtual machine: stopped, nobody connected, not blocked, counters at zero.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] of `VM name` or `VM address`; [`Error::Missing`] user or flavour; [`Error::Invalid`].
    pub async fn add(self, vm: NewVm) -> Result<VmId> {
        transaction!(self.db, |tx| { insert(tx, &vm).await })
    }

    /// The virtual machine and its run-time row.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn load(self, id: VmId) -> Result<Option<(Vm, VmRuntime)>> {
        const LOAD: Sql = sql!("load a VM":
            "select " VM ", " RUNTIME " from vms v join vm_runtimes on vm_id = v.id
             where v.id = $1 and v.deleted_at is null");
        self.db.read_one(&LOAD, params![id]).await?.as_ref().map(both).transpose()
    }

    /// The run-time row alone.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn runtime(self, id: VmId) -> Result<Option<VmRuntime>> {
        const LOAD: Sql = sql!("load a VM's state": "select " RUNTIME " from vm_runtimes where vm_id = $1");
        self.db.read_one(&LOAD, params![id]).await?.as_ref().map(runtime).transpose()
    }

    /// What a user owns, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn of_user(self, id: UserId) -> Result<Vec<(Vm, VmRuntime)>> {
        const OF_USER: Sql = sql!("list the VMs of a user":
            "select " VM ", " RUNTIME " from vms v join vm_runtimes on vm_id = v.id
             where v.user_id = $1 and v.deleted_at is null order by v.id");
        self.db.read(&OF_USER, params![id]).await?.iter().map(both).collect()
    }

    /// Blocks a virtual machine (users may not connect; sessions go on) or unblocks it, which also forgets its
    /// failures.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_blocked(
        self,
        id: VmId,
        blocked: bool,
        by: BlockedBy,
        reason: Option<&str>,
    ) -> Result<Guard<()>> {
        transaction!(self.db, |tx| { block_one(tx, id, blocked, by, reason).await })
    }

    /// As [`Vms::set_blocked`] by an administrator for several virtual machines, all of them or none. One that is not
    /// there is passed over.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_all_blocked(self, ids: &[VmId], blocked: bool) -> Result<()> {
        transaction!(self.db, |tx| {
            for id in ids {
                let _ = block_one(tx, *id, blocked, BlockedBy::Admin, None).await?;
            }
            Ok(())
        })
    }

    /// Deletes a virtual machine that is stopped, has no command waiting and nobody connected. Its disks stay.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn delete(self, id: VmId) -> Result<Guard<()>> {
        const LOCK: Sql = sql!("look at a VM":
            "select vm_id, (vm_state = 'stopped' and host_id is null and user_state = 'disconnected') as idle
             from vm_runtimes where vm_id = $1" FOR_UPDATE);
        const DELETE: Sql = sql!("delete a VM": "delete from vms where id = $1");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id]).await? else { return Ok(Guard::NotFound) };
            if !row.get::<bool>("idle")? {
                return Ok(Guard::Unchanged(()));
            }
            tx.rows(&DELETE, params![id]).await?;
            Ok(Guard::Updated(()))
        })
    }

    /// The outcome of a guarded write of a run-time row, with the row as it is.
    async fn outcome(self, id: VmId, written: Option<VmRuntime>) -> Result<Guard<VmRuntime>> {
        if let Some(row) = written {
            return Ok(Guard::Updated(row));
        }
        Ok(self.runtime(id).await?.map_or(Guard::NotFound, Guard::Unchanged))
    }
}

async fn block_one(
    tx: &mut Tx,
    id: VmId,
    blocked: bool,
    by: BlockedBy,
    reason: Option<&str>,
) -> Result<Guard<()>> {
    const LOCK: Sql = sql!("look at a VM":
        "select vm_id, run_id, vm_state, blocked from vm_runtimes where vm_id = $1" FOR_UPDATE);
    const BLOCK: Sql = sql!("block a VM":
        "update vm_runtimes set blocked = true, blocked_by = $2, blocked_reason = $3, version = version + 1
         where vm_id = $1");
    const UNBLOCK: Sql = sql!("unblock a VM":
        "update vm_runtimes set blocked = false, blocked_by = null, blocked_reason = null, fail_count = 0,
                version = version + 1
         where vm_id = $1");
    let Some(row) = tx.row(&LOCK, params![id]).await? else { return Ok(Guard::NotFound) };
    if blocked {
        tx.rows(&BLOCK, params![id, by.as_str(), reason]).await?;
    } else {
        tx.rows(&UNBLOCK, params![id]).await?;
    }
    if row.get::<bool>("blocked")? != blocked {
        let event = NewEvent { vm_id: Some(id), ..NewEvent::block(blocked, by, reason) };
        events::write(tx, &event).await?;
    }
    tx.notify(Channel::VmState, state_payload(&row)?);
    Ok(Guard::Updated(()))
}

/// Writes the rows of a new virtual machine.
async fn insert(tx: &mut Tx, vm: &NewVm) -> Result<VmId> {
    const INSERT: Sql = sql!("add a VM":
        "insert into vms (tenant_id, name, user_id, osf_id, di_tag, ip)
         select tenant_id, $1, id, $3, $4, $5" AS_INET " from users where id = $2 returning id");
    const RUNTIME: Sql = sql!("add a VM": "insert into vm_runtimes (vm_id) values ($1)");
    const COUNTERS: Sql = sql!("add a VM": "insert into vm_counters (vm_id) values ($1)");
    let NewVm { name, user_id, osf_id, di_tag, ip } = vm;
    let ip = ip.as_deref().filter(|ip| !ip.is_empty()).map(canonical_ip).transpose()?;
    let inserted = tx.row(&INSERT, params![name, *user_id, *osf_id, di_tag, ip.as_deref()]).await;
    let inserted = inserted.map_err(|e| {
        e.or_duplicate(("vms", "tenant_id_name"), "VM name", name)
            .or_duplicate(("vms", "ip"), "VM address", ip.as_deref().unwrap_or_default())
            .or_referenced(|| Error::missing(format!("OSF {osf_id}")))
            .or_invalid("a VM has a name of 1 to 64 and a DI tag of 1 to 128 characters")
    })?;
    let Some(row) = inserted else { return Err(Error::missing(format!("user {user_id}"))) };
    let id: VmId = row.get("id")?;
    tx.rows(&RUNTIME, params![id]).await?;
    tx.rows(&COUNTERS, params![id]).await?;
    Ok(id)
}

/// One way to write an address, so that the unique constraint sees equal ones.
fn canonical_ip(text: &str) -> Result<String> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| Error::invalid(format!("'{text}' is not an IP address (as in 10.3.15.50)")))?;
    Ok(ip.to_string())
}

fn both(row: &Row) -> Result<(Vm, VmRuntime)> {
    Ok((vm(row)?, runtime(row)?))
}
