//! The suites themselves: the fakes keep every law, and a plugin that breaks one is caught by that one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::hook::{HookEvent, HookKind};
use crate::hypervisor::{
    Capabilities, Check, Endpoint, ExitInfo, Found, Hypervisor, HypervisorError, LaunchPlace, Prepared,
    RunningVm, VmSpec,
};
use crate::id::{HostId, VmId};
use crate::state::XState;
use crate::testkit::fakes::{
    FakeHypervisor, FakeVm, FakeVma, FixedBalancer, RecordingHook, ScriptedAuthenticator,
};
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
    let host = FakeHypervisor::new().with_capabilities(Capabilities::none());
    let report = hypervisor(DriverSubject::new(move || Arc::new(host.clone()))).await;
    let exempt: Vec<_> = report
        .findings()
        .iter()
        .filter_map(|(law, finding)| matches!(finding, Finding::Exempt(_)).then_some(law.name))
        .collect();
    assert_eq!(exempt, ["terminate", "home", "adopt"]);
}

/// What a bad driver does wrong; one sin per law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sin {
    ChecksWithoutRemedy,
    PreparesAnew,
    LaunchesTwice,
    LaunchesTheUnprepared,
    StartsTheDeadAgain,
    ForgetsTheDead,
    FindsNothing,
    DiesWithItsHandle,
    LetsASecondRunIn,
    CleansUpTheLiving,
    OnlySaysThatItKilled,
    TellsTheEndToNobody,
    LeavesItsPlace,
    IgnoresTerminate,
    CleansUpNothing,
    CleansUpOnce,
    RunsOnce,
    EmptiesTheHome,
    ForgetsAtRestart,
    KillsItsNeighbours,
    PanicsAtOddNames,
    NeverEndsAPrepare,
    BreaksWhenALaunchIsDropped,
    NeverEndsACleanup,
    LeavesOutTheUnreadable,
}

/// What all drivers of one bad host share.
#[derive(Debug, Default)]
struct BadHost {
    good: FakeHypervisor,
    other: FakeHypervisor,
    homes: Mutex<BTreeSet<VmId>>,
    ran: Mutex<BTreeSet<VmId>>,
    spoiled: Mutex<BTreeSet<VmId>>,
    outside: Mutex<BTreeSet<VmId>>,
    dropped: Arc<AtomicBool>,
}

#[derive(Debug)]
struct BadDriver {
    sin: Sin,
    host: Arc<BadHost>,
    /// Machines that this very driver launched.
    launched: Mutex<BTreeSet<VmId>>,
}

/// Notices when the future that it lives in is dropped before its end.
struct Unfinished(Arc<AtomicBool>, bool);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.1 {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct BadVm {
    sin: Sin,
    vm: FakeVm,
    host: FakeHypervisor,
}

impl Drop for BadVm {
    fn drop(&mut self) {
        if self.sin == Sin::DiesWithItsHandle {
            self.vm.end(ExitInfo::default());
        }
    }
}

#[async_trait]
impl RunningVm for BadVm {
    fn endpoint(&self) -> Endpoint {
        self.vm.endpoint()
    }

    async fn exited(&self) -> ExitInfo {
        if self.sin == Sin::TellsTheEndToNobody {
            return std::future::pending().await;
        }
        self.vm.exited().await
    }

    async fn terminate(&self) -> Result<(), HypervisorError> {
        if self.sin == Sin::IgnoresTerminate { Ok(()) } else { self.vm.terminate().await }
    }

    async fn kill(&self, limit: Duration) -> Result<(), HypervisorError> {
        match self.sin {
            Sin::OnlySaysThatItKilled => return Ok(()),
            Sin::KillsItsNeighbours => {
                for (vm, _) in self.host.living() {
                    self.host.vm(vm).into_iter().for_each(|vm| vm.end(ExitInfo::default()));
                }
            }
            _ => {}
        }
        self.vm.kill(limit).await
    }
}

impl BadDriver {
    fn wrap(&self, vm: VmId) -> Option<Arc<dyn RunningVm>> {
        let inner = self.host.good.vm(vm)?;
        Some(Arc::new(BadVm { sin: self.sin, vm: inner, host: self.host.good.clone() }))
    }
}

#[async_trait]
impl Hypervisor for BadDriver {
    fn name(&self) -> &str {
        "bad"
    }

    fn capabilities(&self) -> Capabilities {
        self.host.good.capabilities()
    }

    async fn check(&self) -> Vec<Check> {
        let check = Check::failed("kvm", "none", "");
        if self.sin == Sin::ChecksWithoutRemedy { vec![check] } else { Vec::new() }
    }

    async fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        let (vm, good) = (spec.vm_id, &self.host.good);
        assert!(self.sin != Sin::PanicsAtOddNames || spec.name.starts_with("conformance"));
        match self.sin {
            Sin::NeverEndsAPrepare => {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            Sin::RunsOnce if spec.run_id.get() > 1 && self.host.ran.lock().unwrap().contains(&vm) => {
                return Err(HypervisorError::Busy { vm, what: "what was".to_owned() });
            }
            Sin::EmptiesTheHome if spec.run_id.get() > 1 => {
                self.host.homes.lock().unwrap().remove(&vm);
            }
            Sin::LetsASecondRunIn if good.vm(vm).is_some() => return Ok(Prepared::default()),
            _ => {}
        }
        let mut prepared = good.prepare(spec).await?;
        if self.sin == Sin::PreparesAnew {
            prepared.storage = Some(format!("home of call {}", good.calls().len()));
        }
        Ok(prepared)
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let (vm, good) = (spec.vm_id, &self.host.good);
        if self.sin == Sin::BreaksWhenALaunchIsDropped {
            let mut unfinished = Unfinished(Arc::clone(&self.host.dropped), false);
            tokio::task::yield_now().await;
            unfinished.1 = true;
        }
        match self.sin {
            Sin::LaunchesTwice if good.vm(vm).is_some() => {
                self.host.other.set_endpoint(vm, Endpoint::Unix { dir: "/another".into() });
                self.host.other.prepare(spec).await?;
                return self.host.other.launch(spec).await;
            }
            Sin::LaunchesTheUnprepared => drop(good.prepare(spec).await?),
            Sin::StartsTheDeadAgain if good.vm(vm).is_some_and(|vm| !vm.lives()) => {
                good.cleanup(vm).await?;
                good.prepare(spec).await?;
            }
            _ => {}
        }
        good.launch(spec).await?;
        if self.sin == Sin::LeavesItsPlace {
            self.host.outside.lock().unwrap().insert(vm);
        }
        self.host.ran.lock().unwrap().insert(vm);
        self.launched.lock().unwrap().insert(vm);
        Ok(self.wrap(vm).unwrap())
    }

    async fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        let mut all = Vec::new();
        for found in self.host.good.find().await? {
            let vm = found.vm_id();
            let running = matches!(found, Found::Running { .. });
            let spoiled = self.host.spoiled.lock().unwrap().contains(&vm);
            match self.sin {
                Sin::FindsNothing => continue,
                Sin::ForgetsTheDead if !running => continue,
                Sin::ForgetsAtRestart if !self.launched.lock().unwrap().contains(&vm) => continue,
                Sin::LeavesOutTheUnreadable if spoiled => continue,
                _ => {}
            }
            all.push(match found {
                _ if spoiled => Found::Unknown { vm_id: vm, reason: "spoiled".to_owned() },
                Found::Running { vm_id, run_id, .. } => {
                    Found::Running { vm_id, run_id, vm: self.wrap(vm).unwrap() }
                }
                other => other,
            });
        }
        Ok(all)
    }

    async fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        let good = &self.host.good;
        match self.sin {
            Sin::NeverEndsACleanup if good.vm(vm).is_some() => {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            Sin::BreaksWhenALaunchIsDropped if self.host.dropped.load(Ordering::Relaxed) => {
                return Err(HypervisorError::Busy { vm, what: "half a launch".to_owned() });
            }
            Sin::CleansUpNothing => return Ok(()),
            Sin::CleansUpOnce if !good.leftovers().contains(&vm) => {
                return Err(HypervisorError::Config { vm, problem: "nothing there".to_owned() });
            }
            Sin::CleansUpTheLiving => {
                good.vm(vm).into_iter().for_each(|vm| vm.end(ExitInfo::default()));
            }
            _ => {}
        }
        good.cleanup(vm).await
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_a_driver_is_found_by_its_law() {
    let sins = [
        (Sin::ChecksWithoutRemedy, "check"),
        (Sin::PreparesAnew, "prepare-twice"),
        (Sin::LaunchesTwice, "launch-once"),
        (Sin::LaunchesTheUnprepared, "launch-unprepared"),
        (Sin::StartsTheDeadAgain, "launch-ended"),
        (Sin::ForgetsTheDead, "debris"),
        (Sin::FindsNothing, "find"),
        (Sin::DiesWithItsHandle, "handle"),
        (Sin::LetsASecondRunIn, "second-run"),
        (Sin::CleansUpTheLiving, "cleanup-busy"),
        (Sin::OnlySaysThatItKilled, "kill"),
        (Sin::TellsTheEndToNobody, "exited"),
        (Sin::LeavesItsPlace, "inside-its-place"),
        (Sin::IgnoresTerminate, "terminate"),
        (Sin::CleansUpNothing, "cleanup"),
        (Sin::CleansUpOnce, "cleanup-unknown"),
        (Sin::RunsOnce, "again"),
        (Sin::EmptiesTheHome, "home"),
        (Sin::ForgetsAtRestart, "adopt"),
        (Sin::KillsItsNeighbours, "parallel"),
        (Sin::PanicsAtOddNames, "odd-names"),
        (Sin::NeverEndsAPrepare, "cancel-prepare"),
        (Sin::BreaksWhenALaunchIsDropped, "cancel-launch"),
        (Sin::NeverEndsACleanup, "cancel-cleanup"),
        (Sin::LeavesOutTheUnreadable, "unreadable"),
    ];
    for (sin, law) in sins {
        let report = report_on(sin).await;
        assert!(report.broken().contains(&law), "{sin:?}: {report}");
        assert_eq!(
            report.findings().len(),
            sins.len(),
            "a law without a sin, or the other way round: {report}"
        );
    }
}

async fn report_on(sin: Sin) -> Report {
    let host = Arc::new(BadHost::default());
    let (marked, seen, spoiled, placed) =
        (Arc::clone(&host), Arc::clone(&host), Arc::clone(&host), Arc::clone(&host));
    let subject = DriverSubject::new(move || {
        Arc::new(BadDriver { sin, host: Arc::clone(&host), launched: Mutex::default() })
    })
    .home_mark(
        move |vm| marked.homes.lock().unwrap().extend([vm]),
        move |vm| seen.homes.lock().unwrap().contains(&vm),
    )
    .places(
        |vm| LaunchPlace::in_cgroups([format!("/nonexistent/{vm}").into()]),
        move |vm| {
            placed
                .outside
                .lock()
                .unwrap()
                .get(&vm)
                .map(|vm| format!("a process of {vm}"))
                .into_iter()
                .collect()
        },
    )
    .make_unreadable(move |vm| spoiled.spoiled.lock().unwrap().extend([vm]));
    hypervisor_report(subject.step_limit(Duration::from_secs(1))).await
}
