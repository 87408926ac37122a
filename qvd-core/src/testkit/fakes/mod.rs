//! Hand-written fakes of the plugin traits: they obey the contracts, do what a test tells them, and remember.
//!
//! A fake is a cheap handle; a clone shares its state, so a test keeps one and hands the other to the code under
//! test.

mod authenticator;
mod balancer;
mod hook;
mod hypervisor;
mod running_vm;
mod vma;

pub use authenticator::{AuthCall, ScriptedAuthenticator};
pub use balancer::FixedBalancer;
pub use hook::RecordingHook;
pub use hypervisor::FakeHypervisor;
pub use running_vm::{DriverCall, DriverStep, FakeVm};
pub use vma::{FakeViewer, FakeVma, VmaCall, VmaMethod};
