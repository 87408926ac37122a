//! Reading the keys of authenticators; whatever cannot be used is complained of by name.

use std::net::IpAddr;

use qvd_core::config::Config;

use crate::error::{Error, Result};

/// The value of a key that must be there.
pub(super) fn required(config: &Config, key: &'static str, example: &str) -> Result<String> {
    given(config, key).ok_or_else(|| wrong(key, format!("is not set (as in {example})")))
}

/// The value of a key; empty is as not set.
pub(super) fn given(config: &Config, key: &str) -> Option<String> {
    config.get(key).filter(|value| !value.is_empty())
}

pub(super) fn wrong(key: &'static str, problem: impl Into<String>) -> Error {
    Error::Setting { key, problem: problem.into() }
}

/// Whether what goes to a host, named without brackets, stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
