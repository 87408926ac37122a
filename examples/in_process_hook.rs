//! Your own code at the events of a virtual machine's life, in the house-keeping daemon's process.
//!
//! `Doorman` writes down every start and end, and refuses machines whose name begins with `retired`: a hook that fails
//! before a start stops that start. Run, this program starts a daemon with the driver `nothing`, whose machines are
//! nothing, and orders one start that is allowed and one that is not.
#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use qvd_core::config::Config;
use qvd_core::hook::{Hook, HookError, HookEvent, HookKind};
use qvd_core::model::VmRuntime;
use qvd_core::state::VmState;
use qvd_core::units::Mebibytes;
use qvd_core::{TenantId, VmId};
use qvd_db::{Backend, Channel, Claimant, Db, NewHost, NewImage, NewOsf, NewVm};
use qvd_hypervisor::drivers::nothing::{NothingDriver, NothingSettings};
use qvd_hypervisor::hkd::{self, HkdSettings, Shutdown};
use tokio::sync::oneshot;

/// Keeps a book, and some machines out.
#[derive(Debug, Default)]
struct Doorman {
    book: Mutex<Vec<String>>,
}

impl Doorman {
    fn write(&self, line: String) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn book(&self) -> Vec<String> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait::async_trait]
impl Hook for Doorman {
    fn name(&self) -> &str {
        "doorman"
    }

    fn wants(&self, kind: HookKind) -> bool {
        matches!(kind, HookKind::PreStart | HookKind::PostStart | HookKind::PostStop)
    }

    async fn run(&self, event: &HookEvent) -> Result<(), HookError> {
        let value =
            |key: &str| event.params.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let name = value("name").unwrap_or("?");
        if event.kind == HookKind::PreStart && name.starts_with("retired") {
            self.write(format!("{name} is kept out"));
            let message = "retired machines do not start".to_owned();
            return Err(HookError::new(self.name(), message));
        }
        self.write(format!("{name} {}", value("state").unwrap_or("?")));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("qvd-in-process-hook-{}", std::process::id()));
    let told = demonstrate(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    for line in told? {
        println!("{line}");
    }
    Ok(())
}

/// What the doorman wrote down.
async fn demonstrate(dir: &Path) -> Result<Vec<String>> {
    let db = Db::open(&Backend::SqliteMemory).await?;
    let [desk, retired] = populate(&db).await?;
    let config = Config::builder()
        .set("path.run", dir.join("run").to_string_lossy())
        .set("path.storage.root", dir.join("storage").to_string_lossy())
        .set("vm.hypervisor", "nothing")
        .build()?;
    let mut quick = NothingSettings::default();
    (quick.starting, quick.stopping) = (Duration::ZERO, Duration::ZERO);

    let doorman = Arc::new(Doorman::default());
    let (ready, is_ready) = oneshot::channel();
    let settings = HkdSettings::new(db.clone(), config, "n1")
        .hypervisor(Arc::new(NothingDriver::new(quick)))
        .hook(doorman.clone())
        .ready(ready);
    let (end, may_end) = oneshot::channel::<()>();
    let keeping = tokio::spawn(hkd::run(settings, async {
        let _ = may_end.await;
        Shutdown::Stop
    }));
    is_ready.await?;

    start(&db, desk).await?;
    reaches(&db, desk, |row| row.vm_state == VmState::Running).await?;
    ensure!(db.vms().order_stop(desk).await?.is_updated(), "nothing to stop");
    reaches(&db, desk, |row| row.vm_state == VmState::Stopped).await?;
    start(&db, retired).await?;
    reaches(&db, retired, |row| row.vm_state == VmState::Stopped && row.vm_cmd.is_none()).await?;

    let _ = end.send(());
    keeping.await??;
    Ok(doorman.book())
}

async fn populate(db: &Db) -> Result<[VmId; 2]> {
    let (tenant, name) = (TenantId::DEFAULT, String::from);
    let address = name("127.0.0.1");
    db.hosts().add(NewHost { name: name("n1"), address, frontend: false, backend: true }).await?;
    let user_id = db.users().add(tenant, "alice", None).await?;
    let (memory, hypervisor) = (Mebibytes(256), Some(name("nothing")));
    let osf = NewOsf { tenant, name: name("desk"), memory, use_overlay: true, home: None, hypervisor };
    let osf_id = db.osfs().add(osf).await?;
    let (file_name, format) = (name("none"), name("none"));
    db.images().add(NewImage { osf_id, file_name, format, version: None, size: None, sha256: None }).await?;
    let add = async |vm: &'static str| {
        db.vms().add(NewVm { name: name(vm), user_id, osf_id, di_tag: name("default"), ip: None }).await
    };
    Ok([add("desk-1").await?, add("retired-1").await?])
}

async fn start(db: &Db, vm: VmId) -> Result<()> {
    for host in db.hosts().candidates(Some("nothing")).await? {
        if db.vms().claim(vm, host.id, Claimant::Admin).await?.is_updated() {
            return Ok(());
        }
    }
    anyhow::bail!("no host takes virtual machine {vm}")
}

/// Waits for a virtual machine, woken by the database.
async fn reaches(db: &Db, vm: VmId, there: impl Fn(&VmRuntime) -> bool) -> Result<()> {
    let mut changes = db.subscribe(&[Channel::VmState]).only_vm(vm);
    let waiting = async {
        loop {
            match db.vms().runtime(vm).await? {
                Some(row) if there(&row) => return Ok(()),
                Some(_) => _ = changes.next().await,
                None => anyhow::bail!("virtual machine {vm} is gone"),
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    ensure!(done.is_ok(), "virtual machine {vm} does not get there");
    done?
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::testkit::conformance::{self, HookSubject};

    #[tokio::test]
    async fn it_obeys_the_contract() {
        let params =
            vec![("name".to_owned(), "desk-1".to_owned()), ("state".to_owned(), "running".to_owned())];
        let event = HookEvent::new(HookKind::PostStart, params);
        conformance::hook(HookSubject::new(Arc::new(Doorman::default()), event)).await;
    }

    #[tokio::test]
    async fn it_sees_one_life_and_prevents_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let book = demonstrate(dir.path()).await.unwrap();
        let lines: Vec<&str> = book.iter().map(String::as_str).collect();
        assert_eq!(lines[..3], ["desk-1 starting", "desk-1 running", "desk-1 stopping"]);
        assert_eq!(lines[3], "retired-1 is kept out");
        assert!(!lines.contains(&"retired-1 running"), "{lines:?}");
    }
}
