//! The process driver with the agent that ships, and the real nxagent below it.

#![cfg(all(feature = "process", feature = "hkd"))]
#![allow(clippy::unwrap_used)] // A test that cannot go on says where.

#[allow(dead_code)]
mod lab;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{LIMIT, Lab, is_root, skip, spec};
use qvd_core::hypervisor::{Endpoint, Hypervisor, VMA_SOCKET, X_SOCKET};
use qvd_core::state::XState;
use qvd_core::vma::Vma;
use qvd_hypervisor::hostops::{Life, descendants};
use qvd_vma::client::{VmaClient, dial_unix};

#[tokio::test]
async fn a_desktop_of_a_process_machine_belongs_to_its_account_alone() {
    let Some(agent) = program_beside_the_tests("qvd-vma") else { return skip("qvd-vma is not built") };
    if Command::new("nxagent").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("nxagent is not installed");
    }
    let mut lab = Lab::new("");
    lab.settings.vma_program = agent;
    let driver = lab.driver();
    let checks = driver.check().await;
    assert!(checks.iter().all(|check| !check.required || check.remedy.is_none()), "{checks:?}");
    driver.prepare(&spec(1, 1)).await.unwrap();
    let vm = driver.launch(&spec(1, 1)).await.unwrap();
    let vma = VmaClient::new(vm.endpoint(), Duration::from_secs(5));
    patiently("the agent answers", async || vma.ping().await.is_ok().then_some(())).await;

    let properties =
        [("qvd.vm.user.name", "ann"), ("qvd.client.geometry", "640x480"), ("qvd.client.link", "lan")];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    vma.x_start(&properties).await.unwrap();
    patiently("the desktop listens", async || match vma.x_state().await.unwrap() {
        XState::Listening => Some(()),
        XState::Stopped => panic!("no desktop: {}", console(&lab)),
        _ => None,
    })
    .await;

    let guest = lab.guest(1);
    assert!(guest.join("nx.sock").exists());
    let all = descendants(lab.record(1).holder.pid).unwrap();
    let nxagent =
        all.iter().find(|process| arguments(process.pid).first().is_some_and(|a| a.contains("nxagent")));
    let nxagent = nxagent.unwrap_or_else(|| panic!("no nxagent among {all:?}"));
    let words = arguments(nxagent.pid);
    assert!(!words.iter().any(|word| word == "-ac"), "open to everybody: {words:?}");
    assert!(words.iter().any(|word| word == "-auth"), "without a cookie: {words:?}");
    let account = if is_root() { 2_000_001 } else { nix::unistd::geteuid().as_raw() };
    assert_eq!(fs::metadata(format!("/proc/{}", nxagent.pid)).unwrap().uid(), account);
    if is_root() {
        for path in [guest.join("nx.sock"), lab.vm_dir(1).join("vma.sock")] {
            assert!(path.exists(), "{} is not there", path.display());
            let stranger = Command::new("setpriv")
                .args(["--reuid=65533", "--regid=65533", "--clear-groups", "test", "-w"])
                .arg(&path)
                .status()
                .unwrap();
            assert!(!stranger.success(), "{} can be reached", path.display());
        }
    } else {
        skip("only root can try what a stranger reaches");
    }

    vma.poweroff().await.unwrap();
    let exit = tokio::time::timeout(LIMIT, vm.exited()).await.unwrap();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for process in all {
        assert_eq!(process.life().unwrap(), Life::Gone, "{process:?}");
    }
    lab.end().await;
}

#[tokio::test]
async fn no_machine_leads_its_callers_to_another() {
    // What a desktop could do to those who call it: links to another's sockets in all places it can write to.
    let mut lab = Lab::new(
        "trap 'exit 0' TERM
         for name in nx.sock vma.sock; do ln -sf \"$(cat /run/qvd-host/*/*/shared/victim)/$name\" $run/$name; done
         touch $run/up; while :; do sleep 60 & wait $!; done",
    );
    let shared = lab.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let victim = lab.dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(shared.join("victim"), victim.to_str().unwrap()).unwrap();
    let sockets = ["nx.sock", "vma.sock"].map(|name| UnixListener::bind(victim.join(name)).unwrap());
    lab.settings.exposed = vec![shared];
    let vm = lab.start(&spec(1, 1)).await;

    assert_eq!(fs::read_link(lab.guest(1).join("nx.sock")).unwrap(), victim.join("nx.sock"));
    let Endpoint::Unix { dir } = vm.endpoint() else { panic!("{}", vm.endpoint()) };
    assert!(dial_unix(&dir, X_SOCKET).await.is_err(), "the desktop's link was followed");
    // The agent's socket is the holder's: a call waits there, for an agent that does not answer.
    assert!(dial_unix(&dir, VMA_SOCKET).await.is_ok());
    for socket in sockets {
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    lab.end().await;
}

/// Asks again until there is an answer.
async fn patiently<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

fn console(lab: &Lab) -> String {
    fs::read_to_string(lab.settings.vms_dir().join("1/console.log")).unwrap_or_default()
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn program_beside_the_tests(name: &str) -> Option<PathBuf> {
    let path = lab::holder_program().with_file_name(name);
    path.exists().then_some(path)
}
