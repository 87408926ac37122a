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
//!
//! That is the strategy `spread` of `l7r.loadbalancer.plugin.default.strategy`. With `pack` one host is filled after the
//! other: of those with room for the virtual machine's memory the fullest is best, and those without room come last, by
//! score.
//!
//! Properties of the virtual machine (of its flavour, user or its own; later wins) come before any score:
//!
//! | property | effect |
//! |---|---|
//! | `qvd.placement.require.NAME` | only hosts whose property NAME has this value |
//! | `qvd.placement.prefer.NAME` | hosts whose property NAME has this value come before others; the more such, the better |

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{HostSnapshot, LoadBalancer, VmSnapshot};
use crate::config::Config;
use crate::id::HostId;

/// Whether virtual machines are kept apart or together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The host with the most capacity per virtual machine first.
    #[default]
    Spread,
    /// The fullest host with room first, so that others can be switched off.
    Pack,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spread => "spread",
            Self::Pack => "pack",
        })
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spread" => Ok(Self::Spread),
            "pack" => Ok(Self::Pack),
            _ => Err(format!("'{text}' is neither spread nor pack")),
        }
    }
}

/// The balancer named `default`.
///
/// ```
/// use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot, Weighted};
/// use qvd_core::{HostId, VmId};
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
    strategy: Strategy,
}

impl Weighted {
    /// A balancer with these weights that spreads.
    pub fn new(ram: f64, cpu: f64, random: f64) -> Self {
        Self { ram, cpu, random, strategy: Strategy::Spread }
    }

    /// Sets the strategy.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// A balancer as configured.
    pub fn from_config(config: &Config) -> Self {
        let weight = |what: &str| config.number(&format!("{PREFIX}weight.{what}"));
        // The registry admits no other words.
        let strategy = config.text(&format!("{PREFIX}strategy")).parse().unwrap_or_default();
        Self::new(weight("ram"), weight("cpu"), weight("random")).with_strategy(strategy)
    }

    /// The balancer that had these [parameters](LoadBalancer::parameters); `None` when one is missing or no number.
    pub fn from_parameters(parameters: &BTreeMap<String, String>) -> Option<Self> {
        let weight = |what: &str| parameters.get(&format!("weight.{what}"))?.parse().ok();
        let strategy = parameters.get("strategy")?.parse().ok()?;
        Some(Self::new(weight("ram")?, weight("cpu")?, weight("random")?).with_strategy(strategy))
    }

    /// The score of a host, without chance.
    pub fn score(&self, host: &HostSnapshot) -> f64 {
        let capacity = self.ram * host.usable_ram_mib + self.cpu * host.usable_cpu;
        capacity / (f64::from(host.vms) + 1.0)
    }

    /// How much of a host's memory is assigned once the virtual machine is on it; `None` when that is too much, or
    /// not known.
    fn fullness(&self, vm: &VmSnapshot, host: &HostSnapshot) -> Option<f64> {
        if self.strategy == Strategy::Spread {
            return None;
        }
        let then = host.assigned_ram_mib + vm.memory.map_or(0.0, |memory| memory.0 as f64);
        (then <= host.usable_ram_mib && host.usable_ram_mib > 0.0).then(|| then / host.usable_ram_mib)
    }
}

impl LoadBalancer for Weighted {
    fn name(&self) -> &str {
        "default"
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let weights = [("ram", self.ram), ("cpu", self.cpu), ("random", self.random)];
        let mut parameters: BTreeMap<_, _> =
            weights.map(|(what, weight)| (format!("weight.{what}"), weight.to_string())).into();
        parameters.insert("strategy".to_owned(), self.strategy.to_string());
        parameters
    }

    fn rank(&self, vm: &VmSnapshot, hosts: &[HostSnapshot], random: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut rated: Vec<Rating> = hosts
            .iter()
            .filter(|host| matches(vm, host, REQUIRE).all(|fits| fits))
            .map(|host| Rating {
                preferred: matches(vm, host, PREFER).filter(|fits| *fits).count(),
                fullness: self.fullness(vm, host),
                score: self.score(host) + if self.random == 0.0 { 0.0 } else { self.random * random() },
                host: host.id,
            })
            .collect();
        // Stable: on ties the order of the snapshot stays.
        rated.sort_by(|a, b| b.compare(a));
        rated.into_iter().map(|rating| rating.host).collect()
    }
}

/// What speaks for a host, the weightiest first.
#[derive(Debug)]
struct Rating {
    preferred: usize,
    fullness: Option<f64>,
    score: f64,
    host: HostId,
}

impl Rating {
    fn compare(&self, other: &Self) -> Ordering {
        // No room is less than any.
        let room = |rating: &Self| rating.fullness.unwrap_or(-1.0);
        self.preferred
            .cmp(&other.preferred)
            .then(room(self).total_cmp(&room(other)))
            .then(self.score.total_cmp(&other.score))
    }
}

/// For each property of the virtual machine with this prefix, whether the host's property has that value.
fn matches(vm: &VmSnapshot, host: &HostSnapshot, prefix: &'static str) -> impl Iterator<Item = bool> {
    let wanted =
        vm.properties.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)));
    wanted.map(|(name, value)| host.properties.get(name) == Some(value))
}

const PREFIX: &str = "l7r.loadbalancer.plugin.default.";

const REQUIRE: &str = "qvd.placement.require.";

const PREFER: &str = "qvd.placement.prefer.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::VmId;
    use crate::units::Mebibytes;

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

    fn placed(
        balancer: &Weighted,
        properties: &[(&str, &str)],
        memory: u64,
        hosts: &[HostSnapshot],
    ) -> Vec<i64> {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let vm = VmSnapshot::new(VmId::new(1), properties).with_memory(Mebibytes(memory));
        balancer.rank(&vm, hosts, &mut || 0.0).into_iter().map(HostId::get).collect()
    }

    #[test]
    fn packing_fills_the_fullest_host_that_has_room() {
        let pack = Weighted::new(1.0, 1.0, 0.0).with_strategy(Strategy::Pack);
        let hosts = [
            host(1, 8000.0, 0.0, 1).with_assigned_ram(1000.0),
            host(2, 8000.0, 0.0, 6).with_assigned_ram(6000.0),
            host(3, 8000.0, 0.0, 8).with_assigned_ram(7900.0),
            host(4, 0.0, 0.0, 0),
        ];
        assert_eq!(
            placed(&pack, &[], 1000, &hosts),
            [2, 1, 3, 4],
            "no room, or unknown, comes last, by score"
        );
        assert_eq!(placed(&pack, &[], 100, &hosts), [3, 2, 1, 4]);
        let spread = pack.with_strategy(Strategy::Spread);
        assert_eq!(placed(&spread, &[], 1000, &hosts), [1, 2, 3, 4]);
    }

    #[test]
    fn what_a_machine_requires_and_prefers_comes_before_any_score() {
        let with = |id, ram, properties: &[(&str, &str)]| {
            let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            host(id, ram, 0.0, 0).with_properties(properties)
        };
        let hosts = [
            with(1, 9000.0, &[]),
            with(2, 1000.0, &[("gpu", "1"), ("zone", "a")]),
            with(3, 2000.0, &[("gpu", "1"), ("zone", "b")]),
            with(4, 3000.0, &[("gpu", "0")]),
        ];
        let spread = Weighted::new(1.0, 0.0, 0.0);
        assert_eq!(placed(&spread, &[("qvd.placement.require.gpu", "1")], 1, &hosts), [3, 2]);
        assert_eq!(placed(&spread, &[("qvd.placement.require.gpu", "2")], 1, &hosts), [] as [i64; 0]);
        assert_eq!(placed(&spread, &[("qvd.placement.prefer.zone", "a")], 1, &hosts), [2, 1, 4, 3]);
        let both = [("qvd.placement.prefer.gpu", "1"), ("qvd.placement.prefer.zone", "b")];
        assert_eq!(placed(&spread, &both, 1, &hosts), [3, 2, 1, 4]);
        let pack = spread.with_strategy(Strategy::Pack);
        assert_eq!(placed(&pack, &[("qvd.placement.require.gpu", "1")], 1, &hosts), [2, 3]);
    }

    #[test]
    fn its_parameters_make_it_again() {
        let balancer = Weighted::new(0.5, 1e-3, 7.25).with_strategy(Strategy::Pack);
        assert_eq!(Weighted::from_parameters(&balancer.parameters()), Some(balancer));
        assert_eq!(Weighted::from_parameters(&BTreeMap::new()), None);
        let config =
            Config::builder().set("l7r.loadbalancer.plugin.default.strategy", "pack").build().unwrap();
        assert_eq!(Weighted::from_config(&config).parameters()["strategy"], "pack");
        assert!(Config::builder().set("l7r.loadbalancer.plugin.default.strategy", "best").build().is_err());
    }
}
