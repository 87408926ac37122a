//! Virtual machines: adding, starting, stopping, waiting.

use std::time::Duration;

use qvd_core::state::VmState;

use crate::transcript::{Site, words};

#[tokio::test]
async fn virtual_machines() {
    let network =
        "vm.network.ip.start = 10.3.15.250\nvm.network.netmask = 24\nvm.network.dns_server = 10.3.15.254\n";
    Site::configured(network).await.plays(include_str!("sessions/vms.txt")).await;
}

#[tokio::test]
async fn an_address_is_needed_and_no_range_is_configured() {
    Site::new()
        .await
        .plays(
            "\
$ user add login=ana password=x -q
$ osf add name=desk -q
$ vm add name=a user=ana osf=desk
! Error: configuration key 'vm.network.ip.start' is not set
? 1
$ config set vm.network.ip.start=10.3.15.50 vm.network.netmask=255.255.255.0
$ vm add name=a user=ana osf=desk -q
$ vm list -q -f ip=10.3.15.254
1  a    ana  -        10.3.15.254 desk default -  -          -    stopped -   disconnected 0       -           -
",
        )
        .await;
}

#[tokio::test]
async fn a_start_needs_a_host_and_a_stop_calls_it_back() {
    let site = Site::with_one_vm().await;
    site.plays(
        "\
$ vm start -f id=1
Started 0 VMs.
! Warning: vm 1 (a) skipped: Unable to start machine, no hosts available
$ vm start -f id=1 --strict -q
? 3
$ vm stop -f di_tag=head
Stopped 0 VMs.
",
    )
    .await;
    site.host_runs(1).await;
    site.plays(
        "\
$ vm block -f id=1
$ vm start -f id=1
Started 1 VMs.
$ vm start -f id=1
Started 0 VMs.
! Warning: vm 1 (a) skipped: has a pending command (start)
$ vm del -f id=1
Deleting 1 vm(s)
! Warning: vm 1 (a) skipped: has a pending command (start)
$ vm stop -f id=1
Stopped 1 VMs.
$ vm list -f id=1 -q
1  a    ana  -        -  desk default 1  -          -    stopped -   disconnected 1       -           -
$ vm disconnect_user -f id=1
Disconnected 0 users.
! Warning: vm 1 (a) skipped: no user is connected
",
    )
    .await;
}

/// The command matrix of the manual, in all six states.
#[tokio::test]
async fn what_is_possible_in_which_state() {
    for (state, start, stop, delete) in [
        (VmState::Starting, false, true, false),
        (VmState::Running, false, true, false),
        (VmState::Stopping, false, false, false),
        (VmState::Zombie, false, false, false),
        (VmState::Debugging, false, true, false),
    ] {
        let site = Site::with_one_vm().await;
        site.host_runs(1).await;
        site.plays("$ vm start -f id=1 -q\n").await;
        site.vm_becomes(1, 1, state).await;
        for (command, possible, done) in
            [("start", start, "Started"), ("del", delete, "Deleting"), ("stop", stop, "Stopped")]
        {
            let answer = site.qa(&words(&format!("vm {command} -f id=1")), "").await;
            assert!(answer.out.starts_with(done), "{answer:?}");
            assert_eq!(answer.err.is_empty(), possible, "{command} in {state}: {answer:?}");
            if !possible {
                assert!(answer.err.ends_with(&format!("({state})\n")), "{command} in {state}: {answer:?}");
            }
        }
        assert_eq!(site.qa(&words("vm list -q"), "").await.out.lines().count(), 1, "{state}");
    }
}

#[tokio::test]
async fn waiting_ends_when_the_machine_is_there_or_cannot_get_there() {
    let site = Site::with_one_vm().await;
    site.host_runs(1).await;
    let (start, ()) =
        tokio::join!(async { site.qa(&words("vm start -f id=1 --wait=30"), "").await }, async {
            until(&site, "vm_cmd=start").await;
            site.vm_becomes(1, 1, VmState::Running).await;
        });
    assert_eq!((start.out.as_str(), start.err.as_str(), start.code), ("Started 1 VMs.\n", "", 0));

    let (stop, ()) = tokio::join!(async { site.qa(&words("vm stop -f id=1 --wait"), "").await }, async {
        until(&site, "vm_cmd=stop").await;
        site.vm_becomes(1, 1, VmState::Stopped).await;
    });
    assert_eq!((stop.out.as_str(), stop.err.as_str(), stop.code), ("Stopped 1 VMs.\n", "", 0));

    site.plays("$ vm start -f id=1 -q\n").await;
    site.vm_becomes(1, 1, VmState::Running).await;
    let late = site.qa(&words("vm stop -f id=1 --wait=0.05"), "").await;
    assert_eq!((late.err.as_str(), late.code), ("Error: vm 1 (a) still running after 0.05 s\n", 1));
    site.vm_becomes(1, 1, VmState::Stopped).await;

    let (failed, ()) =
        tokio::join!(async { site.qa(&words("vm start -f id=1 --wait=30 -q"), "").await }, async {
            until(&site, "vm_cmd=start").await;
            site.vm_becomes(1, 1, VmState::Stopped).await;
        });
    assert_eq!(failed.code, 1, "{failed:?}");
}

/// Until a filter selects something.
async fn until(site: &Site, filter: &str) {
    let selected = async {
        while site.qa(&words(&format!("vm list -q -f {filter}")), "").await.out.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), selected).await.unwrap();
}
