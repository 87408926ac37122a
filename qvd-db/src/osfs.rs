//! Operating system flavours.

use qvd_core::model::Osf;
use qvd_core::units::Mebibytes;
use qvd_core::{OsfId, TenantId};

use crate::db::{Db, transaction};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::hosts::only;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// A flavour to be added.
#[derive(Clone, Debug)]
pub struct NewOsf {
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// Name, unique in its tenant.
    pub name: String,
    /// Memory of each virtual machine; 16 MiB at least.
    pub memory: Mebibytes,
    /// Whether the system disk is written to a layer above the image.
    pub use_overlay: bool,
    /// Size of the home volume; none means no home volume.
    pub home: Option<Mebibytes>,
    /// Driver (`kvm`, `lxc`, `process`, `nothing`); none means the host's `vm.hypervisor`.
    pub hypervisor: Option<String>,
}

/// Flavours of a database.
#[derive(Clone, Copy, Debug)]
pub struct Osfs<'db> {
    db: &'db Db,
}

impl Db {
    /// Operating system flavours.
    pub fn osfs(&self) -> Osfs<'_> {
        Osfs { db: self }
    }
}

impl Osfs<'_> {
    /// Adds a flavour.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] of `OSF name`; [`Error::Invalid`] for a value out of range; [`Error::Missing`] tenant.
    pub async fn add(self, osf: NewOsf) -> Result<OsfId> {
        const INSERT: Sql = sql!("add an OSF":
            "insert into osfs (tenant_id, name, memory_mib, use_overlay, home_mib, hypervisor)
             values ($1, $2, $3, $4, $5, $6) returning id");
        let NewOsf { tenant, name, memory, use_overlay, home, hypervisor } = &osf;
        let params = params![*tenant, name, *memory, *use_overlay, *home, hypervisor.as_deref()];
        let rows = self.db.write(&INSERT, params).await.map_err(|e| {
            e.or_duplicate(("osfs", "tenant_id_name"), "OSF name", name)
                .or_invalid(
                    "an OSF has a name of 1 to 64 characters, 16 MiB of memory at least, a home of 1 MiB at least \
                     or none, and one of the hypervisors kvm, lxc, process, nothing or none",
                )
                .or_referenced(|| Error::missing(format!("tenant {tenant}")))
        })?;
        only(rows)?.get("id")
    }

    /// All flavours, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn list(self) -> Result<Vec<Osf>> {
        const LIST: Sql = sql!("list OSFs": "select " OSF " from osfs order by id");
        self.db.read(&LIST, params![]).await?.iter().map(osf).collect()
    }

    /// The flavour of that id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn load(self, id: OsfId) -> Result<Option<Osf>> {
        const BY_ID: Sql = sql!("load an OSF": "select " OSF " from osfs where id = $1");
        self.db.read_one(&BY_ID, params![id]).await?.as_ref().map(osf).transpose()
    }

    /// The flavour of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn by_name(self, tenant: TenantId, name: &str) -> Result<Option<Osf>> {
        const BY_NAME: Sql =
            sql!("load an OSF": "select " OSF " from osfs where tenant_id = $1 and name = $2");
        self.db.read_one(&BY_NAME, params![tenant, name]).await?.as_ref().map(osf).transpose()
    }

    /// Deletes a flavour without virtual machines, its images' rows with it; image files stay.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while there are virtual machines of it.
    pub async fn delete(self, id: OsfId) -> Result<Guard<()>> {
        const LOOK: Sql = sql!("look at an OSF":
            "select name, (select count(*) from vms where osf_id = osfs.id) as vms from osfs where id = $1");
        const IMAGES: Sql = sql!("delete the DIs of an OSF": "delete from dis where osf_id = $1");
        const DELETE: Sql = sql!("delete an OSF": "delete from osfs where id = $1");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOOK, params![id]).await? else { return Ok(Guard::NotFound) };
            let subject = format!("OSF {id} ({})", row.get::<String>("name")?);
            let vms: i64 = row.get("vms")?;
            if vms > 0 {
                return Err(Error::InUse { subject, relation: format!("has {vms} VMs") });
            }
            let used = || Error::InUse { subject: subject.clone(), relation: "has VMs".to_owned() };
            tx.rows(&IMAGES, params![id]).await.map_err(|e| e.or_referenced(used))?;
            tx.rows(&DELETE, params![id]).await.map_err(|e| e.or_referenced(used))?;
            Ok(Guard::Updated(()))
        })
    }
}

fn osf(row: &Row) -> Result<Osf> {
    Ok(Osf {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        name: row.get("name")?,
        memory: row.get("memory_mib")?,
        use_overlay: row.get("use_overlay")?,
        home: row.find("home_mib")?,
        hypervisor: row.find("hypervisor")?,
    })
}
