//! A host that does what a test says: processes that will not die, a `/proc` that cannot be read.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use super::cgroup::VmCgroups;
use super::host::{HostOps, LockState};
use super::lock::LockContent;
use super::process::{Custody, Life, ProcessId};

/// A scripted [`HostOps`].
///
/// Processes obey SIGKILL and ignore every other signal, unless made [stubborn](FakeHost::make_stubborn).
#[derive(Debug, Default)]
pub struct FakeHost(Mutex<World>);

#[derive(Debug, Default)]
struct World {
    processes: HashMap<ProcessId, FakeProcess>,
    locks: HashMap<PathBuf, LockContent>,
    payload: Vec<i32>,
    custody: Option<Custody>,
    devices: Vec<String>,
    signals: Vec<(ProcessId, Signal)>,
    broken: bool,
}

#[derive(Debug)]
struct FakeProcess {
    stubborn: bool,
    /// Readable for watchers once this end is dropped.
    life_line: Option<(OwnedFd, OwnedFd)>,
}

impl FakeHost {
    /// Adds a living process.
    pub fn add_process(&self, process: ProcessId) {
        self.world()
            .processes
            .insert(process, FakeProcess { stubborn: false, life_line: nix::unistd::pipe().ok() });
    }

    /// Lets a process survive SIGKILL, as one in uninterruptible sleep does.
    pub fn make_stubborn(&self, process: ProcessId) {
        if let Some(process) = self.world().processes.get_mut(&process) {
            process.stubborn = true;
        }
    }

    /// Ends a process.
    pub fn end(&self, process: ProcessId) {
        self.world().processes.remove(&process);
    }

    /// Marks a lock as held.
    pub fn hold_lock(&self, path: impl Into<PathBuf>, content: LockContent) {
        self.world().locks.insert(path.into(), content);
    }

    /// Sets the processes that the payload groups show.
    pub fn set_payload(&self, pids: Vec<i32>) {
        self.world().payload = pids;
    }

    /// Sets what is seen to work in any machine's directory.
    pub fn set_custody(&self, custody: Custody) {
        self.world().custody = Some(custody);
    }

    /// Sets the interfaces that there are, whoever asks.
    pub fn set_network_devices(&self, devices: Vec<String>) {
        self.world().devices = devices;
    }

    /// Lets every question fail from now on.
    pub fn break_down(&self) {
        self.world().broken = true;
    }

    /// Signals sent so far.
    pub fn signals(&self) -> Vec<(ProcessId, Signal)> {
        self.world().signals.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intact(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world();
        if world.broken { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(world) }
    }
}

impl HostOps for FakeHost {
    fn boot_id(&self) -> io::Result<String> {
        self.intact().map(|_| "this-boot".to_owned())
    }

    fn life(&self, process: ProcessId) -> io::Result<Life> {
        Ok(match self.intact()?.processes.get(&process) {
            Some(process) => Life::Alive(if process.stubborn { 'D' } else { 'S' }),
            None => Life::Gone,
        })
    }

    fn signal(&self, process: ProcessId, signal: Signal) -> io::Result<()> {
        let mut world = self.intact()?;
        world.signals.push((process, signal));
        if signal == Signal::SIGKILL && world.processes.get(&process).is_some_and(|process| !process.stubborn)
        {
            world.processes.remove(&process);
        }
        Ok(())
    }

    fn watch(&self, process: ProcessId) -> io::Result<Option<OwnedFd>> {
        let world = self.intact()?;
        let Some(process) = world.processes.get(&process) else { return Ok(None) };
        process.life_line.as_ref().map(|(read, _write)| read.try_clone()).transpose()
    }

    fn lock_state(&self, path: &Path) -> io::Result<LockState> {
        Ok(self.intact()?.locks.get(path).map_or(LockState::Free, |content| LockState::Held(content.clone())))
    }

    fn custody(&self, _: &Path) -> io::Result<Option<Custody>> {
        Ok(self.intact()?.custody)
    }

    fn network_devices(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(self.intact()?.devices.clone())
    }

    fn payload(&self, _: &VmCgroups) -> io::Result<Vec<i32>> {
        Ok(self.intact()?.payload.clone())
    }

    fn kill_payload(&self, _: &VmCgroups) -> io::Result<()> {
        self.intact()?.payload.clear();
        Ok(())
    }
}
