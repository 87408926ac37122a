//! What is said while it works: progress for people, timings for programs.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qvd_client::Progress;

/// Says something to whoever sits there. That nobody listens any more is no reason to end.
pub(crate) fn say(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells progress; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    quiet: bool,
    timings: bool,
    started: Instant,
    asked_for_vm: Arc<AtomicBool>,
}

impl Reporter {
    pub(crate) fn new(quiet: bool, timings: bool, started: Instant) -> Self {
        Self { quiet, timings, started, asked_for_vm: Arc::new(AtomicBool::new(false)) }
    }

    /// Takes in a step.
    pub(crate) fn progress(&self, progress: &Progress) {
        if matches!(progress, Progress::Connecting(_) | Progress::Stopping(_)) {
            self.asked_for_vm.store(true, Ordering::Relaxed);
        }
        if !self.quiet {
            say(progress);
        }
        if let Some(step) = step(progress).filter(|_| self.timings) {
            let seconds = self.started.elapsed().as_secs_f64();
            let _ = writeln!(io::stdout().lock(), "timing {step} {seconds:.3}");
        }
    }

    /// Whether a virtual machine was asked for already.
    pub(crate) fn has_asked_for_vm(&self) -> bool {
        self.asked_for_vm.load(Ordering::Relaxed)
    }
}

/// The name of a step that has been reached.
fn step(progress: &Progress) -> Option<&'static str> {
    match progress {
        Progress::Dialling(_) => Some("dial"),
        Progress::LoggingIn => Some("connected"),
        Progress::Listed(_) => Some("list"),
        Progress::Connecting(_) => Some("connect"),
        Progress::Switched => Some("101"),
        Progress::FirstBytes => Some("first_bytes"),
        Progress::Started => Some("session_started"),
        _ => None,
    }
}
