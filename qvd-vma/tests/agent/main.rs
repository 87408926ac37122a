//! The agent as its callers see it, with the real nxagent and nxproxy.

#![allow(clippy::unwrap_used, reason = "a broken expectation is how a test fails")]

mod calls;
mod desktop;
mod faults;
mod handover;
mod hooks;
mod support;
