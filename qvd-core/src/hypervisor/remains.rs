//! What is left of a machine: how it ended, and what a look at the host finds.

use std::fmt;
use std::sync::Arc;

use super::RunningVm;
use crate::id::{RunId, VmId};

/// How a virtual machine ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitInfo {
    /// Exit status of its main process.
    pub code: Option<i32>,
    /// Signal that ended its main process.
    pub signal: Option<i32>,
    /// Ran into its memory limit.
    pub out_of_memory: bool,
    /// Last lines that the driver's process printed, for error messages; bounded.
    pub last_words: String,
}

impl ExitInfo {
    /// It ended with an exit status.
    pub fn status(code: i32) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// It was ended by a signal.
    pub fn signal(signal: i32) -> Self {
        Self { signal: Some(signal), ..Self::default() }
    }

    /// With what was printed last.
    #[must_use]
    pub fn saying(mut self, last_words: impl Into<String>) -> Self {
        self.last_words = last_words.into();
        self
    }
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => write!(f, "ended by signal {signal}")?,
            (Some(code), None) => write!(f, "exit status {code}")?,
            (None, None) => f.write_str("ended")?,
        }
        if self.out_of_memory {
            f.write_str(" (out of memory)")?;
        }
        Ok(())
    }
}

/// What is left of a virtual machine of a past life.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// It runs and can be adopted.
    Running {
        /// The virtual machine.
        vm_id: VmId,
        /// The run that launched it.
        run_id: RunId,
        /// The machine, adopted: as good as launched by the caller.
        vm: Arc<dyn RunningVm>,
    },
    /// Pieces without a life: files, mounts, or a process that is not the recorded one.
    Partial {
        /// The virtual machine.
        vm_id: VmId,
        /// What there is, for logs.
        parts: Vec<String>,
        /// How its last run ended, and which run that was, where that was written down.
        ended: Option<(RunId, ExitInfo)>,
    },
    /// Could not be told; never to be taken for absent.
    Unknown {
        /// The virtual machine.
        vm_id: VmId,
        /// Why not.
        reason: String,
    },
}

impl Found {
    /// The virtual machine that this is about.
    pub fn vm_id(&self) -> VmId {
        match self {
            Self::Running { vm_id, .. } | Self::Partial { vm_id, .. } | Self::Unknown { vm_id, .. } => *vm_id,
        }
    }
}
