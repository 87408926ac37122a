//! What the benchmarks share: the stand-in desktop, the peers, the load generator, and honest figures.
//!
//! The rules are: ratios measured side by side in one run, the peers in turn, medians of several rounds with
//! minimum and maximum, processor seconds of the proxy process beside wall time. See `RESULTS.md`.

#![forbid(unsafe_code)]

pub mod agent;
pub mod book;
pub mod client;
pub mod desktop;
pub mod figures;
pub mod load;
pub mod machine;
pub mod memory;
pub mod parts;
pub mod peers;
pub mod place;
pub mod profile;
pub mod results;
pub mod run;
pub mod site;
pub mod targets;
