//! The life of a run: what the daemon of the host writes, each time guarded by host and run id.
//!
//! `Unchanged` or `NotFound` mean that the virtual machine is not the daemon's any more: kill it first, write nothing.

use std::time::{Duration, SystemTime};

use qvd_core::hypervisor::Endpoint;
use qvd_core::model::VmRuntime;
use qvd_core::state::{VmCommand, VmPhase, VmState};
use qvd_core::{DiId, HostId, RunId, VmId};

use super::{BlockedBy, Vms, runtime, state_payload};
use crate::db::transaction;
use crate::error::{Error, Result};
use crate::events::{self, NewEvent};
use crate::guard::Guard;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::{Value, params};

/// A command that waits for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The virtual machine.
    pub vm_id: VmId,
    /// The run it is meant for.
    pub run_id: RunId,
    /// What is wanted.
    pub command: VmCommand,
}

/// Whom a failure counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charged {
    /// Nobody: it is only told.
    Nobody,
    /// The virtual machine.
    Vm {
        /// Failures in a row that block it; 0: never.
        block_at: u32,
    },
    /// The host.
    Host {
        /// The incarnation of its daemon.
        incarnation: i64,
        /// Failures in a row that block it; 0: never.
        block_at: u32,
    },
}

/// A running virtual machine with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// The virtual machine.
    pub vm_id: VmId,
    /// Its run.
    pub run_id: RunId,
    /// When to ask the user to leave.
    pub soft: Option<SystemTime>,
    /// When to stop it.
    pub hard: Option<SystemTime>,
    /// When the user was asked last.
    pub alerted_at: Option<SystemTime>,
    /// The database's clock when this was read.
    pub now: SystemTime,
}

impl Vms<'_> {
    /// Commands that wait for a host's daemon, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn pending(self, host: HostId, incarnation: i64) -> Result<Vec<Pending>> {
        const PENDING: Sql = sql!("look for commands":
            "select vm_id, run_id, vm_cmd from vm_runtimes
             where host_id = $1 and vm_cmd is not null and host_incarnation = $2 order by vm_cmd_ts, vm_id");
        let rows = self.db.read(&PENDING, params![host, incarnation]).await?;
        rows.iter()
            .map(|row| {
                Ok(Pending {
                    vm_id: row.get("vm_id")?,
                    run_id: row.get("run_id")?,
                    command: row.get("vm_cmd")?,
                })
            })
            .collect()
    }

    /// What is assigned to a host: everything not stopped, and starts that wait. By id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn of_host(self, host: HostId) -> Result<Vec<VmRuntime>> {
        const OF_HOST: Sql = sql!("list the VMs of a host":
            "select " RUNTIME " from vm_runtimes where host_id = $1 order by vm_id");
        self.db.read(&OF_HOST, params![host]).await?.iter().map(runtime).collect()
    }

    /// How long a virtual machine has been in its state, by the database's clock; none when it is not known.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn state_age(self, id: VmId) -> Result<Option<Duration>> {
        const SINCE: Sql = sql!("read how long a VM has been in its state":
            "select vm_state_ts, " NOW " as now from vm_runtimes where vm_id = $1");
        let Some(row) = self.db.read_one(&SINCE, params![id]).await? else { return Ok(None) };
        let (since, now): (Option<SystemTime>, SystemTime) = (row.find("vm_state_ts")?, row.get("now")?);
        Ok(since.map(|since| now.duration_since(since).unwrap_or_default()))
    }

    /// Accepts a start: `stopped` with the command becomes `starting` without.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn accept_start(self, id: VmId, host: HostId, incarnation: i64) -> Result<Guard<VmRuntime>> {
        const ACCEPT: Sql = sql!("accept a start":
            "update vm_runtimes
             set vm_state = 'starting', vm_phase = 'starting_1', vm_state_ts = " NOW ", vm_cmd = null,
                 vm_cmd_ts = null, vm_cmd_by = null, version = version + 1
             where vm_id = $1 and host_id = $2 and host_incarnation = $3 and vm_cmd = 'start' and vm_state = 'stopped'
             returning " RUNTIME);
        let accepted = self.moved(&ACCEPT, params![id, host, incarnation]).await?;
        self.outcome(id, accepted).await
    }

    /// Saves a state, with its phase. A stop order that waits is satisfied by a move to `stopping` or `zombie`.
    /// Tells those who wait.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for `stopped` (that is [`Vms::clear`]) and for a phase of another state.
    pub async fn set_state(
        self,
        id: VmId,
        host: HostId,
        run: RunId,
        state: VmState,
        phase: Option<VmPhase>,
    ) -> Result<Guard<()>> {
        const SET: Sql = sql!("save a VM's state":
            "update vm_runtimes
             set vm_state = $4, vm_phase = $5, vm_state_ts = case when vm_state = $4 then vm_state_ts else " NOW " end,
                 vm_cmd = case when $4 in ('starting', 'running', 'debugging') then vm_cmd else null end,
                 version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state <> 'stopped' returning " RUNTIME);
        if state == VmState::Stopped {
            return Err(Error::invalid("a VM becomes stopped by clearing its row"));
        }
        if phase.is_some_and(|phase| phase.state() != state) {
            return Err(Error::invalid(format!("the phase does not belong to the state {state}")));
        }
        let moved = self.moved(&SET, params![id, host, run, state, phase]).await?;
        Ok(self.settled(id, moved.is_some()).await)
    }

    /// Nothing of the run is left: the row becomes idle and free for the next claim. A session to it is told to end.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn clear(self, id: VmId, host: HostId, run: RunId) -> Result<Guard<()>> {
        const CLEAR: Sql = sql!("clear a VM's state":
            "update vm_runtimes
             set vm_state = 'stopped', vm_phase = null, vm_state_ts = " NOW ", vm_cmd = null, vm_cmd_ts = null,
                 vm_cmd_by = null, host_id = null, host_incarnation = null, current_osf_id = null,
                 current_di_id = null, vm_pid = null, vm_pid_start = null, vm_address = null, vm_vma_port = null,
                 vm_x_port = null, vm_ssh_port = null, vm_vnc_port = null, vm_mon_port = null, vm_serial_port = null,
                 vm_expiration_soft = null, vm_expiration_hard = null, expire_alerted_at = null, vma_ok_ts = null,
                 user_cmd = case when user_state = 'disconnected' then null else 'abort' end,
                 user_cmd_ts = case when user_state = 'disconnected' then null else " NOW " end,
                 version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 returning " RUNTIME);
        let cleared = transaction!(self.db, |tx| {
            let Some(row) = tx.row(&CLEAR, params![id, host, run]).await? else { return Ok(false) };
            tx.notify(Channel::VmState, state_payload(&row)?);
            if let Some(router) = runtime(&row)?.l7r_host_id {
                tx.notify(Channel::UserCommands(router), String::new());
            }
            Ok(true)
        })?;
        Ok(self.settled(id, cleared).await)
    }

    /// Records the image a run was found to use; a start resolves its tag with [`Vms::pin_image`].
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] image; [`Error::Away`].
    pub async fn set_current_di(self, id: VmId, host: HostId, run: RunId, di: DiId) -> Result<Guard<()>> {
        const SET: Sql = sql!("record the VM's image":
            "update vm_runtimes set current_di_id = $4,
                    current_osf_id = (select v.osf_id from vms v where v.id = $1), version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state <> 'stopped' returning vm_id");
        let written = self.simple(id, &SET, params![id, host, run, di]).await;
        written.map_err(|e| e.or_referenced(|| Error::missing(format!("DI {di}"))))
    }

    /// Records where agent and desktop are reached.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_endpoint(
        self,
        id: VmId,
        host: HostId,
        run: RunId,
        endpoint: &Endpoint,
        pid: Option<i64>,
    ) -> Result<Guard<()>> {
        const SET: Sql = sql!("record where the VM is reached":
            "update vm_runtimes set vm_address = $4, vm_vma_port = $5, vm_x_port = $6, vm_pid = $7,
                    version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state <> 'stopped' returning vm_id");
        let (address, vma, x) = (endpoint.address_text(), endpoint.vma_port(), endpoint.x_port());
        self.simple(id, &SET, params![id, host, run, address, vma, x, pid]).await
    }

    /// Records the name of the home, once and for ever. `Unchanged`: it has one already.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn record_storage(self, id: VmId, storage: &str) -> Result<Guard<()>> {
        const RECORD: Sql = sql!("record the VM's home":
            "update vms set storage = $2, updated_at = " NOW ", version = version + 1
             where id = $1 and (storage is null or storage = '') returning id");
        self.simple(id, &RECORD, params![id, storage]).await
    }

    /// The agent answered.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn vma_ok(self, id: VmId, host: HostId, run: RunId) -> Result<Guard<()>> {
        const OK: Sql = sql!("record that the agent answered":
            "update vm_runtimes set vma_ok_ts = " NOW "
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state <> 'stopped' returning vm_id");
        self.simple(id, &OK, params![id, host, run]).await
    }

    /// Records why a run failed, before the row is cleared, and counts it against whom it is charged to: the virtual
    /// machine, or the host that its daemon serves. A run counts once, however often this is repeated; at the given
    /// number of failures in a row (0: never) what they count against is blocked, which the journal tells.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn record_failure(
        self,
        id: VmId,
        host: HostId,
        run: RunId,
        text: &str,
        charged: Charged,
    ) -> Result<Guard<()>> {
        const LOCK_HOST: Sql = sql!("look at the host's row":
            "select fail_count, blocked from host_runtimes where host_id = $1 and incarnation = $2" FOR_UPDATE);
        const LOCK: Sql = sql!("look at a VM":
            "select fail_count, blocked, (failed_run_id is not null and failed_run_id = run_id) as counted
             from vm_runtimes where vm_id = $1 and host_id = $2 and run_id = $3" FOR_UPDATE);
        const TELL: Sql = sql!("record a failure of the VM":
            "update vm_runtimes
             set last_error = $2, last_error_ts = " NOW ", failed_run_id = case when $3 then run_id else failed_run_id end,
                 version = version + 1
             where vm_id = $1");
        const COUNT: Sql = sql!("count a failure of the VM":
            "update vm_runtimes
             set fail_count = fail_count + 1, blocked = blocked or $2,
                 blocked_by = case when $2 then 'hkd' else blocked_by end,
                 blocked_reason = case when $2 then $3 else blocked_reason end
             where vm_id = $1");
        const COUNT_HOST: Sql = sql!("count a failure of the host":
            "update host_runtimes
             set fail_count = fail_count + 1, last_error = $3, blocked = blocked or $2,
                 blocked_by = case when $2 then 'hkd' else blocked_by end,
                 blocked_reason = case when $2 then $3 else blocked_reason end, version = version + 1
             where host_id = $1");
        let written = transaction!(self.db, |tx| {
            // The host first, as a take-over does it.
            let of_host = match charged {
                Charged::Host { incarnation, .. } => {
                    let Some(row) = tx.row(&LOCK_HOST, params![host, incarnation]).await? else {
                        return Ok(false);
                    };
                    Some(row)
                }
                Charged::Nobody | Charged::Vm { .. } => None,
            };
            let Some(of_vm) = tx.row(&LOCK, params![id, host, run]).await? else { return Ok(false) };
            let counts = charged != Charged::Nobody;
            tx.rows(&TELL, params![id, text, counts]).await?;
            if of_vm.get::<bool>("counted")? {
                return Ok(true);
            }
            match charged {
                Charged::Nobody => {}
                Charged::Vm { block_at } => {
                    let blocks = reached(&of_vm, block_at)?;
                    tx.rows(&COUNT, params![id, blocks, text]).await?;
                    if blocks {
                        let event = NewEvent::block(true, BlockedBy::Hkd, Some(text));
                        events::write(tx, &NewEvent { host_id: Some(host), vm_id: Some(id), ..event })
                            .await?;
                    }
                }
                Charged::Host { block_at, .. } => {
                    let blocks = of_host.as_ref().map_or(Ok(false), |row| reached(row, block_at))?;
                    tx.rows(&COUNT_HOST, params![host, blocks, text]).await?;
                    if blocks {
                        let event = NewEvent::block(true, BlockedBy::Hkd, Some(text));
                        events::write(tx, &NewEvent { host_id: Some(host), ..event }).await?;
                        tx.notify(Channel::HostCommands(host), String::new());
                    }
                }
            }
            Ok(true)
        })?;
        Ok(self.settled(id, written).await)
    }

    /// Forgets the failures after a start that went well.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn record_success(self, id: VmId, host: HostId, run: RunId) -> Result<Guard<()>> {
        const WELL: Sql = sql!("record a success of the VM":
            "update vm_runtimes set fail_count = 0, version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 returning vm_id");
        self.simple(id, &WELL, params![id, host, run]).await
    }

    /// Running virtual machines of a host that have a limit.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn expiring(self, host: HostId) -> Result<Vec<Expiring>> {
        const EXPIRING: Sql = sql!("look for VMs that expire":
            "select vm_id, run_id, vm_expiration_soft, vm_expiration_hard, expire_alerted_at, " NOW " as now
             from vm_runtimes
             where host_id = $1 and vm_state = 'running'
               and (vm_expiration_soft is not null or vm_expiration_hard is not null)
             order by vm_id");
        let rows = self.db.read(&EXPIRING, params![host]).await?;
        rows.iter()
            .map(|row| {
                Ok(Expiring {
                    vm_id: row.get("vm_id")?,
                    run_id: row.get("run_id")?,
                    soft: row.find("vm_expiration_soft")?,
                    hard: row.find("vm_expiration_hard")?,
                    alerted_at: row.find("expire_alerted_at")?,
                    now: row.get("now")?,
                })
            })
            .collect()
    }

    /// The user was asked to leave.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn record_alert(self, id: VmId, host: HostId, run: RunId) -> Result<Guard<()>> {
        const ALERTED: Sql = sql!("record that the user was asked to leave":
            "update vm_runtimes set expire_alerted_at = " NOW ", version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state = 'running' returning vm_id");
        self.simple(id, &ALERTED, params![id, host, run]).await
    }

    /// A write that moves the state, told to those who wait.
    async fn moved(self, sql: &Sql, params: Vec<Value>) -> Result<Option<VmRuntime>> {
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(sql, params.clone()).await? else { return Ok(None) };
            tx.notify(Channel::VmState, state_payload(&row)?);
            runtime(&row).map(Some)
        })
    }

    /// A write of one statement that nobody waits for.
    async fn simple(self, id: VmId, sql: &Sql, params: Vec<Value>) -> Result<Guard<()>> {
        let written = !self.db.write(sql, params).await?.is_empty();
        Ok(self.settled(id, written).await)
    }

    /// What became of a write whose database answered. That the row is not the daemon's any more is certain then, and
    /// must not become an error, after which it would be tried again: when the row cannot be looked at, it counts as
    /// another's.
    async fn settled(self, id: VmId, written: bool) -> Guard<()> {
        if written {
            return Guard::Updated(());
        }
        match self.runtime(id).await {
            Ok(None) => Guard::NotFound,
            Ok(Some(_)) | Err(_) => Guard::Unchanged(()),
        }
    }
}

/// Whether one failure more blocks what a row tells of.
fn reached(row: &Row, block_at: u32) -> Result<bool> {
    let failures: u32 = row.get("fail_count")?;
    Ok(!row.get::<bool>("blocked")? && block_at > 0 && failures.saturating_add(1) >= block_at)
}
