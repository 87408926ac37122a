//! The `qvd-vma` program.

fn main() {}
