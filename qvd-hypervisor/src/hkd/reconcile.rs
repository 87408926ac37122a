//! Rows → tasks. One scan for a notification and for a poll; it is harmless at any time.
//!
//! Both sides are compared: a row without a task is looked into ([`adopt`](super::adopt)), a task without its row has
//! lost its guard and kills. Orders to stop stay in the row until the machine's state says that they are obeyed, so a
//! scan may find one many times and a crash loses none. Starts are accepted last: nothing can fail after that.

use std::collections::HashMap;

use qvd_core::error::chain;
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
        Findings { command: db.hosts().command(host, incarnation).await?, ..Findings::default() };
    let pending = db.vms().pending(host, incarnation).await?;
    for order in pending.iter().filter(|order| order.command == VmCommand::Stop) {
        // Without a task there is nobody to stop yet; the order waits until what runs has been adopted.
        if tasks.get(&order.vm_id) == Some(&order.run_id) {
            findings.stops.push(order.vm_id);
        }
    }
    compare(&db.vms().of_host(host).await?, tasks, &mut findings);
    for order in pending.iter().filter(|order| order.command == VmCommand::Start) {
        if tasks.contains_key(&order.vm_id) {
            continue;
        }
        match db.vms().accept_start(order.vm_id, host, incarnation).await {
            Ok(Guard::Updated(row)) => findings.starts.push((row.vm_id, row.run_id)),
            // Cancelled meanwhile, or not ours any more.
            Ok(Guard::Unchanged(_) | Guard::NotFound) => {}
            Err(error) if findings.starts.is_empty() => return Err(error),
            Err(error) => {
                // Those accepted before must get their tasks; the next scan finds the others.
                tracing::warn!(vm = %order.vm_id, error = %chain(&error), "a start was not accepted");
                break;
            }
        }
    }
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
        if !tasks.contains_key(&row.vm_id) {
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
        ];
        let id = VmId::new;
        let tasks = HashMap::from([
            (id(1), RunId::new(5)),
            (id(2), RunId::new(4)),
            (id(4), RunId::new(5)),
            (id(5), RunId::new(1)),
        ]);
        let mut findings = Findings::default();
        compare(&rows, &tasks, &mut findings);
        assert_eq!(findings.disowned, [id(2), id(4), id(5)], "another run, a stopped row, no row");
        let orphans: Vec<_> = findings.orphans.iter().map(|row| row.vm_id).collect();
        assert_eq!(orphans, [id(3)]);
    }
}
