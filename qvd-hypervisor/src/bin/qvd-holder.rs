//! The holder of a process machine as a program of its own.
//!
//! `qvd` and `qvd-hkd` are their own holders. An embedder whose executable does not call
//! [`qvd_hypervisor::holder::main`] names this program in its driver's settings instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The driver always says `holder` first, as to the other programs.
    qvd_hypervisor::holder::main(std::env::args_os().skip(2))
}
