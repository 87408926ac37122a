//! The agent with the real nxagent, through the client of its calls, obeys the contract of every agent.

#![allow(clippy::unwrap_used, reason = "a broken expectation is how a test fails")]

#[path = "agent/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent, which use the rest")]
mod support;

use std::sync::Arc;

use async_trait::async_trait;
use qvd_core::state::XState;
use qvd_core::testkit::conformance::{self, Finding, Look, VmaSubject};
use qvd_core::vma::{Params, Vma, VmaError};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use support::{LIMIT, Machine, NX, Screen, Setup, have, properties};

/// The agent's client; the machine lives as long as it does.
#[derive(Debug)]
struct Housed(Machine);

#[async_trait]
impl Vma for Housed {
    async fn ping(&self) -> Result<(), VmaError> {
        self.0.vma.ping().await
    }

    async fn x_state(&self) -> Result<XState, VmaError> {
        self.0.vma.x_state().await
    }

    async fn x_start(&self, params: &Params) -> Result<(), VmaError> {
        self.0.vma.x_start(params).await
    }

    async fn x_suspend(&self) -> Result<XState, VmaError> {
        self.0.vma.x_suspend().await
    }

    async fn x_stop(&self) -> Result<XState, VmaError> {
        self.0.vma.x_stop().await
    }

    async fn poweroff(&self) -> Result<(), VmaError> {
        self.0.vma.poweroff().await
    }

    async fn expire(&self, limits: &Params) -> Result<(), VmaError> {
        self.0.vma.expire(limits).await
    }

    async fn x_failure(&self) -> Result<Option<String>, VmaError> {
        self.0.vma.x_failure().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_keeps_every_law() {
    if !have(&NX) {
        return;
    }
    let screen = Arc::new(Screen::start().await);
    let subject = VmaSubject::with_viewer(move || {
        // What starts a machine borrows too much to be moved between threads.
        let machine = block_in_place(|| Handle::current().block_on(Setup::new().start()));
        let (screen, socket) = (Arc::clone(&screen), machine.socket());
        let look = Look::new(move || std::future::ready(screen.view(&socket)));
        std::future::ready((Arc::new(Housed(machine)) as Arc<dyn Vma>, look))
    });
    let report = conformance::vma(subject.params(properties()).step_limit(LIMIT)).await;
    assert!(report.findings().iter().all(|(_, finding)| *finding == Finding::Kept), "{report}");
}
