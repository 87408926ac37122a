//! What lists of virtual machines show: the machine and the names of what it refers to.

use std::time::SystemTime;

use qvd_core::VmId;
use qvd_core::model::{Vm, VmRuntime};

use super::{Vms, both};
use crate::error::Result;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// A virtual machine with the names of what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmOverview {
    /// Its static part.
    pub vm: Vm,
    /// Its run-time row.
    pub runtime: VmRuntime,
    /// Login of its owner.
    pub user_login: String,
    /// Name of its flavour.
    pub osf_name: String,
    /// Name of the host it is assigned to.
    pub host_name: Option<String>,
    /// Login of the user who connected last.
    pub real_user_login: Option<String>,
    /// Version of the image that its tag names now.
    pub di_version: Option<String>,
    /// Version of the image it runs from.
    pub running_di_version: Option<String>,
    /// Name of the host whose router carries the session.
    pub l7r_host_name: Option<String>,
    /// When its user will be asked to leave.
    pub expires_soft: Option<SystemTime>,
    /// When it will be stopped.
    pub expires_hard: Option<SystemTime>,
    /// When its state last changed.
    pub vm_state_since: Option<SystemTime>,
    /// When its session's state last changed.
    pub user_state_since: Option<SystemTime>,
    /// Address of the connected user.
    pub user_ip: Option<String>,
    /// Who blocked it: `admin` or `hkd`.
    pub blocked_by: Option<String>,
    /// Process id of the run on its host.
    pub vm_pid: Option<i64>,
    /// When its agent last answered.
    pub vma_ok_at: Option<SystemTime>,
    /// Port of its secure shell; none or 0 without.
    pub ssh_port: Option<u16>,
    /// Port of its screen on the host; none or 0 without.
    pub vnc_port: Option<u16>,
    /// Port of its serial line on the host; none or 0 without.
    pub serial_port: Option<u16>,
    /// Port of its monitor on the host; none or 0 without.
    pub monitor_port: Option<u16>,
}

impl Vms<'_> {
    /// All virtual machines, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn list(self) -> Result<Vec<VmOverview>> {
        self.overviews(None).await
    }

    /// One virtual machine as lists show it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn overview(self, id: VmId) -> Result<Option<VmOverview>> {
        Ok(self.overviews(Some(id)).await?.pop())
    }

    async fn overviews(self, only: Option<VmId>) -> Result<Vec<VmOverview>> {
        const LIST: Sql = sql!("list VMs":
            "select " VM ", " RUNTIME ",
                    (select u.login from users u where u.id = v.user_id) as user_login,
                    (select o.name from osfs o where o.id = v.osf_id) as osf_name,
                    (select h.name from hosts h where h.id = host_id) as host_name,
                    (select u.login from users u where u.id = real_user_id) as real_user_login,
                    (select d.version from di_tags t join dis d on d.id = t.di_id
                      where t.osf_id = v.osf_id and t.tag = v.di_tag) as di_version,
                    (select d.version from dis d where d.id = current_di_id) as running_di_version,
                    (select h.name from hosts h where h.id = l7r_host_id) as l7r_host_name,
                    vm_expiration_soft, vm_expiration_hard, vm_state_ts, user_state_ts, user_ip, blocked_by,
                    vm_pid, vma_ok_ts, vm_ssh_port, vm_vnc_port, vm_serial_port, vm_mon_port
             from vms v join vm_runtimes on vm_id = v.id
             where v.deleted_at is null and ($1 or v.id = $2) order by v.id");
        self.db.read(&LIST, params![only.is_none(), only]).await?.iter().map(overview).collect()
    }
}

fn overview(row: &Row) -> Result<VmOverview> {
    let (vm, runtime) = both(row)?;
    Ok(VmOverview {
        vm,
        runtime,
        user_login: row.get("user_login")?,
        osf_name: row.get("osf_name")?,
        host_name: row.find("host_name")?,
        real_user_login: row.find("real_user_login")?,
        di_version: row.find("di_version")?,
        running_di_version: row.find("running_di_version")?,
        l7r_host_name: row.find("l7r_host_name")?,
        expires_soft: row.find("vm_expiration_soft")?,
        expires_hard: row.find("vm_expiration_hard")?,
        vm_state_since: row.find("vm_state_ts")?,
        user_state_since: row.find("user_state_ts")?,
        user_ip: row.find("user_ip")?,
        blocked_by: row.find("blocked_by")?,
        vm_pid: row.find("vm_pid")?,
        vma_ok_at: row.find("vma_ok_ts")?,
        ssh_port: row.find("vm_ssh_port")?,
        vnc_port: row.find("vm_vnc_port")?,
        serial_port: row.find("vm_serial_port")?,
        monitor_port: row.find("vm_mon_port")?,
    })
}
