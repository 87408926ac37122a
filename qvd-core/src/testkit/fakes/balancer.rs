//! A balancer with a fixed preference.

use crate::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use crate::id::HostId;

/// Prefers hosts in the order given; leaves out the others.
#[derive(Clone, Debug, Default)]
pub struct FixedBalancer {
    order: Vec<HostId>,
}

impl FixedBalancer {
    /// Prefers these hosts, first one best.
    pub fn new(order: impl IntoIterator<Item = HostId>) -> Self {
        Self { order: order.into_iter().collect() }
    }
}

impl LoadBalancer for FixedBalancer {
    fn name(&self) -> &str {
        "fixed"
    }

    fn rank(&self, _: &VmSnapshot, hosts: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut ranked: Vec<HostId> = Vec::new();
        for id in &self.order {
            if hosts.iter().any(|h| h.id == *id) && !ranked.contains(id) {
                ranked.push(*id);
            }
        }
        ranked
    }
}
