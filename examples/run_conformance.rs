//! Whether a plugin obeys its contract: the conformance suites, run on plugins of your own.
//!
//! Each suite is a list of laws; the report names every law that is kept, broken, or excused by a capability that the
//! plugin declares it lacks. In a test of yours one line does it: `conformance::load_balancer(Arc::new(Mine)).await`
//! panics with the report. This program prints the reports of a balancer that is well, of one that is not, and of a
//! driver.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::process::ExitCode;
use std::sync::Arc;

use qvd_core::HostId;
use qvd_core::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use qvd_core::testkit::conformance::{self, DriverSubject, Report};
use qvd_core::testkit::fakes::FakeHypervisor;

/// Machines stay on the host that their property `home.host` names; everything else goes where the most memory is.
#[derive(Debug)]
struct HomeHost;

impl LoadBalancer for HomeHost {
    fn name(&self) -> &str {
        "home-host"
    }

    fn rank(&self, vm: &VmSnapshot, hosts: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let home = vm.properties.get("home.host");
        let mut order: Vec<&HostSnapshot> =
            hosts.iter().filter(|host| home.is_none_or(|home| *home == host.name)).collect();
        order.sort_by(|a, b| b.usable_ram_mib.total_cmp(&a.usable_ram_mib));
        order.into_iter().map(|host| host.id).collect()
    }
}

/// Invents a host.
#[derive(Debug)]
struct Dreamer;

impl LoadBalancer for Dreamer {
    fn name(&self) -> &str {
        "dreamer"
    }

    fn rank(&self, _: &VmSnapshot, _: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        vec![HostId::new(4711)]
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let [well, unwell, driver] = reports().await;
    println!("{well}\n{unwell}\n{driver}");
    let as_expected = well.broken().is_empty() && !unwell.broken().is_empty() && driver.broken().is_empty();
    if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn reports() -> [Report; 3] {
    // Your driver here; it is made anew whenever the suite restarts its host.
    let host = FakeHypervisor::new();
    let driver = DriverSubject::new(move || Arc::new(host.clone()));
    [
        conformance::load_balancer_report(Arc::new(HomeHost)).await,
        conformance::load_balancer_report(Arc::new(Dreamer)).await,
        conformance::hypervisor_report(driver).await,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_suites_tell_good_from_bad() {
        let [well, unwell, driver] = reports().await;
        well.assert_kept();
        driver.assert_kept();
        assert!(!unwell.broken().is_empty(), "{unwell}");
    }
}
