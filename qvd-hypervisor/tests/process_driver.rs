//! The process driver against the real kernel, as whatever account the tests run as; root runs all of it a second
//! time as an ordinary user.

#![cfg(feature = "process")]
#![allow(clippy::unwrap_used)] // A test that cannot go on says where.

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use lab::{HOLDER_VARIABLE, LIMIT, Lab, PATIENT, is_root, namespace, skip, spec, until};
use qvd_core::VmId;
use qvd_core::hypervisor::{Endpoint, Found, Hypervisor, HypervisorError, LaunchPlace};
use qvd_hypervisor::holder::RunRecord;
use qvd_hypervisor::hostops::{Life, LockContent, LockOutcome, VmLock, descendants};
use qvd_hypervisor::net::plan::BridgeSettings;

#[tokio::test]
async fn a_machine_has_namespaces_of_its_own_on_the_hosts_network() {
    let lab = Lab::new(PATIENT);
    let vm = lab.start(&spec(1, 1)).await;
    let init = lab.record(1).init.unwrap().pid;
    let me = std::process::id() as i32;
    for kind in ["pid", "mnt", "ipc", "uts"] {
        assert_ne!(namespace(init, kind), namespace(me, kind), "{kind}");
    }
    assert_eq!(namespace(init, "net"), namespace(me, "net"));
    // The holder must not keep the host's mounts busy in a namespace of its own.
    assert_eq!(namespace(lab.record(1).holder.pid, "mnt"), namespace(me, "mnt"));
    assert_eq!(vm.endpoint(), Endpoint::Unix { dir: lab.vm_dir(1) });
    lab.end().await;
}

#[tokio::test]
async fn on_a_bridge_a_machine_has_an_address_of_its_own() {
    if !is_root() {
        return skip("only root can attach a machine to a bridge");
    }
    // This thread's network from now on, and that of everything started by it: no bridge is left to remove.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for words in
        ["link add qvdtest type bridge", "address add 10.99.0.1/16 dev qvdtest", "link set qvdtest up"]
    {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
    }
    let mut lab = Lab::new(
        "{ ip -o address show dev eth0; ip route; cat /sys/class/net/eth0/address; } > $run/report 2>&1
         trap 'exit 7' TERM; touch $run/up; while :; do sleep 60 & wait $!; done",
    );
    lab.settings.bridge = Some(BridgeSettings {
        bridge: "qvdtest".into(),
        device_prefix: "qvd".into(),
        mac_prefix: "54:52:00".into(),
        mask_bits: Some(16),
        gateway: Some([10, 99, 0, 1].into()),
        vma_port: 3030,
    });
    let driver = lab.driver();
    assert!(driver.capabilities().own_network);
    let checks = driver.check().await;
    let network = checks.iter().find(|check| check.what == "network of the machines").unwrap();
    assert_eq!(network.remedy, None, "{network:?}");
    let mut spec = spec(7, 1);
    spec.ip = Some("10.99.3.7".into());
    let vm = lab.start(&spec).await;
    let endpoint = Endpoint::Ip { address: [10, 99, 3, 7].into(), vma_port: 3030, x_port: 4100 };
    assert_eq!(vm.endpoint(), endpoint);
    let init = lab.record(7).init.unwrap().pid;
    assert_ne!(namespace(init, "net"), namespace(std::process::id() as i32, "net"));
    let report = fs::read_to_string(lab.guest(7).join("report")).unwrap();
    assert!(report.contains("10.99.3.7/16") && report.contains("default via 10.99.0.1"), "{report}");
    // Nobody listens in this machine; that it says so means that it is reached.
    let called = tokio::time::timeout(LIMIT, tokio::net::TcpStream::connect("10.99.3.7:3030")).await.unwrap();
    assert_eq!(called.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!lab.vm_dir(7).join("vma.sock").exists());

    let found = driver.find().await.unwrap();
    let [Found::Running { vm: adopted, .. }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(adopted.endpoint(), endpoint);
    vm.kill(LIMIT).await.unwrap();
    driver.cleanup(VmId::new(7)).await.unwrap();
    assert!(driver.find().await.unwrap().is_empty());
    assert!(!Command::new("ip").args(["link", "show", "qvd7"]).status().unwrap().success());

    // An interface of that name that somebody else made is not taken away from him.
    assert!(Command::new("ip").args(["link", "add", "qvd7", "type", "bridge"]).status().unwrap().success());
    driver.prepare(&spec).await.unwrap();
    let refused = driver.launch(&spec).await.map(|_| ()).unwrap_err();
    let words = qvd_core::error::chain(&refused).to_string();
    assert!(words.contains("'qvd7'") && words.contains("internal.vm.network.device.prefix"), "{words}");
    lab.end().await;
}

#[tokio::test]
async fn inside_is_a_small_world_of_its_own() {
    // A name that nobody else on this host uses, whatever lies in its /tmp.
    let trace = format!("qvd-test-{}-was-here", std::process::id());
    let mut lab = Lab::new(
        &"{ echo uid=$(id -u); echo user=$(id -un); echo home=$HOME; echo host=$(uname -n)
           echo tmp=$(ls -A /tmp | tr '\\n' ' ')
           echo processes=$(ls -d /proc/[0-9]* | wc -l)
           touch /usr/qvd-was-here 2>/dev/null && echo usr=writable || echo usr=read-only
           touch \"$HOME/letter\" && echo home=writable
           touch /tmp/TRACE /dev/shm/TRACE && echo tmp=writable
           cat /run/qvd-host/*/*/shared/note
           echo blocked=$(sed -n 's/^SigBlk:[[:space:]]*0*//p' /proc/self/status)
           echo privileges=$(grep NoNewPrivs /proc/self/status | tr -dc 01)
           ls -d /run/user/$(id -u)
         } > $run/report 2>&1
         trap 'exit 0' TERM; touch $run/up; while :; do sleep 60 & wait $!; done"
            .replace("TRACE", &trace),
    );
    let shared = lab.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("note"), "note=seen\n").unwrap();
    lab.settings.exposed = vec![shared];
    lab.start(&spec(1, 1)).await;
    let report = fs::read_to_string(lab.guest(1).join("report")).unwrap();
    let uid = if is_root() { 2_000_001 } else { nix::unistd::geteuid().as_raw() };
    for line in [
        &format!("uid={uid}"),
        "user=ann",
        "home=/home/ann",
        "host=desk-1",
        "tmp=.ICE-unix .X11-unix",
        "home=writable",
        "tmp=writable",
        "usr=read-only",
        "note=seen",
        "privileges=1",
        "blocked=",
        &format!("/run/user/{uid}"),
    ] {
        assert!(report.lines().any(|found| found.trim_end() == line), "no '{line}' in:\n{report}");
    }
    let processes: u32 =
        report.lines().find_map(|line| line.strip_prefix("processes=")).unwrap().trim().parse().unwrap();
    assert!(processes < 10, "the host's processes are visible:\n{report}");
    assert!(lab.settings.homefs_dir.join("1-fs/ann/letter").exists());
    for outside in ["/tmp", "/dev/shm"].map(|dir| Path::new(dir).join(&trace)) {
        assert!(!outside.exists(), "what is written inside is outside too: {}", outside.display());
    }
    lab.end().await;
    assert!(lab.settings.homefs_dir.join("1-fs/ann/letter").exists(), "a home outlives everything");
}

#[tokio::test]
async fn a_machine_sees_neither_its_neighbours_nor_its_site() {
    let mut lab = Lab::in_sight(PATIENT);
    let data = lab.dir.path().join("data");
    lab.settings.hidden = vec![data.clone()];
    lab.start(&spec(2, 1)).await;
    fs::write(data.join("node.conf"), "secret = 1").unwrap();
    fs::write(lab.settings.homefs_dir.join("2-fs/letter"), "dear").unwrap();
    let theirs =
        [lab.guest(2).join("vma.conf"), lab.settings.homefs_dir.join("2-fs/letter"), data.join("node.conf")];
    assert!(theirs.iter().all(|file| fs::read(file).is_ok()), "they are where this test looks");
    let reads: String =
        theirs.iter().map(|file| format!("cat '{}' && echo GOT-IT\n", file.display())).collect();
    lab.set_agent(&format!(
        "{{ {reads}
           echo data=$(ls -A '{data}'); echo bin=$(ls '{bin}'); touch '{data}/x' && echo data=writable
           echo terminals=$(stat -c %d /dev/pts); (exec 3<>/dev/ptmx) && echo terminals=open
           echo home=$(ls -d $HOME); touch /home/.qvd-log/qvd.log && echo log=writable
         }} > $run/report 2>&1
         trap 'exit 7' TERM; touch $run/up; while :; do sleep 60 & wait $!; done",
        data = data.display(),
        bin = lab.dir.path().join("bin").display(),
    ));
    lab.start(&spec(1, 1)).await;
    let report = fs::read_to_string(lab.guest(1).join("report")).unwrap();
    assert!(!report.contains("GOT-IT"), "{report}");
    for line in ["data=", "bin=agent", "terminals=open", "home=/home/ann", "log=writable"] {
        assert!(report.lines().any(|found| found == line), "no '{line}' in:\n{report}");
    }
    assert!(!report.contains("data=writable"), "{report}");
    let hosts = std::os::unix::fs::MetadataExt::dev(&fs::metadata("/dev/pts").unwrap());
    assert!(!report.contains(&format!("terminals={hosts}\n")), "{report}");
    lab.end().await;
}

#[tokio::test]
async fn another_user_can_neither_enter_nor_signal() {
    if !is_root() {
        return skip("only root can try what a second account may do");
    }
    let lab = Lab::new(PATIENT);
    lab.start(&spec(1, 1)).await;
    let stranger = |words: &[&str]| {
        let status = Command::new("setpriv")
            .args(["--reuid=65533", "--regid=65533", "--clear-groups"])
            .args(words)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        status.success()
    };
    assert!(stranger(&["true"]));
    let (guest, init) = (lab.guest(1), lab.record(1).init.unwrap().pid.to_string());
    assert!(guest.join("vma.conf").exists());
    assert!(!stranger(&["ls", guest.to_str().unwrap()]));
    assert!(!stranger(&["cat", guest.join("vma.conf").to_str().unwrap()]));
    assert!(!stranger(&["cat", lab.settings.vms_dir().join("1/run.json").to_str().unwrap()]));
    assert!(!stranger(&["ls", lab.settings.homefs_dir.join("1-fs").to_str().unwrap()]));
    assert!(!stranger(&["kill", "-0", &init]));
    assert!(!stranger(&["ls", &format!("/proc/{init}/root/")]));
    // Nor can the machine's own account change what root believes.
    assert_eq!(fs::metadata(lab.settings.vms_dir().join("1")).unwrap().permissions().mode() & 0o022, 0);
    lab.end().await;
}

#[tokio::test]
async fn a_run_is_launched_once_however_often_it_is_asked_for() {
    let lab = Lab::new(PATIENT);
    let driver = lab.driver();
    let spec = spec(1, 1);
    driver.prepare(&spec).await.unwrap();
    let other = lab.driver();
    let (one, two, three) = tokio::join!(driver.launch(&spec), other.launch(&spec), other.launch(&spec));
    for launched in [one, two, three] {
        assert_eq!(launched.unwrap().endpoint(), Endpoint::Unix { dir: lab.vm_dir(1) });
    }
    let init = lab.record(1).init;
    driver.launch(&spec).await.unwrap();
    driver.prepare(&spec).await.unwrap();
    assert_eq!(lab.record(1).init, init);
    assert_eq!(driver.find().await.unwrap().len(), 1);
    lab.end().await;
}

#[tokio::test]
async fn no_other_run_gets_at_a_home_in_use() {
    let lab = Lab::new(PATIENT);
    lab.start(&spec(1, 1)).await;
    for refused in [
        lab.driver().prepare(&spec(1, 2)).await.map(|_| ()).unwrap_err(),
        lab.driver().launch(&spec(1, 2)).await.map(|_| ()).unwrap_err(),
    ] {
        let HypervisorError::HomeInUse { holder, .. } = &refused else { panic!("{refused}") };
        assert!(holder.contains("run 1"), "{holder}");
    }
    // The same home through another run directory: only the lock knows.
    let mut elsewhere = lab.settings.clone();
    elsewhere.run_dir = lab.dir.path().join("other-run");
    elsewhere.node = format!("{}-other", elsewhere.node);
    let other = qvd_hypervisor::drivers::process::ProcessDriver::new(elsewhere);
    for refused in [
        other.prepare(&spec(1, 2)).await.map(|_| ()).unwrap_err(),
        other.launch(&spec(1, 2)).await.map(|_| ()).unwrap_err(),
    ] {
        let HypervisorError::HomeInUse { holder, .. } = &refused else { panic!("{refused}") };
        assert!(holder.contains(&format!("run 1 on host '{}'", lab.settings.node)), "{holder}");
    }
    assert!(!other.find().await.unwrap().iter().any(|found| matches!(found, Found::Running { .. })));
    lab.end().await;
}

#[tokio::test]
async fn a_lock_without_a_machine_blocks_and_is_named() {
    let lab = Lab::new(PATIENT);
    let driver = lab.driver();
    driver.prepare(&spec(1, 1)).await.unwrap();
    let content =
        LockContent { node: lab.settings.node.clone(), incarnation: 4, run_id: 9, time: "yesterday".into() };
    let lock = lab.settings.homefs_dir.join(".qvd-vm-1.lock");
    let LockOutcome::Taken(lock) = VmLock::take(&lock, &content).unwrap() else { panic!("held") };
    let refused = driver.launch(&spec(1, 1)).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, HypervisorError::HomeInUse { holder, .. } if holder.contains("run 9")),
        "{refused}"
    );
    let found = driver.find().await.unwrap();
    assert!(matches!(found.as_slice(), [Found::Unknown { .. }]), "{found:?}");
    assert!(matches!(driver.cleanup(VmId::new(1)).await, Err(HypervisorError::Busy { .. })));
    drop(lock);
    let vm = driver.launch(&spec(1, 1)).await.unwrap();
    vm.kill(LIMIT).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_restarted_driver_adopts_what_runs() {
    let lab = Lab::new(PATIENT);
    drop(lab.start(&spec(3, 5)).await);
    let init = lab.record(3).init;
    let driver = lab.driver();
    let found = driver.find().await.unwrap();
    let [Found::Running { vm_id, run_id, vm }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((vm_id.get(), run_id.get()), (3, 5));
    assert_eq!(lab.record(3).init, init);
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let vm = vm.clone();
            tokio::spawn(async move { vm.exited().await })
        })
        .collect();
    vm.terminate().await.unwrap();
    for waiter in waiters {
        let exit = tokio::time::timeout(LIMIT, waiter).await.unwrap().unwrap();
        assert_eq!((exit.code, exit.signal), (Some(7), None));
    }
    assert_eq!(vm.exited().await.code, Some(7), "also after the end");
    assert!(matches!(driver.find().await.unwrap().as_slice(), [Found::Partial { .. }]));
    lab.end().await;
}

#[tokio::test]
async fn a_machine_whose_record_is_lost_is_found_and_ended() {
    let lab = Lab::new(PATIENT);
    lab.start(&spec(1, 5)).await;
    let record = lab.record(1);
    for damage in [Some("{ half"), None] {
        let path = lab.vm_dir(1).join("run.json");
        match damage {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let found = lab.driver().find().await.unwrap();
        let [Found::Running { run_id, .. }] = found.as_slice() else { panic!("{damage:?}: {found:?}") };
        assert_eq!(run_id.get(), 5);
    }
    let found = lab.driver().find().await.unwrap();
    let [Found::Running { vm, .. }] = found.as_slice() else { panic!("{found:?}") };
    assert!(matches!(lab.driver().cleanup(VmId::new(1)).await, Err(HypervisorError::Busy { .. })));
    vm.kill(LIMIT).await.unwrap();
    for process in record.init.into_iter().chain([record.holder]) {
        assert_eq!(process.life().unwrap(), Life::Gone, "{process:?}");
    }
    // What an unreadable record alone leaves is cleaned up like any other piece.
    fs::write(lab.vm_dir(1).join("run.json"), "{ half").unwrap();
    let found = lab.driver().find().await.unwrap();
    assert!(matches!(found.as_slice(), [Found::Partial { .. }]), "{found:?}");
    lab.driver().cleanup(VmId::new(1)).await.unwrap();
    lab.start(&spec(1, 6)).await;
    lab.end().await;
}

#[tokio::test]
async fn a_stubborn_machine_is_killed_with_all_its_children() {
    let lab = Lab::new(
        "trap '' TERM\nsetsid sh -c 'trap \"\" TERM HUP; (while :; do sleep 60; done) & sleep 60' &\n\
         sleep 0.1; touch $run/up\nwhile :; do sleep 60; done",
    );
    let vm = lab.start(&spec(1, 1)).await;
    let record = lab.record(1);
    let before = descendants(record.holder.pid).unwrap();
    assert!(before.len() >= 4, "{before:?}");
    vm.terminate().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), vm.exited()).await.is_err());
    vm.kill(LIMIT).await.unwrap();
    for process in before.into_iter().chain([record.holder]) {
        assert_eq!(process.life().unwrap(), Life::Gone, "{process:?}");
    }
    assert_eq!(vm.exited().await.signal, Some(9));
    vm.kill(LIMIT).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn the_end_of_the_agent_is_the_end_of_the_machine_and_its_words_are_kept() {
    let lab = Lab::new("echo 'no screen today' >&2\n(trap '' TERM HUP; setsid sleep 300) &\nexit 3");
    let driver = lab.driver();
    driver.prepare(&spec(1, 1)).await.unwrap();
    let exit = match driver.launch(&spec(1, 1)).await {
        Ok(vm) => tokio::time::timeout(LIMIT, vm.exited()).await.unwrap(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!((exit.code, exit.last_words.as_str()), (Some(3), "no screen today"));
    assert_eq!(exit.to_string(), "exit status 3");
    let record = lab.record(1);
    assert_eq!(record.init.unwrap().life().unwrap(), Life::Gone, "the orphan is gone with its namespace");
    lab.end().await;
}

#[tokio::test]
async fn a_talkative_agent_fills_no_disk_and_is_heard_to_the_end() {
    // More than a pipe and the file take; what still prints at the end is its child.
    let lab = Lab::new("yes 'and another thing' | head -c 2000000; (echo 'at last') & wait; exit 4");
    let driver = lab.driver();
    driver.prepare(&spec(1, 1)).await.unwrap();
    let vm = driver.launch(&spec(1, 1)).await.unwrap();
    let exit = tokio::time::timeout(LIMIT, vm.exited()).await.unwrap();
    assert_eq!(exit.code, Some(4));
    assert!(exit.last_words.ends_with("at last"), "{exit:?}");
    let length = fs::metadata(lab.vm_dir(1).join("console.log")).unwrap().len();
    assert!((1..=256 * 1024).contains(&length), "{length}");
    lab.end().await;
}

#[tokio::test]
async fn a_machine_that_eats_too_much_says_so() {
    let lab = Lab::new("touch $run/up; exec tail /dev/zero");
    let mut greedy = spec(1, 1);
    greedy.memory = qvd_core::units::Mebibytes(48);
    let vm = lab.start(&greedy).await;
    let exit = tokio::time::timeout(LIMIT, vm.exited()).await.unwrap();
    if lab.record(1).cgroups.limits_memory() {
        assert!(exit.out_of_memory && exit.signal == Some(9), "{exit:?}");
    } else {
        // A limit per process: the allocation fails, and `tail` says why it gives up.
        assert!(exit.last_words.contains("memory"), "{exit:?}");
    }
    lab.end().await;
}

#[tokio::test]
async fn processes_are_limited_with_and_without_control_groups() {
    let script = "awk '/Max processes/ {print $3}' /proc/self/limits > $run/most
        trap 'exit 7' TERM; touch $run/up; while :; do sleep 60 & wait $!; done";
    let mut lab = Lab::new(script);
    lab.start(&spec(1, 1)).await;
    let groups = lab.record(1).cgroups;
    if groups.limits_processes() {
        let most = |top: &std::path::PathBuf| fs::read_to_string(top.join("payload/pids.max")).ok();
        assert_eq!(groups.paths().iter().find_map(most).unwrap().trim(), "4096");
    }
    lab.end().await;
    if !is_root() {
        return skip("an ordinary user's machines have no account of their own to count");
    }
    lab.settings.cgroup_mount = lab.dir.path().join("no-cgroups");
    lab.start(&spec(1, 2)).await;
    assert_eq!(fs::read_to_string(lab.guest(1).join("most")).unwrap().trim(), "4096");
    lab.end().await;
}

#[tokio::test]
async fn a_killed_holder_takes_its_machine_along() {
    let lab = Lab::new(PATIENT);
    let vm = lab.start(&spec(1, 1)).await;
    let record = lab.record(1);
    let all = descendants(record.holder.pid).unwrap();
    kill(Pid::from_raw(record.holder.pid), Signal::SIGKILL).unwrap();
    let exit = tokio::time::timeout(LIMIT, vm.exited()).await.unwrap();
    assert!(exit.last_words.contains("without a word"), "{exit:?}");
    for process in all {
        assert_eq!(process.life().unwrap(), Life::Gone, "{process:?}");
    }
    lab.driver().cleanup(VmId::new(1)).await.unwrap();
    lab.start(&spec(1, 2)).await;
    lab.end().await;
}

#[tokio::test]
async fn cleanup_refuses_the_living_and_leaves_only_home_and_lock() {
    let lab = Lab::new(PATIENT);
    let driver = lab.driver();
    let vm = lab.start(&spec(1, 1)).await;
    let refused = driver.cleanup(VmId::new(1)).await.unwrap_err();
    assert!(matches!(refused, HypervisorError::Busy { .. }), "{refused}");
    let record = lab.record(1);
    if is_root() {
        assert!(!record.cgroups.is_empty(), "no control groups here?");
    }
    assert!(record.cgroups.paths().iter().all(|path| path.join("payload").is_dir()));
    for path in record.cgroups.paths() {
        let payload = fs::read_to_string(path.join("payload/cgroup.procs")).unwrap();
        let monitor = fs::read_to_string(path.join("monitor/cgroup.procs")).unwrap();
        assert!(payload.lines().any(|pid| pid == record.init.unwrap().pid.to_string()), "{payload}");
        assert_eq!(monitor.trim(), record.holder.pid.to_string());
    }
    vm.kill(LIMIT).await.unwrap();
    driver.cleanup(VmId::new(1)).await.unwrap();
    driver.cleanup(VmId::new(1)).await.unwrap();
    driver.cleanup(VmId::new(77)).await.unwrap();
    assert!(driver.find().await.unwrap().is_empty());
    assert_eq!(names(&lab.settings.vms_dir()), Vec::<String>::new());
    assert_eq!(names(&lab.settings.homefs_dir), [".qvd-vm-1.lock", "1-fs"]);
    assert!(record.cgroups.paths().iter().all(|path| !path.exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(lab.dir.path().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn odd_names_and_deep_directories_are_no_obstacle() {
    let deep = format!("a b,c/-rf/büro \\ ${{x}}/{}", "d".repeat(120));
    let lab = Lab::within(&deep, PATIENT);
    assert!(lab.guest(1).as_os_str().len() > 108);
    for (vm, name, login) in [
        (1, "desk, with \"everything\"", "Ann.Lee"),
        (2, "-rf", "-x"),
        (3, "büro 日本", "ünal"),
        (4, "", "root"),
        (5, "a\nb:c", "a:b\nc"),
    ] {
        let mut spec = spec(vm, 1);
        spec.name = name.into();
        spec.login = login.into();
        lab.start(&spec).await;
    }
    assert_eq!(lab.driver().find().await.unwrap().len(), 5);
    lab.end().await;
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mut lab = Lab::new(PATIENT);
    lab.settings.vma_program = lab.dir.path().join("bin/nowhere");
    let driver = lab.driver();
    driver.prepare(&spec(1, 1)).await.unwrap();
    let refused = driver.launch(&spec(1, 1)).await.map(|_| ()).unwrap_err();
    let text = qvd_core::error::chain(&refused).to_string();
    assert!(text.contains("bin/nowhere") && text.contains("command.qvd-vma"), "{text}");
    lab.end().await;
    lab.settings.self_exe = "/bin/false".into();
    let driver = lab.driver();
    let refused = driver.launch(&spec(1, 1)).await.map(|_| ()).unwrap_err();
    assert!(qvd_core::error::chain(&refused).to_string().contains("/bin/false"), "{refused}");
    let refused = driver.launch(&spec(2, 1)).await.map(|_| ()).unwrap_err();
    assert!(
        qvd_core::error::chain(&refused).to_string().contains("2-fs"),
        "launched without a home: {refused}"
    );
    lab.end().await;
}

#[tokio::test]
async fn a_launch_that_is_dropped_at_any_moment_can_be_cleaned_up() {
    let lab = Lab::new(PATIENT);
    let driver = lab.driver();
    for (run, milliseconds) in [0_u64, 1, 2, 4, 8, 16, 32, 64].into_iter().enumerate() {
        let spec = spec(1, run as i64 + 1);
        // A holder that was late may have the lock for the moment that it takes to find its order gone.
        while let Err(refused) = driver.prepare(&spec).await {
            assert!(matches!(refused, HypervisorError::HomeInUse { .. }), "{refused}");
        }
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), driver.launch(&spec)).await;
        lab.end().await;
    }
    // An order may still have been on its way to its file; with nobody to obey it, it is debris.
    let deadline = Instant::now() + LIMIT;
    while !names(&lab.settings.vms_dir()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", driver.find().await);
        lab.end().await;
    }
    assert_eq!(names(&lab.settings.homefs_dir), [".qvd-vm-1.lock", "1-fs"]);
}

#[tokio::test]
async fn a_holder_whose_order_was_withdrawn_launches_nothing() {
    let lab = Lab::new(PATIENT);
    lab.driver().prepare(&spec(1, 1)).await.unwrap();
    let dir = lab.settings.vms_dir().join("1");
    fs::create_dir_all(&dir).unwrap();
    let output =
        Command::new(lab::holder_program()).args(["holder", "run"]).arg(&dir).arg("nonce").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "\"withdrawn\"");
    assert!(!dir.join("run.json").exists());
    lab.end().await;
}

#[tokio::test]
async fn the_check_finds_this_host_fit() {
    let mut lab = Lab::new(PATIENT);
    lab.settings.nxagent = "sh".into();
    let checks = lab.driver().check().await;
    let unfit: Vec<_> = checks.iter().filter(|check| check.required && check.remedy.is_some()).collect();
    assert!(unfit.is_empty(), "{unfit:?}");
    assert!(
        checks.iter().any(|check| check.what.contains("namespaces") && check.found == "works"),
        "{checks:?}"
    );
    lab.settings.nxagent = "no-such-nxagent".into();
    let checks = lab.driver().check().await;
    let nxagent = checks.iter().find(|check| check.what == "nxagent").unwrap();
    assert!(nxagent.remedy.as_ref().unwrap().contains("nxagent"), "{nxagent:?}");
    assert!(lab.driver().find().await.unwrap().is_empty(), "a check leaves nothing");
}

#[tokio::test]
async fn without_namespaces_the_holder_ends_every_descendant() {
    let mut lab = Lab::new(
        "trap 'exit 7' TERM\nsetsid sh -c 'trap \"\" TERM HUP; (while :; do sleep 60; done) & exec sleep 60' &\n\
         sleep 0.1; touch \"$run/up\"\nwhile :; do sleep 60 & wait $!; done",
    );
    lab.settings.isolated = false;
    if is_root() {
        // The machine's account must be able to reach its run directory by its real path.
        fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    }
    let vm = lab.start(&spec(1, 1)).await;
    let record = lab.record(1);
    let all = descendants(record.holder.pid).unwrap();
    assert!(all.len() >= 4, "{all:?}");
    assert_eq!(namespace(record.init.unwrap().pid, "pid"), namespace(std::process::id() as i32, "pid"));
    vm.terminate().await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, vm.exited()).await.unwrap().code, Some(7));
    for process in &all {
        assert_eq!(process.life().unwrap(), Life::Gone, "{process:?}");
    }
    lab.driver().cleanup(VmId::new(1)).await.unwrap();

    let vm = lab.start(&spec(1, 2)).await;
    let all = descendants(lab.record(1).holder.pid).unwrap();
    kill(Pid::from_raw(lab.record(1).holder.pid), Signal::SIGKILL).unwrap();
    tokio::time::timeout(LIMIT, vm.exited()).await.unwrap();
    for process in all {
        until("a killed holder's machine is gone", || (process.life().unwrap() == Life::Gone).then_some(()))
            .await;
    }
    lab.end().await;
}

#[tokio::test]
async fn it_keeps_every_law_of_a_driver() {
    use qvd_core::testkit::conformance::{self, DriverSubject};
    let lab = Lab::new("trap 'exit 0' TERM\nwhile :; do sleep 60 & wait $!; done");
    let settings = lab.settings.clone();
    let open = move || -> std::sync::Arc<dyn Hypervisor> {
        std::sync::Arc::new(qvd_hypervisor::drivers::process::ProcessDriver::new(settings.clone()))
    };
    let letter = |homes: &Path, vm: VmId| homes.join(format!("{vm}-fs/letter"));
    let (homes, same_homes) = (lab.settings.homefs_dir.clone(), lab.settings.homefs_dir.clone());
    let vms = lab.settings.vms_dir();
    let spoiled = std::sync::Arc::new(std::sync::Mutex::new(None));
    let note = spoiled.clone();
    let subject = DriverSubject::new(open)
        .home_mark(
            move |vm| fs::write(letter(&homes, vm), "dear").unwrap(),
            move |vm| fs::read(letter(&same_homes, vm)).is_ok_and(|text| text == b"dear"),
        )
        .make_unreadable(move |vm| {
            // Not a file: reading it fails, which tells nothing.
            let record = vms.join(vm.to_string()).join("run.json");
            fs::remove_file(&record).unwrap();
            fs::create_dir(&record).unwrap();
            *note.lock().unwrap() = Some(record);
        });
    let places = Places::new();
    let subject = match places.clone() {
        Some(places) => {
            let (same, vms) = (places.clone(), lab.settings.vms_dir());
            subject.places(move |vm| places.make(vm), move |vm| same.outside(vm, &vms))
        }
        None => {
            skip("no control groups that this account may divide");
            subject
        }
    };
    conformance::hypervisor(subject).await;
    if let Some(places) = &places {
        places.remove();
    }
    let spoiled = spoiled.lock().unwrap().take().unwrap();
    fs::remove_dir(spoiled).unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_place_that_is_not_there_is_no_reason_to_run_elsewhere() {
    let lab = Lab::new(PATIENT);
    let mut spec = spec(1, 1);
    spec.place = Some(LaunchPlace::in_cgroups([lab.dir.path().join("no-such-group")]));
    let driver = lab.driver();
    driver.prepare(&spec).await.unwrap();
    let refused = driver.launch(&spec).await.map(|_| ()).unwrap_err();
    let words = qvd_core::error::chain(&refused).to_string();
    assert!(words.contains("no-such-group"), "{words}");
    lab.end().await;
}

/// Control groups that the host, which is this test, makes for machines.
#[derive(Clone)]
struct Places {
    tops: Vec<PathBuf>,
}

impl Places {
    fn new() -> Option<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        let roots = match mount.join("cgroup.controllers").exists() {
            true => vec![mount.to_owned()],
            false => ["memory", "pids", "freezer"].map(|name| mount.join(name)).to_vec(),
        };
        let name = format!("qvd-places-{}", std::process::id());
        let tops: Vec<PathBuf> = roots.into_iter().map(|root| root.join(&name)).collect();
        let made = tops.iter().all(|top| fs::create_dir(top).is_ok());
        let places = Self { tops };
        if !made {
            places.remove();
        }
        made.then_some(places)
    }

    fn make(&self, vm: VmId) -> LaunchPlace {
        let groups = self.tops.iter().map(|top| top.join(vm.to_string()));
        let groups: Vec<PathBuf> = groups.inspect(|group| fs::create_dir(group).unwrap()).collect();
        LaunchPlace::in_cgroups(groups)
    }

    fn outside(&self, vm: VmId, vms: &Path) -> Vec<String> {
        let record = fs::read(vms.join(vm.to_string()).join("run.json")).unwrap();
        let holder = serde_json::from_slice::<RunRecord>(&record).unwrap().holder;
        let all = descendants(holder.pid).unwrap().into_iter().chain([holder]);
        let all: Vec<i32> = all.map(|process| process.pid).collect();
        assert!(all.len() >= 3, "holder, init and agent: {all:?}");
        // As /proc names them, once for each hierarchy.
        let group = format!(":/{}/{vm}/", self.tops[0].file_name().unwrap().display());
        let outside = all.into_iter().filter(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().filter(|line| line.contains(&group)).count() < self.tops.len()
        });
        outside.map(|pid| format!("process {pid}")).collect()
    }

    fn remove(&self) {
        for top in &self.tops {
            // Of each machine the directory that was given, and nothing below it.
            let entries = fs::read_dir(top).into_iter().flatten().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.is_dir()).for_each(|machine| fs::remove_dir(machine).unwrap());
            let _ = fs::remove_dir(top);
        }
    }
}

#[tokio::test]
async fn everything_works_for_an_ordinary_user_too() {
    if !is_root() {
        return eprintln!("this is already the run of an ordinary user");
    }
    let dir = tempfile::Builder::new().prefix("qvd-user-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let place = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = place(&std::env::current_exe().unwrap(), "tests");
    let holder = place(&lab::holder_program(), "qvd-holder");
    let output = tokio::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(tests)
        .args(["--test-threads=2"])
        .env(HOLDER_VARIABLE, holder)
        .env("HOME", "/nonexistent")
        .env("TMPDIR", "/tmp")
        // What needs root was not left out: this run's parent does it.
        .env_remove("QVD_TEST_REQUIRE")
        .current_dir("/")
        .output()
        .await;
    match output {
        Err(error) => skip(&format!("setpriv: {error}")),
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
