//! The `qvdclient` program.

fn main() {}
