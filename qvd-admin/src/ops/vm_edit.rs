//! Changing virtual machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use jiff::{Timestamp, Zoned};
use qvd_core::{OsfId, UserId};
use qvd_db::{LimitChange, VmChanges};

use super::Admin;
use super::host::named;
use super::image::check_tag;
use super::rows::{Found, VmRow};
use super::vm_add::{OsfRef, UserRef, taken};
use crate::error::{Error, Result};

/// Changes of virtual machines. What is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmEdit {
    /// Name; for one machine only.
    pub name: Option<String>,
    /// Tag of the image to start from.
    pub di_tag: Option<String>,
    /// Address, for one machine only; the inner none takes it away.
    pub ip: Option<Option<Ipv4Addr>>,
    /// Owner; stopped machines only.
    pub user: Option<UserRef>,
    /// Flavour; stopped machines only.
    pub osf: Option<OsfRef>,
    /// When the user is asked to leave; the inner none takes the limit away.
    pub soft: Option<Option<Timestamp>>,
    /// When the machine is stopped; the inner none takes the limit away.
    pub hard: Option<Option<Timestamp>>,
}

impl VmEdit {
    /// Reads changes from `name=value` pairs; times are in the time language, seen from `now`.
    ///
    /// # Errors
    ///
    /// No pair; one that cannot be edited; a value that is none.
    pub fn read(pairs: &BTreeMap<String, String>, now: &Zoned) -> Result<Self> {
        if pairs.is_empty() {
            return Err(Error::Invalid { field: None, message: "nothing to edit".to_owned() });
        }
        let mut edit = Self::default();
        for (key, value) in pairs {
            match key.as_str() {
                "name" => edit.name = Some(value.clone()),
                "di_tag" => edit.di_tag = Some(value.clone()),
                "ip" => edit.ip = Some(address(value)?),
                "user" => edit.user = Some(UserRef::Login(value.clone())),
                "user_id" => edit.user = Some(UserRef::Id(UserId::new(id("user_id", value)?))),
                "osf" => edit.osf = Some(OsfRef::Name(value.clone())),
                "osf_id" => edit.osf = Some(OsfRef::Id(OsfId::new(id("osf_id", value)?))),
                "expire-soft" => edit.soft = Some(limit(value, now)?),
                "expire-hard" => edit.hard = Some(limit(value, now)?),
                other => {
                    let message = format!("'{other}' can not be edited");
                    return Err(Error::Invalid { field: None, message });
                }
            }
        }
        Ok(edit)
    }
}

impl Admin {
    /// Changes virtual machines, all of them or none. Answers how many.
    ///
    /// # Errors
    ///
    /// A name or address for several machines, or one that is taken; no such user or flavour; owner or flavour of a
    /// machine that is not stopped.
    pub async fn edit_vms(&self, vms: &[Found<VmRow>], edit: VmEdit) -> Result<u64> {
        for (field, given) in [("name", edit.name.is_some()), ("ip", matches!(edit.ip, Some(Some(_))))] {
            if given && vms.len() > 1 {
                let message = format!("'{field}' can not be set for {} VMs at once", vms.len());
                return Err(Error::invalid(field, message));
            }
        }
        if let Some(name) = &edit.name {
            named("name", name, 64)?;
        }
        if let Some(tag) = &edit.di_tag {
            check_tag(tag)?;
        }
        let changes = VmChanges {
            user_id: match &edit.user {
                Some(user) => Some(self.owner(user).await?),
                None => None,
            },
            osf_id: match &edit.osf {
                Some(osf) => Some(self.osf(osf).await?.id),
                None => None,
            },
            name: edit.name,
            di_tag: edit.di_tag,
            ip: edit.ip.map(|ip| ip.map(|ip| ip.to_string())),
            soft: change(edit.soft),
            hard: change(edit.hard),
        };
        let ids: Vec<_> = vms.iter().map(|found| found.row.id()).collect();
        self.db.vms().edit(&ids, &changes).await.map_err(taken)
    }
}

fn change(limit: Option<Option<Timestamp>>) -> LimitChange {
    match limit {
        None => LimitChange::Keep,
        Some(None) => LimitChange::Clear,
        Some(Some(time)) => LimitChange::Set(SystemTime::from(time)),
    }
}

fn limit(text: &str, now: &Zoned) -> Result<Option<Timestamp>> {
    if text.is_empty() { Ok(None) } else { Ok(Some(crate::at::parse(text, now)?)) }
}

fn address(text: &str) -> Result<Option<Ipv4Addr>> {
    match text.trim() {
        "" => Ok(None),
        text => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(Error::invalid("ip", format!("'{text}' is not an IPv4 address"))),
        },
    }
}

fn id(field: &'static str, text: &str) -> Result<i64> {
    let wrong = |_| Error::invalid(field, format!("invalid value '{text}' for '{field}': integer expected"));
    text.trim().parse().map_err(wrong)
}
