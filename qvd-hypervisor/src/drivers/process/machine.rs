//! A machine that runs, launched or adopted: watched and ended through its holder and its init.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout_at};

use qvd_core::VmId;
use qvd_core::hypervisor::{Endpoint, ExitInfo, HypervisorError, RunningVm};

use super::inspect::Living;
use crate::holder::{ExitRecord, read_record};
use crate::hostops::{HostOps, Life, ProcessId, readable};

/// A running process machine.
#[derive(Debug)]
pub(super) struct ProcessVm {
    vm: VmId,
    living: Living,
    dir: PathBuf,
    exit_file: PathBuf,
    ops: Arc<dyn HostOps>,
}

impl ProcessVm {
    pub(super) fn new(
        vm: VmId,
        living: Living,
        dir: PathBuf,
        exit_file: PathBuf,
        ops: Arc<dyn HostOps>,
    ) -> Self {
        Self { vm, living, dir, exit_file, ops }
    }

    fn processes(&self) -> impl Iterator<Item = ProcessId> + '_ {
        // Init first: the holder follows it and writes how it was.
        self.living.init.into_iter().chain(self.living.holder)
    }

    /// Waits until a process is gone; an unreadable `/proc` counts as alive.
    async fn gone(&self, process: ProcessId) {
        loop {
            let watched = match self.ops.watch(process) {
                Ok(None) => return,
                Ok(Some(handle)) => readable(handle).await,
                Err(error) => Err(error),
            };
            match watched {
                Ok(()) if !matches!(self.ops.life(process), Ok(Life::Alive(_))) => return,
                Ok(()) => {
                    tracing::debug!(vm = %self.vm, pid = process.pid, "its handle said it had ended, it has not")
                }
                Err(error) => {
                    tracing::warn!(vm = %self.vm, pid = process.pid, %error, "cannot watch a process")
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The payload's groups empty by themselves once the init is gone; without namespaces they may not.
    async fn payload_gone(&self) {
        loop {
            match self.ops.payload(&self.living.groups) {
                Ok(pids) if pids.is_empty() => return,
                Ok(_) | Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn kill_all(&self) -> io::Result<()> {
        if let Some(init) = self.living.init {
            self.ops.signal(init, Signal::SIGKILL)?;
            self.gone(init).await;
        }
        self.ops.kill_payload(&self.living.groups)?;
        self.payload_gone().await;
        let Some(holder) = self.living.holder else { return Ok(()) };
        // The holder has only to write down how it was. Killed any earlier it would free the lock too soon.
        if tokio::time::timeout(HOLDER_FOLLOWS, self.gone(holder)).await.is_err() {
            self.ops.signal(holder, Signal::SIGKILL)?;
            self.gone(holder).await;
        }
        Ok(())
    }

    /// What would not die, for people.
    fn survivors(&self) -> String {
        let mut words = Vec::new();
        for (name, process) in [("init", self.living.init), ("holder", self.living.holder)] {
            let Some(process) = process else { continue };
            match self.ops.life(process) {
                Ok(Life::Alive(state)) => words.push(format!("{name} {} in state {state}", process.pid)),
                Ok(Life::Gone) => {}
                Err(error) => words.push(format!("{name} {} ({error})", process.pid)),
            }
        }
        match self.ops.payload(&self.living.groups) {
            Ok(pids) if pids.is_empty() => {}
            Ok(pids) => words.push(format!("processes {pids:?}")),
            Err(error) => words.push(format!("its control group ({error})")),
        }
        words.join(", ")
    }
}

#[async_trait]
impl RunningVm for ProcessVm {
    fn endpoint(&self) -> Endpoint {
        match &self.living.network {
            Some(network) => network.endpoint(),
            None => Endpoint::Unix { dir: self.dir.clone() },
        }
    }

    async fn exited(&self) -> ExitInfo {
        for process in self.processes() {
            self.gone(process).await;
        }
        if self.living.holder.is_none() {
            // Nobody waits for them but us.
            self.payload_gone().await;
        }
        match read_record::<ExitRecord>(&self.exit_file) {
            Ok(Some(exit)) if exit.run_id == self.living.run_id => exit.into(),
            Ok(_) => ExitInfo::default().saying("its holder ended without a word"),
            Err(error) => ExitInfo::default().saying(format!("its exit record is unreadable: {error}")),
        }
    }

    async fn terminate(&self) -> Result<(), HypervisorError> {
        let Some(init) = self.living.init else { return Ok(()) };
        self.ops.signal(init, Signal::SIGTERM).map_err(|error| {
            HypervisorError::host(self.vm, format!("send SIGTERM to process {}", init.pid), error)
        })
    }

    async fn kill(&self, limit: Duration) -> Result<(), HypervisorError> {
        match timeout_at(Instant::now() + limit, self.kill_all()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(HypervisorError::host(self.vm, "kill its processes", error)),
            Err(_) => Err(HypervisorError::StillAlive { vm: self.vm, what: self.survivors() }),
        }
    }
}

/// How long the holder may take to write the exit record.
const HOLDER_FOLLOWS: Duration = Duration::from_secs(3);

/// Between two looks at what gives no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostops::{FakeHost, VmCgroups};

    const HOLDER: ProcessId = ProcessId { pid: 10, start: 1 };
    const INIT: ProcessId = ProcessId { pid: 11, start: 2 };

    fn machine(host: &Arc<FakeHost>, dir: &std::path::Path) -> ProcessVm {
        let living = Living {
            run_id: 3,
            holder: Some(HOLDER),
            init: Some(INIT),
            groups: VmCgroups::default(),
            network: None,
        };
        host.add_process(HOLDER);
        host.add_process(INIT);
        ProcessVm::new(VmId::new(7), living, dir.to_owned(), dir.join("exit"), host.clone())
    }

    #[tokio::test]
    async fn an_unkillable_payload_keeps_its_holder_and_so_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        let vm = machine(&host, dir.path());
        host.make_stubborn(INIT);
        let refused = vm.kill(Duration::from_millis(120)).await.unwrap_err();
        let HypervisorError::StillAlive { what, .. } = &refused else { panic!("{refused}") };
        assert!(what.contains("init 11 in state D") && what.contains("holder 10 in state S"), "{what}");
        assert_eq!(
            host.signals(),
            [(INIT, Signal::SIGKILL)],
            "the holder must not be killed before its machine"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_does_not_follow_is_killed_last() {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        let vm = machine(&host, dir.path());
        vm.kill(Duration::from_secs(60)).await.unwrap();
        assert_eq!(host.signals(), [(INIT, Signal::SIGKILL), (HOLDER, Signal::SIGKILL)]);
        assert!(vm.exited().await.last_words.contains("without a word"));
    }

    #[tokio::test]
    async fn every_waiter_learns_of_the_end_and_only_of_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        let vm = Arc::new(machine(&host, dir.path()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let vm = vm.clone();
                tokio::spawn(async move { vm.exited().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        let exit = ExitRecord {
            run_id: 3,
            code: Some(4),
            signal: None,
            out_of_memory: true,
            last_words: "bye".into(),
        };
        std::fs::write(dir.path().join("exit"), serde_json::to_vec(&exit).unwrap()).unwrap();
        host.end(INIT);
        host.end(HOLDER);
        for waiter in waiters {
            let seen = waiter.await.unwrap();
            assert_eq!((seen.code, seen.out_of_memory, seen.last_words.as_str()), (Some(4), true, "bye"));
        }
        let other = ExitRecord { run_id: 2, ..exit };
        std::fs::write(dir.path().join("exit"), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(vm.exited().await.code, None, "the record of another run is not ours");
    }
}
