//! The default balancer: capacity per virtual machine, and a little chance.
//!
//! ```text
//! score = (w_ram · usable_ram + w_cpu · usable_cpu) / (vms + 1) + random · w_random
//! ```
//!
//! | term | meaning |
//! |---|---|
//! | `usable_ram` | memory for virtual machines, in MiB; 0 while unknown |
//! | `usable_cpu` | processor capacity in bogomips; 0 while unknown |
//! | `vms` | virtual machines assigned to the host, whatever their state |
//! | `random` | uniform in `[0, 1)` |
//! | `w_ram`, `w_cpu`, `w_random` | `l7r.loadbalancer.plugin.default.weight.{ram,cpu,random}`, 1 each by default |
//!
//! The highest score is best; on ties the host that stands first in the snapshot. A random weight of 0 means no
//! chance at all. Capacities are those that the host measured when it started, not its present load.

use qvd_core::HostId;
use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use qvd_core::config::Config;

/// The balancer named `default`.
///
/// ```
/// use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
/// use qvd_core::{HostId, VmId};
/// use qvd_l7r::balance::Weighted;
///
/// let host = |id, ram, vms| HostSnapshot::new(HostId::new(id), "").with_capacity(ram, 0.0).with_vms(vms);
/// let vm = VmSnapshot::new(VmId::new(1), Default::default());
/// let hosts = [host(1, 8000.0, 3), host(2, 4000.0, 0)];
/// let ranked = Weighted::new(1.0, 0.0, 0.0).rank(&vm, &hosts, &mut || 0.5);
/// assert_eq!(ranked, [HostId::new(2), HostId::new(1)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    ram: f64,
    cpu: f64,
    random: f64,
}

impl Weighted {
    /// A balancer with these weights.
    pub fn new(ram: f64, cpu: f64, random: f64) -> Self {
        Self { ram, cpu, random }
    }

    /// A balancer with the configured weights.
    pub fn from_config(config: &Config) -> Self {
        let weight = |what: &str| config.number(&format!("l7r.loadbalancer.plugin.default.weight.{what}"));
        Self::new(weight("ram"), weight("cpu"), weight("random"))
    }
}

impl LoadBalancer for Weighted {
    fn name(&self) -> &str {
        "default"
    }

    fn rank(&self, _vm: &VmSnapshot, hosts: &[HostSnapshot], random: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut scored: Vec<(f64, HostId)> = hosts
            .iter()
            .map(|host| {
                let capacity = self.ram * host.usable_ram_mib + self.cpu * host.usable_cpu;
                let chance = if self.random == 0.0 { 0.0 } else { self.random * random() };
                (capacity / (f64::from(host.vms) + 1.0) + chance, host.id)
            })
            .collect();
        // Stable: on ties the order of the snapshot stays.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::VmId;

    fn host(id: i64, ram: f64, cpu: f64, vms: u32) -> HostSnapshot {
        HostSnapshot::new(HostId::new(id), format!("host{id}")).with_capacity(ram, cpu).with_vms(vms)
    }

    fn rank(weights: (f64, f64, f64), hosts: &[HostSnapshot], random: &mut dyn FnMut() -> f64) -> Vec<i64> {
        let vm = VmSnapshot::new(VmId::new(1), Default::default());
        let ranked = Weighted::new(weights.0, weights.1, weights.2).rank(&vm, hosts, random);
        ranked.into_iter().map(HostId::get).collect()
    }

    #[test]
    fn row_113_memory_per_machine_decides() {
        let hosts = [host(1, 8000.0, 9e9, 3), host(2, 4000.0, 0.0, 0)];
        let mut none = || unreachable!("a random weight of 0 draws nothing");
        assert_eq!(rank((1.0, 0.0, 0.0), &hosts, &mut none), [2, 1]);
    }

    #[test]
    fn ties_keep_the_order_and_unknown_capacity_is_zero() {
        let hosts = [host(5, 0.0, 0.0, 0), host(3, 0.0, 0.0, 9), host(4, 10.0, 0.0, 0)];
        assert_eq!(rank((1.0, 1.0, 0.0), &hosts, &mut || 0.0), [4, 5, 3]);
    }

    #[test]
    fn chance_weighs_what_it_is_told() {
        let hosts = [host(1, 100.0, 0.0, 0), host(2, 100.0, 0.0, 0)];
        let mut draws = [0.1, 0.9].into_iter();
        assert_eq!(rank((1.0, 1.0, 1.0), &hosts, &mut || draws.next().unwrap()), [2, 1]);
        let hosts = [host(1, 102.0, 0.0, 0), host(2, 100.0, 0.0, 0)];
        let mut draws = [0.0, 0.99].into_iter();
        assert_eq!(rank((1.0, 1.0, 1.0), &hosts, &mut || draws.next().unwrap()), [1, 2]);
    }
}
