//! The suites themselves: the fakes keep every law, and a plugin that breaks one is caught by that one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::hook::{HookEvent, HookKind};
use crate::hypervisor::{
    Capabilities, Check, Found, Hypervisor, HypervisorError, Prepared, RunningVm, VmSpec,
};
use crate::id::{HostId, VmId};
use crate::state::XState;
use crate::testkit::fakes::{FakeHypervisor, FakeVma, FixedBalancer, RecordingHook, ScriptedAuthenticator};
use crate::vma::Vma;

#[tokio::test(start_paused = true)]
async fn the_fakes_keep_every_law() {
    let host = FakeHypervisor::new();
    let report = hypervisor(DriverSubject::new(move || Arc::new(host.clone()))).await;
    assert!(report.findings().iter().all(|(_, finding)| *finding == Finding::Kept), "{report}");
    let report = vma(VmaSubject::with_viewer(|| async {
        let fake = FakeVma::new().with_start_path([XState::Provisioning, XState::Listening]);
        let seen = fake.clone();
        (Arc::new(fake) as Arc<dyn Vma>, Look::new(move || std::future::ready(seen.look())))
    }))
    .await;
    assert!(report.findings().iter().all(|(_, finding)| *finding == Finding::Kept), "{report}");
    load_balancer(Arc::new(FixedBalancer::new((1..20).map(HostId::new)))).await;
    let script = ScriptedAuthenticator::named("script").with_user("alice", "wonder", None);
    authenticator(AuthenticatorSubject::new(Arc::new(script)).user("alice", b"wonder")).await;
    let event = HookEvent::new(HookKind::Connected, Vec::new());
    hook(HookSubject::new(Arc::new(RecordingHook::new()), event)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_nobody_can_look_at_is_exempt_from_what_needs_a_viewer() {
    let report = vma(VmaSubject::new(|| async { Arc::new(FakeVma::new()) as Arc<dyn Vma> })).await;
    let exempt: Vec<_> = report
        .findings()
        .iter()
        .filter_map(|(law, finding)| (*finding == Finding::Exempt("viewer")).then_some(law.name))
        .collect();
    assert_eq!(exempt, ["resume", "suspend-seen", "start-seen"]);
}

#[tokio::test]
async fn a_capability_that_is_not_declared_exempts_and_nothing_else() {
    let nothing = Capabilities {
        needs_image: false,
        own_network: false,
        keeps_home: false,
        survives_restart: false,
        remote: false,
        polite_stop: false,
        has_agent: false,
    };
    let host = FakeHypervisor::new().with_capabilities(nothing);
    let report = hypervisor(DriverSubject::new(move || Arc::new(host.clone()))).await;
    let exempt: Vec<_> = report
        .findings()
        .iter()
        .filter_map(|(law, finding)| matches!(finding, Finding::Exempt(_)).then_some(law.name))
        .collect();
    assert_eq!(exempt, ["terminate", "home", "adopt"]);
}

/// What a bad driver does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sin {
    CleansUpTheLiving,
    FindsNothing,
    LaunchesTwice,
    ChecksWithoutRemedy,
    PanicsAtOddNames,
    CleansUpOnce,
}

#[derive(Debug)]
struct BadDriver {
    sin: Sin,
    good: FakeHypervisor,
    other: FakeHypervisor,
}

#[async_trait]
impl Hypervisor for BadDriver {
    fn name(&self) -> &str {
        "bad"
    }

    fn capabilities(&self) -> Capabilities {
        self.good.capabilities()
    }

    async fn check(&self) -> Vec<Check> {
        let check = Check {
            what: "kvm".to_owned(),
            found: "none".to_owned(),
            remedy: Some(String::new()),
            required: true,
        };
        if self.sin == Sin::ChecksWithoutRemedy { vec![check] } else { Vec::new() }
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        assert!(self.sin != Sin::PanicsAtOddNames || spec.name.starts_with("conformance"));
        self.good.prepare(spec).await
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let again = self.good.vm(spec.vm_id).is_some();
        if self.sin == Sin::LaunchesTwice && again {
            self.other.prepare(spec).await?;
            return self.other.launch(spec).await;
        }
        self.good.launch(spec).await
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        if self.sin == Sin::FindsNothing { Ok(Vec::new()) } else { self.good.find().await }
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        if self.sin == Sin::CleansUpOnce && !self.good.leftovers().contains(&vm) {
            return Err(HypervisorError::Config { vm, problem: "nothing there".to_owned() });
        }
        if let Some(machine) = self.good.vm(vm).filter(|_| self.sin == Sin::CleansUpTheLiving) {
            machine.end(crate::hypervisor::ExitInfo::default());
        }
        self.good.cleanup(vm).await
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_a_driver_is_found_by_its_law() {
    for (sin, law) in [
        (Sin::CleansUpTheLiving, "cleanup-busy"),
        (Sin::FindsNothing, "find"),
        (Sin::LaunchesTwice, "launch-once"),
        (Sin::ChecksWithoutRemedy, "check"),
        (Sin::PanicsAtOddNames, "odd-names"),
        (Sin::CleansUpOnce, "cleanup-unknown"),
    ] {
        let (good, other) = (FakeHypervisor::new(), FakeHypervisor::new());
        let subject =
            DriverSubject::new(move || Arc::new(BadDriver { sin, good: good.clone(), other: other.clone() }));
        let report = hypervisor_report(subject.step_limit(Duration::from_secs(1))).await;
        assert!(report.broken().contains(&law), "{sin:?}: {report}");
    }
}
