//! What the daemon of a host writes about itself, guarded by its incarnation.

use std::time::Duration;

use qvd_core::HostId;
use qvd_core::state::{HostCommand, HostState};
use qvd_core::units::Mebibytes;

use super::Hosts;
use crate::db::transaction;
use crate::error::Result;
use crate::guard::Guard;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// How busy a host is, as its daemon sees it at a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostLoad {
    /// Memory that could be given away at once.
    pub mem_available: Option<Mebibytes>,
    /// Load average over one minute.
    pub load1: Option<f64>,
    /// Idle share of all processors, 0 to 1.
    pub cpu_idle: Option<f64>,
    /// Virtual machines that are starting.
    pub vms_starting: u32,
    /// Starts that may begin before others have ended.
    pub heavy_free: u32,
}

impl Hosts<'_> {
    /// Reports that the daemon lives: moves the lease to now + `lease` and its grace to now + `lease` + `grace`.
    ///
    /// Anything but `Updated` means that the host is no longer this daemon's: it must kill what it runs. A try
    /// that failed or was dropped counts as not confirmed.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn tick(
        self,
        id: HostId,
        incarnation: i64,
        lease: Duration,
        grace: Duration,
        load: HostLoad,
    ) -> Result<Guard<()>> {
        const TICK: Sql = sql!("report that the host lives":
            "update host_runtimes
             set ok_ts = " NOW ", lease_until = " NOW " + $3, fence_until = " NOW " + $4, mem_available_mib = $5,
                 load1 = $6, cpu_idle = $7, vms_starting = $8, heavy_free = $9
             where host_id = $1 and incarnation = $2 and state <> 'lost' returning host_id");
        let HostLoad { mem_available, load1, cpu_idle, vms_starting, heavy_free } = load;
        let params = params![
            id,
            incarnation,
            lease,
            lease + grace,
            mem_available,
            load1,
            cpu_idle,
            vms_starting,
            heavy_free
        ];
        let rows = self.db.write(&TICK, params).await?;
        self.outcome(id, rows).await
    }

    /// Moves the host's life cycle. `Unchanged`: another daemon has the host, or it counts as lost.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn set_state(self, id: HostId, incarnation: i64, state: HostState) -> Result<Guard<()>> {
        const SET: Sql = sql!("save the host's state":
            "update host_runtimes
             set state = $3, state_ts = case when state = $3 then state_ts else " NOW " end,
                 pid = case when $3 = 'stopped' then null else pid end, version = version + 1
             where host_id = $1 and incarnation = $2 and state <> 'lost' returning host_id");
        let rows = self.db.write(&SET, params![id, incarnation, state]).await?;
        self.outcome(id, rows).await
    }

    /// Publishes what the host can do: memory, processor capacity in bogomips, drivers that work (preferred first).
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn publish_capacity(
        self,
        id: HostId,
        incarnation: i64,
        usable_ram: Mebibytes,
        usable_cpu: f64,
        hypervisors: &[String],
    ) -> Result<Guard<()>> {
        const CAPACITY: Sql = sql!("publish the host's capacity":
            "update host_runtimes set usable_ram_mib = $3, usable_cpu = $4, version = version + 1
             where host_id = $1 and incarnation = $2 and state <> 'lost' returning host_id");
        const DRIVERS: Sql = sql!("publish the host's drivers":
            "update hosts set hypervisors = $2, updated_at = " NOW ", version = version + 1 where id = $1");
        let drivers = hypervisors.join(",");
        let rows = transaction!(self.db, |tx| {
            let rows = tx.rows(&CAPACITY, params![id, incarnation, usable_ram, usable_cpu]).await?;
            if !rows.is_empty() {
                tx.rows(&DRIVERS, params![id, &drivers]).await?;
            }
            Ok(rows)
        })?;
        self.outcome(id, rows).await
    }

    /// Takes the command that waits for the host's daemon, if there is one; it is gone afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn take_command(self, id: HostId, incarnation: i64) -> Result<Option<HostCommand>> {
        const LOOK: Sql = sql!("look for a command":
            "select cmd from host_runtimes where host_id = $1 and incarnation = $2 and cmd is not null");
        const LOCK: Sql = sql!("take a command":
            "select cmd from host_runtimes where host_id = $1 and incarnation = $2 and cmd is not null" FOR_UPDATE);
        const TAKE: Sql = sql!("take a command":
            "update host_runtimes set cmd = null, version = version + 1 where host_id = $1");
        // Nearly always there is none: no need to write for that.
        if self.db.read_one(&LOOK, params![id, incarnation]).await?.is_none() {
            return Ok(None);
        }
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id, incarnation]).await? else { return Ok(None) };
            tx.rows(&TAKE, params![id]).await?;
            row.find("cmd")
        })
    }

    /// Counts a failed start that was the host's fault; at `block_at` in a row (0: never) the host blocks itself.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn record_failure(
        self,
        id: HostId,
        incarnation: i64,
        text: &str,
        block_at: u32,
    ) -> Result<Guard<()>> {
        const FAILED: Sql = sql!("record a failure of the host":
            "update host_runtimes
             set fail_count = fail_count + 1, last_error = $3,
                 blocked_by = case when not blocked and $4 > 0 and fail_count + 1 >= $4 then 'hkd' else blocked_by end,
                 blocked_reason = case when not blocked and $4 > 0 and fail_count + 1 >= $4 then $3
                                       else blocked_reason end,
                 blocked = blocked or ($4 > 0 and fail_count + 1 >= $4),
                 version = version + 1
             where host_id = $1 and incarnation = $2 returning host_id");
        let rows = self.db.write(&FAILED, params![id, incarnation, text, i64::from(block_at)]).await?;
        self.outcome(id, rows).await
    }

    /// Forgets the host's failures after a start that went well.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn record_success(self, id: HostId, incarnation: i64) -> Result<Guard<()>> {
        const WELL: Sql = sql!("record a success of the host":
            "update host_runtimes set fail_count = 0, version = version + 1
             where host_id = $1 and incarnation = $2 returning host_id");
        let rows = self.db.write(&WELL, params![id, incarnation]).await?;
        self.outcome(id, rows).await
    }

    /// Tells a row that another owns from one that is not there.
    async fn outcome(self, id: HostId, rows: Vec<Row>) -> Result<Guard<()>> {
        const EXISTS: Sql = sql!("look for a host": "select host_id from host_runtimes where host_id = $1");
        if !rows.is_empty() {
            return Ok(Guard::Updated(()));
        }
        let row = self.db.read_one(&EXISTS, params![id]).await?;
        Ok(row.map_or(Guard::NotFound, |_| Guard::Unchanged(())))
    }
}
