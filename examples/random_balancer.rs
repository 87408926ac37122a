//! A load balancer of your own: any host that may be used, in random order.
//!
//! A balancer is pure: it sees a snapshot and draws its luck from the argument `random`. Given to a router with
//! `Router::builder(…).balancer(Arc::new(RandomOrder))`, it replaces the built-in one. Run alone, this program shows
//! how evenly it chooses.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::collections::BTreeMap;

use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use qvd_core::model::Properties;
use qvd_core::{HostId, VmId};

/// Every host is as good as any other.
#[derive(Clone, Copy, Debug)]
struct RandomOrder;

impl LoadBalancer for RandomOrder {
    fn name(&self) -> &str {
        "random"
    }

    fn rank(&self, _: &VmSnapshot, hosts: &[HostSnapshot], random: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut drawn: Vec<(f64, HostId)> = hosts.iter().map(|host| (random(), host.id)).collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawn.into_iter().map(|(_, id)| id).collect()
    }
}

fn main() {
    let chosen = choices(3000);
    for (host, times) in chosen {
        println!("host {host} was first {times} times");
    }
}

/// How often each of three hosts came first.
fn choices(times: u32) -> BTreeMap<HostId, u32> {
    let hosts: Vec<HostSnapshot> = (1..=3).map(host).collect();
    let vm = VmSnapshot::new(VmId::new(1), Properties::new());
    // A little generator; a router brings real randomness.
    let mut state = 88_172_645_463_325_252u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut first = BTreeMap::new();
    for _ in 0..times {
        if let Some(best) = RandomOrder.rank(&vm, &hosts, &mut random).first() {
            *first.entry(*best).or_default() += 1;
        }
    }
    first
}

fn host(id: i64) -> HostSnapshot {
    HostSnapshot::new(HostId::new(id), format!("node{id}")).with_capacity(8192.0, 20_000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use qvd_core::testkit::conformance;

    #[tokio::test]
    async fn it_obeys_the_contract() {
        conformance::load_balancer(Arc::new(RandomOrder)).await;
    }

    #[test]
    fn no_host_is_preferred() {
        let chosen = choices(3000);
        assert_eq!(chosen.len(), 3);
        assert!(chosen.values().all(|times| (850..1150).contains(times)), "{chosen:?}");
    }
}
