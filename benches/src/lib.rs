//! What the benchmarks share: the stand-in desktop, the peers, and honest figures.
//!
//! The rules are: ratios measured side by side in one run, the peers in turn, medians of several rounds with
//! minimum and maximum, processor seconds of the proxy process beside wall time. See `RESULTS.md`.

#![forbid(unsafe_code)]

pub mod desktop;
pub mod figures;
pub mod memory;
pub mod peers;
pub mod site;
pub mod targets;
