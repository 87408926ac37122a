//! One plugin per law that breaks it and little else: what a suite does not find is no law.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::yield_now;

use super::*;
use crate::auth::{Attempt, AuthError, Authenticator, Verdict};
use crate::balance::{HostSnapshot, LoadBalancer, VmSnapshot};
use crate::hook::{Hook, HookError, HookEvent, HookKind};
use crate::id::HostId;
use crate::secret::Secret;
use crate::state::XState;
use crate::testkit::fakes::{FakeVma, ScriptedAuthenticator};
use crate::vma::{Params, Vma, VmaError};

/// That every law of a suite is broken by the sinner of its name.
fn found(law: &str, report: &Report) {
    assert!(report.findings().iter().any(|(known, _)| known.name == law), "there is no law '{law}'");
    assert!(report.broken().contains(&law), "the sin against '{law}' was not found: {report}");
}

/// That the sinners are as many as the laws.
fn all_covered(laws: &[&str], report: &Report) {
    let known: Vec<_> = report.findings().iter().map(|(law, _)| law.name).collect();
    assert_eq!(laws, known);
}

/// A mark that stays when the work under it is dropped.
#[derive(Debug, Default)]
struct Debris(AtomicBool);

impl Debris {
    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    async fn work(&self) {
        self.0.store(true, Ordering::Relaxed);
        yield_now().await;
        self.0.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct BadAuthenticator {
    sin: &'static str,
    good: ScriptedAuthenticator,
    calls: AtomicUsize,
    debris: Debris,
}

#[async_trait]
impl Authenticator for BadAuthenticator {
    fn name(&self) -> &str {
        self.sin
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        let verdict = self.good.authenticate(attempt).await?;
        let known = attempt.login == "alice";
        Ok(match (self.sin, verdict) {
            ("accepts", Verdict::Accepted(_)) if self.calls.fetch_add(1, Ordering::Relaxed) > 0 => {
                Verdict::NotMine
            }
            ("wrong-password", Verdict::NotMine) if known => Verdict::Rejected("wrong".to_owned()),
            ("unknown-user", Verdict::NotMine) if !known => {
                return Err(AuthError::new("bad", "find the user", "nobody of that name"));
            }
            ("odd-input", verdict) => {
                assert!(!attempt.login.contains('\0'), "no NUL, please");
                verdict
            }
            ("environment", _) if attempt.environment.contains_key("REMOTE_USER") => {
                Verdict::Accepted(Default::default())
            }
            ("cancel", _) if self.debris.is_there() => Verdict::NotMine,
            ("cancel", verdict) => {
                self.debris.work().await;
                verdict
            }
            (_, verdict) => verdict,
        })
    }

    fn normalize_login(&self, login: &str) -> Option<String> {
        Some(if self.sin == "normalize" { format!("{login}@realm") } else { login.to_owned() })
    }

    fn split_second_factor(&self, password: &[u8]) -> Option<(Vec<u8>, Secret<String>)> {
        let (_lost, rest) = password.split_first().filter(|_| self.sin == "split")?;
        Some((rest.to_vec(), Secret::new(String::new())))
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_an_authenticator_is_found_by_its_law() {
    let laws = [
        "accepts",
        "wrong-password",
        "unknown-user",
        "odd-input",
        "environment",
        "normalize",
        "split",
        "cancel",
    ];
    for sin in laws {
        let bad = BadAuthenticator {
            sin,
            good: ScriptedAuthenticator::named("good").with_user("alice", "wonder", None),
            calls: AtomicUsize::new(0),
            debris: Debris::default(),
        };
        let report =
            authenticator_report(AuthenticatorSubject::new(Arc::new(bad)).user("alice", b"wonder")).await;
        found(sin, &report);
        all_covered(&laws, &report);
    }
}

#[derive(Debug)]
struct BadBalancer {
    sin: &'static str,
    calls: AtomicUsize,
}

impl LoadBalancer for BadBalancer {
    fn name(&self) -> &str {
        self.sin
    }

    fn rank(&self, _: &VmSnapshot, hosts: &[HostSnapshot], _: &mut dyn FnMut() -> f64) -> Vec<HostId> {
        let mut ids: Vec<HostId> = hosts.iter().map(|h| h.id).collect();
        match self.sin {
            "pure" if !self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => ids.reverse(),
            "subset" if !ids.is_empty() => ids.push(HostId::new(4711)),
            "empty" if ids.is_empty() => ids.push(HostId::new(1)),
            "any-host" => assert!(hosts.iter().all(|h| h.usable_ram_mib.is_finite()), "odd numbers"),
            _ => {}
        }
        ids.dedup();
        ids
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_a_balancer_is_found_by_its_law() {
    let laws = ["pure", "subset", "empty", "any-host"];
    for sin in laws {
        let report = load_balancer_report(Arc::new(BadBalancer { sin, calls: AtomicUsize::new(0) })).await;
        found(sin, &report);
        all_covered(&laws, &report);
    }
}

#[derive(Debug)]
struct BadHook {
    sin: &'static str,
    calls: AtomicUsize,
    running: tokio::sync::Semaphore,
    debris: Debris,
}

#[async_trait]
impl Hook for BadHook {
    fn name(&self) -> &str {
        self.sin
    }

    fn wants(&self, _: HookKind) -> bool {
        self.sin != "stable-wishes" || self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
    }

    async fn run(&self, _: &HookEvent) -> Result<(), HookError> {
        let failure = || HookError::new(self.sin, "not now");
        match self.sin {
            "runs" if self.calls.fetch_add(1, Ordering::Relaxed) > 0 => return Err(failure()),
            "concurrent" => {
                let _alone = self.running.try_acquire().map_err(|_| failure())?;
                yield_now().await;
            }
            "cancel" if self.debris.is_there() => return Err(failure()),
            "cancel" => self.debris.work().await,
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_a_hook_is_found_by_its_law() {
    let laws = ["stable-wishes", "runs", "concurrent", "cancel"];
    for sin in laws {
        let bad = BadHook {
            sin,
            calls: AtomicUsize::new(0),
            running: tokio::sync::Semaphore::new(1),
            debris: Debris::default(),
        };
        let event = HookEvent::new(HookKind::Connected, Vec::new());
        let report = hook_report(HookSubject::new(Arc::new(bad), event)).await;
        found(sin, &report);
        all_covered(&laws, &report);
    }
}

#[derive(Debug)]
struct BadAgent {
    sin: &'static str,
    good: FakeVma,
    starts: AtomicUsize,
    debris: Debris,
}

impl BadAgent {
    fn new(sin: &'static str) -> Self {
        let good = FakeVma::new();
        if sin == "fresh" {
            good.set_state(XState::Suspended);
        }
        Self { sin, good, starts: AtomicUsize::new(0), debris: Debris::default() }
    }

    /// Somebody who looks; the wrong end for a desktop is to end with its viewer.
    fn look(&self) -> Look {
        let (sin, good) = (self.sin, self.good.clone());
        Look::new(move || {
            let viewer = BadViewer(good.clone());
            good.set_state(XState::Connected);
            let good = good.clone();
            async move { if sin == "resume" { (Some(viewer), None) } else { (None, Some(good.look())) } }
        })
    }
}

struct BadViewer(FakeVma);

impl Drop for BadViewer {
    fn drop(&mut self) {
        self.0.set_state(XState::Stopped);
    }
}

fn refusal(method: &'static str) -> VmaError {
    VmaError::Refused { method, message: "not now".to_owned() }
}

#[async_trait]
impl Vma for BadAgent {
    async fn ping(&self) -> Result<(), VmaError> {
        if self.sin == "ping" && self.good.state() == XState::Starting {
            std::future::pending::<()>().await;
        }
        self.good.ping().await
    }

    async fn x_state(&self) -> Result<XState, VmaError> {
        self.good.x_state().await
    }

    async fn x_start(&self, params: &Params) -> Result<(), VmaError> {
        let found = self.good.state();
        match (self.sin, found) {
            ("start-twice", XState::Listening) => return Ok(()),
            ("concurrent", XState::Stopped) => {
                yield_now().await;
                self.good.script_states([XState::Listening]);
                return Ok(());
            }
            ("again", _) if self.starts.fetch_add(1, Ordering::Relaxed) > 0 => {
                return Err(refusal("x_start"));
            }
            ("start-seen", XState::Connected) => return Err(refusal("x_start")),
            ("cancel", _) => self.debris.work().await,
            _ => {}
        }
        self.good.x_start(params).await?;
        if self.sin == "start" {
            self.good.script_states([XState::Suspending, XState::Listening]);
        }
        Ok(())
    }

    async fn x_suspend(&self) -> Result<XState, VmaError> {
        match (self.sin, self.good.state()) {
            ("suspend", found) => Ok(found),
            ("suspend-seen", XState::Connected) => {
                self.good.set_state(XState::Stopped);
                Ok(XState::Starting)
            }
            _ => self.good.x_suspend().await,
        }
    }

    async fn x_stop(&self) -> Result<XState, VmaError> {
        match (self.sin, self.good.state()) {
            ("stop", _) => Ok(XState::Stopping),
            ("stop-stopped", XState::Stopped) => Err(refusal("x_stop")),
            ("cancel", _) if self.debris.is_there() => Err(refusal("x_stop")),
            _ => self.good.x_stop().await,
        }
    }

    async fn poweroff(&self) -> Result<(), VmaError> {
        if self.sin == "poweroff" { Ok(()) } else { self.good.poweroff().await }
    }

    async fn expire(&self, limits: &Params) -> Result<(), VmaError> {
        if self.sin == "expire" {
            self.good.set_state(XState::Stopped);
        }
        self.good.expire(limits).await
    }

    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        if self.sin == "failure" {
            self.good.set_failure("it died");
        }
        self.good.x_failure().await
    }
}

#[tokio::test(start_paused = true)]
async fn each_sin_of_an_agent_is_found_by_its_law() {
    let laws = [
        "ping",
        "fresh",
        "start",
        "start-twice",
        "stop",
        "stop-stopped",
        "again",
        "concurrent",
        "suspend",
        "resume",
        "suspend-seen",
        "start-seen",
        "poweroff",
        "expire",
        "failure",
        "cancel",
    ];
    for sin in laws {
        let subject = VmaSubject::with_viewer(move || async move {
            let bad = BadAgent::new(sin);
            let look = bad.look();
            (Arc::new(bad) as Arc<dyn Vma>, look)
        });
        let report = vma_report(subject.step_limit(Duration::from_secs(1))).await;
        found(sin, &report);
        all_covered(&laws, &report);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_nobody_reaches_breaks_every_law() {
    let dead = VmaSubject::new(|| async {
        let vma = FakeVma::new();
        vma.set_reachable(false);
        Arc::new(vma) as Arc<dyn Vma>
    });
    let report = vma_report(dead).await;
    let kept = report.findings().iter().filter(|(_, finding)| *finding == Finding::Kept).count();
    assert_eq!(kept, 0, "{report}");
}
