//! The `qvd-hkd` program.

fn main() {}
