//! What limits of running virtual machines lead to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qvd_core::VmId;
use qvd_core::error::chain;
use qvd_core::state::UserState;
use qvd_core::vma::Params;
use qvd_db::{Claimant, Expiring};

use super::{Read, Supervisor, now};
use crate::hkd::expiry::{self, Due};
use crate::hkd::vm_task::Order;

impl Supervisor {
    pub(super) fn expire(&mut self, outcome: Read<Vec<Expiring>>) {
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for expired VMs");
                return;
            }
        };
        let period = self.config.get().seconds("internal.hkd.agent.expiration_monitor.delay");
        for due in expiry::due(&rows, period) {
            match due {
                Due::Stop(vm) => self.stop_expired(vm),
                Due::Alert(vm, limits) => self.alert(vm, limits),
            }
        }
        self.looks.limits_at(now() + expiry::next_look(&rows, period));
    }

    /// Whether it starts again is decided by who is connected at this moment, so that is read before the stop.
    pub(super) fn stop_expired(&mut self, vm: VmId) {
        let (Some((_, task)), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
        if self.expired.contains_key(&vm) {
            return;
        }
        tracing::info!(%vm, "hard limit passed: stopping");
        let restart = Arc::new(AtomicBool::new(false));
        self.expired.insert(vm, Arc::clone(&restart));
        let policy = self.config.get().text("vm.expiration.hard.restart");
        let stopper = task.orders();
        tokio::spawn(async move {
            let again = match policy.as_str() {
                "never" => false,
                "always" => true,
                _ => {
                    let row = node.db.vms().runtime(vm).await.ok().flatten();
                    row.is_some_and(|row| row.user_state != UserState::Disconnected)
                }
            };
            restart.store(again, Ordering::Relaxed);
            let _ = stopper.send(Order::Stop);
        });
    }

    pub(super) fn alert(&self, vm: VmId, limits: Params) {
        let (Some((_, task)), Some(node)) = (self.tasks.get(&vm), self.node.clone()) else { return };
        task.tell(Order::Alert(limits));
        let run = task.run;
        tokio::spawn(async move {
            if let Err(error) = node.db.vms().record_alert(vm, node.host, run).await {
                tracing::debug!(%vm, error = %chain(&error), "alert not recorded");
            }
        });
    }

    /// After a hard limit: claimed like any other start, so every rule of claims holds.
    pub(super) fn start_again(&self, vm: VmId) {
        let Some(node) = self.node.clone() else { return };
        tokio::spawn(async move {
            match node.db.vms().claim(vm, node.host, Claimant::Router).await {
                Ok(outcome) if outcome.is_updated() => tracing::info!(%vm, "expired VM starts again"),
                Ok(_) => tracing::info!(%vm, "expired VM stays stopped: it cannot be started here"),
                Err(error) => tracing::warn!(%vm, error = %chain(&error), "expired VM stays stopped"),
            }
        });
    }
}
