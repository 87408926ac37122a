//! What others do about a host that died: mark it lost, and later release what it ran.
//!
//! Whether an observer may do so is its own affair (it watches the row on its own clock); these writes repeat the
//! part that the database can check, so that an observer that slept in between does nothing.

use std::time::SystemTime;

use qvd_core::state::HostState;
use qvd_core::{HostId, VmId};

use super::Hosts;
use crate::db::transaction;
use crate::error::Result;
use crate::events::{self, NewEvent};
use crate::guard::Guard;
use crate::notify::Channel;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What an observer saw of a host's row, and kept seeing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The host's incarnation.
    pub incarnation: i64,
    /// When its daemon last reported.
    pub ok_ts: SystemTime,
}

/// What was released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Virtual machines that may be started elsewhere now.
    pub vms: Vec<VmId>,
    /// Sessions through the host's router that are over.
    pub sessions: Vec<VmId>,
}

impl Hosts<'_> {
    /// Marks a host lost, if its row is as it was seen and its lease has run out.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn mark_lost(self, id: HostId, seen: Seen) -> Result<Guard<()>> {
        const LOST: Sql = sql!("mark a host lost":
            "update host_runtimes set state = 'lost', state_ts = " NOW ", version = version + 1
             where host_id = $1 and incarnation = $2 and ok_ts = $3 and lease_until < " NOW "
               and state in ('starting', 'running', 'stopping') returning host_id");
        let written = transaction!(self.db, |tx| {
            let row = tx.row(&LOST, params![id, seen.incarnation, seen.ok_ts]).await?;
            if row.is_some() {
                let to_state = Some(HostState::Lost.as_str().to_owned());
                let event =
                    NewEvent { host_id: Some(id), kind: "state".to_owned(), to_state, ..NewEvent::default() };
                events::write(tx, &event).await?;
            }
            Ok(row)
        })?;
        if written.is_some() {
            return Ok(Guard::Updated(()));
        }
        Ok(self.load(id).await?.map_or(Guard::NotFound, |_| Guard::Unchanged(())))
    }

    /// Releases what a lost host ran, if its row is as it was seen and its fence has run out: its virtual machines
    /// become stopped under a new run id, sessions through its router disconnected, sessions to its virtual machines
    /// told to end.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn release(self, id: HostId, seen: Seen) -> Result<Guard<Released>> {
        const LOCK: Sql = sql!("look at a lost host":
            "select host_id, (state = 'lost' and incarnation = $2 and ok_ts = $3 and fence_until < " NOW ") as gone
             from host_runtimes where host_id = $1" FOR_UPDATE);
        const SESSIONS: Sql = sql!("end the sessions through a lost host":
            "update vm_runtimes
             set user_state = 'disconnected', user_state_ts = " NOW ", user_cmd = null, user_cmd_ts = null,
                 l7r_host_id = null, l7r_pid = null, l7r_instance = null, session_id = null, version = version + 1
             where l7r_host_id = $1 returning vm_id, run_id, vm_state");
        const VMS: Sql = sql!("release the VMs of a lost host":
            "update vm_runtimes
             set vm_state = 'stopped', vm_phase = null, vm_state_ts = " NOW ", vm_cmd = null, vm_cmd_ts = null,
                 vm_cmd_by = null, host_id = null, host_incarnation = null, run_id = run_id + 1,
                 current_osf_id = null, current_di_id = null, vm_pid = null, vm_pid_start = null, vm_address = null,
                 vm_vma_port = null, vm_x_port = null, vm_ssh_port = null, vm_vnc_port = null, vm_mon_port = null,
                 vm_serial_port = null, vm_expiration_soft = null, vm_expiration_hard = null,
                 expire_alerted_at = null, vma_ok_ts = null,
                 user_cmd = case when user_state = 'disconnected' then null else 'abort' end,
                 user_cmd_ts = case when user_state = 'disconnected' then null else " NOW " end,
                 version = version + 1
             where host_id = $1 and host_incarnation <= $2 returning vm_id, run_id, vm_state, l7r_host_id");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id, seen.incarnation, seen.ok_ts]).await? else {
                return Ok(Guard::NotFound);
            };
            if !row.find::<bool>("gone")?.unwrap_or(false) {
                return Ok(Guard::Unchanged(Released::default()));
            }
            let mut released = Released::default();
            for row in tx.rows(&SESSIONS, params![id]).await? {
                released.sessions.push(row.get("vm_id")?);
                tx.notify(Channel::VmState, crate::vms::state_payload(&row)?);
            }
            for row in tx.rows(&VMS, params![id, seen.incarnation]).await? {
                released.vms.push(row.get("vm_id")?);
                tx.notify(Channel::VmState, crate::vms::state_payload(&row)?);
                if let Some(router) = row.find("l7r_host_id")? {
                    tx.notify(Channel::UserCommands(router), String::new());
                }
            }
            Ok(Guard::Updated(released))
        })
    }
}
