//! Administration of QVD: every operation once ([`ops`]), one query language ([`filter`]), the time language of
//! expirations ([`at`]), and the `qa` command line over them ([`cli`]).
//!
//! An embedder makes an [`Admin`] and calls its operations; `qa` and the HTTP interface do nothing else.

#![forbid(unsafe_code)]

mod certificate;

pub mod at;
pub mod cli;
pub mod error;
pub mod filter;
pub mod ops;

pub use error::{Error, Result};
pub use ops::Admin;
