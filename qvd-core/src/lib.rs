//! What everybody agrees on: names, states, wire formats and plugin traits of QVD.
//!
//! This crate opens no socket, no file and no database. Everything in it is a value, a pure
//! function or a trait; the crates above it do the work.
//!
//! | you want to… | look at |
//! |---|---|
//! | run virtual machines another way | [`hypervisor::Hypervisor`] |
//! | check users another way | [`auth::Authenticator`] |
//! | place virtual machines another way | [`balance::LoadBalancer`] |
//! | act when something happens | [`hook::Hook`] |
//! | talk to the agent inside a virtual machine | [`vma::Vma`] |
//! | speak the wire protocols | [`proto`] |
//! | read configuration | [`config`] |
//! | test a plugin | `testkit` (feature `testkit`) |

#![forbid(unsafe_code)]

pub mod auth;
pub mod balance;
pub mod config;
pub mod error;
pub mod hook;
pub mod hypervisor;
pub mod id;
pub mod model;
pub mod proto;
pub mod secret;
pub mod state;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod units;
pub mod vma;

pub use error::ErrorKind;
pub use id::{DiId, HostId, OsfId, RunId, SessionId, TenantId, UserId, VmId};
pub use secret::Secret;
