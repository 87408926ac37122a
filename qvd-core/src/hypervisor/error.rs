//! Why a driver could not do it, and whose fault that is.

use super::ExitInfo;
use crate::error::ErrorKind;
use crate::id::VmId;

/// Who is at fault when a run fails: decides what is counted and blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The virtual machine: image, guest, damaged home. Counts towards blocking it.
    Vm,
    /// The host: disk full, no cgroup, no bridge. Counts against the host.
    Host,
    /// Nobody that blocking would help: home in use or not mounted, a wrong setting, cancelled, wrong moment.
    Nobody,
}

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// The host lacks or refused something.
    #[error("VM {vm}: cannot {operation}")]
    Host {
        /// The virtual machine.
        vm: VmId,
        /// What was tried, with its subject.
        operation: String,
        /// The system's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image is missing, damaged or of the wrong kind.
    #[error("VM {vm}: image '{path}': {problem}")]
    Image {
        /// The virtual machine.
        vm: VmId,
        /// File name of the image.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another run, perhaps of another host, holds the lock of this machine or home. Also the answer of a clean-up
    /// that may not touch anything as long as that is so.
    #[error("VM {vm}: home in use by {holder}")]
    HomeInUse {
        /// The virtual machine.
        vm: VmId,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// The home that an earlier run used is not there.
    #[error("VM {vm}: {problem}")]
    HomeMissing {
        /// The virtual machine.
        vm: VmId,
        /// Which home, where it was looked for, what to do.
        problem: String,
    },
    /// The home is there and cannot be used as it is.
    #[error("VM {vm}: {problem}")]
    HomeDamaged {
        /// The virtual machine.
        vm: VmId,
        /// Which home, what is wrong with it, what to do.
        problem: String,
    },
    /// The guest ended before it was of use.
    #[error("VM {vm}: ended early ({exit})")]
    EarlyExit {
        /// The virtual machine.
        vm: VmId,
        /// How.
        exit: ExitInfo,
    },
    /// A setting or a value of the machine is unusable.
    #[error("VM {vm}: {problem}")]
    Config {
        /// The virtual machine.
        vm: VmId,
        /// What and what to do.
        problem: String,
    },
    /// A process of the machine still lives.
    #[error("VM {vm}: still busy: {what}")]
    Busy {
        /// The virtual machine.
        vm: VmId,
        /// What lives.
        what: String,
    },
    /// Killed, but not gone within the limit.
    #[error("VM {vm}: still alive after being killed: {what}")]
    StillAlive {
        /// The virtual machine.
        vm: VmId,
        /// Processes and their state.
        what: String,
    },
    /// Called off before it was done.
    #[error("VM {vm}: {operation} was called off")]
    Cancelled {
        /// The virtual machine.
        vm: VmId,
        /// What was called off.
        operation: String,
    },
    /// The driver cannot do this.
    #[error("VM {vm}: {operation} is not supported by this driver")]
    Unsupported {
        /// The virtual machine.
        vm: VmId,
        /// What was asked.
        operation: &'static str,
    },
}

impl HypervisorError {
    /// A [`HypervisorError::Host`] for a failed operation.
    pub fn host(
        vm: VmId,
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Host { vm, operation: operation.into(), source: source.into() }
    }

    /// A [`HypervisorError::Unsupported`].
    pub fn unsupported(vm: VmId, operation: &'static str) -> Self {
        Self::Unsupported { vm, operation }
    }

    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Image { .. } | Self::EarlyExit { .. } | Self::HomeDamaged { .. } => Blame::Vm,
            Self::Host { .. } => Blame::Host,
            Self::HomeInUse { .. }
            | Self::HomeMissing { .. }
            | Self::Config { .. }
            | Self::Busy { .. }
            | Self::StillAlive { .. }
            | Self::Cancelled { .. }
            | Self::Unsupported { .. } => Blame::Nobody,
        }
    }

    /// Classification.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Host { .. } => ErrorKind::Unavailable,
            Self::Image { .. } | Self::HomeDamaged { .. } | Self::Config { .. } => ErrorKind::Invalid,
            Self::HomeMissing { .. } => ErrorKind::NotFound,
            Self::HomeInUse { .. } | Self::Busy { .. } | Self::Cancelled { .. } => ErrorKind::Conflict,
            Self::EarlyExit { .. } => ErrorKind::Internal,
            Self::StillAlive { .. } => ErrorKind::Timeout,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blocking_would_help_is_charged() {
        let vm = VmId::new(7);
        let text = || "x".to_owned();
        let exit = ExitInfo::default();
        for (error, blame) in [
            (HypervisorError::Image { vm, path: text(), problem: text() }, Blame::Vm),
            (HypervisorError::EarlyExit { vm, exit }, Blame::Vm),
            (HypervisorError::HomeDamaged { vm, problem: text() }, Blame::Vm),
            (HypervisorError::host(vm, "write", "disk full"), Blame::Host),
            (HypervisorError::HomeInUse { vm, holder: text() }, Blame::Nobody),
            (HypervisorError::HomeMissing { vm, problem: text() }, Blame::Nobody),
            (HypervisorError::Config { vm, problem: text() }, Blame::Nobody),
            (HypervisorError::Busy { vm, what: text() }, Blame::Nobody),
            (HypervisorError::StillAlive { vm, what: text() }, Blame::Nobody),
            (HypervisorError::Cancelled { vm, operation: text() }, Blame::Nobody),
            (HypervisorError::unsupported(vm, "launch"), Blame::Nobody),
        ] {
            assert_eq!(error.blame(), blame, "{error:?}");
        }
    }
}
