//! The driver's hands: homes, orders, holders, records.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{User, getegid, geteuid};
use tokio::process::Command;
use tokio::time::Instant;

use qvd_core::VmId;
use qvd_core::hypervisor::{ExitInfo, Found, HypervisorError, Prepared, RunningVm, VmSpec};

use super::check::nonce;
use super::inspect::{self, Living, Verdict};
use super::machine::ProcessVm;
use super::plan::{self, Surroundings};
use super::settings::ProcessSettings;
use crate::disk::homes::{self, HomeChoice, HomeError, HomeOwner};
use crate::holder::{ExitRecord, Report, RunRecord, launch_file_name, read_record, write_record};
use crate::hostops::{CgroupPlace, HostOps, LockContent, LockOutcome, LockState, VmLock};
use crate::net;

/// Settings and the seam to the host, shared by all calls.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) settings: ProcessSettings,
    pub(super) ops: Arc<dyn HostOps>,
}

/// An order that lies ready for a holder.
#[derive(Debug)]
pub(super) struct Launch {
    dir: PathBuf,
    nonce: String,
}

/// Outcome of [`Host::order`].
pub(super) enum Ordered {
    /// This very run lives already.
    Lives(Arc<dyn RunningVm>),
    /// A holder must be started.
    Now(Launch),
}

impl Host {
    pub(super) fn prepare(&self, spec: &VmSpec) -> Result<Prepared, HypervisorError> {
        let vm = spec.vm_id;
        let dir = &self.settings.homefs_dir;
        let recorded = spec.storage.as_deref();
        if let Verdict::Running(living) = self.judge(vm)? {
            // Prepared by its own launch; another run of it must end first.
            return if living.run_id == spec.run_id.get() {
                self.storage_of(spec).map(prepared)
            } else {
                Err(HypervisorError::HomeInUse { vm, holder: format!("run {} on this host", living.run_id) })
            };
        }
        make_dir(dir, 0o711)
            .map_err(|e| HypervisorError::host(vm, format!("create '{}'", dir.display()), e))?;
        let _lock = self.lock(vm, spec.run_id.get(), spec.host_incarnation)?;
        let choice = homes::choose(dir, vm, spec.user_id, recorded).map_err(|error| blame(vm, error))?;
        let account = plan::account(&self.settings, vm, &spec.login, uid(), gid())
            .map_err(|error| config(vm, &error))?;
        let owner = HomeOwner { uid: account.uid, gid: account.gid };
        let skeleton = self.settings.home_skeleton.as_deref();
        homes::ensure(dir, &choice, owner, |fresh| match skeleton {
            Some(skeleton) => homes::copy_skeleton(skeleton, &fresh.join(&account.login), owner),
            None => Ok(()),
        })
        .map_err(|error| blame(vm, error))?;
        if let HomeChoice::New(name) = &choice {
            tracing::info!(%vm, home = %dir.join(name).display(), "home created");
        }
        Ok(prepared(name_of(choice)))
    }

    /// Writes the order, unless this run lives already.
    pub(super) fn order(&self, spec: &VmSpec) -> Result<Ordered, HypervisorError> {
        let vm = spec.vm_id;
        match self.judge(vm)? {
            Verdict::Running(living) if living.run_id == spec.run_id.get() => {
                return Ok(Ordered::Lives(self.machine(vm, living)));
            }
            Verdict::Running(living) => {
                return Err(HypervisorError::HomeInUse {
                    vm,
                    holder: format!("run {} on this host", living.run_id),
                });
            }
            // The lock decides.
            Verdict::Absent | Verdict::Debris(_) | Verdict::Unclear(_) => {}
        }
        if let Some(exit) = self.ended(spec) {
            return Err(HypervisorError::EarlyExit { vm, exit });
        }
        let settings = &self.settings;
        let around = Surroundings {
            uid: uid(),
            gid: gid(),
            router_group: self.router_group(),
            home: settings.homefs_dir.join(self.storage_of(spec)?),
            lock: homes::lock_path(&settings.homefs_dir, vm),
            extra_config: self.extra_config(vm)?,
        };
        self.make_room();
        let order = plan::order(settings, spec, &around).map_err(|error| config(vm, &error))?;
        let dir = plan::vm_dir(settings, vm);
        let nonce = nonce();
        let path = dir.join(launch_file_name(&nonce));
        make_dir(&settings.vms_dir(), 0o711)
            .and_then(|()| make_dir(&dir, if uid() == 0 { 0o711 } else { 0o700 }))
            .and_then(|()| write_record(&path, &order))
            .map_err(|e| HypervisorError::host(vm, format!("write '{}'", path.display()), e))?;
        Ok(Ordered::Now(Launch { dir, nonce }))
    }

    /// How this very run ended, if it did; a record that cannot be read is not of a run that may not be started.
    fn ended(&self, spec: &VmSpec) -> Option<ExitInfo> {
        let exit =
            read_record::<ExitRecord>(&inspect::exit_file(&self.settings, spec.vm_id)).ok().flatten()?;
        (exit.run_id == spec.run_id.get()).then(|| exit.into())
    }

    /// An ordinary user's machines are limited only where this daemon makes room for their groups. Where it cannot,
    /// the holder finds other limits, and the check says so.
    fn make_room(&self) {
        let place = CgroupPlace::new(&self.settings.cgroup_mount, &self.settings.cgroup_name());
        if let Err(error) = place.make_room() {
            tracing::debug!(%error, "this account has no control group to divide");
        }
    }

    /// Starts a holder and hears how it went. A holder goes on even when nobody listens any more.
    pub(super) async fn carry_out(&self, vm: VmId, launch: &Launch) -> Result<Report, HypervisorError> {
        let program = &self.settings.self_exe;
        let failed = |e| HypervisorError::host(vm, format!("start its holder '{}'", program.display()), e);
        let output = Command::new(program)
            .args(["holder", "run"])
            .arg(&launch.dir)
            .arg(&launch.nonce)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?
            .wait_with_output()
            .await
            .map_err(failed)?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            failed(io::Error::other(format!("it made no report ({}) {words}", output.status)))
        })
    }

    /// From a holder's report to the machine.
    pub(super) async fn conclude(
        &self,
        spec: &VmSpec,
        report: Report,
    ) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let vm = spec.vm_id;
        match report {
            Report::Launched => match self.record(vm)? {
                Some(record) if record.run_id == spec.run_id.get() => Ok(self.machine(vm, (&record).into())),
                // Ended and cleaned up already: the caller was slower than the machine.
                _ => Err(HypervisorError::EarlyExit { vm, exit: ExitInfo::default() }),
            },
            Report::HomeInUse { run_id, .. } if self.is_twin(spec, run_id).await? => {
                self.await_twin(spec).await
            }
            Report::HomeInUse { holder, .. } => Err(HypervisorError::HomeInUse { vm, holder }),
            Report::Withdrawn => Err(HypervisorError::Busy {
                vm,
                what: "its launch was withdrawn by a clean-up or a newer run".to_owned(),
            }),
            Report::Failed { operation, reason } => {
                Err(HypervisorError::host(vm, operation, io::Error::other(reason)))
            }
        }
    }

    /// Whether the holder of the lock launches this very run for another caller. Between taking the lock and
    /// signing it lies a moment in which the file still names nobody, or the last run.
    async fn is_twin(&self, spec: &VmSpec, seen: i64) -> Result<bool, HypervisorError> {
        let path = homes::lock_path(&self.settings.homefs_dir, spec.vm_id);
        let deadline = Instant::now() + SIGNATURE_LIMIT;
        let mut named = Some(seen);
        while named != Some(spec.run_id.get()) {
            if named.is_none() || Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(TWIN_LOOK_AGAIN).await;
            let state = self.ops.lock_state(&path);
            let state = state.map_err(|e| HypervisorError::host(spec.vm_id, "ask for its lock", e))?;
            named = match state {
                LockState::Held(content) => Some(content.run_id),
                LockState::Free | LockState::Absent => None,
            };
        }
        Ok(true)
    }

    /// Another call launches the same run: its machine is ours too.
    async fn await_twin(&self, spec: &VmSpec) -> Result<Arc<dyn RunningVm>, HypervisorError> {
        let vm = spec.vm_id;
        let deadline = Instant::now() + TWIN_LIMIT;
        loop {
            if let Verdict::Running(living) = self.judge(vm)?
                && living.run_id == spec.run_id.get()
            {
                return Ok(self.machine(vm, living));
            }
            if Instant::now() >= deadline {
                return Err(HypervisorError::Busy { vm, what: "another launch of the same run".to_owned() });
            }
            tokio::time::sleep(TWIN_LOOK_AGAIN).await;
        }
    }

    pub(super) fn find(&self) -> Result<Vec<Found>, HypervisorError> {
        let failed = |error| HypervisorError::host(VmId::new(0), "list the machines of this host", error);
        let mut found = Vec::new();
        for vm in inspect::machines(&self.settings, &*self.ops).map_err(failed)? {
            match inspect::look(&self.settings, &*self.ops, vm) {
                Err(error) => found.push(Found::Unknown { vm_id: vm, reason: error.to_string() }),
                Ok(evidence) => match inspect::judge(&evidence, &self.settings.node) {
                    Verdict::Absent => {}
                    Verdict::Running(living) => found.push(Found::Running {
                        vm_id: vm,
                        run_id: qvd_core::RunId::new(living.run_id),
                        vm: self.machine(vm, living),
                    }),
                    Verdict::Debris(parts) => {
                        let ended = inspect::ended(&self.settings, vm);
                        found.push(Found::Partial { vm_id: vm, parts, ended });
                    }
                    Verdict::Unclear(reason) => found.push(Found::Unknown { vm_id: vm, reason }),
                },
            }
        }
        Ok(found)
    }

    pub(super) fn cleanup(&self, vm: VmId) -> Result<(), HypervisorError> {
        match self.judge(vm)? {
            Verdict::Running(living) => {
                let holder = living.holder.map_or("none".to_owned(), |holder| holder.pid.to_string());
                let what = format!("run {} with holder {holder}", living.run_id);
                return Err(HypervisorError::Busy { vm, what });
            }
            Verdict::Unclear(what) => return Err(HypervisorError::Busy { vm, what }),
            Verdict::Absent => return Ok(()),
            Verdict::Debris(_) => {}
        }
        // A holder that was delayed finds its order gone when it gets the lock after us.
        let _lock = if self.settings.homefs_dir.is_dir() { Some(self.lock(vm, 0, 0)?) } else { None };
        let dir = plan::vm_dir(&self.settings, vm);
        let recorded = self.record(vm).ok().flatten().map(|record| record.cgroups);
        let found = CgroupPlace::new(&self.settings.cgroup_mount, &self.settings.cgroup_name()).find(vm);
        for groups in recorded.into_iter().chain([found]) {
            groups.remove().map_err(|e| HypervisorError::host(vm, "remove its control groups", e))?;
        }
        let device = inspect::device(&self.settings, &*self.ops, vm).and_then(|found| {
            found.map_or(Ok(()), |device| net::apply::remove(&device, &self.settings.cgroup_name()))
        });
        device.map_err(|e| HypervisorError::host(vm, "remove its network interface", e))?;
        remove_dir(&dir).map_err(|e| HypervisorError::host(vm, format!("remove '{}'", dir.display()), e))
    }

    fn judge(&self, vm: VmId) -> Result<Verdict, HypervisorError> {
        let evidence = inspect::look(&self.settings, &*self.ops, vm)
            .map_err(|e| HypervisorError::host(vm, "look at what is left of it", e))?;
        Ok(inspect::judge(&evidence, &self.settings.node))
    }

    fn record(&self, vm: VmId) -> Result<Option<RunRecord>, HypervisorError> {
        inspect::record(&self.settings, vm).map_err(|e| HypervisorError::host(vm, "read its run record", e))
    }

    fn machine(&self, vm: VmId, living: Living) -> Arc<dyn RunningVm> {
        let dir = plan::vm_dir(&self.settings, vm);
        Arc::new(ProcessVm::new(vm, living, dir, inspect::exit_file(&self.settings, vm), self.ops.clone()))
    }

    fn lock(&self, vm: VmId, run_id: i64, incarnation: i64) -> Result<VmLock, HypervisorError> {
        let path = homes::lock_path(&self.settings.homefs_dir, vm);
        let time = jiff::Timestamp::now().to_string();
        let content = LockContent { node: self.settings.node.clone(), incarnation, run_id, time };
        match VmLock::take(&path, &content) {
            Ok(LockOutcome::Taken(lock)) => Ok(lock),
            Ok(LockOutcome::Held(holder)) => {
                Err(HypervisorError::HomeInUse { vm, holder: holder.to_string() })
            }
            Err(e) => Err(HypervisorError::host(vm, format!("lock '{}'", path.display()), e)),
        }
    }

    /// The home that `prepare` made.
    fn storage_of(&self, spec: &VmSpec) -> Result<String, HypervisorError> {
        let vm = spec.vm_id;
        match homes::choose(&self.settings.homefs_dir, vm, spec.user_id, spec.storage.as_deref()) {
            Ok(HomeChoice::Existing(name)) => Ok(name),
            Ok(HomeChoice::New(name)) => {
                Err(blame(vm, HomeError::Missing { name, dir: self.settings.homefs_dir.clone() }))
            }
            Err(error) => Err(blame(vm, error)),
        }
    }

    fn extra_config(&self, vm: VmId) -> Result<String, HypervisorError> {
        let Some(path) = &self.settings.vma_config else { return Ok(String::new()) };
        fs::read_to_string(path).map_err(|e| {
            HypervisorError::host(vm, format!("read '{}' (vm.process.vma.config)", path.display()), e)
        })
    }

    /// Only machines of root need it: others run as the router itself does, or the router is root.
    fn router_group(&self) -> Option<u32> {
        if uid() != 0 || self.settings.router_user.is_empty() {
            return None;
        }
        User::from_name(&self.settings.router_user).ok().flatten().map(|user| user.gid.as_raw())
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// A holder that was late opens its log before it looks for its order, perhaps between two of our steps.
fn remove_dir(path: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}

fn uid() -> u32 {
    geteuid().as_raw()
}

fn gid() -> u32 {
    getegid().as_raw()
}

fn prepared(storage: String) -> Prepared {
    let mut prepared = Prepared::default();
    prepared.storage = Some(storage);
    prepared
}

fn name_of(choice: HomeChoice) -> String {
    match choice {
        HomeChoice::Existing(name) | HomeChoice::New(name) => name,
    }
}

fn config(vm: VmId, problem: &plan::Unplannable) -> HypervisorError {
    HypervisorError::Config { vm, problem: problem.to_string() }
}

/// What an administrator has to mend is charged to nobody; what the system refused, to the host.
fn blame(vm: VmId, error: HomeError) -> HypervisorError {
    match error {
        HomeError::BadName { .. } | HomeError::Ambiguous { .. } | HomeError::ForeignOwner { .. } => {
            HypervisorError::Config { vm, problem: error.to_string() }
        }
        HomeError::Missing { .. } => HypervisorError::HomeMissing { vm, problem: error.to_string() },
        HomeError::Io { .. } => HypervisorError::host(vm, "use its home", error),
    }
}

/// A directory that fills again this often is not being filled by accident.
const REMOVE_TRIES: u32 = 10;

/// How long the same run may take to be launched by somebody else.
const TWIN_LIMIT: Duration = Duration::from_secs(10);

/// How long a holder may take to sign the lock it has.
const SIGNATURE_LIMIT: Duration = Duration::from_millis(100);

/// Between two looks at it.
const TWIN_LOOK_AGAIN: Duration = Duration::from_millis(20);
