//! The smallest whole site: a broker and a house-keeping daemon in one program of your own.
//!
//! Everything is made afresh at each start: a database in memory with this host, one user and one virtual machine of
//! the process driver. It ends, virtual machine included, on Ctrl-C.
//!
//! ```text
//! cargo build --workspace --bins
//! cargo run -p qvd-examples --example minimal_broker -- DIR        prints the address
//! qvdclient -h 127.0.0.1 -p PORT -u alice                          the password is wonderland
//! ```
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::{future::pending, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use qvd_core::{TenantId, config::Config, units::Mebibytes};
use qvd_db::{Backend, Db, NewHost, NewImage, NewOsf, NewVm, password};
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};
use qvd_hypervisor::hkd::{self, HkdSettings, Shutdown};
use qvd_hypervisor::holder;
use qvd_l7r::Router;

fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let first = words.next().context("usage: minimal_broker DIR")?;
    if first == "holder" {
        // The driver starts this program again for each virtual machine; no thread may exist yet.
        return Ok(holder::main(words));
    }
    tokio::runtime::Runtime::new()?.block_on(run(Path::new(&first)))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(dir: &Path) -> Result<()> {
    let (dir, exe) = (std::path::absolute(dir)?, std::env::current_exe()?);
    let agent = exe.ancestors().nth(2).context("no directory of programs")?.join("qvd-vma");
    let config = Config::builder()
        .set("nodename", "n1")
        .set("path.run", dir.join("run").to_string_lossy())
        .set("path.storage.root", dir.join("storage").to_string_lossy())
        .set("command.qvd-vma", agent.to_string_lossy())
        .build()?;
    let db = Db::open(&Backend::SqliteMemory).await?;
    populate(&db).await?;

    let router = Router::builder(db.clone(), "n1").config(config.clone()).listen(([127, 0, 0, 1], 0).into());
    let router = router.build()?.bind().await?;
    let (address, certificate) = (router.local_addr(), router.fingerprint().context("no certificate")?);
    let driver = ProcessDriver::new(ProcessSettings::from_config(&config, &exe));
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let keeping =
        hkd::run(HkdSettings::new(db, config, "n1").hypervisor(Arc::new(driver)).ready(ready), async {
            if is_ready.await.is_ok() {
                println!("ready: https://{address}/ {certificate}");
            }
            let _ = tokio::signal::ctrl_c().await;
            Shutdown::Stop
        });
    tokio::select! { ended = keeping => Ok(ended?), ended = router.serve(pending()) => Ok(ended?) }
}

async fn populate(db: &Db) -> Result<()> {
    let (tenant, name) = (TenantId::DEFAULT, String::from);
    let address = name("127.0.0.1");
    db.hosts().add(NewHost { name: name("n1"), address, frontend: true, backend: true }).await?;
    let user_id = db.users().add(tenant, "alice", Some(password::hash(b"wonderland")?.expose())).await?;
    let (memory, hypervisor) = (Mebibytes(1024), Some(name("process")));
    let osf = NewOsf { tenant, name: name("desk"), memory, use_overlay: true, home: None, hypervisor };
    let osf_id = db.osfs().add(osf).await?;
    let (file_name, format) = (name("none"), name("none"));
    db.images().add(NewImage { osf_id, file_name, format, version: None, size: None, sha256: None }).await?;
    db.vms().add(NewVm { name: name("alice-1"), user_id, osf_id, di_tag: name("default"), ip: None }).await?;
    Ok(())
}
