//! A daemon takes its host's row over, or learns that somebody else lives there.
//!
//! ```text
//! never started, or stopped ──────────────────────────────────────────► take
//! same run token (the lock of the very same directory is ours) ───────► take
//! other token: fence run out, or same machine after a reboot ─► watch ─► take if nothing moved
//! anything else ──────────────────────────────────────────────────────► refuse
//! ```

use std::time::{Duration, SystemTime};

use qvd_core::HostId;
use qvd_core::state::HostState;
use uuid::Uuid;

use super::Hosts;
use crate::db::{Tx, transaction};
use crate::error::{Error, Result};
use crate::row::Row;
use crate::sql::{Sql, sql};
use crate::value::params;

/// Who wants to take a host over.
#[derive(Clone, Debug)]
pub struct TakeOver {
    /// Token of the directory whose lock the daemon holds.
    pub run_token: Uuid,
    /// Identity of the machine.
    pub machine_id: String,
    /// Identity of its present boot.
    pub boot_id: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// How long the lease lasts from now.
    pub lease: Duration,
    /// How much longer nobody else may touch the virtual machines.
    pub fence_grace: Duration,
    /// How long to watch a row of somebody who may still live: two periods of its ticker.
    pub watch: Duration,
}

/// The host is the daemon's now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// What every later write of the daemon is guarded with.
    pub incarnation: i64,
    /// Whether the daemon before had the same run directory, so that its virtual machines may be adopted.
    pub same_directory: bool,
}

impl Hosts<'_> {
    /// Takes a host over: a new incarnation, the lease and the fence from now, and all virtual machines assigned to
    /// the host follow it. Counts as a tick. The state becomes `starting`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], naming host, machine, address and the seconds left, when somebody else may live there;
    /// [`Error::Missing`]; [`Error::Away`].
    pub async fn take_over(self, id: HostId, me: TakeOver) -> Result<TakenOver> {
        let seen = match self.try_take(id, &me, None).await? {
            Attempt::Taken(taken) => return Ok(taken),
            Attempt::Watch(seen) => seen,
        };
        tracing::info!(host = %id, seconds = me.watch.as_secs_f64(), "watching the host's row: its last daemon may still live");
        tokio::time::sleep(me.watch).await;
        match self.try_take(id, &me, Some(seen)).await? {
            Attempt::Taken(taken) => Ok(taken),
            Attempt::Watch(now) => Err(somebody(&now, "reported while it was watched")),
        }
    }

    async fn try_take(self, id: HostId, me: &TakeOver, watched: Option<Occupant>) -> Result<Attempt> {
        const LOCK: Sql = sql!("look at the host's row":
            "select host_id, state, incarnation, run_token, machine_id, boot_id, ok_ts, fence_until, " NOW " as now
             from host_runtimes where host_id = $1" FOR_UPDATE);
        const NAMES: Sql = sql!("look at the host": "select name, address from hosts where id = $1");
        transaction!(self.db, |tx| {
            let Some(row) = tx.row(&LOCK, params![id]).await? else {
                return Err(Error::missing(format!("host {id}")));
            };
            let names = super::only(tx.rows(&NAMES, params![id]).await?)?;
            let occupant = Occupant::read(&row, &names)?;
            match verdict(&occupant, me) {
                Verdict::Take => {}
                Verdict::Watch => match &watched {
                    Some(before) if before.life() == occupant.life() => {}
                    _ => return Ok(Attempt::Watch(occupant)),
                },
                Verdict::Refuse => return Err(somebody(&occupant, "may still live")),
            }
            take(tx, id, me, &occupant).await.map(Attempt::Taken)
        })
    }
}

enum Attempt {
    Taken(TakenOver),
    Watch(Occupant),
}

/// Who has the row.
#[derive(Clone, Debug)]
struct Occupant {
    name: String,
    address: String,
    state: HostState,
    incarnation: i64,
    run_token: Option<Uuid>,
    machine_id: Option<String>,
    boot_id: Option<String>,
    ok_ts: Option<SystemTime>,
    fence_until: Option<SystemTime>,
    now: SystemTime,
}

impl Occupant {
    fn read(row: &Row, names: &Row) -> Result<Self> {
        Ok(Self {
            name: names.get("name")?,
            address: names.get("address")?,
            state: row.get("state")?,
            incarnation: row.get("incarnation")?,
            run_token: row.find("run_token")?,
            machine_id: row.find("machine_id")?,
            boot_id: row.find("boot_id")?,
            ok_ts: row.find("ok_ts")?,
            fence_until: row.find("fence_until")?,
            now: row.get("now")?,
        })
    }

    /// Changes whenever its daemon reports or another takes over.
    fn life(&self) -> (i64, Option<SystemTime>) {
        (self.incarnation, self.ok_ts)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    Watch,
    Refuse,
}

fn verdict(occupant: &Occupant, me: &TakeOver) -> Verdict {
    if occupant.incarnation == 0 || occupant.state == HostState::Stopped {
        return Verdict::Take;
    }
    if occupant.run_token == Some(me.run_token) {
        return Verdict::Take;
    }
    let fence_ran_out = occupant.fence_until.is_none_or(|fence| fence < occupant.now);
    let same_machine = occupant.machine_id.as_deref() == Some(me.machine_id.as_str());
    let rebooted = same_machine && occupant.boot_id.as_deref() != Some(me.boot_id.as_str());
    if fence_ran_out || rebooted { Verdict::Watch } else { Verdict::Refuse }
}

async fn take(tx: &mut Tx, id: HostId, me: &TakeOver, seen: &Occupant) -> Result<TakenOver> {
    const TAKE: Sql = sql!("take the host over":
        "update host_runtimes
         set incarnation = incarnation + 1, run_token = $3, machine_id = $4, boot_id = $5, pid = $6,
             state = 'starting', state_ts = " NOW ", ok_ts = " NOW ",
             lease_until = " NOW " + $7, fence_until = " NOW " + $8, cmd = null, version = version + 1
         where host_id = $1 and incarnation = $2 returning incarnation");
    const FOLLOW: Sql = sql!("move the host's VMs to the new daemon":
        "update vm_runtimes set host_incarnation = $2, version = version + 1 where host_id = $1");
    let params = params![
        id,
        seen.incarnation,
        me.run_token,
        &me.machine_id,
        &me.boot_id,
        me.pid,
        me.lease,
        me.lease + me.fence_grace
    ];
    let incarnation: i64 = super::only(tx.rows(&TAKE, params).await?)?.get("incarnation")?;
    tx.rows(&FOLLOW, params![id, incarnation]).await?;
    Ok(TakenOver { incarnation, same_directory: seen.run_token == Some(me.run_token) })
}

fn somebody(occupant: &Occupant, what: &str) -> Error {
    let Occupant { name, address, machine_id, .. } = occupant;
    let machine = machine_id.as_deref().unwrap_or("unknown");
    let left =
        occupant.fence_until.and_then(|fence| fence.duration_since(occupant.now).ok()).unwrap_or_default();
    Error::refused(format!(
        "another daemon of host '{name}' (address {address}, machine {machine}) {what}; stop it, give this node its \
         own nodename, or wait {} s",
        left.as_secs() + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Uuid = Uuid::from_u128(1);

    fn me() -> TakeOver {
        TakeOver {
            run_token: TOKEN,
            machine_id: "m1".to_owned(),
            boot_id: "b2".to_owned(),
            pid: 1,
            lease: Duration::from_secs(450),
            fence_grace: Duration::from_secs(150),
            watch: Duration::ZERO,
        }
    }

    fn occupant(state: HostState, token: u128, machine: &str, boot: &str, fence_left: i64) -> Occupant {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let fence = if fence_left < 0 {
            now - Duration::from_secs(fence_left.unsigned_abs())
        } else {
            now + Duration::from_secs(fence_left.unsigned_abs())
        };
        Occupant {
            name: "n1".to_owned(),
            address: "10.0.0.1".to_owned(),
            state,
            incarnation: 3,
            run_token: Some(Uuid::from_u128(token)),
            machine_id: Some(machine.to_owned()),
            boot_id: Some(boot.to_owned()),
            ok_ts: Some(now),
            fence_until: Some(fence),
            now,
        }
    }

    #[test]
    fn the_table_of_take_over_rules() {
        use HostState::*;
        let rows = [
            (occupant(Stopped, 2, "m2", "b9", 100), Verdict::Take),
            (occupant(Running, 1, "m1", "b2", 100), Verdict::Take),
            (occupant(Lost, 1, "m1", "b2", 100), Verdict::Take),
            (occupant(Running, 2, "m1", "b1", 100), Verdict::Watch),
            (occupant(Running, 2, "m2", "b1", -1), Verdict::Watch),
            (occupant(Lost, 2, "m2", "b1", -1), Verdict::Watch),
            (occupant(Running, 2, "m1", "b2", 100), Verdict::Refuse),
            (occupant(Running, 2, "m2", "b1", 100), Verdict::Refuse),
            (occupant(Starting, 2, "m2", "b1", 100), Verdict::Refuse),
            (occupant(Stopping, 2, "m2", "b1", 100), Verdict::Refuse),
            (occupant(Lost, 2, "m2", "b1", 100), Verdict::Refuse),
        ];
        for (occupant, expected) in rows {
            assert_eq!(verdict(&occupant, &me()), expected, "{occupant:?}");
        }
        let never = Occupant { incarnation: 0, ..occupant(Running, 2, "m2", "b1", 100) };
        assert_eq!(verdict(&never, &me()), Verdict::Take);
    }

    #[test]
    fn a_refusal_names_host_machine_address_and_time_left() {
        let text = somebody(&occupant(HostState::Running, 2, "m2", "b1", 99), "may still live").to_string();
        for part in ["'n1'", "m2", "10.0.0.1", "wait 100 s"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
