//! The steps of a node's start: read, take over, look at the drivers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::join_all;
use qvd_core::config::Config;
use qvd_core::error::chain;
use qvd_core::state::HostState;
use qvd_core::{HostId, TenantId};
use qvd_db::{Db, Guard, HostLoad, StateSaved, TakeOver};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::capacity;
use super::error::{Error, Result};
use super::node::{Node, while_away};
use super::slots::Slots;
use super::ticker::Rhythm;

/// What the database says of this node.
pub(crate) struct KnownHost {
    pub(crate) id: HostId,
    pub(crate) config: Config,
}

/// The host is this daemon's.
pub(crate) struct TakenOver {
    pub(crate) incarnation: i64,
    /// When that was asked for; it counts as a tick.
    pub(crate) sent: Instant,
}

/// Reads configuration and host row. A database that is away is waited for.
pub(crate) async fn load_host(db: &Db, config: Config, name: &str) -> Result<KnownHost> {
    let failed = |operation| move |source| Error::Database { operation, source };
    let rows = while_away(|| async { db.config().load(TenantId::DEFAULT).await }).await;
    let (config, problems) = config.with_database(rows.map_err(failed("read the configuration"))?);
    for problem in problems {
        tracing::error!(%problem, "database configuration: the value of the files stays");
    }
    let host = while_away(|| async { db.hosts().by_name(name).await }).await;
    let host = host.map_err(failed("read this host's row"))?;
    let id = host.ok_or_else(|| Error::UnknownHost { name: name.to_owned() })?.id;
    Ok(KnownHost { id, config })
}

/// Takes the host's row over.
pub(crate) async fn take_over(db: &Db, host: HostId, run_token: Uuid, rhythm: Rhythm) -> Result<TakenOver> {
    let (machine_id, boot_id) = capacity::machine();
    let me = TakeOver {
        run_token,
        machine_id,
        boot_id,
        pid: std::process::id(),
        lease: rhythm.fence,
        fence_grace: rhythm.grace,
        watch: rhythm.period * 2,
    };
    let attempt = || async {
        let sent = tokio::time::Instant::now().into_std();
        db.hosts().take_over(host, me.clone()).await.map(|taken| (taken, sent))
    };
    let (taken, sent) = while_away(attempt)
        .await
        .map_err(|source| Error::Database { operation: "take this host over", source })?;
    Ok(TakenOver { incarnation: taken.incarnation, sent })
}

/// Asks every driver what it lacks, and publishes which work and what the machine has. Tells whether all of them
/// answered; one that did not keeps its last verdict.
pub(crate) async fn publish(node: &Node) -> Result<bool> {
    let patience = node.config.get().seconds("internal.hkd.driver.timeout");
    let checks = node
        .drivers
        .iter()
        .map(|driver| async move { (driver.name(), node.sight.check(driver, patience).await) });
    let mut answered = true;
    for (name, checks) in join_all(checks).await {
        let Some(checks) = checks else {
            tracing::error!(
                driver = name,
                seconds = patience.as_secs_f64(),
                "driver check took too long; it is asked again"
            );
            answered = false;
            continue;
        };
        let mut works = true;
        for check in checks {
            let Some(remedy) = check.remedy else { continue };
            works &= !check.required;
            if check.required {
                tracing::error!(driver = name, what = %check.what, found = %check.found, %remedy, "driver cannot work");
            } else {
                tracing::warn!(driver = name, what = %check.what, found = %check.found, %remedy, "driver is limited");
            }
        }
        node.usable.checked(name, works);
    }
    announce(node).await?;
    Ok(answered)
}

/// Publishes the drivers that can be used as far as is known, the preferred one first, and what the machine has.
pub(crate) async fn announce(node: &Node) -> Result<()> {
    let preferred = node.preferred().map(|driver| driver.name());
    let names = node.drivers.iter().map(|driver| driver.name());
    let mut usable: Vec<_> = names.filter(|name| node.usable.may_start(name)).map(str::to_owned).collect();
    usable.sort_by_key(|name| Some(name.as_str()) != preferred);
    let default = usable.first().map(String::as_str).filter(|first| Some(*first) == preferred);
    if usable.is_empty() {
        tracing::error!("no driver works on this host: it will run no VM");
    } else if default.is_none() {
        let preferred = preferred.map_or_else(|| node.config.get().text("vm.hypervisor"), str::to_owned);
        tracing::error!(%preferred, "the preferred driver cannot be used: only VMs that name another one run here");
    }
    let machine = capacity::capacity();
    let published = while_away(|| async {
        node.db
            .hosts()
            .publish_capacity(node.host, node.incarnation, machine.ram, machine.cpu, &usable, default)
            .await
    });
    ours(published.await, "publish this host's capacity")
}

/// Writes the host's state; `stopped` only once no virtual machine of it is anything else. An order to stop is obeyed
/// once the row says so.
pub(crate) async fn save_state(node: &Node, state: HostState) -> Result<()> {
    let saved =
        while_away(|| async { node.db.hosts().set_state(node.host, node.incarnation, state).await }).await;
    if let Ok(Guard::Unchanged(StateSaved { live, .. })) = &saved
        && !live.is_empty()
    {
        let vms: Vec<_> = live.iter().map(ToString::to_string).collect();
        let text = format!(
            "this host is not stopped because its VMs {} are not; the next start of this daemon goes on with them",
            vms.join(", ")
        );
        return Err(Error::Failed { text });
    }
    ours(saved.map(|guard| guard.map(drop)), "save this host's state")?;
    if matches!(state, HostState::Stopping | HostState::Stopped) {
        let taken = while_away(|| async { node.db.hosts().take_command(node.host, node.incarnation).await });
        taken.await.map_err(|source| Error::Database { operation: "take the order to stop", source })?;
    }
    Ok(())
}

/// How busy the host is, for a tick.
pub(crate) fn load(slots: &Slots) -> HostLoad {
    let usage = slots.usage();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    capacity::load(count(usage.starting), count(usage.heavy_limit.saturating_sub(usage.heavy)))
}

fn ours(written: std::result::Result<Guard<()>, qvd_db::Error>, operation: &'static str) -> Result<()> {
    match written {
        Ok(Guard::Updated(())) => Ok(()),
        Ok(Guard::Unchanged(()) | Guard::NotFound) => {
            Err(Error::Lost { reason: format!("cannot {operation}: the row is not ours any more") })
        }
        Err(source) => Err(Error::Database { operation, source }),
    }
}

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    pub(crate) fn new(task: JoinHandle<T>) -> Self {
        Self(task)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for AbortOnDrop<String> {
    type Output = String;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<String> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|ended| ended.unwrap_or_else(|error| chain(&error).to_string()))
    }
}
