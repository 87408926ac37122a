//! The tasks of virtual machines: begun, counted, told.

use std::sync::atomic::Ordering;

use qvd_core::state::VmState;
use qvd_core::{RunId, VmId};
use tokio::task::JoinError;

use super::{Supervisor, now};
use crate::hkd::adopt::Foundling;
use crate::hkd::host_machine::HostEvent;
use crate::hkd::vm_machine::Outcome;
use crate::hkd::vm_task::{self, Beginning, Ended, Order};

impl Supervisor {
    pub(super) fn adopt(&mut self, found: Foundling) {
        let (vm, run) = (found.vm, found.run);
        tracing::info!(%vm, %run, story = ?found.story, driver = found.driver.name(), "found");
        self.begin(vm, run, Beginning::Adopt(found));
    }

    pub(super) fn begin(&mut self, vm: VmId, run: RunId, beginning: Beginning) {
        let Some(node) = self.node.clone() else { return };
        if self.tasks.contains_key(&vm) {
            return;
        }
        let (handle, task) = vm_task::task(node, vm, run, beginning);
        if let Some(order) = &self.draining {
            // What is found that late has the same end as the others.
            handle.tell(order.clone());
        }
        let id = self.running.spawn(task).id();
        self.tasks.insert(vm, (id, handle));
    }

    pub(super) fn task_ended(&mut self, ended: Ended) {
        let Ended { vm, outcome } = ended;
        self.tasks.remove(&vm);
        self.left += usize::from(outcome == Outcome::Left);
        let again = self.expired.remove(&vm).is_some_and(|again| again.load(Ordering::Relaxed));
        if again && outcome == Outcome::Stopped {
            self.start_again(vm);
        }
        // A start may have waited for this end, and a row for another look.
        self.looks.scan_at(now());
        self.tell_when_empty();
    }

    /// A bug ended a task. Its row still tells, so the next scan finds an orphan and looks into it.
    pub(super) fn task_broke(&mut self, error: &JoinError) {
        let Some(vm) = self.tasks.iter().find(|(_, (id, _))| *id == error.id()).map(|(vm, _)| *vm) else {
            return;
        };
        tracing::error!(%vm, %error, "the task of this VM broke");
        self.task_ended(Ended { vm, outcome: Outcome::Left });
    }

    pub(super) fn drain(&mut self, order: &Order) {
        self.draining = Some(order.clone());
        self.tasks.values().for_each(|(_, task)| task.tell(order.clone()));
    }

    pub(super) fn tell_when_empty(&mut self) {
        let looking = self.looks.scans() || self.orphaned;
        if self.draining.is_some() && self.tasks.is_empty() && self.end.is_none() && !looking {
            self.draining = None;
            self.feed(HostEvent::Empty { left: self.left });
        }
    }

    pub(super) fn report(&self) {
        let count =
            |state: VmState| self.tasks.values().filter(|(_, task)| task.phase().vm_state() == state).count();
        let counts: Vec<_> = VmState::ALL.iter().map(|state| format!("{state}={}", count(*state))).collect();
        let usage = self.node.as_ref().map(|node| node.slots.usage()).unwrap_or_default();
        tracing::info!(host = ?self.machine.phase(), vms = counts.join(" "), slots = ?usage, "report");
    }
}
