//! What to do about virtual machines that this daemon did not start: those that outlived the daemon before, those
//! that only a row tells of, and those that no row tells of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use qvd_core::error::chain;
use qvd_core::hypervisor::{ExitInfo, Found, Hypervisor, RunningVm};
use qvd_core::model::VmRuntime;
use qvd_core::state::VmState;
use qvd_core::{RunId, VmId};

use super::node::Node;
use super::vm_machine::Past;

/// One virtual machine to take care of.
pub(crate) struct Foundling {
    pub(crate) vm: VmId,
    pub(crate) run: RunId,
    pub(crate) story: Story,
    /// How long it has been starting, when it is.
    pub(crate) age: Duration,
    pub(crate) driver: Arc<dyn Hypervisor>,
    pub(crate) handle: Option<Arc<dyn RunningVm>>,
}

/// What became of it while no daemon watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// As the machine's vocabulary has it.
    Past(Past),
    /// It ended, and its row still says that it lives.
    Ended { booting: bool, exit: Option<ExitInfo> },
}

/// What an inspection brought.
#[derive(Default)]
pub(crate) struct Inspection {
    pub(crate) foundlings: Vec<Foundling>,
    /// Drivers that could not look, with the reason.
    pub(crate) blind: Vec<String>,
}

/// What a driver found of one virtual machine.
struct Item {
    driver: Arc<dyn Hypervisor>,
    found: Found,
}

/// Looks into everything that runs here: each row of `rows` becomes a foundling, and so does everything that a driver
/// finds without a row. Those that already have a task are left out.
///
/// A driver that cannot look holds up nobody that another one found. But then nothing is taken for absent: a row
/// of which nothing was found is left for the next inspection.
///
/// # Errors
///
/// When no driver could look, or a row's driver could not be read.
pub(crate) async fn inspect(
    node: &Node,
    rows: &[VmRuntime],
    tasks: &HashMap<VmId, RunId>,
) -> Result<Inspection, String> {
    let (mut items, mut blind) = (Vec::new(), Vec::new());
    let looks = node.drivers.iter().map(|driver| async move { (driver, node.find(driver).await) });
    for (driver, found) in join_all(looks).await {
        node.usable.looked(driver.name(), found.is_ok());
        match found {
            Ok(found) => {
                items.extend(found.into_iter().map(|found| Item { driver: Arc::clone(driver), found }));
            }
            Err(error) => {
                blind.push(format!("driver {} cannot tell what runs here: {}", driver.name(), chain(&error)));
            }
        }
    }
    if !blind.is_empty() && blind.len() == node.drivers.len() {
        return Err(blind.join("; "));
    }
    items.retain(|item| !tasks.contains_key(&item.found.vm_id()));

    let mut foundlings = Vec::new();
    let mut settled = HashSet::new();
    for item in items {
        let vm = item.found.vm_id();
        if !settled.insert(vm) {
            // Two drivers know of it; the second comes to its turn once the first is clean.
            continue;
        }
        let row = rows.iter().find(|row| row.vm_id == vm && row.vm_state != VmState::Stopped);
        foundlings.push(foundling(item, row));
    }
    for row in rows.iter().filter(|row| row.vm_state != VmState::Stopped && blind.is_empty()) {
        if settled.contains(&row.vm_id) || tasks.contains_key(&row.vm_id) {
            continue;
        }
        let driver = driver_of(node, row.vm_id).await?;
        let (vm, run, story) = (row.vm_id, row.run_id, gone(row, None));
        foundlings.push(Foundling { vm, run, story, age: Duration::ZERO, driver, handle: None });
    }
    for foundling in foundlings.iter_mut().filter(|f| f.story == Story::Past(Past::Starting)) {
        foundling.age = starting_for(node, foundling.vm).await;
    }
    Ok(Inspection { foundlings, blind })
}

fn foundling(item: Item, row: Option<&VmRuntime>) -> Foundling {
    let story = story(&item.found, row);
    let Item { driver, found } = item;
    let vm = found.vm_id();
    let (run, handle) = match found {
        Found::Running { run_id, vm: handle, .. } => (run_id, Some(handle)),
        _ => (row.map_or(RunId::new(0), |row| row.run_id), None),
    };
    Foundling { vm, run, story, age: Duration::ZERO, driver, handle }
}

/// What was found, held against its row. Pure.
fn story(found: &Found, row: Option<&VmRuntime>) -> Story {
    let past = match (found, row) {
        (Found::Running { run_id, .. }, Some(row)) if *run_id == row.run_id => match row.vm_state {
            VmState::Starting => Past::Starting,
            VmState::Running => Past::Running,
            VmState::Debugging => Past::Debugging,
            VmState::Stopping => Past::Stopping,
            VmState::Zombie => Past::Zombie,
            VmState::Stopped => Past::Foreign,
        },
        // Another run than the row's, or no row at all: nobody's.
        (Found::Running { .. }, _) | (_, None) => Past::Foreign,
        (Found::Partial { ended, .. }, Some(row)) => return gone(row, ended.as_ref()),
        (_, Some(_)) => Past::Unknown,
    };
    Story::Past(past)
}

/// Nothing of it lives. One that was to end has ended; one that was not has a story to tell, if it is of its run.
fn gone(row: &VmRuntime, ended: Option<&(RunId, ExitInfo)>) -> Story {
    let exit = ended.filter(|(run, _)| *run == row.run_id).map(|(_, exit)| exit.clone());
    match row.vm_state {
        VmState::Starting => Story::Ended { booting: true, exit },
        VmState::Running | VmState::Debugging => Story::Ended { booting: false, exit },
        VmState::Stopping | VmState::Zombie | VmState::Stopped => Story::Past(Past::Gone),
    }
}

/// How long its row has said `starting`. Without an answer its boot begins anew.
async fn starting_for(node: &Node, vm: VmId) -> Duration {
    match node.db.vms().state_age(vm).await {
        Ok(age) => age.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%vm, error = %chain(&error), "cannot read how long it has been starting");
            Duration::ZERO
        }
    }
}

/// The driver that a row's virtual machine would run on; another one when that is not here any more, as nothing of
/// it is left to be ended.
async fn driver_of(node: &Node, vm: VmId) -> Result<Arc<dyn Hypervisor>, String> {
    let spec = node.db.vms().launch_spec(vm).await.map_err(|error| chain(&error).to_string())?;
    let name = spec.and_then(|spec| spec.osf.hypervisor);
    let named = name.as_deref().and_then(|name| node.driver(name));
    let driver = named.or_else(|| node.preferred()).or_else(|| node.drivers.first());
    driver.cloned().ok_or_else(|| "this host has no driver at all".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use qvd_core::HostId;
    use qvd_core::state::UserState;
    use qvd_core::testkit::fakes::FakeHypervisor;

    pub(crate) fn row(vm: i64, run: i64, vm_state: VmState) -> VmRuntime {
        VmRuntime {
            vm_id: VmId::new(vm),
            host_id: Some(HostId::new(1)),
            run_id: RunId::new(run),
            host_incarnation: Some(1),
            vm_state,
            vm_phase: None,
            vm_cmd: None,
            current_di_id: None,
            vm_address: None,
            vm_vma_port: None,
            vm_x_port: None,
            blocked: false,
            blocked_reason: None,
            fail_count: 0,
            last_error: None,
            user_state: UserState::Disconnected,
            user_cmd: None,
            real_user_id: None,
            l7r_host_id: None,
            session_id: None,
        }
    }

    #[tokio::test]
    async fn only_the_rows_own_run_is_adopted() {
        let driver = FakeHypervisor::new();
        driver.plant_running(VmId::new(1), RunId::new(5));
        driver.plant_debris(VmId::new(2));
        driver.make_unreadable(VmId::new(3), "permission denied");
        let found = driver.find().await.unwrap();
        let item = |vm: i64| found.iter().find(|item| item.vm_id() == VmId::new(vm)).unwrap();
        let past = |found: &Found, row: Option<&VmRuntime>| match story(found, row) {
            Story::Past(past) => past,
            Story::Ended { .. } => panic!("nothing ended"),
        };
        for (state, expected) in [
            (VmState::Starting, Past::Starting),
            (VmState::Running, Past::Running),
            (VmState::Debugging, Past::Debugging),
            (VmState::Stopping, Past::Stopping),
            (VmState::Zombie, Past::Zombie),
        ] {
            assert_eq!(past(item(1), Some(&row(1, 5, state))), expected);
        }
        assert_eq!(past(item(1), Some(&row(1, 6, VmState::Running))), Past::Foreign);
        assert_eq!(past(item(1), None), Past::Foreign);
        assert_eq!(past(item(2), Some(&row(2, 5, VmState::Stopping))), Past::Gone);
        assert_eq!(past(item(2), None), Past::Foreign);
        assert_eq!(past(item(3), Some(&row(3, 5, VmState::Running))), Past::Unknown);
        assert_eq!(past(item(3), None), Past::Foreign);
    }

    #[test]
    fn an_end_is_told_of_the_rows_own_run_alone() {
        let exit = ExitInfo::signal(9);
        let found = Found::Partial {
            vm_id: VmId::new(1),
            parts: Vec::new(),
            ended: Some((RunId::new(5), exit.clone())),
        };
        let of = |run, state| story(&found, Some(&row(1, run, state)));
        assert_eq!(of(5, VmState::Starting), Story::Ended { booting: true, exit: Some(exit.clone()) });
        assert_eq!(of(5, VmState::Running), Story::Ended { booting: false, exit: Some(exit) });
        assert_eq!(of(6, VmState::Running), Story::Ended { booting: false, exit: None }, "of another run");
        assert_eq!(of(5, VmState::Stopping), Story::Past(Past::Gone), "as it was to be");
    }
}
