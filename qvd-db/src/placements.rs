//! Why a virtual machine was placed where it was: the last thousand decisions, and up to a hundred more.

use std::time::SystemTime;

use qvd_core::balance::Decision;
use qvd_core::{HostId, VmId};

use crate::db::{Db, transaction};
use crate::error::Result;
use crate::hosts::only;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// One decision of a load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// When, by the database's clock.
    pub at: SystemTime,
    /// The virtual machine.
    pub vm_id: VmId,
    /// Name of the balancer.
    pub plugin: String,
    /// What it knew and answered; none when that was written by another version.
    pub decision: Option<Decision>,
    /// The host that took the virtual machine; none when none did.
    pub host_id: Option<HostId>,
}

/// Placement decisions of a database.
#[derive(Clone, Copy, Debug)]
pub struct Placements<'db> {
    db: &'db Db,
}

impl Db {
    /// Placement decisions.
    pub fn placements(&self) -> Placements<'_> {
        Placements { db: self }
    }
}

impl Placements<'_> {
    /// Records what a balancer decided, and which host took the virtual machine; every hundredth drops the oldest
    /// beyond a thousand.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away); callers go on without.
    pub async fn record(
        self,
        vm: VmId,
        plugin: &str,
        decision: &Decision,
        chosen: Option<HostId>,
    ) -> Result<()> {
        const INSERT: Sql = sql!("record a placement":
            "insert into placement_decisions (vm_id, plugin, inputs, host_id) values ($1, $2, $3" AS_JSON ", $4)
             returning id");
        const TRIM: Sql = sql!("forget old placements":
            "delete from placement_decisions
             where id <= (select id from placement_decisions order by id desc limit 1 offset 1000)");
        let inputs = decision.to_json();
        transaction!(self.db, |tx| {
            let id: i64 = only(tx.rows(&INSERT, params![vm, plugin, &inputs, chosen]).await?)?.get("id")?;
            if id % TRIM_EVERY == 0 {
                tx.rows(&TRIM, params![]).await?;
            }
            Ok(())
        })
    }

    /// The latest decisions, latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn latest(self, limit: u32) -> Result<Vec<Placement>> {
        const LATEST: Sql = sql!("read placements":
            "select at, vm_id, plugin, inputs" JSON_TEXT " as inputs, host_id
             from placement_decisions order by id desc limit $1");
        let rows = self.db.read(&LATEST, params![limit]).await?;
        rows.iter().map(placement).collect()
    }

    /// The latest decisions about a virtual machine, latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn of_vm(self, vm: VmId, limit: u32) -> Result<Vec<Placement>> {
        const OF_VM: Sql = sql!("read placements":
            "select at, vm_id, plugin, inputs" JSON_TEXT " as inputs, host_id
             from placement_decisions where vm_id = $1 order by id desc limit $2");
        let rows = self.db.read(&OF_VM, params![vm, limit]).await?;
        rows.iter().map(placement).collect()
    }
}

/// To look for the oldest costs more than the insert itself.
const TRIM_EVERY: i64 = 100;

fn placement(row: &Row) -> Result<Placement> {
    let inputs: String = row.get("inputs")?;
    Ok(Placement {
        at: row.get("at")?,
        vm_id: row.get("vm_id")?,
        plugin: row.get("plugin")?,
        // A later version may write down other things.
        decision: Decision::from_json(&inputs).ok(),
        host_id: row.find("host_id")?,
    })
}
