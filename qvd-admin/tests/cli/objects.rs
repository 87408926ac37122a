//! Hosts, flavours, users and properties, from the command line to the rows.

use crate::transcript::{Site, words};

#[tokio::test]
async fn hosts() {
    Site::new().await.plays(include_str!("sessions/hosts.txt")).await;
}

#[tokio::test]
async fn flavours() {
    Site::new().await.plays(include_str!("sessions/flavours.txt")).await;
}

#[tokio::test]
async fn users() {
    Site::new().await.plays(include_str!("sessions/users.txt")).await;
}

#[tokio::test]
async fn properties() {
    Site::new().await.plays(include_str!("sessions/properties.txt")).await;
}

#[tokio::test]
async fn a_host_that_is_used_or_running_stays() {
    let site = Site::with_one_vm().await;
    site.plays("$ host add name=n2 address=10.0.0.2 -q\n").await;
    site.host_runs(1).await;
    site.plays(
        "\
$ vm start -f id=1
Started 1 VMs.
$ host del --force
Deleting 2 host(s)
! Error: host 1 (n1) has 1 VMs assigned
? 1
$ vm stop -f id=1
Stopped 1 VMs.
$ host del --force
Deleting 2 host(s)
! Error: host 1 (n1) is running; stop it first
? 1
$ host list -q -f id=2
2  n2   10.0.0.2 -   -          -          0            0       stopped
",
    )
    .await;
    let list = site.qa(&words("host list -f id=1 -q"), "").await.out;
    let cells: Vec<_> = list.split_whitespace().collect();
    assert_eq!(cells[..3], ["1", "n1", "10.0.0.1"]);
    // Its report is from today, and the test's clock stands in 2013.
    assert_eq!(cells[3], "00:00:00");
    assert_eq!(cells[4..], ["4000", "16172.48", "0", "0", "running"]);
}

#[tokio::test]
async fn why_hosts_get_machines_or_none_is_told() {
    let site = Site::with_one_vm().await;
    site.plays(
        "\
$ host add name=n2 address=10.0.0.2 backend=0 -q
$ host explain -f id=1
host 1 (n1)
  state: stopped
  usable RAM: -
  usable CPU: -
  VMs assigned: 0
  gets no new VMs: its state is stopped, not running
  gets no new VMs: it has told of no hypervisor driver
  decisions: none yet
$ vm start -f id=1
Started 0 VMs.
! Warning: vm 1 (a) skipped: Unable to start machine, no hosts available
",
    )
    .await;
    site.host_runs(1).await;
    site.host_runs(2).await;
    site.plays("$ vm start -f id=1\nStarted 1 VMs.\n").await;
    let told = async |host: &str| site.qa(&words(&format!("host explain -f {host}")), "").await;
    let first = told("id=1").await.out;
    assert!(first.contains("  new VMs: may be placed on it\n"), "{first}");
    let decisions: Vec<_> = first.lines().filter_map(|line| Some(line.split_once(": VM 1: ")?.1)).collect();
    let memory = site.db.osfs().list().await.unwrap()[0].memory.0;
    assert!(memory > 0);
    assert_eq!(
        decisions,
        [
            "chosen, number 1; it had 0 VMs with 0 of 4000 MiB, CPU 16172.48; same again",
            "could not be used; same again",
        ]
    );
    let second = told("id=2").await.out;
    assert!(second.contains("  gets no new VMs: it is no backend"), "{second}");
    assert_eq!(second.matches("VM 1: could not be used; same again").count(), 2, "{second}");
    let json = site.qa(&words("host explain -f id=1 -o json"), "").await.out;
    assert!(json.contains("\"chosen\":1") && json.contains("\"obstacles\":[]"), "{json}");
}

#[tokio::test]
async fn a_stored_password_is_the_one_that_was_typed_last() {
    let site = Site::new().await;
    site.plays("$ user add login=ana password=first -q\n").await;
    let stored = async || {
        let user = site.db.users().by_login(qvd_core::TenantId::DEFAULT, "ana").await.unwrap().unwrap();
        user.password_hash.unwrap()
    };
    let right = |hash: &str, password: &str| {
        qvd_db::password::verify(hash, password.as_bytes(), b"") == qvd_db::password::Check::Right
    };
    assert!(right(stored().await.expose(), "first"));
    site.plays("$ user passwd user=ana --password-stdin\n< second one\n").await;
    assert!(right(stored().await.expose(), "second one"));
    assert!(!right(stored().await.expose(), "first"));
}
