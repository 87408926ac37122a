//! What was decided, and what it was decided by: enough to decide the same again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{HostSnapshot, LoadBalancer, VmSnapshot};
use crate::id::HostId;
use crate::model::Properties;

/// One decision of a balancer.
///
/// Of the properties only those are kept that the virtual machine's `qvd.placement.…` properties name: others are long,
/// and no business of whoever reads the record. So a balancer that looks at other properties may decide differently.
///
/// ```
/// use qvd_core::balance::{Decision, HostSnapshot, VmSnapshot, Weighted};
/// use qvd_core::{HostId, VmId};
///
/// let hosts = [1, 2].map(|id| HostSnapshot::new(HostId::new(id), "").with_capacity(1024.0, 0.0));
/// let vm = VmSnapshot::new(VmId::new(7), Default::default());
/// let mut draws = [0.1, 0.9].into_iter();
/// let balancer = Weighted::new(1.0, 1.0, 1.0);
/// let decision = Decision::make(&balancer, &vm, &hosts, &mut || draws.next().unwrap());
/// assert_eq!(decision.ranked, [HostId::new(2), HostId::new(1)]);
///
/// let again = Decision::from_json(&decision.to_json()).unwrap();
/// assert_eq!(again.replay(&balancer), decision.ranked);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decision {
    /// What the balancer decided by besides the snapshot.
    pub parameters: BTreeMap<String, String>,
    /// The virtual machine.
    pub vm: VmSnapshot,
    /// The hosts that could be used.
    pub hosts: Vec<HostSnapshot>,
    /// The random numbers that were drawn.
    pub draws: Vec<f64>,
    /// The answer, best host first.
    pub ranked: Vec<HostId>,
}

impl Decision {
    /// Lets the balancer decide, and keeps what it decided by.
    pub fn make(
        balancer: &dyn LoadBalancer,
        vm: &VmSnapshot,
        hosts: &[HostSnapshot],
        random: &mut dyn FnMut() -> f64,
    ) -> Self {
        let mut draws = Vec::new();
        let ranked = balancer.rank(vm, hosts, &mut || {
            let drawn = random();
            draws.push(drawn);
            drawn
        });
        let wishes: Properties = vm
            .properties
            .iter()
            .filter(|(key, _)| key.starts_with(WISH))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let wished =
            |key: &'_ String| key.strip_prefix(WISH)?.split_once('.').map(|(_, name)| name.to_owned());
        let named: BTreeSet<String> = wishes.keys().filter_map(wished).collect();
        let seen = |host: &HostSnapshot| {
            let mut host = host.clone();
            host.properties.retain(|name, _| named.contains(name));
            host
        };
        let hosts = hosts.iter().map(seen).collect();
        let vm = VmSnapshot { properties: wishes.clone(), ..vm.clone() };
        Self { parameters: balancer.parameters(), vm, hosts, draws, ranked }
    }

    /// What this balancer answers to the same question with the same luck.
    pub fn replay(&self, balancer: &dyn LoadBalancer) -> Vec<HostId> {
        let mut draws = self.draws.iter().copied();
        balancer.rank(&self.vm, &self.hosts, &mut || draws.next().unwrap_or(0.0))
    }

    /// The record as text.
    pub fn to_json(&self) -> String {
        // Keys are texts, and a number that is none becomes null: nothing here can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// How the properties begin by which a virtual machine has a say in where it goes.
const WISH: &str = "qvd.placement.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Strategy, Weighted};
    use crate::id::VmId;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_properties_that_count_are_kept_and_they_decide_again() {
        let host = |id: i64, zone: &str| {
            HostSnapshot::new(HostId::new(id), format!("node{id}"))
                .with_capacity(1000.0, 10.0)
                .with_properties(properties(&[("zone", zone), ("secret", "s3cret")]))
        };
        let hosts = [host(1, "a"), host(2, "b"), host(3, "a")];
        let vm = VmSnapshot::new(
            VmId::new(5),
            properties(&[("qvd.placement.require.zone", "a"), ("l7r.auth.plugin.totp.secret32", "s3cret")]),
        );
        for strategy in [Strategy::Spread, Strategy::Pack] {
            let balancer = Weighted::new(1.0, 1.0, 5.0).with_strategy(strategy);
            let mut draws = [0.1, 0.7].into_iter();
            let decision = Decision::make(&balancer, &vm, &hosts, &mut || draws.next().unwrap());
            assert_eq!(decision.ranked, [HostId::new(3), HostId::new(1)]);
            let text = decision.to_json();
            assert!(!text.contains("s3cret") && text.contains("\"zone\":\"a\""), "{text}");
            let again = Decision::from_json(&text).unwrap();
            assert_eq!(again, decision);
            assert_eq!(Weighted::from_parameters(&again.parameters).unwrap(), balancer);
            assert_eq!(again.replay(&balancer), decision.ranked);
            let other = Weighted::new(1.0, 1.0, -5.0);
            assert_ne!(again.replay(&other), decision.ranked, "another balancer decides otherwise");
        }
        assert!(Decision::from_json("{}").is_err());
    }
}
