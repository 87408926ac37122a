//! The `qvd` program.

fn main() {}
