//! Counters of hosts and virtual machines: they only grow, and nobody waits for them.

use qvd_core::{HostId, VmId};

use crate::db::Db;
use crate::error::Result;
use crate::sql::{Sql, sql};
use crate::value::params;

/// What is counted for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCounter {
    /// Requests that its router accepted.
    HttpRequests,
    /// Attempts to log in.
    AuthAttempts,
    /// Logins.
    AuthOk,
    /// Attempts to connect to a desktop.
    NxAttempts,
    /// Desktops connected.
    NxOk,
    /// Sessions that ended too soon to have been of use.
    ShortSessions,
}

/// What is counted for a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmCounter {
    /// Starts begun.
    RunAttempts,
    /// Starts that reached `running`.
    RunOk,
}

/// Counters of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostCounts {
    /// The host.
    pub host_id: HostId,
    /// See [`HostCounter::HttpRequests`].
    pub http_requests: u64,
    /// See [`HostCounter::AuthAttempts`].
    pub auth_attempts: u64,
    /// See [`HostCounter::AuthOk`].
    pub auth_ok: u64,
    /// See [`HostCounter::NxAttempts`].
    pub nx_attempts: u64,
    /// See [`HostCounter::NxOk`].
    pub nx_ok: u64,
    /// See [`HostCounter::ShortSessions`].
    pub short_sessions: u64,
}

/// Counters of one virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmCounts {
    /// The virtual machine.
    pub vm_id: VmId,
    /// See [`VmCounter::RunAttempts`].
    pub run_attempts: u64,
    /// See [`VmCounter::RunOk`].
    pub run_ok: u64,
}

/// Counters of a database.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'db> {
    db: &'db Db,
}

impl Db {
    /// Counters.
    pub fn counters(&self) -> Counters<'_> {
        Counters { db: self }
    }
}

macro_rules! increment {
    ($table:literal, $key:literal, $column:literal) => {{
    const INCREMENT: Sql = sql!("count":
            "update " $table " set " $column " = " $column " + 1 where " $key " = $1");
        &INCREMENT
    }};
}

impl Counters<'_> {
    /// Adds one to a host's counter. A host that is not there is not counted.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away); callers go on without.
    pub async fn host(self, id: HostId, counter: HostCounter) -> Result<()> {
        let statement = match counter {
            HostCounter::HttpRequests => increment!("host_counters", "host_id", "http_requests"),
            HostCounter::AuthAttempts => increment!("host_counters", "host_id", "auth_attempts"),
            HostCounter::AuthOk => increment!("host_counters", "host_id", "auth_ok"),
            HostCounter::NxAttempts => increment!("host_counters", "host_id", "nx_attempts"),
            HostCounter::NxOk => increment!("host_counters", "host_id", "nx_ok"),
            HostCounter::ShortSessions => increment!("host_counters", "host_id", "short_sessions"),
        };
        self.db.write(statement, params![id]).await.map(drop)
    }

    /// Adds one to a virtual machine's counter. One that is not there is not counted.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away); callers go on without.
    pub async fn vm(self, id: VmId, counter: VmCounter) -> Result<()> {
        let statement = match counter {
            VmCounter::RunAttempts => increment!("vm_counters", "vm_id", "run_attempts"),
            VmCounter::RunOk => increment!("vm_counters", "vm_id", "run_ok"),
        };
        self.db.write(statement, params![id]).await.map(drop)
    }

    /// Counters of all hosts, by host.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn hosts(self) -> Result<Vec<HostCounts>> {
        const LIST: Sql = sql!("list host counters":
            "select host_id, http_requests, auth_attempts, auth_ok, nx_attempts, nx_ok, short_sessions
             from host_counters order by host_id");
        let rows = self.db.read(&LIST, params![]).await?;
        rows.iter()
            .map(|row| {
                Ok(HostCounts {
                    host_id: row.get("host_id")?,
                    http_requests: row.get("http_requests")?,
                    auth_attempts: row.get("auth_attempts")?,
                    auth_ok: row.get("auth_ok")?,
                    nx_attempts: row.get("nx_attempts")?,
                    nx_ok: row.get("nx_ok")?,
                    short_sessions: row.get("short_sessions")?,
                })
            })
            .collect()
    }

    /// Counters of all virtual machines, by virtual machine.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn vms(self) -> Result<Vec<VmCounts>> {
        const LIST: Sql = sql!("list VM counters":
            "select vm_id, run_attempts, run_ok from vm_counters order by vm_id");
        let rows = self.db.read(&LIST, params![]).await?;
        rows.iter()
            .map(|row| {
                Ok(VmCounts {
                    vm_id: row.get("vm_id")?,
                    run_attempts: row.get("run_attempts")?,
                    run_ok: row.get("run_ok")?,
                })
            })
            .collect()
    }
}
