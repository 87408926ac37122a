//! What a user is told about a desktop that came to nothing: what happened, when, and what comes next. Pure.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::process_group::describe;
use crate::xsession::machine::{Failure, Phase};

/// The words for a failure in this phase; `ending` is how the agent's process ended, when that is known.
pub(super) fn words(phase: Phase, failure: Failure, ending: Option<ExitStatus>) -> String {
    let what = match failure {
        Failure::Died => format!("the desktop's X agent {} {}", end(ending), moment(phase)),
        Failure::Aborted => format!("the desktop's X agent gave up {}", moment(phase)),
        Failure::TimedOut if phase == Phase::Preparing => {
            "what has to be done before the desktop starts took too long".to_owned()
        }
        Failure::TimedOut => format!("the desktop's X agent did not react {}", moment(phase)),
        Failure::NobodyCame => "nobody connected to the desktop while it was waiting".to_owned(),
        Failure::TooSlow => {
            "the connection to the desktop was not set up in time: the network is too slow or broke"
                .to_owned()
        }
    };
    format!("{what}; {}", next(phase, failure))
}

/// How the agent ended. A signal tells whose doing it was.
fn end(ending: Option<ExitStatus>) -> String {
    let Some(status) = ending else { return "ended by itself (how is not known)".to_owned() };
    match status.signal().and_then(|number| Signal::try_from(number).ok()) {
        Some(signal @ Signal::SIGKILL) => {
            format!("was killed from outside ({signal}), as it happens when memory runs out,")
        }
        Some(
            signal @ (Signal::SIGSEGV
            | Signal::SIGABRT
            | Signal::SIGBUS
            | Signal::SIGFPE
            | Signal::SIGILL
            | Signal::SIGTRAP
            | Signal::SIGSYS),
        ) => format!("crashed ({signal})"),
        Some(signal) => format!("was ended from outside ({signal})"),
        None => format!("ended by itself ({})", describe(status)),
    }
}

fn moment(phase: Phase) -> &'static str {
    match phase {
        Phase::Stopped | Phase::Consulting | Phase::Preparing | Phase::Provisioning | Phase::Launching => {
            "while the desktop was starting"
        }
        Phase::Listening => "before anybody had connected",
        Phase::Connected => "while somebody was connected",
        Phase::Suspending => "while the desktop was being suspended",
        Phase::Suspended => "while the desktop was suspended",
        Phase::Reconsulting | Phase::Waking | Phase::ListeningAgain | Phase::WokenUnasked => {
            "while the desktop was being resumed"
        }
        Phase::Stopping => "while the desktop was being ended",
    }
}

fn next(phase: Phase, failure: Failure) -> &'static str {
    match (phase, failure) {
        (Phase::ListeningAgain, Failure::NobodyCame | Failure::TooSlow) => {
            "the desktop is kept, the next connection resumes it"
        }
        (
            Phase::Stopped
            | Phase::Consulting
            | Phase::Preparing
            | Phase::Provisioning
            | Phase::Launching
            | Phase::Listening,
            _,
        ) => "nothing is lost, the next connection starts a new desktop",
        (
            Phase::Connected
            | Phase::Suspending
            | Phase::Suspended
            | Phase::Reconsulting
            | Phase::Waking
            | Phase::ListeningAgain
            | Phase::WokenUnasked
            | Phase::Stopping,
            _,
        ) => "what was not saved in it is lost, the next connection starts a new desktop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died(phase: Phase, raw: i32) -> String {
        words(phase, Failure::Died, Some(ExitStatus::from_raw(raw)))
    }

    #[test]
    fn a_signal_tells_whose_doing_it_was() {
        for (raw, expected) in [
            (9, "was killed from outside (SIGKILL), as it happens when memory runs out,"),
            (11, "crashed (SIGSEGV)"),
            (6, "crashed (SIGABRT)"),
            (15, "was ended from outside (SIGTERM)"),
            (1 << 8, "ended by itself (exit status 1)"),
        ] {
            let told = died(Phase::Connected, raw);
            assert_eq!(
                told,
                format!(
                    "the desktop's X agent {expected} while somebody was connected; what was not saved in it is \
                     lost, the next connection starts a new desktop"
                )
            );
        }
        assert!(words(Phase::Connected, Failure::Died, None).contains("how is not known"));
    }

    #[test]
    fn every_step_of_a_session_is_told_apart() {
        let told: Vec<_> = [
            (Phase::Launching, "while the desktop was starting; nothing is lost"),
            (Phase::Listening, "before anybody had connected; nothing is lost"),
            (Phase::Connected, "while somebody was connected; what was not saved"),
            (Phase::Suspending, "while the desktop was being suspended; what was not saved"),
            (Phase::Suspended, "while the desktop was suspended; what was not saved"),
            (Phase::Waking, "while the desktop was being resumed; what was not saved"),
            (Phase::Stopping, "while the desktop was being ended; what was not saved"),
        ]
        .map(|(phase, words)| (died(phase, 11), words))
        .into();
        for (text, expected) in told {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_desktop_that_is_kept_is_not_called_lost() {
        for failure in [Failure::NobodyCame, Failure::TooSlow] {
            assert!(words(Phase::ListeningAgain, failure, None).ends_with("the next connection resumes it"));
            assert!(words(Phase::Listening, failure, None).ends_with("starts a new desktop"));
        }
        assert!(!words(Phase::Preparing, Failure::TimedOut, None).contains("X agent"));
        assert!(words(Phase::Suspending, Failure::TimedOut, None).contains("did not react"));
        assert!(words(Phase::Suspended, Failure::Aborted, None).contains("gave up"));
    }
}
