//! A process machine from outside: its processes, namespaces and control groups, and what remains of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::wait_until;
use crate::site::Site;

/// The kinds of namespaces that a machine has of its own.
pub const NAMESPACES: [&str; 4] = ["pid", "mnt", "ipc", "uts"];

/// One run of a machine, as its holder recorded it.
#[derive(Clone, Debug)]
pub struct Machine {
    holder: i32,
    init: i32,
    pid_namespace: PathBuf,
    // As long as it is open the kernel gives the namespace's number to no other.
    _kept: Arc<File>,
    groups: Vec<PathBuf>,
    dir: PathBuf,
}

impl Machine {
    /// The present run of a machine.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn of(site: &Site, vm: i64) -> Result<Self> {
        let dir = site.guest_dir(vm).parent().map(PathBuf::from).unwrap_or_default();
        let file = dir.join("run.json");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let record: Value = serde_json::from_str(&text).context("the run's record is not JSON")?;
        let number = |part: &str| {
            let pid = record[part]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            pid.ok_or_else(|| anyhow!("the run's record has no {part}"))
        };
        let (holder, init) = (number("holder")?, number("init")?);
        let groups = record["cgroups"]["tops"].as_array().into_iter().flatten();
        let groups = groups.filter_map(Value::as_str).map(PathBuf::from).collect();
        let kept = File::open(format!("/proc/{init}/ns/pid")).context("its first process is gone")?;
        let pid_namespace = namespace(init, "pid").context("its first process is gone")?;
        Ok(Self { holder, init, pid_namespace, _kept: Arc::new(kept), groups, dir })
    }

    /// Its first process.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// Its processes by number, with the names of their programs.
    pub fn processes(&self) -> BTreeMap<i32, String> {
        numbers()
            .filter(|pid| namespace(*pid, "pid").as_ref() == Some(&self.pid_namespace))
            .filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?)))
            .map(|(pid, name)| (pid, name.trim_end().to_owned()))
            .collect()
    }

    /// The first of its processes with this name.
    pub fn find(&self, name: &str) -> Option<i32> {
        self.named(name).next()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = i32> {
        // The name is looked at first: this is asked at moments that do not last.
        numbers().filter(move |pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|own| own.trim_end() == name)
                && namespace(*pid, "pid").as_ref() == Some(&self.pid_namespace)
        })
    }

    /// Kills its processes with this name: a program that is about to run another one has two for a moment.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn kill(&self, name: &str) -> Result<()> {
        let mut killed = Err(anyhow!("no {name} runs in the machine"));
        for pid in self.named(name) {
            let ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
            if killed.is_err() {
                killed = ended.with_context(|| format!("cannot kill {name}"));
            }
        }
        killed
    }

    /// What there still is of it: processes, control groups, mounts, sockets. Empty when nothing is.
    pub fn remains(&self) -> Vec<String> {
        let mut remains: Vec<String> =
            self.processes().into_iter().map(|(pid, name)| format!("process {pid} {name}")).collect();
        let own = format!("{}", self.dir.display());
        if fs::read_to_string(format!("/proc/{}/cmdline", self.holder)).is_ok_and(|line| line.contains(&own))
        {
            remains.push(format!("holder {}", self.holder));
        }
        remains.extend(self.groups.iter().filter(|g| g.exists()).map(|g| format!("group {}", g.display())));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        remains.extend(mounts.lines().filter(|line| line.contains(&own)).map(|line| format!("mount {line}")));
        let sockets = ["vma.sock", "guest/nx.sock"].map(|name| self.dir.join(name));
        remains.extend(sockets.iter().filter(|s| s.exists()).map(|s| format!("socket {}", s.display())));
        remains
    }

    /// Waits until nothing of it remains.
    ///
    /// # Errors
    ///
    /// What does.
    pub fn wait_gone(&self, limit: Duration) -> Result<()> {
        wait_until("the end of the machine", limit, || self.remains().is_empty().then_some(()))
            .with_context(|| format!("there remain {:?}", self.remains()))
    }
}

/// What a process's namespace is called, such as `pid:[4026531836]`.
pub fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Processes whose command line names this text, with that line; for what a site leaves behind.
pub fn processes_naming(text: &str) -> Vec<String> {
    let own = std::process::id() as i32;
    numbers()
        .filter(|pid| *pid != own)
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok().map(|line| (pid, line)))
        .map(|(pid, line)| format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")))
        .filter(|line| line.contains(text))
        .collect()
}

fn numbers() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
