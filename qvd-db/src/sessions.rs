//! User sessions: which router owns the one session a virtual machine can carry.
//!
//! Every write is guarded by the session id, never by a process id: those are used again.

use std::net::IpAddr;

use qvd_core::model::VmRuntime;
use qvd_core::{HostId, SessionId, UserId, VmId};
use uuid::Uuid;

use crate::db::{Db, transaction};
use crate::error::Result;
use crate::guard::Guard;
use crate::notify::Channel;
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::{Value, params};
use crate::vms::{runtime, state_payload};

/// A session to be acquired.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id, made by the router.
    pub session_id: SessionId,
    /// Host of the router.
    pub l7r_host: HostId,
    /// Process id of the router.
    pub l7r_pid: u32,
    /// This life of the router.
    pub l7r_instance: Uuid,
    /// Who connects.
    pub real_user: UserId,
    /// From where.
    pub user_ip: Option<IpAddr>,
}

/// User sessions of a database.
#[derive(Clone, Copy, Debug)]
pub struct Sessions<'db> {
    db: &'db Db,
}

impl Db {
    /// User sessions.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions { db: self }
    }
}

impl Sessions<'_> {
    /// Acquires a virtual machine's session: `disconnected` becomes `connecting`, unless the virtual machine is
    /// blocked. `Unchanged` carries the row: blocked, or owned by another session.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn acquire(self, vm: VmId, session: NewSession) -> Result<Guard<VmRuntime>> {
        const ACQUIRE: Sql = sql!("acquire a VM's session":
            "update vm_runtimes
             set user_state = 'connecting', user_state_ts = " NOW ", user_cmd = null, user_cmd_ts = null,
                 session_id = $2, l7r_host_id = $3, l7r_pid = $4, l7r_instance = $5, real_user_id = $6, user_ip = $7,
                 version = version + 1
             where vm_id = $1 and user_state = 'disconnected' and not blocked returning " RUNTIME);
        let NewSession { session_id, l7r_host, l7r_pid, l7r_instance, real_user, user_ip } = session;
        let ip = user_ip.map(|ip| ip.to_string());
        let params = params![vm, session_id, l7r_host, l7r_pid, l7r_instance, real_user, ip];
        let rows = self.db.write(&ACQUIRE, params).await?;
        match rows.first() {
            Some(row) => Ok(Guard::Updated(runtime(row)?)),
            None => Ok(self.db.vms().runtime(vm).await?.map_or(Guard::NotFound, Guard::Unchanged)),
        }
    }

    /// Asks the session that was seen to end, and wakes its router. `Unchanged`: it is over already.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn request_abort(self, vm: VmId, seen: SessionId) -> Result<Guard<()>> {
        const ABORT: Sql = sql!("ask a session to end":
            "update vm_runtimes set user_cmd = 'abort', user_cmd_ts = " NOW ", version = version + 1
             where vm_id = $1 and session_id = $2 and user_state <> 'disconnected'
             returning vm_id, run_id, vm_state, l7r_host_id");
        self.abort(vm, &ABORT, params![vm, seen]).await
    }

    /// Asks whatever session there is to end, and wakes its router. `Unchanged`: nobody is connected.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn abort_user(self, vm: VmId) -> Result<Guard<()>> {
        const ABORT: Sql = sql!("disconnect a user":
            "update vm_runtimes set user_cmd = 'abort', user_cmd_ts = " NOW ", version = version + 1
             where vm_id = $1 and user_state <> 'disconnected'
             returning vm_id, run_id, vm_state, l7r_host_id");
        self.abort(vm, &ABORT, params![vm]).await
    }

    /// The desktop is connected: `connecting` becomes `connected`, unless the session was asked to end.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn commit(self, vm: VmId, session: SessionId) -> Result<Guard<()>> {
        const COMMIT: Sql = sql!("commit a session":
            "update vm_runtimes set user_state = 'connected', user_state_ts = " NOW ", version = version + 1
             where vm_id = $1 and session_id = $2 and user_state = 'connecting' and user_cmd is null
             returning vm_id, run_id, vm_state" TELL_STATE);
        self.told(vm, &COMMIT, params![vm, session]).await
    }

    /// The session is over; those who wait for the virtual machine are told. `Unchanged`: it is not this session's
    /// any more.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn release(self, vm: VmId, session: SessionId) -> Result<Guard<()>> {
        const RELEASE: Sql = sql!("release a session":
            "update vm_runtimes
             set user_state = 'disconnected', user_state_ts = " NOW ", user_cmd = null, user_cmd_ts = null,
                 l7r_host_id = null, l7r_pid = null, l7r_instance = null, session_id = null, version = version + 1
             where vm_id = $1 and session_id = $2 returning vm_id, run_id, vm_state" TELL_STATE);
        self.told(vm, &RELEASE, params![vm, session]).await
    }

    /// Sessions of one life of a router that were asked to end.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn aborted(self, l7r_host: HostId, instance: Uuid) -> Result<Vec<(VmId, SessionId)>> {
        const ABORTED: Sql = sql!("look for sessions to end":
            "select vm_id, session_id from vm_runtimes
             where l7r_host_id = $1 and l7r_instance = $2 and user_cmd = 'abort' order by vm_id");
        let rows = self.db.read(&ABORTED, params![l7r_host, instance]).await?;
        rows.iter().map(|row| Ok((row.get("vm_id")?, row.get("session_id")?))).collect()
    }

    /// Ends all sessions of a life of a router that is over, and tells those who wait.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn release_instance(self, l7r_host: HostId, instance: Uuid) -> Result<Vec<VmId>> {
        const RELEASE: Sql = sql!("release the sessions of a dead router":
            "update vm_runtimes
             set user_state = 'disconnected', user_state_ts = " NOW ", user_cmd = null, user_cmd_ts = null,
                 l7r_host_id = null, l7r_pid = null, l7r_instance = null, session_id = null, version = version + 1
             where l7r_host_id = $1 and l7r_instance = $2 returning vm_id, run_id, vm_state");
        transaction!(self.db, |tx| {
            let mut released = Vec::new();
            for row in tx.rows(&RELEASE, params![l7r_host, instance]).await? {
                tx.notify(Channel::VmState, state_payload(&row)?);
                released.push(row.get("vm_id")?);
            }
            Ok(released)
        })
    }

    /// Lives of the routers of a host that own sessions.
    ///
    /// # Errors
    ///
    /// [`Error::Away`](crate::Error::Away).
    pub async fn instances(self, l7r_host: HostId) -> Result<Vec<Uuid>> {
        const INSTANCES: Sql = sql!("look for routers with sessions":
            "select distinct l7r_instance from vm_runtimes where l7r_host_id = $1");
        let rows = self.db.read(&INSTANCES, params![l7r_host]).await?;
        rows.iter().map(|row| row.get("l7r_instance")).collect()
    }

    async fn abort(self, vm: VmId, sql: &Sql, params: Vec<Value>) -> Result<Guard<()>> {
        let row = transaction!(self.db, |tx| {
            let row = tx.row(sql, params.clone()).await?;
            if let Some(router) = row.as_ref().map(|row| row.find("l7r_host_id")).transpose()?.flatten() {
                tx.notify(Channel::UserCommands(router), String::new());
            }
            Ok(row)
        })?;
        self.outcome(vm, row).await
    }

    async fn told(self, vm: VmId, sql: &Sql, params: Vec<Value>) -> Result<Guard<()>> {
        let row = self.db.write_state(sql, params).await?;
        self.outcome(vm, row).await
    }

    async fn outcome(self, vm: VmId, written: Option<Row>) -> Result<Guard<()>> {
        if written.is_some() {
            return Ok(Guard::Updated(()));
        }
        Ok(self.db.vms().runtime(vm).await?.map_or(Guard::NotFound, |_| Guard::Unchanged(())))
    }
}
