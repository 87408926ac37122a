//! New virtual machines and their addresses.

use std::net::Ipv4Addr;

use qvd_core::model::Osf;
use qvd_core::{OsfId, UserId, VmId};
use qvd_db::AddressRange;

use super::Admin;
use super::host::named;
use crate::error::{Error, Result};

/// Which user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// By id.
    Id(UserId),
    /// By login.
    Login(String),
}

/// Which flavour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsfRef {
    /// By id.
    Id(OsfId),
    /// By name.
    Name(String),
}

/// Virtual machines to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVms {
    /// Name; with `count` the beginning of each name.
    pub name: String,
    /// Owner.
    pub user: UserRef,
    /// Flavour.
    pub osf: OsfRef,
    /// Tag of the image to start from.
    pub di_tag: Option<String>,
    /// Address; none: the highest free one, if its driver needs one.
    pub ip: Option<Ipv4Addr>,
    /// Make this many, named `NAME-0`, `NAME-1`, …
    pub count: Option<u32>,
}

/// More at once is a slip of the finger.
const MOST_AT_ONCE: u32 = 10_000;

impl Admin {
    /// Adds virtual machines: stopped, nobody connected, not blocked. Answers their ids and what the administrator
    /// should know.
    ///
    /// # Errors
    ///
    /// No such user or flavour; name or address taken; no free address; an address needed and no range configured.
    pub async fn add_vms(&self, new: NewVms) -> Result<(Vec<VmId>, Vec<String>)> {
        named("name", &new.name, 64)?;
        let osf = self.osf(&new.osf).await?;
        let user_id = self.owner(&new.user).await?;
        let di_tag = new.di_tag.clone().filter(|tag| !tag.is_empty()).unwrap_or_else(|| "default".to_owned());
        super::image::check_tag(&di_tag)?;
        let mut warnings = Vec::new();
        if self.db.images().resolve(osf.id, &di_tag).await?.is_none() {
            warnings.push(format!("OSF {} has no DI with the tag {di_tag} yet", osf.name));
        }
        if let (Some(ip), Ok(range)) = (new.ip, self.address_range())
            && !(range.first..=range.last).contains(&ip)
        {
            let AddressRange { first, last, .. } = range;
            warnings.push(format!("{ip} is outside of the range of the VMs ({first} to {last})"));
        }
        let names = match new.count {
            None => vec![new.name.clone()],
            Some(count @ 1..=MOST_AT_ONCE) => (0..count).map(|n| format!("{}-{n}", new.name)).collect(),
            Some(_) => return Err(Error::invalid("bulk", format!("bulk must be from 1 to {MOST_AT_ONCE}"))),
        };
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let vm = qvd_db::NewVm { name, user_id, osf_id: osf.id, di_tag: di_tag.clone(), ip: None };
            match self.add_vm(vm, new.ip, &osf).await {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.take_back(&ids).await;
                    return Err(error);
                }
            }
        }
        Ok((ids, warnings))
    }

    /// The flavour, or `NAME: No such OSF`.
    pub(super) async fn osf(&self, osf: &OsfRef) -> Result<Osf> {
        let found = match osf {
            OsfRef::Id(id) => self.db.osfs().load(*id).await?.ok_or_else(|| id.to_string()),
            OsfRef::Name(name) => {
                self.db.osfs().by_name(self.tenant(), name).await?.ok_or_else(|| name.clone())
            }
        };
        found.map_err(|name| Error::NotFound(format!("{name}: No such OSF")))
    }

    pub(super) async fn owner(&self, user: &UserRef) -> Result<UserId> {
        let found = match user {
            UserRef::Id(id) => self.db.users().load(*id).await?.ok_or_else(|| id.to_string()),
            UserRef::Login(login) => {
                let normal = self.normal_login(login);
                self.db.users().by_login(self.tenant(), &normal).await?.ok_or_else(|| login.clone())
            }
        };
        found.map(|user| user.id).map_err(|name| Error::NotFound(format!("{name}: No such user")))
    }

    fn needs_address(&self, osf: &Osf) -> bool {
        osf.needs_address(&self.config.text("vm.hypervisor"))
    }

    async fn add_vm(&self, vm: qvd_db::NewVm, ip: Option<Ipv4Addr>, osf: &Osf) -> Result<VmId> {
        if ip.is_none() && self.needs_address(osf) {
            return self.add_with_address(vm).await;
        }
        let vm = qvd_db::NewVm { ip: ip.map(|ip| ip.to_string()), ..vm };
        self.db.vms().add(vm).await.map_err(taken)
    }

    /// All or none: those of a series that were added before one failed go again. What somebody has started in the
    /// meantime stays, as does everything when the database is away.
    async fn take_back(&self, ids: &[VmId]) {
        for id in ids {
            let _ = self.db.vms().delete(*id).await;
        }
    }

    async fn add_with_address(&self, vm: qvd_db::NewVm) -> Result<VmId> {
        let added = self.db.vms().add_with_address(vm, &self.address_range()?).await;
        added.map_err(|error| match error {
            // The one thing that this call refuses.
            qvd_db::Error::Refused { .. } => Error::NoFreeAddress,
            other => taken(other),
        })
    }

    fn address_range(&self) -> Result<AddressRange> {
        Ok(AddressRange::from_config(&self.config)?)
    }
}

pub(super) fn taken(error: qvd_db::Error) -> Error {
    match error {
        qvd_db::Error::Duplicate { field: "VM address", value } => {
            Error::Exists { field: "ip", message: format!("IP address '{value}' already in use") }
        }
        other => other.into(),
    }
}
