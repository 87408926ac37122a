//! Why a virtual machine was placed where it was: the last thousand decisions, and up to a hundred more.

use std::time::SystemTime;

use qvd_core::balance::HostSnapshot;
use qvd_core::{HostId, VmId};

use crate::db::{Db, transaction};
use crate::error::Result;
use crate::hosts::only;
use crate::sql::{Sql, sql};
use crate::value::params;

/// One decision of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// When, by the database's clock.
    pub at: SystemTime,
    /// The virtual machine.
    pub vm_id: VmId,
    /// Name of the balancer.
    pub plugin: String,
    /// What it knew, a JSON text.
    pub inputs: String,
    /// What it chose; none when no host suited.
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
    /// Records a decision; every hundredth drops the oldest beyond a thousand. `inputs` is a JSON text.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away); callers go on without.
    pub async fn record(self, vm: VmId, plugin: &str, inputs: &str, chosen: Option<HostId>) -> Result<()> {
        const INSERT: Sql = sql!("record a placement":
            "insert into placement_decisions (vm_id, plugin, inputs, host_id) values ($1, $2, $3" AS_JSON ", $4)
             returning id");
        const TRIM: Sql = sql!("forget old placements":
            "delete from placement_decisions
             where id <= (select id from placement_decisions order by id desc limit 1 offset 1000)");
        transaction!(self.db, |tx| {
            let id: i64 = only(tx.rows(&INSERT, params![vm, plugin, inputs, chosen]).await?)?.get("id")?;
            if id % TRIM_EVERY == 0 {
                tx.rows(&TRIM, params![]).await?;
            }
            Ok(())
        })
    }

    /// Records what a balancer was asked and answered, and which host took the virtual machine.
    ///
    /// # Errors
    ///
    /// As [`Placements::record`].
    pub async fn record_choice(
        self,
        vm: VmId,
        plugin: &str,
        hosts: &[HostSnapshot],
        ranked: &[HostId],
        chosen: Option<HostId>,
    ) -> Result<()> {
        self.record(vm, plugin, &inputs(hosts, ranked), chosen).await
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
        rows.iter()
            .map(|row| {
                Ok(Placement {
                    at: row.get("at")?,
                    vm_id: row.get("vm_id")?,
                    plugin: row.get("plugin")?,
                    inputs: row.get("inputs")?,
                    host_id: row.find("host_id")?,
                })
            })
            .collect()
    }
}

/// To look for the oldest costs more than the insert itself.
const TRIM_EVERY: i64 = 100;

/// The snapshot as the balancer saw it, and its order. Properties are left out: they are long, and can be looked up.
fn inputs(hosts: &[HostSnapshot], ranked: &[HostId]) -> String {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|host| {
            serde_json::json!({
                "id": host.id.get(), "name": host.name, "usable_ram_mib": host.usable_ram_mib,
                "usable_cpu": host.usable_cpu, "vms": host.vms,
            })
        })
        .collect();
    let ranked: Vec<i64> = ranked.iter().map(|id| id.get()).collect();
    serde_json::json!({ "hosts": hosts, "ranked": ranked }).to_string()
}
