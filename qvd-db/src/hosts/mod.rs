//! Hosts: their static part and their run-time row.

mod liveness;
mod release;
mod take_over;

use qvd_core::HostId;
use qvd_core::balance::HostSnapshot;
use qvd_core::model::{Host, HostRuntime};
use qvd_core::state::{HostCommand, HostState};
use qvd_core::units::Mebibytes;

pub use liveness::{HostLoad, StateSaved};
pub use release::{Released, Seen};
pub use take_over::{TakeOver, TakenOver};

use crate::db::{Db, Tx, transaction};
use crate::error::{Error, Result};
use crate::events::{self, NewEvent};
use crate::guard::Guard;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;
use crate::vms::BlockedBy;

/// A host to be added.
#[derive(Clone, Debug)]
pub struct NewHost {
    /// Name; equals `nodename` in that node's configuration file.
    pub name: String,
    /// Address, as text.
    pub address: String,
    /// Whether it may run a router.
    pub frontend: bool,
    /// Whether it may run virtual machines.
    pub backend: bool,
}

/// Hosts of a database.
#[derive(Clone, Copy, Debug)]
pub struct Hosts<'db> {
    db: &'db Db,
}

impl Db {
    /// Hosts.
    pub fn hosts(&self) -> Hosts<'_> {
        Hosts { db: self }
    }
}

impl Hosts<'_> {
    /// Adds a host: stopped, not blocked, counters at zero.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] of `host name` or `host address`.
    pub async fn add(self, host: NewHost) -> Result<HostId> {
        const INSERT: Sql = sql!("add a host":
            "insert into hosts (name, address, frontend, backend) values ($1, $2, $3, $4) returning id");
        const RUNTIME: Sql =
            sql!("add a host": "insert into host_runtimes (host_id, state_ts) values ($1, " NOW ")");
        const COUNTERS: Sql = sql!("add a host": "insert into host_counters (host_id) values ($1)");
        let NewHost { name, address, frontend, backend } = &host;
        let added = transaction!(self.db, |tx| {
            let row = tx.rows(&INSERT, params![name, address, *frontend, *backend]).await?;
            let id: HostId = only(row)?.get("id")?;
            tx.rows(&RUNTIME, params![id]).await?;
            tx.rows(&COUNTERS, params![id]).await?;
            Ok(id)
        });
        added.map_err(|e| {
            e.or_duplicate(("hosts", "name"), "host name", name)
                .or_duplicate(("hosts", "address"), "host address", address)
                .or_invalid("a host's name and address have 1 to 127 characters")
        })
    }

    /// All hosts, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn list(self) -> Result<Vec<Host>> {
        const LIST: Sql = sql!("list hosts":
            "select " HOST " from hosts h join host_runtimes r on r.host_id = h.id order by h.id");
        self.db.read(&LIST, params![]).await?.iter().map(host).collect()
    }

    /// The host of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn by_name(self, name: &str) -> Result<Option<Host>> {
        const BY_NAME: Sql = sql!("load a host":
            "select " HOST " from hosts h join host_runtimes r on r.host_id = h.id where h.name = $1");
        self.db.read_one(&BY_NAME, params![name]).await?.as_ref().map(host).transpose()
    }

    /// The host of that id.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn load(self, id: HostId) -> Result<Option<Host>> {
        const BY_ID: Sql = sql!("load a host":
            "select " HOST " from hosts h join host_runtimes r on r.host_id = h.id where h.id = $1");
        self.db.read_one(&BY_ID, params![id]).await?.as_ref().map(host).transpose()
    }

    /// Blocks or unblocks a host and tells it. Unblocking also forgets its failures. Sessions go on.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_blocked(self, id: HostId, blocked: bool) -> Result<Guard<()>> {
        transaction!(self.db, |tx| { block_one(tx, id, blocked).await })
    }

    /// As [`Hosts::set_blocked`] for several hosts, all of them or none. One that is not there is passed over.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn set_all_blocked(self, ids: &[HostId], blocked: bool) -> Result<()> {
        transaction!(self.db, |tx| {
            for id in ids {
                let _ = block_one(tx, *id, blocked).await?;
            }
            Ok(())
        })
    }

    /// Orders the daemon of a host to do something.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn order(self, id: HostId, command: HostCommand) -> Result<Guard<()>> {
        const ORDER: Sql = sql!("order a host":
            "update host_runtimes set cmd = $2, version = version + 1 where host_id = $1 returning host_id");
        transaction!(self.db, |tx| {
            let Some(_) = tx.row(&ORDER, params![id, command]).await? else { return Ok(Guard::NotFound) };
            tx.notify(Channel::HostCommands(id), String::new());
            Ok(Guard::Updated(()))
        })
    }

    /// Deletes a host that is stopped or lost and to which nothing is assigned.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while virtual machines or sessions are on it, [`Error::Refused`] while it is not stopped.
    pub async fn delete(self, id: HostId) -> Result<Guard<()>> {
        transaction!(self.db, |tx| { delete_one(tx, id).await })
    }

    /// As [`Hosts::delete`] for several hosts, all of them or none; yields those that were there.
    ///
    /// # Errors
    ///
    /// As [`Hosts::delete`].
    pub async fn delete_all(self, ids: &[HostId]) -> Result<Vec<HostId>> {
        transaction!(self.db, |tx| {
            let mut deleted = Vec::new();
            for id in ids {
                if delete_one(tx, *id).await?.is_updated() {
                    deleted.push(*id);
                }
            }
            Ok(deleted)
        })
    }

    /// Hosts on which a virtual machine may be started now: running, meant for it, not blocked, their lease not run
    /// out, and with the driver; when none is named, with one of its own for that. A host that has used up three
    /// quarters of its lease is left out: it is in trouble, and its lease was long enough for several reports.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub async fn candidates(self, driver: Option<&str>) -> Result<Vec<HostSnapshot>> {
        const CANDIDATES: Sql = sql!("list hosts for a VM":
            "select h.id, h.name, h.hypervisors, r.default_hypervisor, r.usable_ram_mib, r.usable_cpu,
                    coalesce(a.vms, 0) as vms, coalesce(a.memory_mib, 0) as assigned_mib
             from hosts h join host_runtimes r on r.host_id = h.id
             left join (select v.host_id, count(*) as vms, cast(sum(o.memory_mib) as bigint) as memory_mib
                        from vm_runtimes v join vms m on m.id = v.vm_id join osfs o on o.id = m.osf_id
                        where v.host_id is not null group by v.host_id) a on a.host_id = h.id
             where r.state = 'running' and h.backend and not r.blocked
               and r.lease_until > " NOW " and r.lease_until - " NOW " > (r.lease_until - r.ok_ts) / 4
             order by h.id");
        const PROPERTIES: Sql =
            sql!("load host properties": "select host_id, key, value from host_properties");
        let rows = self.db.read(&CANDIDATES, params![]).await?;
        let mut hosts = Vec::with_capacity(rows.len());
        for row in &rows {
            let suits = match driver {
                Some(driver) => drivers(row)?.iter().any(|published| published == driver),
                None => row.find::<String>("default_hypervisor")?.is_some(),
            };
            if !suits {
                continue;
            }
            let ram = row.find::<Mebibytes>("usable_ram_mib")?.map_or(0.0, |ram| ram.0 as f64);
            let cpu = row.find("usable_cpu")?.unwrap_or(0.0);
            let host = HostSnapshot::new(row.get("id")?, row.get::<String>("name")?);
            let assigned: Mebibytes = row.get("assigned_mib")?;
            let host = host.with_capacity(ram, cpu).with_vms(row.get("vms")?);
            hosts.push(host.with_assigned_ram(assigned.0 as f64));
        }
        for row in self.db.read(&PROPERTIES, params![]).await? {
            let id: HostId = row.get("host_id")?;
            if let Some(host) = hosts.iter_mut().find(|host| host.id == id) {
                host.properties.insert(row.get("key")?, row.get("value")?);
            }
        }
        Ok(hosts)
    }
}

async fn block_one(tx: &mut Tx, id: HostId, blocked: bool) -> Result<Guard<()>> {
    const LOCK: Sql = sql!("look at the host's row":
        "select blocked from host_runtimes where host_id = $1" FOR_UPDATE);
    const BLOCK: Sql = sql!("block a host":
        "update host_runtimes set blocked = true, blocked_by = coalesce(blocked_by, 'admin'), version = version + 1
         where host_id = $1");
    const UNBLOCK: Sql = sql!("unblock a host":
        "update host_runtimes set blocked = false, blocked_by = null, blocked_reason = null, fail_count = 0,
                version = version + 1
         where host_id = $1");
    let Some(row) = tx.row(&LOCK, params![id]).await? else { return Ok(Guard::NotFound) };
    tx.rows(if blocked { &BLOCK } else { &UNBLOCK }, params![id]).await?;
    if row.get::<bool>("blocked")? != blocked {
        let event = NewEvent { host_id: Some(id), ..NewEvent::block(blocked, BlockedBy::Admin, None) };
        events::write(tx, &event).await?;
    }
    tx.notify(Channel::HostCommands(id), String::new());
    Ok(Guard::Updated(()))
}

async fn delete_one(tx: &mut Tx, id: HostId) -> Result<Guard<()>> {
    // Locked against a daemon that takes the host over and a claim that chooses it.
    const LOCK: Sql =
        sql!("look at the host's row": "select state from host_runtimes where host_id = $1" FOR_UPDATE);
    const LOOK: Sql = sql!("look at a host":
        "select h.name,
                (select count(*) from vm_runtimes v where v.host_id = h.id) as vms,
                (select count(*) from vm_runtimes v where v.l7r_host_id = h.id) as sessions
         from hosts h where h.id = $1");
    const DELETE: Sql = sql!("delete a host": "delete from hosts where id = $1");
    let Some(locked) = tx.row(&LOCK, params![id]).await? else { return Ok(Guard::NotFound) };
    let row = only(tx.rows(&LOOK, params![id]).await?)?;
    let subject = format!("host {id} ({})", row.get::<String>("name")?);
    let (vms, sessions) = (row.get::<i64>("vms")?, row.get::<i64>("sessions")?);
    if vms > 0 {
        return Err(Error::InUse { subject, relation: format!("has {vms} VMs assigned") });
    }
    if sessions > 0 {
        return Err(Error::InUse { subject, relation: format!("serves {sessions} user sessions") });
    }
    let state: HostState = locked.get("state")?;
    if !matches!(state, HostState::Stopped | HostState::Lost) {
        return Err(Error::refused(format!("{subject} is {state}; stop it first")));
    }
    // A session through it may have begun in between.
    let assigned = || Error::InUse { subject: subject.clone(), relation: "serves user sessions".to_owned() };
    tx.rows(&DELETE, params![id]).await.map_err(|e| e.or_referenced(assigned))?;
    Ok(Guard::Updated(()))
}

/// The row of a statement that always yields one.
pub(crate) fn only(mut rows: Vec<Row>) -> Result<Row> {
    rows.pop().ok_or(Error::Broken { operation: "read what was written", source: sqlx::Error::RowNotFound })
}

fn host(row: &Row) -> Result<Host> {
    Ok(Host {
        id: row.get("id")?,
        name: row.get("name")?,
        address: row.get("address")?,
        frontend: row.get("frontend")?,
        backend: row.get("backend")?,
        hypervisors: drivers(row)?,
        runtime: HostRuntime {
            state: row.get("state")?,
            blocked: row.get("blocked")?,
            incarnation: row.get("incarnation")?,
            ok_ts: row.find("ok_ts")?,
            lease_until: row.find("lease_until")?,
            pid: row.find("pid")?,
            usable_ram: row.find("usable_ram_mib")?,
            usable_cpu: row.find("usable_cpu")?,
            vms_assigned: row.get("vms_assigned")?,
        },
    })
}

fn drivers(row: &Row) -> Result<Vec<String>> {
    let list: Option<String> = row.find("hypervisors")?;
    let list = list.unwrap_or_default();
    Ok(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}
