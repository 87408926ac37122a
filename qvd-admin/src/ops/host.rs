//! Hosts.

use qvd_core::HostId;
use qvd_core::state::HostState;

use super::rows::{Found, HostRow};
use super::{Admin, Outcome};
use crate::error::{Error, Result};
use crate::filter::{Fields, Filter, HOST_COUNTER_KEYS, Keys, Value};

/// A host to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHost {
    /// Name; equals `nodename` in the host's configuration file.
    pub name: String,
    /// Address that routers and virtual machines reach it by.
    pub address: String,
    /// Whether it may run a router.
    pub frontend: bool,
    /// Whether it may run virtual machines.
    pub backend: bool,
}

/// What a host counted since it was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCounters {
    /// The host's name.
    pub name: String,
    /// The counters.
    pub counts: qvd_db::HostCounts,
}

impl Fields for HostCounters {
    fn keys() -> &'static Keys {
        &HOST_COUNTER_KEYS
    }

    fn field(&self, key: &str) -> Value<'_> {
        let number = |count| i64::try_from(count).map_or(Value::Null, Value::Integer);
        match key {
            "id" => Value::Integer(self.counts.host_id.get()),
            "name" => Value::text(Some(&self.name)),
            "http_requests" => number(self.counts.http_requests),
            "auth_attempts" => number(self.counts.auth_attempts),
            "auth_ok" => number(self.counts.auth_ok),
            "nx_attempts" => number(self.counts.nx_attempts),
            "nx_ok" => number(self.counts.nx_ok),
            "short_sessions" => number(self.counts.short_sessions),
            _ => Value::Null,
        }
    }

    fn property(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Admin {
    /// Adds a host: stopped, not blocked, counters at zero.
    ///
    /// # Errors
    ///
    /// Name or address empty or taken.
    pub async fn add_host(&self, host: NewHost) -> Result<HostId> {
        let name = named("name", &host.name, 127)?;
        let address = named("address", &host.address, 127)?;
        let new = qvd_db::NewHost {
            name: name.to_owned(),
            address: address.to_owned(),
            frontend: host.frontend,
            backend: host.backend,
        };
        self.db.hosts().add(new).await.map_err(|error| match error {
            qvd_db::Error::Duplicate { field, value } if field.contains("address") => {
                Error::Exists { field: "address", message: format!("host address '{value}' already in use") }
            }
            other => other.into(),
        })
    }

    /// The hosts that match, by id.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn hosts(&self, filter: &Filter) -> Result<Vec<Found<HostRow>>> {
        let now = self.now().timestamp();
        let rows = self.db.hosts().list().await?.into_iter().map(|host| HostRow { host, now });
        self.select(rows.collect(), filter).await
    }

    /// Blocks or unblocks hosts, all or none of them: a blocked host takes no new work, open sessions go on.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn block_hosts(&self, hosts: &[Found<HostRow>], blocked: bool) -> Result<()> {
        let ids: Vec<HostId> = hosts.iter().map(|host| host.row.host.id).collect();
        Ok(self.db.hosts().set_all_blocked(&ids, blocked).await?)
    }

    /// Deletes hosts, all or none of them.
    ///
    /// # Errors
    ///
    /// One of them has virtual machines or is not stopped; then nothing is deleted.
    pub async fn delete_hosts(&self, hosts: &[Found<HostRow>]) -> Result<Outcome<HostId>> {
        for Found { row: HostRow { host, .. }, .. } in hosts {
            if host.runtime.vms_assigned > 0 {
                let count = host.runtime.vms_assigned;
                let text = format!("host {} ({}) has {count} VMs assigned", host.id, host.name);
                return Err(Error::InUse(text));
            }
            if !matches!(host.runtime.state, HostState::Stopped | HostState::Lost) {
                let (id, name, state) = (host.id, &host.name, host.runtime.state);
                return Err(Error::InvalidState(format!("host {id} ({name}) is {state}; stop it first")));
            }
        }
        let ids: Vec<HostId> = hosts.iter().map(|host| host.row.host.id).collect();
        let done = self.db.hosts().delete_all(&ids).await?;
        Ok(Outcome { done, ..Outcome::default() })
    }

    /// The counters of hosts.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn host_counters(&self, hosts: &[Found<HostRow>]) -> Result<Vec<HostCounters>> {
        let counted = self.db.counters().hosts().await?;
        let of = |id| counted.iter().find(|counts| counts.host_id == id).copied();
        let rows = hosts.iter().map(|found| &found.row.host);
        Ok(rows
            .filter_map(|host| Some(HostCounters { name: host.name.clone(), counts: of(host.id)? }))
            .collect())
    }
}

/// A name that is neither empty nor longer than its column.
pub(super) fn named<'a>(field: &'static str, text: &'a str, longest: usize) -> Result<&'a str> {
    if text.trim().is_empty() {
        return Err(Error::invalid(field, format!("{field} can not be empty")));
    }
    if text.chars().count() > longest {
        return Err(Error::invalid(field, format!("{field} can not be longer than {longest} characters")));
    }
    Ok(text)
}
