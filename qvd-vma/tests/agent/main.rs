//! The agent as its callers see it, with the real nxagent and nxproxy.

mod calls;
mod desktop;
mod faults;
mod handover;
mod hooks;
mod support;
