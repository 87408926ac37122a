//! Choice of a host for a virtual machine.
//!
//! The trait, what a balancer may know, the default balancer ([`Weighted`]), and a record of what was decided
//! ([`Decision`]) from which everybody who has the balancer can decide again. Router and administration both place
//! virtual machines, so the formula is theirs in common.

mod decision;
mod weighted;

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

pub use decision::Decision;
pub use weighted::{Strategy, Weighted};

use crate::id::{HostId, VmId};
use crate::model::Properties;
use crate::units::Mebibytes;

/// What a balancer may know of a host: a snapshot, taken just before the choice.
///
/// ```
/// use qvd_core::HostId;
/// use qvd_core::balance::HostSnapshot;
/// let host = HostSnapshot::new(HostId::new(1), "node1").with_capacity(8192.0, 40_000.0).with_vms(3);
/// assert_eq!((host.usable_ram_mib, host.vms), (8192.0, 3));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostSnapshot {
    /// The host.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Memory for virtual machines, in MiB; 0 while unknown.
    pub usable_ram_mib: f64,
    /// Processor capacity in bogomips; 0 while unknown.
    pub usable_cpu: f64,
    /// Virtual machines assigned to it, whatever their state.
    pub vms: u32,
    /// Memory that those may use, in MiB, by their flavours.
    #[serde(default)]
    pub assigned_ram_mib: f64,
    /// The host's properties.
    #[serde(default, skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

impl HostSnapshot {
    /// A host of unknown capacity without virtual machines and properties.
    pub fn new(id: HostId, name: impl Into<String>) -> Self {
        let properties = Properties::new();
        Self {
            id,
            name: name.into(),
            usable_ram_mib: 0.0,
            usable_cpu: 0.0,
            vms: 0,
            assigned_ram_mib: 0.0,
            properties,
        }
    }

    /// Sets memory in MiB and processor capacity in bogomips.
    #[must_use]
    pub fn with_capacity(mut self, usable_ram_mib: f64, usable_cpu: f64) -> Self {
        (self.usable_ram_mib, self.usable_cpu) = (usable_ram_mib, usable_cpu);
        self
    }

    /// Sets the number of virtual machines assigned.
    #[must_use]
    pub fn with_vms(mut self, vms: u32) -> Self {
        self.vms = vms;
        self
    }

    /// Sets the memory of those virtual machines, in MiB.
    #[must_use]
    pub fn with_assigned_ram(mut self, mebibytes: f64) -> Self {
        self.assigned_ram_mib = mebibytes;
        self
    }

    /// Sets the properties.
    #[must_use]
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }
}

/// What a balancer may know of the virtual machine to place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VmSnapshot {
    /// The virtual machine.
    pub id: VmId,
    /// Memory that its flavour gives it; none while unknown.
    #[serde(default)]
    pub memory: Option<Mebibytes>,
    /// Merged properties (flavour, user, machine; later wins).
    #[serde(default, skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

impl VmSnapshot {
    /// A virtual machine with its merged properties.
    pub fn new(id: VmId, properties: Properties) -> Self {
        Self { id, memory: None, properties }
    }

    /// Sets its memory.
    #[must_use]
    pub fn with_memory(mut self, memory: Mebibytes) -> Self {
        self.memory = Some(memory);
        self
    }
}

/// Orders hosts for a virtual machine.
///
/// # Contract
///
/// * Pure: the answer depends on the arguments alone. `random` yields numbers in `[0, 1)`.
/// * The snapshot holds only hosts that may be used (running, not blocked, backend, driver present).
/// * The answer holds ids of the snapshot, best first, none twice. A host left out is not used. An empty
///   answer means that no host suits.
///
/// # Cancellation
///
/// Not asynchronous.
///
/// # Errors
///
/// None; an empty list is the refusal.
///
/// # Example
///
/// ```
/// use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
/// use qvd_core::HostId;
///
/// /// Fewest machines first.
/// #[derive(Debug)]
/// struct Fewest;
///
/// impl LoadBalancer for Fewest {
///     fn name(&self) -> &str { "fewest" }
///     fn rank(&self, _: &VmSnapshot, hosts: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
///         let mut order: Vec<_> = hosts.iter().collect();
///         order.sort_by_key(|h| h.vms);
///         order.into_iter().map(|h| h.id).collect()
///     }
/// }
/// ```
pub trait LoadBalancer: Debug + Send + Sync + 'static {
    /// Name, as in `l7r.loadbalancer.plugin`.
    fn name(&self) -> &str;

    /// What it decides by besides the arguments, weights for example: written down with each decision. Provided:
    /// nothing.
    fn parameters(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Hosts, best first.
    fn rank(&self, vm: &VmSnapshot, hosts: &[HostSnapshot], random: &mut dyn FnMut() -> f64) -> Vec<HostId>;
}
