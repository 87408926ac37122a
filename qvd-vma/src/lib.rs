//! The agent inside a virtual machine, and the client of its calls.
//!
//! * [`client`] (feature `client`): what routers and hosts use to call an agent. Brings nothing else.
//! * [`agent`] (feature `agent`): the agent itself. It serves the calls ([`rpc`]), keeps the one X session of the
//!   machine ([`xsession`]), runs the administrator's programs ([`hooks`]) and makes accounts ([`provision`]).
//!
//! Nothing here knows of the database: an agent lives in a guest and trusts only what it is called with.

#![forbid(unsafe_code)]

#[cfg(feature = "agent")]
pub mod account;
#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "agent")]
pub mod dialog;
#[cfg(feature = "agent")]
pub mod home_drive;
#[cfg(feature = "agent")]
pub mod hooks;
#[cfg(feature = "agent")]
mod log_file;
#[cfg(feature = "agent")]
mod long_path;
#[cfg(feature = "agent")]
mod process_group;
#[cfg(feature = "agent")]
mod process_tree;
#[cfg(feature = "agent")]
pub mod provision;
#[cfg(feature = "agent")]
pub mod rpc;
#[cfg(feature = "agent")]
pub mod session_exec;
#[cfg(feature = "agent")]
mod session_keeper;
#[cfg(feature = "agent")]
pub mod settings;
#[cfg(feature = "agent")]
pub mod xsession;
