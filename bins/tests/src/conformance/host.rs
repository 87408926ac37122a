//! What a host's daemon writes into the database, for the rows that decide on it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qvd_core::HostId;
use qvd_core::state::HostState;
use qvd_core::units::Mebibytes;
use qvd_db::{Db, NewHost, TakeOver};

/// Adds a host whose daemon runs, with one driver.
///
/// # Errors
///
/// When the database refuses.
pub async fn running_host(db: &Db, name: &str, driver: &str) -> Result<(HostId, i64)> {
    let new = NewHost { name: name.into(), address: format!("host-{name}"), frontend: true, backend: true };
    let host = db.hosts().add(new).await.context("no host")?;
    Ok((host, put_into_service(db, host, driver).await?))
}

/// As a host's daemon does when it starts; answers the life that it has begun.
///
/// # Errors
///
/// When the database refuses.
pub async fn put_into_service(db: &Db, host: HostId, driver: &str) -> Result<i64> {
    let daemon = TakeOver {
        run_token: uuid::Uuid::new_v4(),
        machine_id: "machine".into(),
        boot_id: "boot".into(),
        pid: 1,
        lease: Duration::from_secs(3600),
        fence_grace: Duration::from_secs(60),
        watch: Duration::ZERO,
    };
    let incarnation = db.hosts().take_over(host, daemon).await.context("host not taken")?.incarnation;
    publish(db, host, incarnation, 1000, driver).await?;
    let running = db.hosts().set_state(host, incarnation, HostState::Running).await?;
    ensure!(running.is_updated(), "the host does not run");
    Ok(incarnation)
}

/// What a host can run, and how much memory it has for that.
///
/// # Errors
///
/// When the database refuses.
pub async fn publish(db: &Db, host: HostId, incarnation: i64, memory: u64, driver: &str) -> Result<()> {
    let drivers = [driver.to_owned()];
    let hosts = db.hosts();
    let published = hosts.publish_capacity(host, incarnation, Mebibytes(memory), 1.0, &drivers, Some(driver));
    ensure!(published.await?.is_updated(), "capacity not published");
    Ok(())
}
