//! Checks that look at several values at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::resolve::{Failure, Values};
use super::value;

/// Values that do not go together.
pub(super) fn failures(values: &Values) -> Vec<Failure> {
    let checks = [balancer_weights, plugin_names, first_address, lease_times];
    checks.iter().flat_map(|check| check(values)).collect()
}

/// Values that may be meant so, but rarely are.
pub(super) fn warnings(values: &Values) -> Vec<String> {
    let Some(network) = Network::of(values) else { return Vec::new() };
    let outside =
        |key: &&str| values.text(key).parse::<Ipv4Addr>().is_ok_and(|address| !network.contains(address));
    let warn = |key| format!("{key}: {} is outside of the network of the VMs, {network}", values.text(key));
    ["vm.network.gateway", "vm.network.dns_server"].into_iter().filter(outside).map(warn).collect()
}

fn balancer_weights(values: &Values) -> Vec<Failure> {
    const WEIGHTS: [&str; 3] = [
        "l7r.loadbalancer.plugin.default.weight.cpu",
        "l7r.loadbalancer.plugin.default.weight.ram",
        "l7r.loadbalancer.plugin.default.weight.random",
    ];
    let weights = WEIGHTS.map(|key| value::number(values.text(key)));
    let mut failures = Vec::new();
    for (key, weight) in WEIGHTS.iter().zip(weights) {
        if weight.is_some_and(|weight| weight < 0.0) {
            failures.push(single(key, format!("'{}' is negative: a weight is 0 or more", values.text(key))));
        }
    }
    if weights.iter().all(|weight| *weight == Some(0.0)) {
        failures.push(joint(&WEIGHTS, "the weights of cpu, ram and random must not all be 0"));
    }
    failures
}

fn plugin_names(values: &Values) -> Vec<Failure> {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut failures = Vec::new();
    for key in
        ["l7r.auth.plugins", "l7r.auth.plugins.head", "l7r.auth.plugins.tail", "l7r.loadbalancer.plugin"]
    {
        for name in value::list(values.text(key), ',') {
            if !is_name(name) {
                failures
                    .push(single(key, format!("'{name}' is not a plugin name (letters, digits and '_')")));
            }
        }
    }
    failures
}

/// The first address for VMs must be one that a machine can have.
fn first_address(values: &Values) -> Vec<Failure> {
    let Some(network) = Network::of(values) else { return Vec::new() };
    if network.first < network.start && network.start < network.last {
        return Vec::new();
    }
    let message = format!("'{}' must lie between the ends of its network, {network}", network.start);
    vec![joint(&["vm.network.ip.start", "vm.network.netmask"], &message)]
}

/// A node must be off before others may start its VMs: the times of a lease have to leave room for that.
fn lease_times(values: &Values) -> Vec<Failure> {
    const TICK: &str = "internal.hkd.agent.ticker.delay";
    const FENCE: &str = "internal.hkd.agent.ticker.timeout";
    const KILL: &str = "internal.hkd.fence.kill.timeout";
    const MARGIN: &str = "internal.hkd.lease.margin";
    const LOST: &str = "internal.hkd.cluster.node.timeout";
    let time = |key| value::seconds(values.text(key)).unwrap_or(Duration::ZERO);
    let mut failures = Vec::new();
    if time(FENCE) < time(TICK) * 4 {
        failures.push(joint(&[FENCE, TICK], &format!("must be at least four times {TICK}")));
    }
    if time(LOST) < time(FENCE) + time(KILL) + time(MARGIN) {
        let message = format!("must be at least the sum of {FENCE}, {KILL} and {MARGIN}");
        failures.push(joint(&[LOST, FENCE, KILL, MARGIN], &message));
    }
    failures
}

fn single(key: &str, message: String) -> Failure {
    Failure { key: key.to_owned(), message, suspects: vec![key.to_owned()], together: false }
}

/// The first of the keys is the one the message is about.
fn joint(keys: &[&str], message: &str) -> Failure {
    let suspects: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    Failure { key: keys[0].to_owned(), message: message.to_owned(), suspects, together: true }
}

/// The network of the VMs as `vm.network.ip.start` and `vm.network.netmask` describe it.
struct Network {
    start: Ipv4Addr,
    first: Ipv4Addr,
    last: Ipv4Addr,
    prefix: u8,
}

impl Network {
    fn of(values: &Values) -> Option<Self> {
        let start: Ipv4Addr = values.text("vm.network.ip.start").parse().ok()?;
        let prefix = value::netmask(values.text("vm.network.netmask"))?;
        let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let first = Ipv4Addr::from_bits(start.to_bits() & !hosts);
        let last = Ipv4Addr::from_bits(start.to_bits() | hosts);
        Some(Self { start, first, last, prefix })
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}
