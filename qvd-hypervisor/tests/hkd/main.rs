//! The daemon as a whole: in-memory database, fake driver, fake agents, its own loop and tasks.

#![cfg(feature = "hkd")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crashes;
mod drivers;
mod life;
mod node;
mod site;

#[cfg(feature = "process")]
#[allow(dead_code)]
#[path = "../lab/mod.rs"]
mod lab;
