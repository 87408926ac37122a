//! One folder per kind of virtual machine.
//!
//! Each has the driver itself, a `plan` (pure: specification to what must be made) and the code that makes it so.

pub mod nothing;
#[cfg(feature = "process")]
pub mod process;
