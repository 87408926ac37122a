//! Control groups of one virtual machine: `qvd.slice/<host>/qvd-<id>/{monitor,payload}`.
//!
//! The holder sits in `monitor`; everything else is born in `payload`, which carries the limits. On version 2
//! there is one such tree, on version 1 one under each of memory, cpu, pids and freezer.
//!
//! An ordinary user's tree (version 2 only) is below the group that was delegated to the daemon. A group that holds
//! processes hands no controllers down, so the daemon first moves into a leaf of it: [`CgroupPlace::make_room`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use qvd_core::VmId;

/// Where the groups of a host's machines are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPlace {
    mount: PathBuf,
    node: String,
}

/// What a machine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u32,
}

/// The groups of one machine, one directory per hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCgroups {
    tops: Vec<PathBuf>,
    limits_memory: bool,
    #[serde(default)]
    limits_processes: bool,
    /// The directories are somebody else's; only what is below them is ours.
    #[serde(default)]
    given: bool,
}

impl CgroupPlace {
    /// Below the mount point of the control groups, for the host called `node`.
    pub fn new(mount: impl Into<PathBuf>, node: &str) -> Self {
        Self { mount: mount.into(), node: path_component(node) }
    }

    /// Moves the calling process out of the way, into a leaf of its group, where that group was delegated to an
    /// ordinary user. Does nothing anywhere else, and nothing the second time.
    ///
    /// # Errors
    ///
    /// The kernel's, when the group is not ours to divide: then limits are set another way.
    pub fn make_room(&self) -> io::Result<()> {
        if geteuid().is_root() || !self.mount.join("cgroup.controllers").exists() {
            return Ok(());
        }
        make_room(&self.mount, &fs::read_to_string("/proc/self/cgroup")?)
    }

    /// The groups that exist for a machine.
    pub fn find(&self, vm: VmId) -> VmCgroups {
        let tops =
            self.roots().into_iter().map(|root| self.top(&root, vm)).filter(|top| top.is_dir()).collect();
        VmCgroups { tops, ..VmCgroups::default() }
    }

    /// Machines that have groups here, in any state.
    pub fn machines(&self) -> Vec<VmId> {
        let mut found: Vec<VmId> = self
            .roots()
            .iter()
            .filter_map(|root| fs::read_dir(root.join(SLICE).join(&self.node)).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("qvd-")?.parse().ok())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Makes the groups of a machine and sets its limits, in every hierarchy that lets us.
    ///
    /// # Errors
    ///
    /// The last refusal, when no hierarchy lets us.
    pub fn create(&self, vm: VmId, limits: CgroupLimits) -> io::Result<VmCgroups> {
        let mut groups = VmCgroups::default();
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "no control groups are mounted");
        for root in self.roots() {
            let top = self.top(&root, vm);
            match make_groups(&root, &top) {
                Ok(()) => {
                    groups.limit_and_add(top, limits);
                }
                Err(error) => refusal = error,
            }
        }
        if groups.tops.is_empty() { Err(refusal) } else { Ok(groups) }
    }

    fn top(&self, root: &Path, vm: VmId) -> PathBuf {
        root.join(SLICE).join(&self.node).join(format!("qvd-{vm}"))
    }

    fn roots(&self) -> Vec<PathBuf> {
        if self.mount.join("cgroup.controllers").exists() {
            // An ordinary user may only work below the group that was delegated to the session.
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            return vec![if geteuid().is_root() { self.mount.clone() } else { v2_group(&self.mount, &own) }];
        }
        let Ok(entries) = fs::read_dir(&self.mount) else { return Vec::new() };
        let mut roots: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.split(',').any(|controller| V1_CONTROLLERS.contains(&controller))
            })
            .filter_map(|path| fs::canonicalize(path).ok())
            .collect();
        roots.sort();
        roots.dedup();
        roots
    }
}

impl VmCgroups {
    /// Makes the groups of a machine in directories that somebody made for it, and sets its limits.
    ///
    /// # Errors
    ///
    /// The first refusal; also where there is no directory at all.
    pub fn within(places: &[PathBuf], limits: CgroupLimits) -> io::Result<Self> {
        let mut groups = Self { given: true, ..Self::default() };
        for top in places {
            delegate_controllers(top, top);
            let made = make_group(&top.join(MONITOR)).and_then(|()| make_group(&top.join(PAYLOAD)));
            groups.limit_and_add(top.clone(), limits);
            if let Err(refusal) = made {
                let _ = groups.remove();
                return Err(refusal);
            }
        }
        if groups.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(groups) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tops.is_empty()
    }

    /// Whether memory is limited here; else the caller needs another way.
    pub fn limits_memory(&self) -> bool {
        self.limits_memory
    }

    /// Whether the number of processes is limited here; else the caller needs another way.
    pub fn limits_processes(&self) -> bool {
        self.limits_processes
    }

    /// The directories, for logs.
    pub fn paths(&self) -> &[PathBuf] {
        &self.tops
    }

    /// Moves the calling process to `monitor`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn enter_monitor(&self) -> io::Result<()> {
        self.enter(MONITOR)
    }

    /// Moves the calling process to `payload`, where its children are then born.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn enter_payload(&self) -> io::Result<()> {
        self.enter(PAYLOAD)
    }

    /// Processes in `payload`, in the caller's numbers.
    ///
    /// # Errors
    ///
    /// The kernel's; groups that are gone hold nothing.
    pub fn payload(&self) -> io::Result<Vec<i32>> {
        let mut all = Vec::new();
        for top in &self.tops {
            collect_processes(&top.join(PAYLOAD), &mut all)?;
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Sends SIGKILL to everything in `payload`; nothing can fork its way out.
    ///
    /// # Errors
    ///
    /// The kernel's. Whether all are dead is another question: [`payload`](Self::payload).
    pub fn kill_payload(&self) -> io::Result<()> {
        if let Some(switch) = self.payload_file("cgroup.kill") {
            return fs::write(switch, "1");
        }
        let Some(freezer) = self.payload_file("freezer.state") else { return self.kill_each() };
        let killed = fs::write(&freezer, "FROZEN").and_then(|()| self.kill_each());
        // Whatever went wrong: nothing that is frozen can die.
        let thawed = fs::write(&freezer, "THAWED");
        killed.and(thawed)
    }

    fn kill_each(&self) -> io::Result<()> {
        for pid in self.payload()? {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(())
    }

    /// Whether the kernel killed something in `payload` for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        ["memory.events", "memory.oom_control"].iter().filter_map(|name| self.payload_file(name)).any(
            |file| {
                let text = fs::read_to_string(file).unwrap_or_default();
                text.lines()
                    .filter_map(|line| line.strip_prefix("oom_kill "))
                    .any(|count| count.trim() != "0")
            },
        )
    }

    /// Removes the groups; those that are gone already are fine.
    ///
    /// # Errors
    ///
    /// `EBUSY` while something is in them.
    pub fn remove(&self) -> io::Result<()> {
        for top in &self.tops {
            for group in [top.join(PAYLOAD), top.join(MONITOR)] {
                remove_tree(&group)?;
            }
            if self.given {
                continue;
            }
            remove_tree(top)?;
            // The host's group and the slice go with their last machine.
            let _ = top.parent().map(fs::remove_dir).and_then(Result::ok);
            let _ = top.ancestors().nth(2).map(fs::remove_dir).and_then(Result::ok);
        }
        Ok(())
    }

    fn limit_and_add(&mut self, top: PathBuf, limits: CgroupLimits) {
        let limited = set_limits(&top.join(PAYLOAD), limits);
        self.limits_memory |= limited.memory;
        self.limits_processes |= limited.processes;
        self.tops.push(top);
    }

    fn enter(&self, group: &str) -> io::Result<()> {
        self.tops.iter().try_for_each(|top| fs::write(top.join(group).join("cgroup.procs"), "0"))
    }

    fn payload_file(&self, name: &str) -> Option<PathBuf> {
        self.tops.iter().map(|top| top.join(PAYLOAD).join(name)).find(|file| file.exists())
    }
}

/// The group in the version 2 hierarchy that the calling process was started in: its own, or the one that it made a
/// leaf of for itself.
fn v2_group(mount: &Path, proc_self_cgroup: &str) -> PathBuf {
    let own = own_v2_group(mount, proc_self_cgroup);
    match own.parent() {
        Some(parent) if own.ends_with(LEAF) => parent.to_owned(),
        _ => own,
    }
}

fn own_v2_group(mount: &Path, proc_self_cgroup: &str) -> PathBuf {
    let own = proc_self_cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    mount.join(own)
}

fn make_room(mount: &Path, proc_self_cgroup: &str) -> io::Result<()> {
    let own = own_v2_group(mount, proc_self_cgroup);
    if own.ends_with(LEAF) {
        return Ok(());
    }
    let leaf = own.join(LEAF);
    make_group(&leaf)?;
    let moved = fs::write(leaf.join("cgroup.procs"), "0");
    if moved.is_err() {
        let _ = fs::remove_dir(&leaf);
    }
    moved
}

fn make_groups(root: &Path, top: &Path) -> io::Result<()> {
    // Another machine's clean-up may remove the empty parents between two of our steps.
    for attempt in 0.. {
        let made = fs::create_dir_all(top)
            .map(|()| delegate_controllers(root, top))
            .and_then(|()| make_group(&top.join(MONITOR)))
            .and_then(|()| make_group(&top.join(PAYLOAD)));
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < 5 => {}
            other => return other,
        }
    }
    Ok(())
}

fn make_group(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Version 2 only: a group has the controllers that its parent hands down.
fn delegate_controllers(root: &Path, top: &Path) {
    if !root.join("cgroup.subtree_control").exists() {
        return;
    }
    let mut chain: Vec<&Path> = top.ancestors().take_while(|path| path.starts_with(root)).collect();
    chain.reverse();
    for group in chain {
        for controller in ["+memory", "+pids", "+cpu"] {
            // Missing or not ours to hand down; `set_limits` finds out what there is.
            let _ = fs::write(group.join("cgroup.subtree_control"), controller);
        }
    }
}

/// Processes of a group and of the groups that its processes made below it.
fn collect_processes(group: &Path, all: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_processes(&entry.path(), all)?;
        }
    }
    Ok(())
}

/// What a hierarchy really limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limited {
    memory: bool,
    processes: bool,
}

/// Sets what this hierarchy knows.
fn set_limits(payload: &Path, limits: CgroupLimits) -> Limited {
    let set = |name: &str, value: u64| {
        let file = payload.join(name);
        file.exists() && fs::write(file, value.to_string()).is_ok()
    };
    let processes = set("pids.max", u64::from(limits.processes));
    let memory = set("memory.max", limits.memory) || set("memory.limit_in_bytes", limits.memory);
    // Version 1 counts memory and swap together, version 2 swap alone.
    set("memory.memsw.limit_in_bytes", limits.memory);
    set("memory.swap.max", 0);
    Limited { memory, processes }
}

/// Groups made by the machine's own processes go with it.
fn remove_tree(group: &Path) -> io::Result<()> {
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A host name as one harmless component of a path.
fn path_component(node: &str) -> String {
    let clean: String =
        node.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    match clean.trim_start_matches('.') {
        "" => "host".to_owned(),
        name => name.to_owned(),
    }
}

const SLICE: &str = "qvd.slice";
/// Not a name that a service manager gives.
const LEAF: &str = "qvd-hkd.leaf";
const MONITOR: &str = "monitor";
const PAYLOAD: &str = "payload";
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "freezer"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_gives_one_group_per_controller_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["memory", "cpu,cpuacct", "pids", "freezer", "blkio", "systemd"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let place = CgroupPlace::new(dir.path(), "a/../b");
        let limits = CgroupLimits { memory: 1 << 28, processes: 4096 };
        let groups = place.create(VmId::new(7), limits).unwrap();
        assert_eq!(groups.paths().len(), 4);
        assert!(!groups.limits_memory(), "a plain directory has no such file");
        assert!(dir.path().join("cpu,cpuacct/qvd.slice/a_.._b/qvd-7/payload").is_dir());
        assert_eq!(place.machines(), [VmId::new(7)]);
        assert_eq!(place.find(VmId::new(7)).paths(), groups.paths());
        assert!(place.find(VmId::new(8)).is_empty());
        groups.remove().unwrap();
        groups.remove().unwrap();
        assert!(place.machines().is_empty());
        assert!(!dir.path().join("memory/qvd.slice").exists());
    }

    #[test]
    fn limits_are_written_where_the_files_are() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let limited = set_limits(dir.path(), CgroupLimits { memory: 1024, processes: 9 });
        assert_eq!(limited, Limited { memory: true, processes: true });
        let empty = tempfile::tempdir().unwrap();
        let limited = set_limits(empty.path(), CgroupLimits { memory: 1024, processes: 9 });
        assert_eq!(limited, Limited { memory: false, processes: false });
        assert_eq!(fs::read_to_string(dir.path().join("memory.memsw.limit_in_bytes")).unwrap(), "1024");
        assert_eq!(fs::read_to_string(dir.path().join("pids.max")).unwrap(), "9");
    }

    #[test]
    fn a_place_that_was_given_is_used_emptied_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let limits = CgroupLimits { memory: 1, processes: 1 };
        let groups = VmCgroups::within(&[dir.path().to_owned()], limits).unwrap();
        assert!(dir.path().join("payload").is_dir() && dir.path().join("monitor").is_dir());
        groups.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(VmCgroups::within(&[], limits).is_err());
        let half = [dir.path().to_owned(), dir.path().join("nowhere")];
        assert!(VmCgroups::within(&half, limits).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "all or nothing");
    }

    #[test]
    fn processes_that_hide_in_groups_of_their_own_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let groups = VmCgroups { tops: vec![dir.path().to_owned()], ..VmCgroups::default() };
        assert_eq!(groups.payload().unwrap(), [0_i32; 0]);
        fs::create_dir_all(dir.path().join("payload/a/b")).unwrap();
        for (group, pids) in [("payload", "3\n1\n"), ("payload/a", ""), ("payload/a/b", "7\n")] {
            fs::write(dir.path().join(group).join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(groups.payload().unwrap(), [1, 3, 7]);
    }

    #[test]
    fn a_kill_that_fails_leaves_nothing_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let groups = VmCgroups { tops: vec![dir.path().to_owned()], ..VmCgroups::default() };
        // A directory where the list should be: it cannot be read.
        fs::create_dir_all(dir.path().join("payload/cgroup.procs")).unwrap();
        let freezer = dir.path().join("payload/freezer.state");
        fs::write(&freezer, "THAWED").unwrap();
        assert!(groups.kill_payload().is_err());
        assert_eq!(fs::read_to_string(&freezer).unwrap(), "THAWED");
    }

    #[test]
    fn an_out_of_memory_kill_is_seen_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let groups = VmCgroups { tops: vec![dir.path().to_owned()], ..VmCgroups::default() };
        fs::create_dir(dir.path().join(PAYLOAD)).unwrap();
        assert!(!groups.ran_out_of_memory());
        let control = dir.path().join("payload/memory.oom_control");
        fs::write(&control, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n").unwrap();
        assert!(!groups.ran_out_of_memory());
        fs::write(&control, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
        assert!(groups.ran_out_of_memory());
    }

    #[test]
    fn a_daemon_in_a_delegated_group_makes_room_for_its_machines() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("user.slice/hkd.service");
        fs::create_dir_all(&unit).unwrap();
        let before = "0::/user.slice/hkd.service\n";
        // The kernel makes a group's files; here is one that only has a place for them.
        fs::create_dir_all(unit.join(LEAF)).unwrap();
        make_room(dir.path(), before).unwrap();
        assert_eq!(fs::read_to_string(unit.join(LEAF).join("cgroup.procs")).unwrap(), "0");
        let after = format!("0::/user.slice/hkd.service/{LEAF}\n");
        make_room(dir.path(), &after).unwrap();
        assert!(!unit.join(LEAF).join(LEAF).exists(), "the second time there is nothing to do");
        // Before and after, the machines' groups are at the same place.
        assert_eq!(v2_group(dir.path(), before), unit);
        assert_eq!(v2_group(dir.path(), &after), unit);
        let top = unit.join("qvd.slice/n/qvd-7");
        fs::create_dir_all(&top).unwrap();
        fs::write(unit.join("cgroup.subtree_control"), "").unwrap();
        delegate_controllers(&unit, &top);
        assert_eq!(fs::read_to_string(unit.join("cgroup.subtree_control")).unwrap(), "+cpu");
    }

    #[test]
    fn a_group_that_is_not_ours_to_divide_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("session.scope");
        fs::create_dir_all(own.join(LEAF).join("cgroup.procs")).unwrap();
        assert!(make_room(dir.path(), "0::/session.scope\n").is_err());
        assert!(make_room(dir.path(), "0::/gone.scope\n").is_err());
        assert!(!dir.path().join("gone.scope").exists());
    }

    #[test]
    fn no_mounted_hierarchy_is_an_error_not_a_silence() {
        let dir = tempfile::tempdir().unwrap();
        let place = CgroupPlace::new(dir.path(), "n");
        assert!(place.create(VmId::new(1), CgroupLimits { memory: 1, processes: 1 }).is_err());
        assert_eq!(v2_group(Path::new("/c"), "9:x:/a\n0::/user.slice/b\n"), Path::new("/c/user.slice/b"));
    }
}
