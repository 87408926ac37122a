//! The agent inside a virtual machine, and the client of its calls.
//!
//! * [`client`] (feature `client`): what routers and hosts use to call an agent. Brings nothing else.
//! * [`agent`] (feature `agent`): the agent itself. It serves the calls ([`rpc`]), keeps the one X session of the
//!   machine ([`xsession`]), runs the administrator's programs ([`hooks`]) and makes accounts ([`provision`]).
//!
//! Nothing here knows of the database: an agent lives in a guest and trusts only what it is called with.

#[cfg(feature = "client")]
pub mod client;
mod long_path;
