//! Virtual machines: selecting, blocking, deleting, changing.

use qvd_core::VmId;
use qvd_core::model::{DiskImage, VmRuntime};
use qvd_core::state::{UserState, VmState};
use qvd_db::{Guard, VmCounts};

use super::rows::{Found, VmRow};
use super::{Admin, Outcome};
use crate::error::Result;
use crate::filter::{Fields, Filter, Keys, VM_COUNTER_KEYS, Value};

/// What a virtual machine counted since it was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmCounters {
    /// The machine's name.
    pub name: String,
    /// The counters.
    pub counts: VmCounts,
}

impl Fields for VmCounters {
    fn keys() -> &'static Keys {
        &VM_COUNTER_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let number = |count| i64::try_from(count).map_or(Value::Null, Value::Integer);
        match key {
            "id" => Value::Integer(self.counts.vm_id.get()),
            "name" => Value::text(Some(&self.name)),
            "run_attempts" => number(self.counts.run_attempts),
            "run_ok" => number(self.counts.run_ok),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Admin {
    /// The virtual machines that match and that somebody is connected to, or about to be, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn sessions(&self, filter: &Filter) -> Result<Vec<Found<VmRow>>> {
        let mut vms = self.vms(filter).await?;
        vms.retain(|found| found.row.runtime().user_state != UserState::Disconnected);
        Ok(vms)
    }

    /// The virtual machines that match, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn vms(&self, filter: &Filter) -> Result<Vec<Found<VmRow>>> {
        let osfs = self.db.osfs().list().await?;
        let images = self.db.images().list().await?;
        let rows = self.db.vms().list().await?.into_iter().map(|overview| {
            let osf = osfs.iter().find(|osf| osf.id == overview.vm.osf_id).cloned();
            let tagged = |image: &&DiskImage| {
                image.osf_id == overview.vm.osf_id
                    && image.tags.iter().any(|tag| tag.tag == overview.vm.di_tag)
            };
            let di_id = images.iter().find(tagged).map(|image| image.id);
            VmRow { overview, osf, di_id }
        });
        self.select(rows.collect(), filter).await
    }

    /// Blocks or unblocks virtual machines: users cannot connect to a blocked one; sessions go on.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn block_vms(&self, vms: &[Found<VmRow>], blocked: bool) -> Result<()> {
        let ids: Vec<VmId> = vms.iter().map(|vm| vm.row.id()).collect();
        Ok(self.db.vms().set_all_blocked(&ids, blocked).await?)
    }

    /// Deletes virtual machines that are stopped; others are left alone. Their disks stay.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn delete_vms(&self, vms: &[Found<VmRow>]) -> Result<Outcome<VmId>> {
        let mut outcome = Outcome::default();
        for found in vms {
            let (id, name) = (found.row.id(), found.row.name());
            match self.db.vms().delete(id).await? {
                Guard::Updated(()) => outcome.done.push(id),
                Guard::Unchanged(()) => {
                    let now = self.db.vms().runtime(id).await?;
                    let reason = now.map_or_else(|| "deleted meanwhile".to_owned(), |now| busy(&now));
                    outcome.skip(id, name, reason);
                }
                Guard::NotFound => outcome.skip(id, name, "deleted meanwhile"),
            }
        }
        Ok(outcome)
    }

    /// The counters of virtual machines.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn vm_counters(&self, vms: &[Found<VmRow>]) -> Result<Vec<VmCounters>> {
        let counted = self.db.counters().vms().await?;
        let of = |id| counted.iter().find(|counts| counts.vm_id == id).copied();
        let rows = vms.iter().map(|found| &found.row);
        Ok(rows
            .filter_map(|vm| Some(VmCounters { name: vm.name().to_owned(), counts: of(vm.id())? }))
            .collect())
    }
}

/// Why a virtual machine cannot be deleted now.
fn busy(now: &VmRuntime) -> String {
    match (now.vm_state, now.vm_cmd, now.user_state) {
        (VmState::Stopped, Some(command), _) => format!("has a pending command ({command})"),
        (VmState::Stopped, None, UserState::Disconnected) => "changed meanwhile".to_owned(),
        (VmState::Stopped, None, session) => format!("has a user session ({session})"),
        (state, _, _) => format!("not stopped ({state})"),
    }
}
