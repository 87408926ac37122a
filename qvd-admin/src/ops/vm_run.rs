//! Starting and stopping virtual machines, ending their sessions, and waiting until that is done.

use std::time::Duration;

use qvd_core::balance::{Decision, VmSnapshot};
use qvd_core::model::VmRuntime;
use qvd_core::state::{VmCommand, VmState};
use qvd_core::{HostId, VmId};
use qvd_db::{Channel, Claimant, Guard};

use super::rows::{Found, VmRow};
use super::{Admin, Outcome};
use crate::error::Result;

/// What became of the virtual machines that somebody waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Those that reached the state.
    pub reached: Vec<VmId>,
    /// Those that did not, each with what is known of why.
    pub failed: Vec<(VmId, String)>,
}

impl Admin {
    /// Orders virtual machines to start, each on a host that the balancer chooses. Only stopped ones are eligible;
    /// being blocked does not matter, that concerns users.
    ///
    /// # Errors
    ///
    /// The database's; what was ordered before stays ordered.
    pub async fn start_vms(&self, vms: &[Found<VmRow>]) -> Result<Outcome<VmId>> {
        let mut outcome = Outcome::default();
        for found in vms {
            match self.start_vm(&found.row).await? {
                Ok(()) => outcome.done.push(found.row.id()),
                Err(reason) => outcome.skip(found.row.id(), found.row.name(), reason),
            }
        }
        Ok(outcome)
    }

    /// Orders virtual machines to stop. One whose start nobody accepted yet is called back.
    ///
    /// # Errors
    ///
    /// The database's; what was ordered before stays ordered.
    pub async fn stop_vms(&self, vms: &[Found<VmRow>]) -> Result<Outcome<VmId>> {
        let mut outcome = Outcome::default();
        for found in vms {
            match self.db.vms().order_stop(found.row.id()).await? {
                Guard::Updated(_) => outcome.done.push(found.row.id()),
                Guard::Unchanged(now) => {
                    outcome.skip(found.row.id(), found.row.name(), format!("not running ({})", now.vm_state));
                }
                Guard::NotFound => outcome.skip(found.row.id(), found.row.name(), DELETED),
            }
        }
        Ok(outcome)
    }

    /// Ends the sessions of virtual machines.
    ///
    /// # Errors
    ///
    /// The database's; what was ordered before stays ordered.
    pub async fn disconnect_users(&self, vms: &[Found<VmRow>]) -> Result<Outcome<VmId>> {
        let mut outcome = Outcome::default();
        for found in vms {
            match self.db.sessions().abort_user(found.row.id()).await? {
                Guard::Updated(_) => outcome.done.push(found.row.id()),
                Guard::Unchanged(_) => outcome.skip(found.row.id(), found.row.name(), "no user is connected"),
                Guard::NotFound => outcome.skip(found.row.id(), found.row.name(), DELETED),
            }
        }
        Ok(outcome)
    }

    /// Waits until each of these virtual machines is in the state, or cannot get there, or `limit` is over.
    ///
    /// # Errors
    ///
    /// The database's.
    ///
    /// # Cancellation
    ///
    /// Only the waiting ends.
    pub async fn wait_for_vms(&self, vms: &[VmId], wanted: VmState, limit: Duration) -> Result<Waited> {
        let mut subscription = self.db.subscribe(&[Channel::VmState]);
        let deadline = tokio::time::Instant::now() + limit;
        let mut waited = Waited::default();
        let mut pending: Vec<VmId> = vms.to_vec();
        loop {
            let mut still = Vec::new();
            for id in pending {
                match self.db.vms().runtime(id).await? {
                    None => waited.failed.push((id, DELETED.to_owned())),
                    Some(now) if now.vm_state == wanted => waited.reached.push(id),
                    Some(now) => match hopeless(&now, wanted) {
                        Some(reason) => waited.failed.push((id, reason)),
                        None => still.push((id, now.vm_state)),
                    },
                }
            }
            pending = still.iter().map(|(id, _)| *id).collect();
            if pending.is_empty() {
                return Ok(waited);
            }
            if tokio::time::timeout_at(deadline, subscription.next()).await.is_err() {
                let late = |(id, state)| (id, format!("still {state} after {} s", limit.as_secs_f64()));
                waited.failed.extend(still.into_iter().map(late));
                return Ok(waited);
            }
        }
    }

    /// The inner result is why a virtual machine was left alone.
    async fn start_vm(&self, row: &VmRow) -> Result<Result<(), String>> {
        if let Err(reason) = startable(row.runtime()) {
            return Ok(Err(reason));
        }
        let mut vm = VmSnapshot::new(row.id(), self.db.properties().merged_for_vm(row.runtime()).await?);
        vm.memory = row.memory();
        let hosts = self.db.hosts().candidates(row.hypervisor()).await?;
        let decision = Decision::make(&*self.balancer, &vm, &hosts, &mut || (self.random)());
        for &host in &decision.ranked {
            match self.db.vms().claim(vm.id, host, Claimant::Admin).await? {
                Guard::Updated(_) => {
                    self.journal(vm.id, &decision, Some(host)).await;
                    return Ok(Ok(()));
                }
                Guard::NotFound => return Ok(Err(DELETED.to_owned())),
                // Either the machine moved, or the host is no longer fit and the next may be.
                Guard::Unchanged(now) => {
                    if let Err(reason) = startable(&now) {
                        return Ok(Err(reason));
                    }
                }
            }
        }
        self.journal(vm.id, &decision, None).await;
        Ok(Err("Unable to start machine, no hosts available".to_owned()))
    }

    /// Writes down why; what was decided holds whether or not that succeeds.
    async fn journal(&self, vm: VmId, decision: &Decision, chosen: Option<HostId>) {
        let _ = self.db.placements().record(vm, self.balancer.name(), decision, chosen).await;
    }
}

const DELETED: &str = "deleted meanwhile";

fn startable(now: &VmRuntime) -> Result<(), String> {
    match (now.vm_state, now.vm_cmd) {
        (VmState::Stopped, None) => Ok(()),
        (VmState::Stopped, Some(command)) => Err(format!("has a pending command ({command})")),
        (state, _) => Err(format!("not stopped ({state})")),
    }
}

/// Why a virtual machine will not reach a state any more without another order.
fn hopeless(now: &VmRuntime, wanted: VmState) -> Option<String> {
    let because = || now.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    match (wanted, now.vm_state, now.vm_cmd) {
        (VmState::Running, VmState::Stopped, Some(VmCommand::Start)) => None,
        (
            VmState::Running,
            VmState::Stopped | VmState::Stopping | VmState::Zombie | VmState::Debugging,
            _,
        ) => Some(format!("did not start ({}){}", now.vm_state, because())),
        // A stop order that was taken leaves the row without one for a moment, so only time tells.
        _ => None,
    }
}
