//! `qvd standalone`: database, house-keeping daemon and router of one site in one process.
//!
//! On a real site these are programs of their own, so that killing or upgrading one never touches the other.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use qvd_bin_common::{
    ConfigFiles, Failure, LogTo, MetricsPage, SessionThreads, Signals, add_database_config, init_tracing,
    load_config, open_db,
};
use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_core::hypervisor::Hypervisor as _;
use qvd_db::{Db, NewHost};
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};
use qvd_hypervisor::hkd::{self, Control, HkdSettings, Shutdown};
use qvd_l7r::{BoundRouter, Router};
use tokio::sync::{mpsc, oneshot, watch};

use crate::data_dir::DataDir;

/// Runs a site until a signal ends it.
pub(crate) async fn run(
    dir: &Path,
    listen: Option<SocketAddr>,
    settings: &[(String, String)],
) -> Result<(), Failure> {
    let mut signals = Signals::new()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot listen to signals").because(e))?;
    let data = DataDir::take(dir)?;
    let file = data.config_file()?;
    let env = |name: &str| std::env::var(name).ok();
    // This file alone, which is what the ready line names and `qa` is given: a node's own files do not apply here.
    let config = load_config(&ConfigFiles::default().required(&file), &env, settings)?;
    init_tracing(&config, LogTo::Stderr, &env);
    let db = open_db(&config).await?;
    let config = add_database_config(&config, &db).await?;
    let node = config.text("nodename");
    register(&db, &node).await?;

    let driver = driver(&config)?;
    refuse_to_serve_nothing(driver.as_ref()).await?;
    let metrics = MetricsPage::wanted(&config);
    let threads = SessionThreads::start(&config)?;
    let router = bind(&db, &config, &threads, listen).await?;
    let (address, fingerprint) = (router.local_addr(), router.fingerprint());
    let (ready, is_ready) = oneshot::channel();
    let (control, controls) = mpsc::channel(1);
    let hkd = HkdSettings::new(db, config.clone(), node).hypervisor(driver).controls(controls).ready(ready);

    // The router ends first, so that nobody asks for a machine that is on its way down.
    let (end_router, mut router_may_go) = watch::channel(false);
    let (end_hkd, mut hkd_may_go) = watch::channel(false);
    let handle = router.handle();
    let _page = metrics.map(|page| page.serve(router.handle()));
    let mut serving = tokio::spawn(router.serve(async move {
        let _ = router_may_go.wait_for(|end| *end).await;
    }));
    let mut keeping = tokio::spawn(hkd::run(hkd, async move {
        let _ = hkd_may_go.wait_for(|end| *end).await;
        Shutdown::Stop
    }));

    let early = tokio::select! {
        told = is_ready => told.is_err(),
        () = signals.stop() => true,
    };
    if !early {
        announce(address, fingerprint.map(|f| f.to_string()), data.path());
        tokio::select! {
            () = signals.stop() => {}
            ended = &mut keeping => return hkd_outcome(ended),
        }
    }
    // From here on a second signal waits for nothing: desktops are cut, virtual machines are killed.
    let _ = end_router.send(true);
    handle.end_sessions();
    let mut hurried = false;
    tokio::select! {
        served = &mut serving => if let Ok(Err(e)) = served {
            tracing::warn!("router: {}", qvd_core::error::chain(&e));
        },
        () = signals.stop() => hurried = true,
    }
    serving.abort();
    if !hurried {
        let _ = end_hkd.send(true);
        tokio::select! {
            ended = &mut keeping => return hkd_outcome(ended),
            () = signals.stop() => {}
        }
    }
    tracing::warn!("asked a second time: virtual machines are killed");
    let _ = control.send(Control::Shutdown(Shutdown::Abort)).await;
    hkd_outcome(keeping.await)
}

fn hkd_outcome(ended: Result<hkd::Result<()>, tokio::task::JoinError>) -> Result<(), Failure> {
    let failed = "the house-keeping daemon stopped";
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Failure::new(e.kind(), failed).because(e)),
        Err(e) => Err(Failure::new(ErrorKind::Internal, failed).because(e)),
    }
}

/// This node's row, made at the first start.
async fn register(db: &Db, node: &str) -> Result<(), Failure> {
    let failed =
        |e: qvd_db::Error| Failure::new(e.kind(), format!("cannot register host '{node}'")).because(e);
    if db.hosts().by_name(node).await.map_err(failed)?.is_none() {
        let host = NewHost {
            name: node.to_owned(),
            address: Ipv4Addr::LOCALHOST.to_string(),
            frontend: true,
            backend: true,
        };
        db.hosts().add(host).await.map_err(failed)?;
    }
    Ok(())
}

fn driver(config: &Config) -> Result<Arc<ProcessDriver>, Failure> {
    let own = std::env::current_exe()
        .map_err(|e| Failure::new(ErrorKind::Internal, "cannot find the running program").because(e))?;
    Ok(Arc::new(ProcessDriver::new(ProcessSettings::from_config(config, &own))))
}

/// A node whose driver lacks something serves on, since others run its users' machines; a site of one would only refuse
/// everybody.
async fn refuse_to_serve_nothing(driver: &ProcessDriver) -> Result<(), Failure> {
    let checks = driver.check().await;
    let lacks = checks.into_iter().filter(|check| check.required).filter_map(|check| {
        let remedy = check.remedy?;
        Some(format!("\n  {}: {}\n    → {}", check.what, check.found, remedy.replace('\n', "\n      ")))
    });
    let lacks: String = lacks.collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let text = format!("virtual machines cannot run here (`qvd doctor` tells more):{lacks}");
    Err(Failure::new(ErrorKind::Unavailable, text))
}

/// The address asked for; without one loopback, with a free port when the usual one is taken.
async fn bind(
    db: &Db,
    config: &Config,
    threads: &SessionThreads,
    listen: Option<SocketAddr>,
) -> Result<BoundRouter, Failure> {
    let failed = |e: qvd_l7r::Error| Failure::new(e.kind(), "cannot start the router").because(e);
    let router = |address: SocketAddr| {
        let node = config.text("nodename");
        let router = Router::builder(db.clone(), node).config(config.clone()).listen(address);
        router.workers(threads.runtimes()).build()
    };
    if let Some(address) = listen {
        return router(address).map_err(failed)?.bind().await.map_err(failed);
    }
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let usual = SocketAddr::new(loopback, config.port("l7r.port"));
    match router(usual).map_err(failed)?.bind().await {
        Ok(bound) => Ok(bound),
        Err(qvd_l7r::Error::Bind { source, .. }) => {
            tracing::info!(%usual, "{source}; taking a free port");
            router(SocketAddr::new(loopback, 0)).map_err(failed)?.bind().await.map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

/// The one line that scripts and people wait for.
fn announce(address: SocketAddr, fingerprint: Option<String>, dir: &Path) {
    let (scheme, certificate) = match fingerprint {
        Some(fingerprint) => ("https", fingerprint),
        None => ("http", "no-certificate".to_owned()),
    };
    println!("ready: {scheme}://{address}/ {certificate} config={}", dir.join("node.conf").display());
    let _ = std::io::stdout().flush();
}
