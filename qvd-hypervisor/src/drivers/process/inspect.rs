//! What is left of a machine: evidence from files, locks and processes, and the judgement on it.

use std::fs;
use std::io;

use qvd_core::hypervisor::ExitInfo;
use qvd_core::{RunId, VmId};

use super::plan::vm_dir;
use super::settings::ProcessSettings;
use crate::disk::homes::lock_path;
use crate::holder::{EXIT_RECORD, ExitRecord, RUN_RECORD, RunRecord, read_record};
use crate::hostops::{CgroupPlace, Custody, HostOps, Life, LockState, ProcessId, VmCgroups};
use crate::net::plan::MachineNetwork;

/// Everything that can be seen of one machine without changing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// `run.json`, when there is one of this boot.
    pub(super) record: Option<RunRecord>,
    /// The record is of an earlier boot: nothing of it can live.
    pub(super) stale_boot: bool,
    /// What holds the machine as the processes themselves tell it; looked for only when a held lock has no record.
    pub(super) custody: Option<Custody>,
    /// The machine's control groups.
    pub(super) groups: VmCgroups,
    /// The holder that the record names lives.
    pub(super) holder_lives: bool,
    /// The init that the record names lives.
    pub(super) init_lives: bool,
    /// The lock.
    pub(super) lock: LockState,
    /// Processes in the payload's control groups.
    pub(super) payload: Vec<i32>,
    /// Pieces that are there, for people.
    pub(super) parts: Vec<String>,
}

/// A machine that lives, as far as it is known: all of it by its record, less when that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Living {
    /// The run; 0 when nothing tells.
    pub(super) run_id: i64,
    /// Its holder.
    pub(super) holder: Option<ProcessId>,
    /// Its first process.
    pub(super) init: Option<ProcessId>,
    /// Its control groups.
    pub(super) groups: VmCgroups,
    /// Its network, when it has one of its own.
    pub(super) network: Option<MachineNetwork>,
}

impl From<&RunRecord> for Living {
    fn from(record: &RunRecord) -> Self {
        Self {
            run_id: record.run_id,
            holder: Some(record.holder),
            init: record.init,
            groups: record.cgroups.clone(),
            network: record.network.clone(),
        }
    }
}

/// What the evidence amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is left.
    Absent,
    /// It runs, or is just ending by itself.
    Running(Living),
    /// Pieces without a life.
    Debris(Vec<String>),
    /// Something lives, or may, and is not a machine that can be adopted.
    Unclear(String),
}

/// Gathers the evidence on a machine.
///
/// # Errors
///
/// When something could not be read: then nothing is known.
pub(super) fn look(settings: &ProcessSettings, ops: &dyn HostOps, vm: VmId) -> io::Result<Evidence> {
    let dir = vm_dir(settings, vm);
    let mut parts = list(&dir)?;
    let record = match read_record::<RunRecord>(&dir.join(RUN_RECORD)) {
        // It tells nothing, and so is no more than a piece of the machine: lock and processes do tell.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            parts.push(format!("an unreadable {RUN_RECORD}: {error}"));
            None
        }
        other => {
            other.map_err(|error| named(&format!("read '{}'", dir.join(RUN_RECORD).display()), error))?
        }
    };
    let boot_id = ops.boot_id()?;
    let stale_boot = record.as_ref().is_some_and(|record| record.boot_id != boot_id);
    let current = record.filter(|_| !stale_boot);
    let lives = |process| ops.life(process).map(|life| matches!(life, Life::Alive(_)));
    let holder_lives = current.as_ref().map_or(Ok(false), |record| lives(record.holder))?;
    let init_lives = current.as_ref().and_then(|record| record.init).map_or(Ok(false), lives)?;
    let lock_file =
        current.as_ref().map_or_else(|| lock_path(&settings.homefs_dir, vm), |record| record.lock.clone());
    let lock = ops
        .lock_state(&lock_file)
        .map_err(|error| named(&format!("ask for '{}'", lock_file.display()), error))?;
    let place = CgroupPlace::new(&settings.cgroup_mount, &settings.cgroup_name());
    let groups = match &current {
        Some(record) if !record.cgroups.is_empty() => record.cgroups.clone(),
        _ => place.find(vm),
    };
    parts.extend(groups.paths().iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    parts.extend(device(settings, ops, vm)?.map(|device| format!("interface {device}")));
    let payload = ops.payload(&groups)?;
    let custody = match (&current, &lock) {
        (None, LockState::Held(_)) => ops.custody(&dir)?,
        _ => None,
    };
    Ok(Evidence {
        record: current,
        stale_boot,
        custody,
        groups,
        holder_lives,
        init_lives,
        lock,
        payload,
        parts,
    })
}

/// Judges; pure.
pub(super) fn judge(evidence: &Evidence, node: &str) -> Verdict {
    let held_by = match &evidence.lock {
        LockState::Held(content) => Some(content),
        LockState::Absent | LockState::Free => None,
    };
    match (&evidence.record, evidence.holder_lives, evidence.init_lives) {
        (Some(record), true, true) if held_by.is_none() => Verdict::Unclear(format!(
            "process {} lives without the lock '{}': was that file replaced?",
            record.holder.pid,
            record.lock.display()
        )),
        (Some(record), _, true) => Verdict::Running(record.into()),
        // The agent has ended and the holder is writing that down.
        (Some(record), true, false) if record.init.is_some() => Verdict::Running(record.into()),
        (Some(record), true, false) => Verdict::Unclear(format!(
            "run {} is being launched by process {}",
            record.run_id, record.holder.pid
        )),
        // Its holder was killed and took init along, but without namespaces not the rest.
        (Some(record), false, false) if !evidence.payload.is_empty() => Verdict::Running(record.into()),
        (Some(_) | None, false, false) => match held_by {
            // Its record is lost, but it must be possible to kill it.
            Some(content) if evidence.record.is_none() && evidence.has_body() => {
                Verdict::Running(evidence.without_record(content.run_id))
            }
            None if !evidence.payload.is_empty() => Verdict::Running(evidence.without_record(0)),
            Some(content) if content.node == node || content.node.is_empty() => {
                Verdict::Unclear(format!("its lock is held by {content}, of which there is no record"))
            }
            // Another host runs it; here are at most pieces.
            Some(_) | None if evidence.parts.is_empty() => Verdict::Absent,
            Some(_) | None => Verdict::Debris(evidence.parts.clone()),
        },
        (None, true, _) | (None, _, true) => Verdict::Unclear("processes without a record".to_owned()),
    }
}

impl Evidence {
    /// Whether there is more than a holder that has not written its record yet.
    fn has_body(&self) -> bool {
        !self.payload.is_empty() || self.custody.is_some_and(|custody| custody.init.is_some())
    }

    fn without_record(&self, run_id: i64) -> Living {
        Living {
            run_id,
            holder: self.custody.map(|custody| custody.holder),
            init: self.custody.and_then(|custody| custody.init),
            groups: self.groups.clone(),
            network: None,
        }
    }
}

/// Machines that left a directory, a control group or a held lock of this host behind.
///
/// # Errors
///
/// When a directory could not be read.
pub(super) fn machines(settings: &ProcessSettings, ops: &dyn HostOps) -> io::Result<Vec<VmId>> {
    let mut found: Vec<VmId> =
        list(&settings.vms_dir())?.iter().filter_map(|name| name.parse().ok()).collect();
    found.extend(CgroupPlace::new(&settings.cgroup_mount, &settings.cgroup_name()).machines());
    found.extend(list(&settings.homefs_dir)?.iter().filter_map(|name| crate::disk::homes::vm_of_lock(name)));
    if let Some(bridge) = &settings.bridge {
        let devices = ops.network_devices(&settings.cgroup_name())?;
        found.extend(
            devices.iter().filter_map(|name| name.strip_prefix(&bridge.device_prefix)?.parse::<VmId>().ok()),
        );
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The host's end of a machine's network, where there are such.
pub(super) fn device(settings: &ProcessSettings, ops: &dyn HostOps, vm: VmId) -> io::Result<Option<String>> {
    let Some(bridge) = &settings.bridge else { return Ok(None) };
    let name = format!("{}{vm}", bridge.device_prefix);
    Ok(ops.network_devices(&settings.cgroup_name())?.into_iter().find(|device| *device == name))
}

/// Names in a directory; a directory that is not there is empty.
fn list(dir: &std::path::Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(&format!("read '{}'", dir.display()), error)),
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn named(operation: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation}: {error}"))
}

/// The run record, of whatever boot.
pub(super) fn record(settings: &ProcessSettings, vm: VmId) -> io::Result<Option<RunRecord>> {
    read_record(&vm_dir(settings, vm).join(RUN_RECORD))
}

/// The exit record's file, for whoever waits.
pub(super) fn exit_file(settings: &ProcessSettings, vm: VmId) -> std::path::PathBuf {
    vm_dir(settings, vm).join(EXIT_RECORD)
}

/// How the last run ended, for people: a record that cannot be read tells nothing.
pub(super) fn ended(settings: &ProcessSettings, vm: VmId) -> Option<(RunId, ExitInfo)> {
    let record = read_record::<ExitRecord>(&exit_file(settings, vm)).ok().flatten()?;
    Some((RunId::new(record.run_id), record.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::Isolation;
    use crate::hostops::{FakeHost, LockContent, ProcessId, VmCgroups};

    fn record(init: bool) -> RunRecord {
        RunRecord {
            version: RunRecord::VERSION,
            vm_id: 7,
            run_id: 3,
            host_incarnation: 1,
            node: "n1".into(),
            spec_digest: "d".into(),
            boot_id: "this-boot".into(),
            holder: ProcessId { pid: 10, start: 1 },
            init: init.then_some(ProcessId { pid: 11, start: 2 }),
            isolation: Isolation::Namespaces,
            network: None,
            cgroups: VmCgroups::default(),
            lock: "/h/.qvd-vm-7.lock".into(),
            started: "now".into(),
        }
    }

    fn held(node: &str) -> LockState {
        LockState::Held(LockContent { node: node.into(), run_id: 3, ..Default::default() })
    }

    fn evidence(record: Option<RunRecord>) -> Evidence {
        Evidence {
            record,
            stale_boot: false,
            custody: None,
            groups: VmCgroups::default(),
            holder_lives: false,
            init_lives: false,
            lock: LockState::Free,
            payload: Vec::new(),
            parts: Vec::new(),
        }
    }

    const HELD_BY: Custody =
        Custody { holder: ProcessId { pid: 10, start: 1 }, init: Some(ProcessId { pid: 11, start: 2 }) };

    /// Every combination of what can be seen, once.
    #[test]
    fn the_judgement_on_every_kind_of_evidence() {
        let mut seen = std::collections::BTreeMap::<&str, u32>::new();
        for record in [None, Some(record(false)), Some(record(true))] {
            for (holder_lives, init_lives) in [(false, false), (false, true), (true, false), (true, true)] {
                for lock in [LockState::Free, held("n1"), held("n2")] {
                    for payload in [vec![], vec![99]] {
                        for parts in [vec![], vec!["guest".to_owned()]] {
                            let evidence = Evidence {
                                holder_lives,
                                init_lives,
                                lock: lock.clone(),
                                payload: payload.clone(),
                                parts: parts.clone(),
                                ..evidence(record.clone())
                            };
                            let lives =
                                holder_lives || init_lives || !payload.is_empty() || lock == held("n1");
                            let kind = match judge(&evidence, "n1") {
                                Verdict::Absent => {
                                    assert!(!lives && parts.is_empty(), "{evidence:?}");
                                    "absent"
                                }
                                Verdict::Debris(found) => {
                                    assert!(!lives && found == parts, "{evidence:?}");
                                    "debris"
                                }
                                Verdict::Running(found) => {
                                    assert!(lives, "nothing lives, but: {evidence:?}");
                                    if let Some(record) = &record {
                                        assert_eq!(found, record.into());
                                    }
                                    "running"
                                }
                                Verdict::Unclear(reason) => {
                                    assert!(lives && !reason.is_empty(), "{evidence:?}");
                                    "unclear"
                                }
                            };
                            *seen.entry(kind).or_default() += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), ["absent", "debris", "running", "unclear"]);
    }

    #[test]
    fn what_lives_without_a_record_can_be_killed() {
        let known = Living {
            run_id: 3,
            holder: Some(HELD_BY.holder),
            init: HELD_BY.init,
            groups: VmCgroups::default(),
            network: None,
        };
        let orphan = Evidence { lock: held("n1"), custody: Some(HELD_BY), ..evidence(None) };
        assert_eq!(judge(&orphan, "n1"), Verdict::Running(known.clone()));
        // Not before there is more than a holder that will write its record in a moment.
        let early = Custody { init: None, ..HELD_BY };
        assert!(matches!(
            judge(&Evidence { custody: Some(early), ..orphan.clone() }, "n1"),
            Verdict::Unclear(_)
        ));
        // Its holder is not found: the control group is enough to kill the rest.
        let only_payload = Evidence { payload: vec![99], custody: None, ..orphan };
        let rest = Living { holder: None, init: None, ..known };
        assert_eq!(judge(&only_payload, "n1"), Verdict::Running(rest.clone()));
        let unlocked = Evidence { lock: LockState::Free, ..only_payload };
        assert_eq!(judge(&unlocked, "n1"), Verdict::Running(Living { run_id: 0, ..rest }));
    }

    #[test]
    fn a_healthy_machine_runs_and_one_that_lost_its_lock_file_is_unclear() {
        let healthy = Evidence {
            holder_lives: true,
            init_lives: true,
            lock: held("n1"),
            payload: vec![11],
            parts: vec!["run.json".into()],
            ..evidence(Some(record(true)))
        };
        assert_eq!(judge(&healthy, "n1"), Verdict::Running((&record(true)).into()));
        let unlocked = Evidence { lock: LockState::Free, ..healthy.clone() };
        assert!(matches!(judge(&unlocked, "n1"), Verdict::Unclear(_)));
        let dying = Evidence { holder_lives: false, ..unlocked };
        assert!(matches!(judge(&dying, "n1"), Verdict::Running(_)), "it must be possible to kill it");
    }

    fn scene() -> (tempfile::TempDir, ProcessSettings) {
        let dir = tempfile::tempdir().unwrap();
        let mut settings =
            ProcessSettings::new(dir.path().join("run"), dir.path().join("homefs"), "/bin/true", "/bin/true");
        settings.cgroup_mount = dir.path().join("no-cgroups");
        settings.node = "n1".into();
        fs::create_dir_all(vm_dir(&settings, VmId::new(7))).unwrap();
        (dir, settings)
    }

    #[test]
    fn what_cannot_be_read_is_an_error_never_absence() {
        let (_dir, settings) = scene();
        let host = FakeHost::default();
        let vm = VmId::new(7);
        assert_eq!(judge(&look(&settings, &host, vm).unwrap(), "n1"), Verdict::Absent);
        let record = vm_dir(&settings, vm).join(RUN_RECORD);
        fs::create_dir(&record).unwrap();
        assert!(look(&settings, &host, vm).is_err(), "not a file");
        fs::remove_dir(&record).unwrap();
        host.break_down();
        assert!(look(&settings, &host, vm).is_err());
    }

    #[test]
    fn a_record_that_makes_no_sense_is_a_piece_and_hides_nothing() {
        let (_dir, settings) = scene();
        let host = FakeHost::default();
        let vm = VmId::new(7);
        fs::write(vm_dir(&settings, vm).join(RUN_RECORD), "{ half").unwrap();
        let verdict = judge(&look(&settings, &host, vm).unwrap(), "n1");
        let Verdict::Debris(parts) = verdict else { panic!("{verdict:?}") };
        assert!(parts.iter().any(|part| part.starts_with("an unreadable run.json")), "{parts:?}");
        // The same with a holder at work.
        host.hold_lock(
            lock_path(&settings.homefs_dir, vm),
            LockContent { node: "n1".into(), run_id: 3, ..Default::default() },
        );
        host.set_custody(HELD_BY);
        let verdict = judge(&look(&settings, &host, vm).unwrap(), "n1");
        let Verdict::Running(living) = verdict else { panic!("{verdict:?}") };
        assert_eq!((living.run_id, living.holder, living.init), (3, Some(HELD_BY.holder), HELD_BY.init));
    }

    #[test]
    fn records_of_other_versions_are_read() {
        let mut text = serde_json::to_value(record(true)).unwrap();
        let fields = text.as_object_mut().unwrap();
        fields.remove("version");
        fields.insert("of_tomorrow".into(), true.into());
        let read: RunRecord = serde_json::from_value(text).unwrap();
        assert_eq!(read, RunRecord { version: 0, ..record(true) });
    }

    #[test]
    fn a_record_of_an_earlier_boot_is_debris_even_if_its_numbers_live_again() {
        let (_dir, settings) = scene();
        let host = FakeHost::default();
        let old = RunRecord { boot_id: "earlier".into(), ..record(true) };
        host.add_process(old.holder);
        let path = vm_dir(&settings, VmId::new(7)).join(RUN_RECORD);
        fs::write(&path, serde_json::to_vec(&old).unwrap()).unwrap();
        let evidence = look(&settings, &host, VmId::new(7)).unwrap();
        assert!(evidence.stale_boot);
        assert_eq!(judge(&evidence, "n1"), Verdict::Debris(vec![RUN_RECORD.to_owned()]));
        assert_eq!(machines(&settings, &host).unwrap(), [VmId::new(7)]);
    }
}
