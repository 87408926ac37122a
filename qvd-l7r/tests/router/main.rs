//! The router over real sockets: TLS, an in-memory database, an agent and a desktop played by the test.
//!
//! Tests are named after the rows of the protocol page's conformance table that they prove.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

mod auto;
mod certificates;
mod checks;
mod connect;
mod doors;
mod flood;
mod http;
mod ldap;
mod lifecycle;
mod login;
mod newer_schema;
mod oidc;
mod proof;
mod stop;
mod succession;
mod takeover;
mod tokens;
mod totp;
mod transport;
mod workers;
