//! Authenticators that come with the router, named as in `l7r.auth.plugins`.

mod bounded;
mod default;
mod throttle;

use std::sync::Arc;

use qvd_core::auth::{Authenticator, Chain};
use qvd_core::config::Config;
use qvd_db::Db;

pub(crate) use bounded::Bounded;
pub use default::Default;
pub(crate) use throttle::Throttle;

use crate::error::{Error, Result};

/// The chain that the configuration names.
///
/// # Errors
///
/// A name that is no authenticator of this router: nobody may log in under rules that were not understood.
pub fn chain_from_config(db: &Db, config: &Config) -> Result<Chain> {
    let mut builder = Chain::builder().case_sensitive(config.flag("model.user.login.case-sensitive"));
    for name in config.list("l7r.auth.plugins") {
        let plugin: Arc<dyn Authenticator> = match name.to_ascii_lowercase().as_str() {
            "default" => Arc::new(Default::new(db.clone(), config)),
            _ => return Err(unknown(&name)),
        };
        builder = builder.plugin(plugin);
    }
    Ok(builder.build())
}

/// Whether the configuration names only authenticators that there are.
pub(crate) fn check(config: &Config) -> Result<()> {
    match config.list("l7r.auth.plugins").iter().find(|name| !name.eq_ignore_ascii_case("default")) {
        Some(name) => Err(unknown(name)),
        None => Ok(()),
    }
}

fn unknown(name: &str) -> Error {
    Error::Setting {
        key: "l7r.auth.plugins",
        problem: format!("'{name}' is no authenticator of this router (one of: default)"),
    }
}
