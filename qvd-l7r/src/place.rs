//! Choosing a host for a virtual machine, and claiming it.

use std::sync::Arc;

use qvd_core::balance::{Decision, LoadBalancer, VmSnapshot};
use qvd_core::error::chain;
use qvd_core::model::{Vm, VmRuntime};
use qvd_core::state::VmState;
use qvd_core::{HostId, VmId};
use qvd_db::{Claimant, Db, Guard};

use crate::broker::{Event, Failure};
use crate::random;

/// Ranks the hosts that may run it and claims the first that still may: host and start order are one write.
pub(crate) async fn claim(db: Db, balancer: Arc<dyn LoadBalancer>, vm: Vm, row: VmRuntime) -> Event {
    try_claim(&db, &balancer, &vm, &row).await.unwrap_or_else(|error| {
        tracing::warn!(vm = %vm.id, "no host claimed: {}", chain(&error));
        Event::Failed(Failure::Database)
    })
}

async fn try_claim(
    db: &Db,
    balancer: &Arc<dyn LoadBalancer>,
    vm: &Vm,
    row: &VmRuntime,
) -> Result<Event, qvd_db::Error> {
    let osf = db.osfs().load(vm.osf_id).await?;
    let driver = osf.as_ref().and_then(|osf| osf.hypervisor.as_deref());
    let hosts = db.hosts().candidates(driver).await?;
    let mut snapshot = VmSnapshot::new(vm.id, db.properties().merged_for_vm(row).await?);
    snapshot.memory = osf.as_ref().map(|osf| osf.memory);
    let decision = Decision::make(&**balancer, &snapshot, &hosts, &mut random::fraction);
    if decision.ranked.is_empty() {
        tracing::warn!(vm = %vm.id, driver = driver.unwrap_or("any"), hosts = hosts.len(),
            balancer = balancer.name(), "no host available");
        journal(db, balancer, vm.id, decision, None);
        return Ok(Event::NoHost);
    }
    for host in decision.ranked.clone() {
        match db.vms().claim(vm.id, host, Claimant::Router).await? {
            Guard::Updated(row) => {
                tracing::info!(vm = %vm.id, host = %host, run = %row.run_id, "virtual machine assigned");
                journal(db, balancer, vm.id, decision, Some(host));
                return Ok(Event::Claimed(Box::new(row)));
            }
            Guard::Unchanged(row) if is_free(&row) => {
                tracing::debug!(vm = %vm.id, host = %host, "host lost between choice and claim");
            }
            Guard::Unchanged(row) => return Ok(Event::NotClaimed(Box::new(row))),
            Guard::NotFound => return Ok(Event::RowGone),
        }
    }
    journal(db, balancer, vm.id, decision, None);
    Ok(Event::NoHostClaimed)
}

/// Writes down why, beside the start: who waits for a desktop does not wait for this.
fn journal(db: &Db, balancer: &Arc<dyn LoadBalancer>, vm: VmId, decision: Decision, chosen: Option<HostId>) {
    let (db, balancer) = (db.clone(), Arc::clone(balancer));
    tokio::spawn(async move {
        let recorded = db.placements().record(vm, balancer.name(), &decision, chosen).await;
        if let Err(error) = recorded {
            tracing::debug!(vm = %vm, "placement not recorded: {}", chain(&error));
        }
    });
}

/// Whether the row would have admitted the claim, so that it was the host that did not.
fn is_free(row: &VmRuntime) -> bool {
    row.vm_state == VmState::Stopped && row.host_id.is_none() && row.vm_cmd.is_none() && !row.blocked
}
