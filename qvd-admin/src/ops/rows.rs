//! What lists show: rows of the database with what a reader wants beside them, and their fields by name.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use qvd_core::model::{DiskImage, Host, Osf, Properties, User, VmRuntime};
use qvd_core::units::Mebibytes;
use qvd_core::{DiId, VmId};
use qvd_db::{Owner, VmOverview};

use super::property::Owned;
use crate::filter::{DI_KEYS, Fields, HOST_KEYS, Keys, OSF_KEYS, USER_KEYS, VM_KEYS, Value};

/// A row that a filter selected, with its properties when the filter asked for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// The row.
    pub row: T,
    /// Its properties; empty when the filter asked for none.
    pub properties: Properties,
}

impl<T: Owned> Fields for Found<T> {
    fn keys() -> &'static Keys {
        T::keys()
    }

    fn field(&self, key: &str) -> Value<'_> {
        self.row.field(key)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str)
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRow {
    /// The host.
    pub host: Host,
    /// When it was looked at.
    pub now: Timestamp,
}

impl HostRow {
    /// How long the host has not reported; none when it never did.
    pub fn silence(&self) -> Option<Duration> {
        let reported = self.host.runtime.ok_ts?;
        Some(SystemTime::from(self.now).duration_since(reported).unwrap_or_default())
    }
}

impl Fields for HostRow {
    fn keys() -> &'static Keys {
        &HOST_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let Host { id, name, address, frontend, backend, hypervisors, runtime } = &self.host;
        match key {
            "id" => Value::Integer(id.get()),
            "name" => Value::text(Some(name)),
            "address" => Value::text(Some(address)),
            "frontend" => Value::Flag(*frontend),
            "backend" => Value::Flag(*backend),
            "state" => Value::text(Some(runtime.state.as_str())),
            "blocked" => Value::Flag(runtime.blocked),
            "usable_ram" => Value::integer(runtime.usable_ram.and_then(|ram| i64::try_from(ram.0).ok())),
            "usable_cpu" => runtime.usable_cpu.map_or(Value::Null, Value::Number),
            "vms_assigned" => Value::Integer(runtime.vms_assigned.into()),
            "hypervisors" if hypervisors.is_empty() => Value::Null,
            "hypervisors" => Value::Text(hypervisors.join(",").into()),
            "pid" => Value::integer(runtime.pid),
            "ok_ts" => time(runtime.ok_ts),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Owned for HostRow {
    fn owner(&self) -> Owner {
        Owner::Host(self.host.id)
    }

    fn label(&self) -> &str {
        &self.host.name
    }
}

/// An operating system flavour.
#[derive(Clone, Debug, PartialEq)]
pub struct OsfRow {
    /// The flavour.
    pub osf: Osf,
}

impl Fields for OsfRow {
    fn keys() -> &'static Keys {
        &OSF_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        match key {
            "id" => Value::Integer(self.osf.id.get()),
            "name" => Value::text(Some(&self.osf.name)),
            "hypervisor" => Value::text(self.osf.hypervisor.as_deref()),
            key => flavour_field(&self.osf, key),
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Owned for OsfRow {
    fn owner(&self) -> Owner {
        Owner::Osf(self.osf.id)
    }

    fn label(&self) -> &str {
        &self.osf.name
    }
}

/// A disk image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// The image.
    pub image: DiskImage,
    /// Name of its flavour.
    pub osf: Option<String>,
}

impl Fields for ImageRow {
    fn keys() -> &'static Keys {
        &DI_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let DiskImage { id, osf_id, path, version, format, tags, .. } = &self.image;
        match key {
            "id" => Value::Integer(id.get()),
            "osf_id" => Value::Integer(osf_id.get()),
            "osf" => Value::text(self.osf.as_deref()),
            "path" => Value::text(Some(path)),
            "version" => Value::text(Some(version)),
            "format" => Value::text(Some(format)),
            "tag" => Value::AnyOf(tags.iter().map(|tag| Value::text(Some(&tag.tag))).collect()),
            "fixed" => Value::AnyOf(tags.iter().map(|tag| Value::Flag(tag.fixed)).collect()),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Owned for ImageRow {
    fn owner(&self) -> Owner {
        Owner::Di(self.image.id)
    }

    fn label(&self) -> &str {
        &self.image.path
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// The user.
    pub user: User,
}

impl Fields for UserRow {
    fn keys() -> &'static Keys {
        &USER_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        match key {
            "id" => Value::Integer(self.user.id.get()),
            "login" => Value::text(Some(&self.user.login)),
            "blocked" => Value::Flag(self.user.blocked),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Owned for UserRow {
    fn owner(&self) -> Owner {
        Owner::User(self.user.id)
    }

    fn label(&self) -> &str {
        &self.user.login
    }
}

fn flavour_field<'a>(osf: &'a Osf, key: &str) -> Value<'a> {
    match key {
        "memory" => Value::integer(i64::try_from(osf.memory.0).ok()),
        "use_overlay" => Value::Flag(osf.use_overlay),
        "user_storage_size" => Value::integer(osf.home.and_then(|home| i64::try_from(home.bytes()).ok())),
        _ => Value::Null,
    }
}

pub(super) fn time(moment: Option<SystemTime>) -> Value<'static> {
    moment.and_then(|moment| Timestamp::try_from(moment).ok()).map_or(Value::Null, Value::Time)
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    /// The machine with the names of what it refers to.
    pub overview: VmOverview,
    /// Its flavour.
    pub osf: Option<Osf>,
    /// The image that its tag names now.
    pub di_id: Option<DiId>,
}

impl VmRow {
    /// Its id.
    pub fn id(&self) -> VmId {
        self.overview.vm.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.overview.vm.name
    }

    /// Its run-time row.
    pub fn runtime(&self) -> &VmRuntime {
        &self.overview.runtime
    }

    /// The driver that its flavour asks for.
    pub fn hypervisor(&self) -> Option<&str> {
        self.osf.as_ref()?.hypervisor.as_deref()
    }

    /// Memory that its flavour gives it.
    pub fn memory(&self) -> Option<Mebibytes> {
        Some(self.osf.as_ref()?.memory)
    }

    fn static_field(&self, key: &str) -> Option<Value<'_>> {
        let VmOverview { vm, user_login, osf_name, di_version, .. } = &self.overview;
        Some(match key {
            "id" => Value::Integer(vm.id.get()),
            "name" => Value::text(Some(&vm.name)),
            "user_id" => Value::Integer(vm.user_id.get()),
            "user" => Value::text(Some(user_login)),
            "osf_id" => Value::Integer(vm.osf_id.get()),
            "osf" => Value::text(Some(osf_name)),
            "di_tag" => Value::text(Some(&vm.di_tag)),
            "di_id" => Value::integer(self.di_id.map(|id| id.get())),
            "di" => Value::text(di_version.as_deref()),
            "ip" => Value::text(vm.ip.as_deref()),
            "storage" => Value::text(vm.storage.as_deref()),
            "memory" | "use_overlay" | "user_storage_size" => {
                self.osf.as_ref().map_or(Value::Null, |osf| flavour_field(osf, key))
            }
            _ => return None,
        })
    }

    fn run_field(&self, key: &str) -> Option<Value<'_>> {
        let row = self.runtime();
        let port = |port: Option<u16>| Value::integer(port.map(i64::from));
        Some(match key {
            "host_id" => Value::integer(row.host_id.map(|id| id.get())),
            "host" => Value::text(self.overview.host_name.as_deref()),
            "state" => Value::text(Some(row.vm_state.as_str())),
            "vm_phase" => Value::text(row.vm_phase.map(|phase| phase.as_str())),
            "vm_cmd" => Value::text(row.vm_cmd.map(|command| command.as_str())),
            "vm_state_ts" => time(self.overview.vm_state_since),
            "current_di_id" => Value::integer(row.current_di_id.map(|id| id.get())),
            "running_di" => Value::text(self.overview.running_di_version.as_deref()),
            "vm_address" => Value::text(row.vm_address.as_deref()),
            "vm_pid" => Value::integer(self.overview.vm_pid),
            "vma_ok_ts" => time(self.overview.vma_ok_at),
            "vm_ssh_port" => port(self.overview.ssh_port),
            "vm_vnc_port" => port(self.overview.vnc_port),
            "vm_serial_port" => port(self.overview.serial_port),
            "vm_mon_port" => port(self.overview.monitor_port),
            "vm_vma_port" => port(row.vm_vma_port),
            "vm_x_port" => port(row.vm_x_port),
            "blocked" => Value::Flag(row.blocked),
            "blocked_by" => Value::text(self.overview.blocked_by.as_deref()),
            "blocked_reason" => Value::text(row.blocked_reason.as_deref()),
            "last_error" => Value::text(row.last_error.as_deref()),
            "vm_expiration_soft" => time(self.overview.expires_soft),
            "vm_expiration_hard" => time(self.overview.expires_hard),
            _ => return None,
        })
    }

    fn session_field(&self, key: &str) -> Option<Value<'_>> {
        let row = self.runtime();
        Some(match key {
            "user_state" => Value::text(Some(row.user_state.as_str())),
            "user_cmd" => Value::text(row.user_cmd.map(|command| command.as_str())),
            "user_state_ts" => time(self.overview.user_state_since),
            "user_ip" => Value::text(self.overview.user_ip.as_deref()),
            "real_user_id" => Value::integer(row.real_user_id.map(|id| id.get())),
            "real_user" => Value::text(self.overview.real_user_login.as_deref()),
            "l7r_host_id" => Value::integer(row.l7r_host_id.map(|id| id.get())),
            "l7r" => Value::text(self.overview.l7r_host_name.as_deref()),
            _ => return None,
        })
    }
}

impl Fields for VmRow {
    fn keys() -> &'static Keys {
        &VM_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let parts = [Self::static_field, Self::run_field, Self::session_field];
        parts.iter().find_map(|part| part(self, key)).unwrap_or(Value::Null)
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Owned for VmRow {
    fn owner(&self) -> Owner {
        Owner::Vm(self.id())
    }

    fn label(&self) -> &str {
        self.name()
    }
}
