//! Rows → tasks. One scan for a notification and for a poll; it is harmless at any time.
//!
//! Stops first, then starts, then both sides are compared: a row without a task is looked into ([`adopt`](super::adopt)),
//! a task without its row has lost its guard and kills.

use std::collections::HashMap;

use qvd_core::model::VmRuntime;
use qvd_core::state::{HostCommand, VmCommand, VmState};
use qvd_core::{HostId, RunId, VmId};
use qvd_db::{Db, Guard};

/// What a scan found to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Accepted starts: a task for each.
    pub(crate) starts: Vec<(VmId, RunId)>,
    /// Tasks to be told to stop.
    pub(crate) stops: Vec<VmId>,
    /// Tasks whose row is gone or about another run.
    pub(crate) disowned: Vec<VmId>,
    /// Rows of this host that say something runs, without a task.
    pub(crate) orphans: Vec<VmRuntime>,
    /// What an administrator wants of the host itself.
    pub(crate) command: Option<HostCommand>,
}

/// Reads and accepts what waits for this host. `tasks` are those that exist when the scan begins; a virtual machine
/// that has one is not started a second time before that one has ended.
pub(crate) async fn scan(
    db: &Db,
    host: HostId,
    incarnation: i64,
    tasks: &HashMap<VmId, RunId>,
) -> Result<Findings, qvd_db::Error> {
    let mut findings =
        Findings { command: db.hosts().take_command(host, incarnation).await?, ..Findings::default() };
    let pending = db.vms().pending(host, incarnation).await?;
    for order in pending.iter().filter(|order| order.command == VmCommand::Stop) {
        // Without a task there is nobody to stop yet; the order waits until what runs has been adopted.
        if tasks.get(&order.vm_id) != Some(&order.run_id) {
            continue;
        }
        if db.vms().accept_stop(order.vm_id, host, order.run_id).await?.is_updated() {
            findings.stops.push(order.vm_id);
        }
    }
    for order in pending.iter().filter(|order| order.command == VmCommand::Start) {
        if tasks.contains_key(&order.vm_id) {
            continue;
        }
        // Anything but `Updated`: cancelled meanwhile, or not ours any more.
        if let Guard::Updated(row) = db.vms().accept_start(order.vm_id, host, incarnation).await? {
            findings.starts.push((row.vm_id, row.run_id));
        }
    }
    let rows = db.vms().of_host(host).await?;
    compare(&rows, tasks, &mut findings);
    Ok(findings)
}

/// Holds the rows against the tasks. Pure.
fn compare(rows: &[VmRuntime], tasks: &HashMap<VmId, RunId>, findings: &mut Findings) {
    let live: HashMap<VmId, &VmRuntime> =
        rows.iter().filter(|row| row.vm_state != VmState::Stopped).map(|row| (row.vm_id, row)).collect();
    for (vm, run) in tasks {
        if live.get(vm).is_none_or(|row| row.run_id != *run) {
            findings.disowned.push(*vm);
        }
    }
    for row in live.values() {
        let just_started = findings.starts.iter().any(|(vm, _)| *vm == row.vm_id);
        if !tasks.contains_key(&row.vm_id) && !just_started {
            findings.orphans.push((*row).clone());
        }
    }
    findings.orphans.sort_by_key(|row| row.vm_id);
    findings.disowned.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(vm: i64, run: i64, state: VmState) -> VmRuntime {
        super::super::adopt::tests::row(vm, run, state)
    }

    #[test]
    fn rows_and_tasks_are_held_against_each_other() {
        let rows = [
            row(1, 5, VmState::Running),
            row(2, 5, VmState::Running),
            row(3, 5, VmState::Starting),
            row(4, 5, VmState::Stopped),
            row(6, 1, VmState::Starting),
        ];
        let id = VmId::new;
        let tasks = HashMap::from([
            (id(1), RunId::new(5)),
            (id(2), RunId::new(4)),
            (id(4), RunId::new(5)),
            (id(5), RunId::new(1)),
        ]);
        let mut findings = Findings { starts: vec![(id(6), RunId::new(1))], ..Findings::default() };
        compare(&rows, &tasks, &mut findings);
        assert_eq!(findings.disowned, [id(2), id(4), id(5)], "another run, a stopped row, no row");
        let orphans: Vec<_> = findings.orphans.iter().map(|row| row.vm_id).collect();
        assert_eq!(orphans, [id(3)], "what was just accepted is no orphan");
    }
}
