//! The `qvd-l7r` program.

fn main() {}
