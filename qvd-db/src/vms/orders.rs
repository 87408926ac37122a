//! What routers and administrators order: a start (with the host in the same write), a stop.

use qvd_core::model::VmRuntime;
use qvd_core::{HostId, VmId};

use super::{Vms, runtime, state_payload};
use crate::db::transaction;
use crate::error::Result;
use crate::guard::Guard;
use crate::notify::Channel;
use crate::sql::{Sql, sql};
use crate::value::params;

/// Who orders a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// A router, for a user: not while the virtual machine is blocked.
    Router,
    /// An administrator.
    Admin,
}

impl Vms<'_> {
    /// Assigns a virtual machine to a host and orders its start, under a new run id. Only a stopped one without host
    /// and command; only while the host runs, takes new work and holds its lease. Wakes the host.
    ///
    /// `Unchanged` carries the row as it is: already on its way (wait), or the host was not to be had (try the next).
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn claim(self, id: VmId, host: HostId, by: Claimant) -> Result<Guard<VmRuntime>> {
        // The host's row is locked against a take-over, so that the incarnation written here is not one that a
        // take-over running at the same time has already passed by.
        const CLAIM: Sql = sql!("order a start":
            "update vm_runtimes
             set host_id = $2, run_id = run_id + 1, vm_cmd = 'start', vm_cmd_ts = " NOW ", vm_cmd_by = $3,
                 host_incarnation = (select r.incarnation from host_runtimes r where r.host_id = $2" FOR_SHARE "),
                 version = version + 1
             where vm_id = $1 and vm_state = 'stopped' and host_id is null and vm_cmd is null
               and (not blocked or $4)
               and not exists (select 1 from vms v where v.id = $1 and v.deleted_at is not null)
               and exists (select 1 from hosts h where h.id = $2 and h.backend)
               and exists (select 1 from host_runtimes r
                           where r.host_id = $2 and r.state = 'running' and not r.blocked
                             and r.lease_until > " NOW FOR_SHARE ")
             returning " RUNTIME);
        let (name, blocked_too) = match by {
            Claimant::Router => ("router", false),
            Claimant::Admin => ("admin", true),
        };
        let written = transaction!(self.db, |tx| {
            let Some(row) = tx.row(&CLAIM, params![id, host, name, blocked_too]).await? else {
                return Ok(None);
            };
            tx.notify(Channel::VmCommands(host), String::new());
            runtime(&row).map(Some)
        })?;
        self.outcome(id, written).await
    }

    /// Orders a stop, or cancels a start that its host has not accepted yet. Wakes the host, or those who wait.
    ///
    /// `Unchanged` carries the row as it is: stopped, on its way down, or out of control.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn order_stop(self, id: VmId) -> Result<Guard<VmRuntime>> {
        // One statement for both: between two, an acceptance could slip through and neither would find its row.
        const STOP: Sql = sql!("order a stop":
            "update vm_runtimes
             set vm_cmd = case when vm_state = 'stopped' then null else 'stop' end,
                 vm_cmd_ts = case when vm_state = 'stopped' then null else " NOW " end,
                 vm_cmd_by = null,
                 host_id = case when vm_state = 'stopped' then null else host_id end,
                 host_incarnation = case when vm_state = 'stopped' then null else host_incarnation end,
                 version = version + 1
             where vm_id = $1
               and (vm_state in ('starting', 'running', 'debugging') or (vm_state = 'stopped' and vm_cmd = 'start'))
             returning " RUNTIME);
        let written = transaction!(self.db, |tx| {
            let Some(row) = tx.row(&STOP, params![id]).await? else { return Ok(None) };
            let ordered = runtime(&row)?;
            match ordered.host_id {
                Some(host) => tx.notify(Channel::VmCommands(host), String::new()),
                None => tx.notify(Channel::VmState, state_payload(&row)?),
            }
            Ok(Some(ordered))
        })?;
        self.outcome(id, written).await
    }
}
