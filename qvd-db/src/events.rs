//! The life-cycle journal: only appended to, pruned by age. "Why was it blocked" reads this.

use std::time::SystemTime;

use qvd_core::{HostId, VmId};

use crate::db::{Db, Tx, transaction};
use crate::error::Result;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;
use crate::vms::BlockedBy;

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// The host it happened on or to.
    pub host_id: Option<HostId>,
    /// The virtual machine it happened to.
    pub vm_id: Option<VmId>,
    /// What kind, a short word: `state`, `failure`, `blocked`.
    pub kind: String,
    /// State before.
    pub from_state: Option<String>,
    /// State after.
    pub to_state: Option<String>,
    /// Anything else, a JSON text.
    pub detail: Option<String>,
}

/// Something that happened, as journalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number; later events have greater ones.
    pub id: i64,
    /// When, by the database's clock.
    pub at: SystemTime,
    /// What.
    pub event: NewEvent,
}

/// The journal of a database.
#[derive(Clone, Copy, Debug)]
pub struct Events<'db> {
    db: &'db Db,
}

impl Db {
    /// The life-cycle journal.
    pub fn events(&self) -> Events<'_> {
        Events { db: self }
    }
}

impl Events<'_> {
    /// Appends an event.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away); callers go on without.
    pub async fn append(self, event: NewEvent) -> Result<()> {
        transaction!(self.db, |tx| { write(tx, &event).await })
    }

    /// The latest events of a virtual machine, latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn of_vm(self, id: VmId, limit: u32) -> Result<Vec<Event>> {
        const OF_VM: Sql = sql!("read the journal":
            "select id, at, host_id, vm_id, kind, from_state, to_state, detail" JSON_TEXT " as detail
             from events where vm_id = $1 order by id desc limit $2");
        self.db.read(&OF_VM, params![id, limit]).await?.iter().map(event).collect()
    }

    /// The latest events of a host, latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn of_host(self, id: HostId, limit: u32) -> Result<Vec<Event>> {
        const OF_HOST: Sql = sql!("read the journal":
            "select id, at, host_id, vm_id, kind, from_state, to_state, detail" JSON_TEXT " as detail
             from events where host_id = $1 order by id desc limit $2");
        self.db.read(&OF_HOST, params![id, limit]).await?.iter().map(event).collect()
    }

    /// Deletes events before a time and tells how many.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn prune(self, before: SystemTime) -> Result<u64> {
        const PRUNE: Sql = sql!("prune the journal": "delete from events where at < $1 returning id");
        Ok(self.db.write(&PRUNE, params![before]).await?.len() as u64)
    }
}

impl NewEvent {
    /// Somebody blocked or unblocked something.
    pub(crate) fn block(blocked: bool, by: BlockedBy, reason: Option<&str>) -> Self {
        let kind = if blocked { "blocked" } else { "unblocked" };
        let detail = serde_json::json!({ "by": by.as_str(), "reason": reason });
        Self { kind: kind.to_owned(), detail: Some(detail.to_string()), ..Self::default() }
    }
}

/// Appends an event in the transaction that does what it tells, so that the journal never tells of what did not happen.
pub(crate) async fn write(tx: &mut Tx, event: &NewEvent) -> Result<()> {
    const APPEND: Sql = sql!("write the journal":
        "insert into events (host_id, vm_id, kind, from_state, to_state, detail)
         values ($1, $2, $3, $4, $5, $6" AS_JSON ")");
    let NewEvent { host_id, vm_id, kind, from_state, to_state, detail } = event;
    let params =
        params![*host_id, *vm_id, kind, from_state.as_deref(), to_state.as_deref(), detail.as_deref()];
    tx.rows(&APPEND, params).await.map(drop)
}

fn event(row: &Row) -> Result<Event> {
    Ok(Event {
        id: row.get("id")?,
        at: row.get("at")?,
        event: NewEvent {
            host_id: row.find("host_id")?,
            vm_id: row.find("vm_id")?,
            kind: row.get("kind")?,
            from_state: row.find("from_state")?,
            to_state: row.find("to_state")?,
            detail: row.find("detail")?,
        },
    })
}
