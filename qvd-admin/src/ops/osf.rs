//! Operating system flavours.

use qvd_core::OsfId;
use qvd_core::units::Mebibytes;

use qvd_db::Guard;

use super::host::named;
use super::rows::{Found, OsfRow};
use super::{Admin, Outcome, size};
use crate::error::{Error, Result};
use crate::filter::Filter;

/// A flavour to add. What is not given comes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewOsf {
    /// Name, unique.
    pub name: String,
    /// Memory of each machine: megabytes, or with a suffix.
    pub memory: Option<String>,
    /// Whether the system disk is written to a layer above the image.
    pub use_overlay: Option<bool>,
    /// Size of the home volume, with a suffix or in bytes.
    pub user_storage_size: Option<String>,
    /// Driver of its machines.
    pub hypervisor: Option<String>,
}

/// Below this nothing boots; the database refuses it, too.
const LEAST_MEMORY: Mebibytes = Mebibytes(16);

const DRIVERS: [&str; 4] = ["kvm", "lxc", "process", "nothing"];

impl Admin {
    /// Adds a flavour. Answers its id and what the administrator should know.
    ///
    /// # Errors
    ///
    /// Name empty or taken; a size that is none; a driver that does not exist.
    pub async fn add_osf(&self, osf: NewOsf) -> Result<(OsfId, Vec<String>)> {
        let mut warnings = Vec::new();
        let default_memory = u64::try_from(self.config.integer("osf.default.memory")).unwrap_or_default();
        let memory = match osf.memory.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => size::memory(text).ok_or_else(|| bad_size("memory", text))?,
            None => Mebibytes(default_memory),
        };
        if memory < LEAST_MEMORY {
            return Err(Error::invalid("memory", format!("memory must be at least {} MB", LEAST_MEMORY.0)));
        }
        let home = match osf.user_storage_size.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => {
                let home = size::home(text).ok_or_else(|| bad_size("user_storage_size", text))?;
                if let Some(megabytes) = home.assumed_megabytes.filter(|n| *n > 0) {
                    warnings.push(format!("user_storage_size={megabytes} taken as {megabytes}M"));
                }
                // None at all was written as 0 in old installations.
                Some(home.size).filter(|size| size.0 > 0)
            }
            None => None,
        };
        let hypervisor = osf.hypervisor.filter(|text| !text.is_empty());
        if let Some(unknown) = hypervisor.as_deref().filter(|name| !DRIVERS.contains(name)) {
            let text = format!("hypervisor '{unknown}' does not exist (one of: {})", DRIVERS.join(", "));
            return Err(Error::invalid("hypervisor", text));
        }
        let new = qvd_db::NewOsf {
            tenant: self.tenant(),
            name: named("name", &osf.name, 64)?.to_owned(),
            memory,
            use_overlay: osf.use_overlay.unwrap_or_else(|| self.config.flag("osf.default.overlay")),
            home,
            hypervisor,
        };
        Ok((self.db.osfs().add(new).await?, warnings))
    }

    /// The flavours that match, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn osfs(&self, filter: &Filter) -> Result<Vec<Found<OsfRow>>> {
        let rows = self.db.osfs().list().await?.into_iter().map(|osf| OsfRow { osf });
        self.select(rows.collect(), filter).await
    }

    /// Deletes flavours together with their disk images; one that has virtual machines is left alone. Image files stay.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn delete_osfs(&self, osfs: &[Found<OsfRow>]) -> Result<Outcome<OsfId>> {
        let vms = self.db.vms().list().await?;
        let images = self.db.images().list().await?;
        let mut outcome = Outcome::default();
        for osf in osfs.iter().map(|found| &found.row.osf) {
            let used = vms.iter().filter(|vm| vm.vm.osf_id == osf.id).count();
            if used > 0 {
                outcome.skip(osf.id, &osf.name, format!("{used} VMs use it"));
                continue;
            }
            let own: Vec<_> = images.iter().filter(|image| image.osf_id == osf.id).collect();
            if !own.is_empty() {
                let names: Vec<_> =
                    own.iter().map(|image| format!("{} ({})", image.id, image.path)).collect();
                let text =
                    format!("osf {} ({}): its DIs are deleted, too: {}", osf.id, osf.name, names.join(", "));
                outcome.warnings.push(text);
            }
            match self.db.osfs().delete(osf.id).await {
                Ok(Guard::Updated(())) => outcome.done.push(osf.id),
                Ok(Guard::Unchanged(()) | Guard::NotFound) => {
                    outcome.skip(osf.id, &osf.name, "already deleted")
                }
                // A virtual machine was added to it this moment.
                Err(error @ qvd_db::Error::InUse { .. }) => {
                    outcome.skip(osf.id, &osf.name, error.to_string())
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(outcome)
    }
}

fn bad_size(field: &'static str, text: &str) -> Error {
    Error::invalid(field, format!("invalid size '{text}' for {field} (a number, with k, m or g)"))
}
