//! What a host's daemon needs to know to start a virtual machine, and the image it starts from.

use qvd_core::model::{DiskImage, Osf, Vm};
use qvd_core::{HostId, RunId, VmId};

use super::{Vms, vm};
use crate::db::transaction;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::sql::{Sql, sql};
use crate::value::params;

/// A virtual machine with everything a start needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRow {
    /// The virtual machine.
    pub vm: Vm,
    /// Login of its owner.
    pub login: String,
    /// Its flavour.
    pub osf: Osf,
    /// The image that its tag names now; none when no usable image has the tag.
    pub image: Option<DiskImage>,
}

impl Vms<'_> {
    /// Everything a start needs; none when the virtual machine is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn launch_spec(self, id: VmId) -> Result<Option<LaunchRow>> {
        const LOAD: Sql = sql!("load a VM to start":
            "select " VM ", (select u.login from users u where u.id = v.user_id) as login
             from vms v where v.id = $1 and v.deleted_at is null");
        let Some(row) = self.db.read_one(&LOAD, params![id]).await? else { return Ok(None) };
        let vm = vm(&row)?;
        let osf = self.db.osfs().load(vm.osf_id).await?;
        let osf = osf.ok_or_else(|| Error::missing(format!("OSF {}", vm.osf_id)))?;
        let image = self.db.images().resolve(vm.osf_id, &vm.di_tag).await?;
        Ok(Some(LaunchRow { vm, login: row.get("login")?, osf, image }))
    }

    /// Resolves the tag and records the image in one write, so that a change of the tag either is seen here or finds
    /// the image in the row. `Updated(None)`: no usable image has the tag.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn pin_image(self, id: VmId, host: HostId, run: RunId) -> Result<Guard<Option<DiskImage>>> {
        const LOCK: Sql = sql!("look at the VM's OSF":
            "select id from osfs where id = (select osf_id from vms where id = $1)" FOR_SHARE);
        const PIN: Sql = sql!("record the VM's image":
            "update vm_runtimes
             set current_osf_id = (select v.osf_id from vms v where v.id = $1),
                 current_di_id = (select d.id from vms v
                                  join di_tags t on t.osf_id = v.osf_id and t.tag = v.di_tag
                                  join dis d on d.id = t.di_id
                                  where v.id = $1 and d.state = 'ready' and not d.blocked),
                 version = version + 1
             where vm_id = $1 and host_id = $2 and run_id = $3 and vm_state <> 'stopped'
             returning current_di_id");
        let pinned = transaction!(self.db, |tx| {
            tx.rows(&LOCK, params![id]).await?;
            tx.row(&PIN, params![id, host, run]).await
        })?;
        let Some(row) = pinned else {
            return Ok(self.runtime(id).await?.map_or(Guard::NotFound, |_| Guard::Unchanged(None)));
        };
        match row.find("current_di_id")? {
            Some(di) => Ok(Guard::Updated(self.db.images().load(di).await?)),
            None => Ok(Guard::Updated(None)),
        }
    }
}
