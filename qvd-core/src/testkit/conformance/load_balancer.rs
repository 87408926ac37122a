//! Laws of [`LoadBalancer`].

use std::sync::Arc;
use std::time::Duration;

use super::{Law, Report, ensure};
use crate::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use crate::id::{HostId, VmId};
use crate::model::Properties;

const PURE: Law = Law::new("pure", "The same arguments and the same random numbers give the same answer.");
const SUBSET: Law = Law::new("subset", "Every host of the answer is in the snapshot, none twice.");
const EMPTY: Law = Law::new("empty", "No hosts give an empty answer.");
const ANY_HOST: Law =
    Law::new("any-host", "Unknown capacity, odd numbers and any random number are no reason to panic.");

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the suite.
///
/// # Panics
///
/// When a law is broken; the message is the report.
pub async fn load_balancer(balancer: Arc<dyn LoadBalancer>) -> Report {
    let report = load_balancer_report(balancer).await;
    report.assert_kept();
    report
}

/// Runs the suite and reports.
pub async fn load_balancer_report(balancer: Arc<dyn LoadBalancer>) -> Report {
    let mut report = Report::new(format!("load balancer {}", balancer.name()));
    let b = Arc::clone(&balancer);
    report.check(PURE, true, LIMIT, async move { pure(&*b) }).await;
    let b = Arc::clone(&balancer);
    report.check(SUBSET, true, LIMIT, async move { subset(&*b) }).await;
    let b = Arc::clone(&balancer);
    report.check(EMPTY, true, LIMIT, async move { empty(&*b) }).await;
    report.check(ANY_HOST, true, LIMIT, async move { any_host(&*balancer) }).await;
    report
}

/// A little generator, so that a finding can be seen again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In `[0, 1)`.
    fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn hosts(dice: &mut Dice) -> Vec<HostSnapshot> {
    let count = dice.roll() % 9;
    (0..count)
        .map(|at| {
            let id = HostId::new((at * 7 + dice.roll() % 7) as i64 + 1);
            let ram = if dice.roll().is_multiple_of(4) { 0.0 } else { dice.fraction() * 65_536.0 };
            let cpu = if dice.roll().is_multiple_of(4) { 0.0 } else { dice.fraction() * 100_000.0 };
            HostSnapshot::new(id, format!("host{at}"))
                .with_capacity(ram, cpu)
                .with_vms((dice.roll() % 40) as u32)
        })
        .collect()
}

fn vm() -> VmSnapshot {
    VmSnapshot::new(VmId::new(1), Properties::new())
}

fn pure(balancer: &dyn LoadBalancer) -> Result<(), String> {
    let mut dice = Dice(0x5eed);
    for _ in 0..200 {
        let hosts = hosts(&mut dice);
        let seed = dice.roll();
        let rank = || {
            let mut own = Dice(seed);
            balancer.rank(&vm(), &hosts, &mut || own.fraction())
        };
        let (first, second) = (rank(), rank());
        ensure(first == second, || format!("{first:?}, then {second:?} for {hosts:?}"))?;
    }
    Ok(())
}

fn subset(balancer: &dyn LoadBalancer) -> Result<(), String> {
    let mut dice = Dice(0xd1ce);
    for _ in 0..500 {
        let hosts = hosts(&mut dice);
        let ranked = balancer.rank(&vm(), &hosts, &mut || dice.fraction());
        for (at, id) in ranked.iter().enumerate() {
            ensure(hosts.iter().any(|h| h.id == *id), || format!("host {id} is not in the snapshot"))?;
            ensure(!ranked[..at].contains(id), || format!("host {id} twice in {ranked:?}"))?;
        }
    }
    Ok(())
}

fn empty(balancer: &dyn LoadBalancer) -> Result<(), String> {
    let ranked = balancer.rank(&vm(), &[], &mut || 0.5);
    ensure(ranked.is_empty(), || format!("{ranked:?}"))
}

fn any_host(balancer: &dyn LoadBalancer) -> Result<(), String> {
    let odd = [0.0, -1.0, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN];
    let properties = Properties::from([("l7r.loadbalancer.plugin.default.weight.ram".into(), "x".into())]);
    let host = |id: usize, ram, cpu, vms| {
        HostSnapshot::new(HostId::new(id as i64), "")
            .with_capacity(ram, cpu)
            .with_vms(vms)
            .with_properties(properties.clone())
    };
    let mut hosts = Vec::new();
    for ram in odd {
        for cpu in odd {
            for vms in [0, u32::MAX] {
                hosts.push(host(hosts.len() + 1, ram, cpu, vms));
            }
        }
    }
    for random in [0.0, 1.0 - f64::EPSILON] {
        let ranked = balancer.rank(&vm(), &hosts, &mut || random);
        ensure(ranked.len() <= hosts.len(), || format!("{} of {} hosts", ranked.len(), hosts.len()))?;
    }
    Ok(())
}
