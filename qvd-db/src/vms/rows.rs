//! How rows of virtual machines are read.

use qvd_core::model::{Vm, VmRuntime};
use qvd_core::state::VmState;
use qvd_core::{RunId, VmId};

use crate::error::Result;
use crate::row::Row;

/// Columns of `VM`.
pub(crate) fn vm(row: &Row) -> Result<Vm> {
    Ok(Vm {
        id: row.get("id")?,
        tenant_id: row.get("tenant_id")?,
        name: row.get("name")?,
        user_id: row.get("user_id")?,
        osf_id: row.get("osf_id")?,
        di_tag: row.get("di_tag")?,
        ip: row.find("ip")?,
        storage: row.find("storage")?,
    })
}

/// Columns of `RUNTIME`.
pub(crate) fn runtime(row: &Row) -> Result<VmRuntime> {
    Ok(VmRuntime {
        vm_id: row.get("vm_id")?,
        host_id: row.find("host_id")?,
        run_id: row.get("run_id")?,
        host_incarnation: row.find("host_incarnation")?,
        vm_state: row.get("vm_state")?,
        vm_phase: row.find("vm_phase")?,
        vm_cmd: row.find("vm_cmd")?,
        current_di_id: row.find("current_di_id")?,
        vm_address: row.find("vm_address")?,
        vm_vma_port: row.find("vm_vma_port")?,
        vm_x_port: row.find("vm_x_port")?,
        blocked: row.get("blocked")?,
        blocked_reason: row.find("blocked_reason")?,
        fail_count: row.get("fail_count")?,
        last_error: row.find("last_error")?,
        user_state: row.get("user_state")?,
        user_cmd: row.find("user_cmd")?,
        real_user_id: row.find("real_user_id")?,
        l7r_host_id: row.find("l7r_host_id")?,
        session_id: row.find("session_id")?,
    })
}

/// Payload of [`Channel::VmState`](crate::Channel::VmState): `vm_id:run_id:state`.
pub(crate) fn state_payload(row: &Row) -> Result<String> {
    let (vm, run): (VmId, RunId) = (row.get("vm_id")?, row.get("run_id")?);
    let state: VmState = row.get("vm_state")?;
    Ok(format!("{vm}:{run}:{state}"))
}
