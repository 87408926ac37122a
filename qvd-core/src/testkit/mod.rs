//! Fakes, fault wrappers and conformance suites for whoever writes or embeds a plugin.
//!
//! | you want to… | look at |
//! |---|---|
//! | run your code against a scripted driver, agent or authenticator | [`fakes`] |
//! | see what your code does when the n-th call fails, hangs or is late | [`faults`] |
//! | drop a future at each of its awaits | [`cancel`] |
//! | prove that your plugin obeys the trait's contract | [`conformance`] |
//! | know what must hold of every parser of foreign bytes | [`fuzz`] |
//!
//! Everything here runs on a tokio runtime (the paused clock included) and needs neither root nor network.

pub mod cancel;
pub mod conformance;
pub mod fakes;
pub mod faults;
pub mod fuzz;
mod script;
