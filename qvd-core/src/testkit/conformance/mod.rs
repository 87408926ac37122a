//! Suites that tell whether a plugin obeys the contract of its trait.
//!
//! A suite is a list of laws. Each has a name, one sentence, and, where a plugin may declare that it cannot do something,
//! the capability that exempts from it: nothing else does. The plain functions panic with the broken laws; those named
//! `…_report` give the [`Report`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use qvd_core::testkit::conformance::{self, DriverSubject};
//! use qvd_core::testkit::fakes::FakeHypervisor;
//! use std::sync::Arc;
//!
//! let host = FakeHypervisor::new();
//! let report = conformance::hypervisor(DriverSubject::new(move || Arc::new(host.clone()))).await;
//! println!("{report}");
//! # }
//! ```

mod authenticator;
mod hook;
mod hypervisor;
mod load_balancer;
#[cfg(test)]
mod sins;
#[cfg(test)]
mod tests;
mod vma;

use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use authenticator::{AuthenticatorSubject, authenticator, authenticator_report};
pub use hook::{HookSubject, hook, hook_report};
pub use hypervisor::{DriverSubject, hypervisor, hypervisor_report};
pub use load_balancer::{load_balancer, load_balancer_report};
pub use vma::{Look, VmaSubject, vma, vma_report};

/// Something that every plugin of a kind must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Law {
    /// Short name.
    pub name: &'static str,
    /// One sentence.
    pub text: &'static str,
    /// Capability without which it does not apply.
    pub needs: Option<&'static str>,
}

impl Law {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, needs: None }
    }

    const fn needs(self, capability: &'static str) -> Self {
        Self { needs: Some(capability), ..self }
    }
}

/// How a plugin stands to a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Kept.
    Kept,
    /// Does not apply: the plugin declares that it lacks this capability.
    Exempt(&'static str),
    /// Broken; what was seen.
    Broken(String),
}

/// What a suite found.
#[derive(Clone, Debug)]
pub struct Report {
    subject: String,
    findings: Vec<(Law, Finding)>,
}

impl Report {
    /// Each law with its finding, in order.
    pub fn findings(&self) -> &[(Law, Finding)] {
        &self.findings
    }

    /// Names of the broken laws.
    pub fn broken(&self) -> Vec<&'static str> {
        let broken = self.findings.iter().filter(|(_, finding)| matches!(finding, Finding::Broken(_)));
        broken.map(|(law, _)| law.name).collect()
    }

    /// Fails the test when a law is broken.
    ///
    /// # Panics
    ///
    /// Then; the message is the whole report.
    pub fn assert_kept(&self) {
        assert!(self.broken().is_empty(), "{self}");
    }

    fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), findings: Vec::new() }
    }

    /// Runs one check in a task of its own, so that a panic or a hang is a finding as well.
    async fn check(
        &mut self,
        law: Law,
        capable: bool,
        limit: Duration,
        check: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let finding = match law.needs {
            Some(capability) if !capable => Finding::Exempt(capability),
            Some(_) | None => {
                let task = tokio::spawn(check);
                let abort = task.abort_handle();
                match tokio::time::timeout(limit, task).await {
                    Ok(Ok(Ok(()))) => Finding::Kept,
                    Ok(Ok(Err(problem))) => Finding::Broken(problem),
                    Ok(Err(panic)) => Finding::Broken(format!("it panicked: {panic}")),
                    Err(_) => {
                        abort.abort();
                        Finding::Broken(format!("not done after {} s", limit.as_secs_f64()))
                    }
                }
            }
        };
        self.findings.push((law, finding));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self.broken().len();
        writeln!(f, "{}: {} laws, {broken} broken", self.subject, self.findings.len())?;
        for (law, finding) in &self.findings {
            match finding {
                Finding::Kept => writeln!(f, "  kept    {}", law.name)?,
                Finding::Exempt(capability) => writeln!(f, "  exempt  {} (no {capability})", law.name)?,
                Finding::Broken(seen) => {
                    writeln!(f, "  BROKEN  {}: {}\n          {seen}", law.name, law.text)?
                }
            }
        }
        Ok(())
    }
}

/// Fails with `problem` unless `holds`.
fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

/// The whole chain of an error, for a finding.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    crate::error::chain(error).to_string()
}
