//! Fakes, fault wrappers and conformance suites for whoever writes or embeds a plugin.
//!
//! | you want to… | look at |
//! |---|---|
//! | run your code against a scripted driver, agent or authenticator | [`fakes`] |
//!
//! Everything here runs on a tokio runtime (the paused clock included) and needs neither root nor network.

pub mod fakes;
mod script;
