//! Choosing a host for a virtual machine, and claiming it.

use std::sync::Arc;
use std::time::Duration;

use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use qvd_core::error::chain;
use qvd_core::model::{Vm, VmRuntime};
use qvd_core::state::VmState;
use qvd_core::{HostId, VmId};
use qvd_db::{Claimant, Db, Guard};

use crate::broker::{Event, Failure};
use crate::random;

/// Ranks the hosts that may run it and claims the first that still may: host and start order are one write.
/// Hosts that did not report `within` this time are left out.
pub(crate) async fn claim(
    db: Db,
    balancer: Arc<dyn LoadBalancer>,
    within: Duration,
    vm: Vm,
    row: VmRuntime,
) -> Event {
    try_claim(&db, &*balancer, within, &vm, &row).await.unwrap_or_else(|error| {
        tracing::warn!(vm = %vm.id, "no host claimed: {}", chain(&error));
        Event::Failed(Failure::Database)
    })
}

async fn try_claim(
    db: &Db,
    balancer: &dyn LoadBalancer,
    within: Duration,
    vm: &Vm,
    row: &VmRuntime,
) -> Result<Event, qvd_db::Error> {
    let driver = db.osfs().load(vm.osf_id).await?.and_then(|osf| osf.hypervisor);
    let hosts = db.hosts().candidates(driver.as_deref(), within).await?;
    let snapshot = VmSnapshot::new(vm.id, db.properties().merged_for_vm(row).await?);
    let ranked = balancer.rank(&snapshot, &hosts, &mut random::fraction);
    if ranked.is_empty() {
        tracing::warn!(vm = %vm.id, driver = driver.as_deref().unwrap_or("any"), hosts = hosts.len(),
            balancer = balancer.name(), "no host available");
        journal(db, balancer, vm.id, &hosts, &ranked, None).await;
        return Ok(Event::NoHost);
    }
    for &host in &ranked {
        match db.vms().claim(vm.id, host, Claimant::Router).await? {
            Guard::Updated(row) => {
                tracing::info!(vm = %vm.id, host = %host, run = %row.run_id, "virtual machine assigned");
                journal(db, balancer, vm.id, &hosts, &ranked, Some(host)).await;
                return Ok(Event::Claimed(Box::new(row)));
            }
            Guard::Unchanged(row) if is_free(&row) => {
                tracing::debug!(vm = %vm.id, host = %host, "host lost between choice and claim");
            }
            Guard::Unchanged(row) => return Ok(Event::NotClaimed(Box::new(row))),
            Guard::NotFound => return Ok(Event::RowGone),
        }
    }
    Ok(Event::NoHostClaimed)
}

/// Writes down why, for those who ask later; nobody waits longer because it cannot be written.
async fn journal(
    db: &Db,
    balancer: &dyn LoadBalancer,
    vm: VmId,
    hosts: &[HostSnapshot],
    ranked: &[HostId],
    chosen: Option<HostId>,
) {
    if let Err(error) = db.placements().record_choice(vm, balancer.name(), hosts, ranked, chosen).await {
        tracing::debug!(vm = %vm, "placement not recorded: {}", chain(&error));
    }
}

/// Whether the row would have admitted the claim, so that it was the host that did not.
fn is_free(row: &VmRuntime) -> bool {
    row.vm_state == VmState::Stopped && row.host_id.is_none() && row.vm_cmd.is_none() && !row.blocked
}
