//! The authenticator named `auto`: who comes for the first time gets a user and a virtual machine (protocol page §7.4).
//!
//! It accepts nobody by itself; whoever another one of the chain accepts is given what is missing, wherever in the list
//! it stands.

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Login, Verdict};
use qvd_core::config::Config;
use qvd_core::{OsfId, TenantId};
use qvd_db::{AddressRange, Db, Provision};

use crate::error::{Error, Result};

/// Provisions at the end of each login.
#[derive(Debug)]
pub struct Auto {
    db: Db,
    settings: Settings,
}

impl Auto {
    /// An authenticator with the keys `auth.auto.*`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the key that cannot be used.
    pub fn from_config(db: Db, config: &Config) -> Result<Self> {
        Ok(Self::new(db, Settings::from_config(config)?))
    }

    pub(super) fn new(db: Db, settings: Settings) -> Self {
        Self { db, settings }
    }

    async fn wanted(&self, login: &str) -> Result<Provision, qvd_db::Error> {
        let Settings { osf_id, di_tag, max_names, default_driver, addresses } = &self.settings;
        // Without the flavour there is no machine either; the transaction says so.
        let osf = self.db.osfs().load(*osf_id).await?;
        let addresses = match osf.is_some_and(|osf| osf.needs_address(default_driver)) {
            true => Some(AddressRange::from_config(addresses)?),
            false => None,
        };
        Ok(Provision {
            tenant: TenantId::DEFAULT,
            login: login.to_owned(),
            osf_id: *osf_id,
            di_tag: di_tag.clone(),
            max_names: *max_names,
            addresses,
        })
    }
}

#[async_trait]
impl Authenticator for Auto {
    fn name(&self) -> &str {
        NAME
    }

    async fn authenticate(&self, _: &Attempt) -> Result<Verdict, AuthError> {
        Ok(Verdict::NotMine)
    }

    async fn after_login(&self, attempt: &Attempt, login: &mut Login) -> Result<(), AuthError> {
        let failed = |e: qvd_db::Error| AuthError::new(NAME, "provision the user", e);
        let wanted = self.wanted(&attempt.normalized_login).await.map_err(failed)?;
        // Nothing for a blocked user: the router finds the row, and the block.
        let Some(has) = self.db.vms().provision(&wanted).await.map_err(failed)? else { return Ok(()) };
        if has.user_is_new {
            tracing::info!(login = wanted.login, user = %has.user, "user made at the first login");
        }
        if let Some(vm) = has.new_vm {
            tracing::info!(login = wanted.login, user = %has.user, vm = %vm, "VM made at the first login");
        }
        login.user_id = Some(has.user);
        Ok(())
    }
}

/// What everybody gets.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    osf_id: OsfId,
    di_tag: String,
    max_names: u32,
    default_driver: String,
    /// Read when a machine needs an address: a site without such machines sets no network.
    addresses: Config,
}

impl Settings {
    pub(super) fn from_config(config: &Config) -> Result<Self> {
        const OSF: &str = "auth.auto.osf_id";
        const MOST: &str = "auth.auto.max_vms";
        let wrong = |key, problem: String| Error::Setting { key, problem };
        if !config.has(OSF) {
            let problem = "is not set; it must be the id of an OSF, as 'qa osf list' shows them".to_owned();
            return Err(wrong(OSF, problem));
        }
        let osf = config.integer(OSF);
        if osf < 1 {
            return Err(wrong(OSF, format!("{osf} is not the id of an OSF")));
        }
        let most = config.integer(MOST);
        let max_names = u32::try_from(most).ok().filter(|n| (1..=MOST_NAMES).contains(n));
        Ok(Self {
            osf_id: OsfId::new(osf),
            di_tag: Some(config.text("auth.auto.di_tag")).filter(|tag| !tag.is_empty()).ok_or_else(|| {
                wrong("auth.auto.di_tag", "must not be empty (as in default or head)".to_owned())
            })?,
            max_names: max_names
                .ok_or_else(|| wrong(MOST, format!("{most} is not from 1 to {MOST_NAMES}")))?,
            default_driver: config.text("vm.hypervisor"),
            addresses: config.clone(),
        })
    }
}

const NAME: &str = "auto";

/// Each name is one question to the database.
const MOST_NAMES: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        for (key, value) in [
            ("auth.auto.osf_id", ""),
            ("auth.auto.osf_id", "0"),
            ("auth.auto.max_vms", "0"),
            ("auth.auto.max_vms", "1001"),
            ("auth.auto.di_tag", ""),
        ] {
            let config = Config::builder().set("auth.auto.osf_id", "1").set(key, value).build().unwrap();
            let error = Settings::from_config(&config).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{key}: ")), "{key}={value}: {error}");
        }
    }
}
