//! What the daemon of a host writes about itself, guarded by its incarnation.

use std::time::Duration;

use qvd_core::state::{HostCommand, HostState};
use qvd_core::units::Mebibytes;
use qvd_core::{HostId, VmId};

use super::Hosts;
use crate::db::{Tx, transaction};
use crate::error::Result;
use crate::guard::Guard;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What became of starts and virtual machines when a host's state was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSaved {
    /// Those whose start was called back.
    pub cancelled: Vec<VmId>,
    /// Those that are not stopped and so keep the host from being.
    pub live: Vec<VmId>,
}

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
        let rows = self.db.write_reserved(&TICK, params).await?;
        if !rows.is_empty() {
            return Ok(Guard::Updated(()));
        }
        // That the row is not the daemon's is certain now; whose it is may stay unknown.
        let looked = tokio::time::timeout(SECOND_LOOK, self.outcome(id, rows)).await;
        Ok(looked.ok().and_then(Result::ok).unwrap_or(Guard::Unchanged(())))
    }

    /// Moves the host's life cycle. With `stopping` and `stopped`, starts that were ordered here and not accepted yet are
    /// called back in the same transaction, so that they can be claimed elsewhere.
    ///
    /// `Unchanged`: another daemon has the host, or it counts as lost; or, when [`StateSaved::live`] tells so, `stopped`
    /// was to be saved while virtual machines of the host are not stopped. The host still is the daemon's then.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn set_state(
        self,
        id: HostId,
        incarnation: i64,
        state: HostState,
    ) -> Result<Guard<StateSaved>> {
        // A claim holds the row shared until its commit: it comes before, and is seen below, or after, and finds the
        // new state.
        const LOCK: Sql = sql!("look at the host's row":
            "select (incarnation = $2 and state <> 'lost') as ours from host_runtimes where host_id = $1" FOR_UPDATE);
        const LIVE: Sql = sql!("look for VMs of the host":
            "select vm_id from vm_runtimes where host_id = $1 and vm_state <> 'stopped' order by vm_id");
        const SET: Sql = sql!("save the host's state":
            "update host_runtimes
             set state = $2, state_ts = case when state = $2 then state_ts else " NOW " end,
                 pid = case when $2 = 'stopped' then null else pid end, version = version + 1
             where host_id = $1 returning host_id");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id, incarnation]).await? else {
                return Ok(Guard::NotFound);
            };
            if !row.get::<bool>("ours")? {
                return Ok(Guard::Unchanged(StateSaved::default()));
            }
            let mut saved = StateSaved::default();
            if state == HostState::Stopped {
                let rows = tx.rows(&LIVE, params![id]).await?;
                saved.live = rows.iter().map(|row| row.get("vm_id")).collect::<Result<_>>()?;
                if !saved.live.is_empty() {
                    return Ok(Guard::Unchanged(saved));
                }
            }
            tx.rows(&SET, params![id, state]).await?;
            if matches!(state, HostState::Stopping | HostState::Stopped) {
                saved.cancelled = cancel_starts(tx, id).await?;
            }
            Ok(Guard::Updated(saved))
        })
    }

    /// Publishes what the host can do: memory, processor capacity in bogomips, drivers that work (preferred first), and
    /// which of them runs virtual machines that name none; without one, it gets none of these.
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
        default_hypervisor: Option<&str>,
    ) -> Result<Guard<()>> {
        const CAPACITY: Sql = sql!("publish the host's capacity":
            "update host_runtimes set usable_ram_mib = $3, usable_cpu = $4, default_hypervisor = $5,
                    version = version + 1
             where host_id = $1 and incarnation = $2 and state <> 'lost' returning host_id");
        const DRIVERS: Sql = sql!("publish the host's drivers":
            "update hosts set hypervisors = $2, updated_at = " NOW ", version = version + 1 where id = $1");
        let drivers = hypervisors.join(",");
        let rows = transaction!(self.db, |tx| {
            let rows = tx
                .rows(&CAPACITY, params![id, incarnation, usable_ram, usable_cpu, default_hypervisor])
                .await?;
            if !rows.is_empty() {
                tx.rows(&DRIVERS, params![id, &drivers]).await?;
            }
            Ok(rows)
        })?;
        self.outcome(id, rows).await
    }

    /// The command that waits for the host's daemon, if there is one; it stays until it is taken.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn command(self, id: HostId, incarnation: i64) -> Result<Option<HostCommand>> {
        const LOOK: Sql = sql!("look for a command":
            "select cmd from host_runtimes where host_id = $1 and incarnation = $2 and cmd is not null");
        let row = self.db.read_one(&LOOK, params![id, incarnation]).await?;
        row.map_or(Ok(None), |row| row.find("cmd"))
    }

    /// Takes the command that waits for the host's daemon, if there is one; it is gone afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn take_command(self, id: HostId, incarnation: i64) -> Result<Option<HostCommand>> {
        const LOCK: Sql = sql!("take a command":
            "select cmd from host_runtimes where host_id = $1 and incarnation = $2 and cmd is not null" FOR_UPDATE);
        const TAKE: Sql = sql!("take a command":
            "update host_runtimes set cmd = null, version = version + 1 where host_id = $1");
        // Nearly always there is none: no need to write for that.
        if self.command(id, incarnation).await?.is_none() {
            return Ok(None);
        }
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id, incarnation]).await? else { return Ok(None) };
            tx.rows(&TAKE, params![id]).await?;
            row.find("cmd")
        })
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

/// Takes back the starts that wait for a host, and tells those who wait for them.
async fn cancel_starts(tx: &mut Tx, id: HostId) -> Result<Vec<VmId>> {
    const CANCEL: Sql = sql!("call back the starts of a host":
        "update vm_runtimes
         set vm_cmd = null, vm_cmd_ts = null, vm_cmd_by = null, host_id = null, host_incarnation = null,
             version = version + 1
         where host_id = $1 and vm_state = 'stopped' returning vm_id, run_id, vm_state");
    let mut cancelled = Vec::new();
    for row in tx.rows(&CANCEL, params![id]).await? {
        tx.notify(Channel::VmState, crate::vms::state_payload(&row)?);
        cancelled.push(row.get("vm_id")?);
    }
    Ok(cancelled)
}

/// How long a daemon whose tick found nothing waits to learn why.
const SECOND_LOOK: Duration = Duration::from_secs(1);
