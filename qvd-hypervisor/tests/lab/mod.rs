//! A place below `/tmp` with a driver whose agent is a shell script.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use qvd_core::hypervisor::{Found, Hypervisor, HypervisorError, RunningVm, VmSpec};
use qvd_core::{RunId, VmId};
use qvd_hypervisor::drivers::process::{ProcessDriver, ProcessSettings};
use qvd_hypervisor::holder::RunRecord;
use qvd_hypervisor::hostops::PidFd;

/// A directory of its own, gone with the value, and settings of a driver in it.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) settings: ProcessSettings,
}

impl Lab {
    /// With an agent that runs `script` after writing the file `up` into its run directory.
    pub(crate) fn new(script: &str) -> Self {
        Self::within("data", script)
    }

    /// With run-time directory and homes below a directory of that name.
    pub(crate) fn within(name: &str, script: &str) -> Self {
        Self::at("/tmp", name, script)
    }

    /// At a place that machines see as the host does.
    pub(crate) fn in_sight(script: &str) -> Self {
        Self::at("/var/tmp", "data", script)
    }

    fn at(top: &str, name: &str, script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("qvd-lab-").tempdir_in(top).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join(name);
        let mut settings = ProcessSettings::new(
            data.join("run"),
            data.join("homefs"),
            holder_program(),
            dir.path().join("bin/agent"),
        );
        // Labs run beside each other; their control groups must not meet.
        static LABS: AtomicU32 = AtomicU32::new(0);
        settings.node = format!("lab-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { dir, settings };
        lab.set_agent(script);
        lab
    }

    pub(crate) fn set_agent(&self, script: &str) {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
        let agent = bin.join("agent");
        // The run directory is where the configuration is, whatever its name is for this agent.
        let text = format!("#!/bin/sh\nrun=$(dirname \"$2\")\n{script}\n");
        fs::write(&agent, text).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn driver(&self) -> ProcessDriver {
        ProcessDriver::new(self.settings.clone())
    }

    pub(crate) fn vm_dir(&self, vm: i64) -> PathBuf {
        self.settings.vms_dir().join(vm.to_string())
    }

    pub(crate) fn guest(&self, vm: i64) -> PathBuf {
        self.vm_dir(vm).join("guest")
    }

    pub(crate) fn record(&self, vm: i64) -> RunRecord {
        let path = self.vm_dir(vm).join("run.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Prepares and launches, and waits until the agent has said that it is up.
    pub(crate) async fn start(&self, spec: &VmSpec) -> Arc<dyn RunningVm> {
        let driver = self.driver();
        driver.prepare(spec).await.unwrap();
        let vm = driver.launch(spec).await.unwrap();
        self.await_up(spec.vm_id.get()).await;
        vm
    }

    pub(crate) async fn await_up(&self, vm: i64) {
        let up = self.guest(vm).join("up");
        until("the agent is up", || up.exists().then_some(())).await;
    }

    /// Ends whatever runs here and removes what is left.
    pub(crate) async fn end(&self) {
        let driver = self.driver();
        loop {
            let found = driver.find().await.unwrap();
            if found.is_empty() {
                return;
            }
            for found in found {
                match found {
                    Found::Running { vm_id, vm, .. } => {
                        vm.kill(LIMIT).await.unwrap();
                        driver.cleanup(vm_id).await.unwrap();
                    }
                    Found::Partial { vm_id, .. } => match driver.cleanup(vm_id).await {
                        // A holder that was on its way looked whether its order is still there, and had the home's lock
                        // for that moment.
                        Ok(()) | Err(HypervisorError::Busy { .. } | HypervisorError::HomeInUse { .. }) => {}
                        Err(error) => panic!("{error}"),
                    },
                    // Being launched or just ending: it will be something else in a moment.
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    }
}

/// A failed test leaves no machine behind.
impl Drop for Lab {
    fn drop(&mut self) {
        let Ok(machines) = fs::read_dir(self.settings.vms_dir()) else { return };
        for machine in machines.flatten() {
            let record = fs::read(machine.path().join("run.json")).unwrap_or_default();
            let Ok(record) = serde_json::from_slice::<RunRecord>(&record) else { continue };
            for process in record.init.into_iter().chain([record.holder]) {
                if let Ok(Some(handle)) = PidFd::open(process) {
                    let _ = handle.signal(Signal::SIGKILL);
                }
            }
            let _ = record.cgroups.remove();
        }
    }
}

pub(crate) fn spec(vm: i64, run: i64) -> VmSpec {
    VmSpec::new(VmId::new(vm), RunId::new(run), format!("desk {vm}"), "ann")
}

/// Waits for a condition that gives no notice.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// The program that is a machine's holder.
pub(crate) fn holder_program() -> PathBuf {
    std::env::var_os(HOLDER_VARIABLE)
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_qvd-holder")), PathBuf::from)
}

/// The namespaces of a process, by kind.
pub(crate) fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns").join(kind)).unwrap()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says why a test does nothing here; where everything must run, that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("QVD_TEST_REQUIRE").is_none(), "must not be skipped: {why}");
    eprintln!("skipped: {why}");
}

/// Names another holder program than the one that was built with the tests.
pub(crate) const HOLDER_VARIABLE: &str = "QVD_TEST_HOLDER";

/// Long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// An agent that does nothing until it is asked to end.
pub(crate) const PATIENT: &str = "trap 'exit 7' TERM\ntouch $run/up\nwhile :; do sleep 60 & wait $!; done";
