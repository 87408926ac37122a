//! Choosing a host for a virtual machine, and claiming it.

use std::sync::Arc;

use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
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
    let driver = db.osfs().load(vm.osf_id).await?.and_then(|osf| osf.hypervisor);
    let hosts = db.hosts().candidates(driver.as_deref()).await?;
    let snapshot = VmSnapshot::new(vm.id, db.properties().merged_for_vm(row).await?);
    let ranked = balancer.rank(&snapshot, &hosts, &mut random::fraction);
    if ranked.is_empty() {
        tracing::warn!(vm = %vm.id, driver = driver.as_deref().unwrap_or("any"), hosts = hosts.len(),
            balancer = balancer.name(), "no host available");
        journal(db, balancer, vm.id, hosts, ranked, None);
        return Ok(Event::NoHost);
    }
    for host in ranked.clone() {
        match db.vms().claim(vm.id, host, Claimant::Router).await? {
            Guard::Updated(row) => {
                tracing::info!(vm = %vm.id, host = %host, run = %row.run_id, "virtual machine assigned");
                journal(db, balancer, vm.id, hosts, ranked, Some(host));
                return Ok(Event::Claimed(Box::new(row)));
            }
            Guard::Unchanged(row) if is_free(&row) => {
                tracing::debug!(vm = %vm.id, host = %host, "host lost between choice and claim");
            }
            Guard::Unchanged(row) => return Ok(Event::NotClaimed(Box::new(row))),
            Guard::NotFound => return Ok(Event::RowGone),
        }
    }
    journal(db, balancer, vm.id, hosts, ranked, None);
    Ok(Event::NoHostClaimed)
}

/// Writes down why, beside the start: who waits for a desktop does not wait for this.
fn journal(
    db: &Db,
    balancer: &Arc<dyn LoadBalancer>,
    vm: VmId,
    hosts: Vec<HostSnapshot>,
    ranked: Vec<HostId>,
    chosen: Option<HostId>,
) {
    let (db, balancer) = (db.clone(), Arc::clone(balancer));
    tokio::spawn(async move {
        let recorded = db.placements().record_choice(vm, balancer.name(), &hosts, &ranked, chosen).await;
        if let Err(error) = recorded {
            tracing::debug!(vm = %vm, "placement not recorded: {}", chain(&error));
        }
    });
}

/// Whether the row would have admitted the claim, so that it was the host that did not.
fn is_free(row: &VmRuntime) -> bool {
    row.vm_state == VmState::Stopped && row.host_id.is_none() && row.vm_cmd.is_none() && !row.blocked
}
