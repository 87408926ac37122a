//! Whose fault was it? Pure.
//!
//! A failed start is laid at the door of the virtual machine, of the host, or of nobody. Too many in a row of the first
//! kind block the virtual machine (`hkd.vm.failures.max`), of the second kind the host (`hkd.host.failures.max`); the
//! rows count. A success forgives. What fails after a start worked is told and counted nowhere.

use qvd_core::hypervisor::{Blame, HypervisorError};

use super::vm_machine::Failure;

/// Who is charged with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The virtual machine: one step closer to being blocked.
    Vm,
    /// The host: one step closer to blocking itself.
    Host,
    /// Nobody; it is told and that is all.
    Nobody,
}

/// Judges a failure; `failed_start` says whether a start failed by it.
pub fn judge(failure: &Failure, failed_start: bool) -> Charge {
    match failure.blame {
        Blame::Vm if failed_start => Charge::Vm,
        Blame::Host if failed_start => Charge::Host,
        Blame::Vm | Blame::Host | Blame::Nobody => Charge::Nobody,
    }
}

impl From<HypervisorError> for Failure {
    /// The driver's verdict, with its causes and the last words of what ended early.
    fn from(error: HypervisorError) -> Self {
        let mut text = qvd_core::error::chain(&error).to_string();
        if let HypervisorError::EarlyExit { exit, .. } = &error
            && !exit.last_words.trim().is_empty()
        {
            text = format!("{text}: {}", exit.last_words.trim());
        }
        Self { blame: error.blame(), text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::VmId;
    use qvd_core::hypervisor::ExitInfo;

    #[test]
    fn only_failed_starts_are_charged_and_each_to_whom_it_belongs() {
        assert_eq!(judge(&Failure::vm("bad image"), true), Charge::Vm);
        assert_eq!(judge(&Failure::host("disk full"), true), Charge::Host);
        assert_eq!(judge(&Failure::nobody("home in use"), true), Charge::Nobody);
        assert_eq!(judge(&Failure::vm("died later"), false), Charge::Nobody);
        assert_eq!(judge(&Failure::host("hook failed"), false), Charge::Nobody);
    }

    #[test]
    fn a_home_in_use_is_nobodys_fault_and_last_words_are_kept() {
        let vm = VmId::new(7);
        let failure = Failure::from(HypervisorError::HomeInUse { vm, holder: "node b".into() });
        assert_eq!(judge(&failure, true), Charge::Nobody);
        let exit = ExitInfo::status(1).saying("no such file\n");
        let failure = Failure::from(HypervisorError::EarlyExit { vm, exit });
        assert_eq!(failure.text, "VM 7: ended early (exit status 1): no such file");
        assert_eq!(judge(&failure, true), Charge::Vm);
    }
}
