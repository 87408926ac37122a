//! The `qa` program.

fn main() {}
