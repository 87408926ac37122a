//! Looks at every prerequisite of the driver by really trying it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use qvd_core::VmId;
use qvd_core::hypervisor::Check;

use super::settings::ProcessSettings;
use crate::holder::{ProbeReport, ProbeStep};
use crate::hostops::{CgroupLimits, CgroupPlace, LockContent, LockOutcome, VmLock, unsafe_lock_options};
use crate::net::{self, plan::BridgeSettings};

/// All checks, in the order in which a reader should mend.
pub(super) fn all(settings: &ProcessSettings) -> Vec<Check> {
    let mut checks = vec![
        directory("run-time directory", &settings.vms_dir(), "path.run"),
        directory("homes", &settings.homefs_dir, "path.storage.homefs"),
        lock(settings),
        lock_options(settings),
        program(
            "agent",
            &settings.vma_program,
            "install qvd-vma beside this program, or set command.qvd-vma",
        ),
        program("nxagent", &settings.nxagent, "apt-get install nxagent, or set command.nxagent"),
    ];
    checks.extend(isolation(settings));
    checks.push(cgroups(settings));
    checks.extend(settings.bridge.as_ref().map(|bridge| network(settings, bridge)));
    checks
}

fn directory(what: &str, path: &Path, key: &str) -> Check {
    let tried = DirBuilder::new().recursive(true).mode(0o711).create(path).and_then(|()| {
        let probe = path.join(format!(".qvd-probe-{}", nonce()));
        File::create_new(&probe)?;
        fs::remove_file(&probe)
    });
    check(
        what,
        tried.map(|()| path.display().to_string()).map_err(|error| format!("'{}': {error}", path.display())),
        format!("make it writable for this account, or set {key} to another directory"),
        true,
    )
}

/// From two open files, as two holders would.
fn lock(settings: &ProcessSettings) -> Check {
    let path = settings.homefs_dir.join(format!(".qvd-probe-{}.lock", nonce()));
    let content = LockContent { node: settings.node.clone(), ..LockContent::default() };
    let tried = (|| match (VmLock::take(&path, &content)?, VmLock::take(&path, &content)?) {
        (LockOutcome::Taken(_first), LockOutcome::Held(_)) => Ok("a second holder is refused".to_owned()),
        _ => Err(io::Error::other("a lock was granted twice")),
    })();
    let _ = fs::remove_file(&path);
    check(
        "machine lock",
        tried.map_err(|error: io::Error| error.to_string()),
        "put path.storage.homefs on a file system with locks".to_owned(),
        true,
    )
}

fn lock_options(settings: &ProcessSettings) -> Check {
    let directory = fs::canonicalize(&settings.homefs_dir).unwrap_or_else(|_| settings.homefs_dir.clone());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let recovers_lost = fs::read_to_string("/sys/module/nfs/parameters/recover_lost_locks")
        .or_else(|_| fs::read_to_string("/sys/module/nfsv4/parameters/recover_lost_locks"))
        .is_ok_and(|value| matches!(value.trim(), "Y" | "1"));
    let found = match unsafe_lock_options(&mounts, &directory) {
        Some(option) => Err(format!("{option}: locks would not reach the server")),
        None if recovers_lost => {
            Err("nfs.recover_lost_locks=1: a lost lock would come back as if never lost".into())
        }
        None => Ok("locks are real".to_owned()),
    };
    check("mount of the homes", found, "mount it without these options".to_owned(), true)
}

fn program(what: &str, program: &Path, remedy: &str) -> Check {
    let found = find_program(program).map(|path| path.display().to_string());
    let missing = || format!("'{}' is not there or not executable", program.display());
    check(what, found.ok_or_else(missing), remedy.to_owned(), true)
}

fn isolation(settings: &ProcessSettings) -> Vec<Check> {
    if !settings.isolated {
        let found = "none: desktops see each other's processes and files (vm.process.isolation)";
        return vec![Check::failed("isolation", found, "set vm.process.isolation=auto").optional()];
    }
    let report = probe(settings).unwrap_or_else(|error| ProbeReport {
        namespaces: Some(ProbeStep {
            what: "own pid, mount, ipc and uts namespaces".to_owned(),
            problem: Some(format!("'{} holder probe': {error}", settings.self_exe.display())),
        }),
        ..ProbeReport::default()
    });
    let remedy = namespace_remedy(&settings.self_exe);
    let mut checks = Vec::new();
    for (step, remedy, required) in [
        (report.namespaces, remedy.clone(), true),
        (report.view, remedy, true),
        (report.read_only_host, "Linux 5.12 or later makes the host read-only inside".to_owned(), false),
    ] {
        if let Some(ProbeStep { what, problem }) = step {
            let found = problem.map_or_else(|| Ok("works".to_owned()), Err);
            checks.push(check(&what, found, remedy, required));
        }
    }
    checks
}

fn probe(settings: &ProcessSettings) -> io::Result<ProbeReport> {
    let dir = settings.vms_dir().join(format!(".probe-{}", nonce()));
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let output = Command::new(&settings.self_exe)
        .args(["holder", "probe"])
        .arg(&dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let _ = fs::remove_dir_all(&dir);
    Ok(serde_json::from_slice(&output?.stdout)?)
}

fn namespace_remedy(self_exe: &Path) -> String {
    let switch =
        fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or_default();
    let exe = fs::canonicalize(self_exe).unwrap_or_else(|_| self_exe.to_owned());
    if switch.trim() == "1" {
        return format!(
            "this system lets only known programs make user namespaces; as root: write\n{}to \
             /etc/apparmor.d/qvd and run: apparmor_parser -r /etc/apparmor.d/qvd",
            apparmor_profile(&exe)
        );
    }
    "allow namespaces: sysctl user.max_user_namespaces=10000 (older Debian also: sysctl \
     kernel.unprivileged_userns_clone=1); in a container start it with CAP_SYS_ADMIN; for one trusted user \
     vm.process.isolation=none does without"
        .to_owned()
}

/// The profile that lets a program make user namespaces where AppArmor restricts them (Ubuntu 24.04). Its name is the
/// program's own, so that it replaces no other program's; each is to be loaded from a file of its own.
pub fn apparmor_profile(program: &Path) -> String {
    // Inside quotes a profile's path keeps its spaces; these characters would be taken for a pattern.
    let path = program.to_string_lossy();
    let path: String =
        path.chars().flat_map(|c| "\\\"*?[]{}^".contains(c).then_some('\\').into_iter().chain([c])).collect();
    let digest = Sha256::digest(program.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\nprofile qvd-{name} \"{path}\" flags=(unconfined) {{\n  \
         userns,\n}}\n"
    )
}

fn network(settings: &ProcessSettings, bridge: &BridgeSettings) -> Check {
    let name = &bridge.bridge;
    let found = match net::apply::bridge_exists(name) {
        _ if !nix::unistd::geteuid().is_root() || !settings.isolated => {
            Err("only root can attach machines in namespaces of their own to a bridge".to_owned())
        }
        Ok(true) if bridge.mask_bits.is_none() => Err("vm.network.netmask is not set".to_owned()),
        Ok(true) => Ok(format!("bridge '{name}'")),
        Ok(false) => Err(format!("there is no bridge '{name}'")),
        Err(error) => Err(error.to_string()),
    };
    check(
        "network of the machines",
        found,
        format!(
            "make the bridge (ip link add {name} type bridge) and set vm.network.bridge and vm.network.netmask, or \
             set vm.process.network=host"
        ),
        true,
    )
}

fn cgroups(settings: &ProcessSettings) -> Check {
    let place = CgroupPlace::new(&settings.cgroup_mount, &settings.cgroup_name());
    // As before a launch. Where it is refused, so are the limits, and that is reported.
    let _ = place.make_room();
    // No machine has this number.
    let limits = CgroupLimits { memory: 1 << 30, processes: 64 };
    let found = place.create(VmId::new(0), limits).map(|groups| {
        let limit = |is: bool| if is { "limited" } else { "not limited" };
        let (memory, processes) = (limit(groups.limits_memory()), limit(groups.limits_processes()));
        let _ = groups.remove();
        format!("memory is {memory} per machine, processes are {processes}")
    });
    check(
        "control groups",
        found.map_err(|error| format!("{error}: memory is limited per process instead")),
        "run as root, or delegate a control group to this account (systemd-run --user --scope -p Delegate=yes …)"
            .to_owned(),
        false,
    )
}

fn check(what: &str, found: Result<String, String>, remedy: String, required: bool) -> Check {
    let check = match found {
        Ok(found) => Check::passed(what, found),
        Err(problem) => Check::failed(what, problem, remedy),
    };
    if required { check } else { check.optional() }
}

/// A program by its path, or by its name on the search path.
fn find_program(program: &Path) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).collect()
    };
    candidates.into_iter().find(|path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

pub(super) fn nonce() -> String {
    let mut bytes = [0; 8];
    // Uniqueness among the living is enough, and the process number alone gives nearly that.
    let _ = getrandom::fill(&mut bytes);
    format!("{:x}-{:016x}", std::process::id(), u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_names_exactly_one_program() {
        let profile = apparmor_profile(Path::new("/home/a b/[x]/qvd"));
        assert!(
            profile.contains(" \"/home/a b/\\[x\\]/qvd\" flags=(unconfined) {\n  userns,\n}"),
            "{profile}"
        );
        let name = |path: &str| {
            let profile = apparmor_profile(Path::new(path));
            profile
                .lines()
                .find_map(|line| line.strip_prefix("profile ")?.split(' ').next().map(str::to_owned))
        };
        assert_ne!(name("/usr/bin/qvd"), name("/usr/sbin/qvd-hkd"));
        assert_eq!(name("/usr/bin/qvd"), name("/usr/bin/qvd"));
    }

    #[test]
    fn missing_things_are_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        let settings = ProcessSettings {
            cgroup_mount: dir.path().join("none"),
            ..ProcessSettings::new(
                dir.path().join("run"),
                blocked,
                "/nonexistent/qvd",
                "/nonexistent/qvd-vma",
            )
        };
        let checks = all(&settings);
        let failed: Vec<&str> =
            checks.iter().filter(|check| check.remedy.is_some()).map(|check| check.what.as_str()).collect();
        for what in
            ["homes", "machine lock", "agent", "own pid, mount, ipc and uts namespaces", "control groups"]
        {
            assert!(failed.contains(&what), "{what} not among {failed:?}");
        }
        assert!(checks.iter().any(|check| check.what == "run-time directory" && check.remedy.is_none()));
        assert!(!checks.iter().find(|check| check.what == "control groups").unwrap().required);
    }
}
