//! A whole site in one program of your own: a broker, a house-keeping daemon and a database in memory with this host,
//! one user and one virtual machine of the process driver. It ends, virtual machine included, on Ctrl-C. Build with
//! `cargo build --workspace --bins`; `cargo run -p qvd-examples --example minimal_broker -- DIR` prints the address,
//! `qvdclient -h 127.0.0.1 -p PORT -u alice` shows the desktop; the password is wonderland.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]
use std::{future::pending, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use qvd_core::{TenantId, config::Config, units::Mebibytes};
use qvd_db::{Backend, Db, NewHost, NewImage, NewOsf, NewVm, password};
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};
use qvd_hypervisor::hkd::{self, HkdSettings, Shutdown};
use qvd_l7r::Router;

fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let first = words.next().context("usage: minimal_broker DIR")?;
    if first == "holder" {
        // The driver starts this program again for each virtual machine; no thread may exist yet.
        return Ok(qvd_hypervisor::holder::main(words));
    }
    tokio::runtime::Runtime::new()?.block_on(run(&std::path::absolute(first)?, &std::env::current_exe()?))
}

async fn run(dir: &Path, exe: &Path) -> Result<ExitCode> {
    let config = Config::builder()
        .set("nodename", "n1")
        .set("path.run", dir.join("run").to_string_lossy())
        .set("path.storage.root", dir.join("storage").to_string_lossy())
        .set("command.qvd-vma", exe.with_file_name("../qvd-vma").to_string_lossy())
        .build()?;
    let db = Db::open(&Backend::SqliteMemory).await?;
    populate(&db, TenantId::DEFAULT).await?;
    let router = Router::builder(db.clone(), "n1").config(config.clone()).listen(([127, 0, 0, 1], 0).into());
    let router = router.build()?.bind().await?;
    let (address, certificate) = (router.local_addr(), router.fingerprint().context("no certificate")?);
    let driver = Arc::new(ProcessDriver::new(ProcessSettings::from_config(&config, exe)));
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let keeping = hkd::run(HkdSettings::new(db, config, "n1").hypervisor(driver).ready(ready), async {
        let _ = is_ready.await.inspect(|()| println!("ready: https://{address}/ {certificate}"));
        let _ = tokio::signal::ctrl_c().await;
        Shutdown::Stop
    });
    tokio::select! { ended = keeping => ended?, ended = router.serve(pending()) => ended? };
    Ok(ExitCode::SUCCESS)
}

async fn populate(db: &Db, tenant: TenantId) -> Result<()> {
    let (name, address) = ("n1".into(), "127.0.0.1".into());
    db.hosts().add(NewHost { name, address, frontend: true, backend: true }).await?;
    let user_id = db.users().add(tenant, "alice", Some(password::hash(b"wonderland")?.expose())).await?;
    let (memory, hypervisor) = (Mebibytes(1024), Some("process".into()));
    let osf = NewOsf { tenant, name: "desk".into(), memory, use_overlay: true, home: None, hypervisor };
    let (osf_id, file_name, format) = (db.osfs().add(osf).await?, "none".into(), "none".into());
    db.images().add(NewImage { osf_id, file_name, format, version: None, size: None, sha256: None }).await?;
    let (name, di_tag) = ("alice-1".into(), "default".into());
    db.vms().add(NewVm { name, user_id, osf_id, di_tag, ip: None }).await?;
    Ok(())
}
