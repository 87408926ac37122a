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
