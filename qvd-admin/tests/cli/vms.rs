//! Virtual machines: adding, starting, stopping, waiting.

use std::time::Duration;

use qvd_admin::filter::Filter;
use qvd_admin::ops::Access;
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

#[tokio::test]
async fn ways_into_a_machine_are_there_when_their_ports_are() {
    let site = Site::with_one_vm().await;
    site.host_runs(1).await;
    site.plays(
        "\
$ vm ssh -f id=9
! Error: No matching VMs
? 1
$ vm add name=b user=ana osf=desk -q
$ vm ssh -f name=*
! Error: Filter matches more than one VM
? 1
$ vm ssh -f id=1 -- -l qvd
! Error: SSH access is disabled
? 1
$ vm vnc -f id=1
! Error: VNC access is disabled
? 1
$ vm console -f id=1
! Error: Console access is disabled
? 1
",
    )
    .await;
}

#[tokio::test]
async fn a_console_of_a_container_is_opened_where_it_runs() {
    let site = Site::configured("nodename = n1\npath.run.lxc = /run/lxc\n").await;
    site.plays(
        "\
$ host add name=n1 address=10.0.0.1 -q
$ host add name=n2 address=10.0.0.2 -q
$ user add login=ana password=x -q
$ osf add name=box hypervisor=lxc -q
$ vm add name=a user=ana osf=box ip=10.0.0.9 -q
$ vm add name=b user=ana osf=box ip=10.0.0.8 -q
",
    )
    .await;
    for (vm, host) in [(1, 1), (2, 2)] {
        site.host_runs(host).await;
        let claimed = site.db.vms().claim(vm_id(vm), host_id(host), qvd_db::Claimant::Admin).await.unwrap();
        assert!(claimed.is_updated());
        site.vm_becomes(vm, host, VmState::Running).await;
    }
    let console = site.qa(&words("vm console -f name=a"), "").await;
    assert_eq!(console.ran, words("lxc-console -n qvd-1 -P /run/lxc -t 1"));
    assert_eq!(console.err, "Error: Unable to exec lxc-console: No such file or directory\n");
    let other_tty = site.qa(&words("vm console -f name=a -- -t 3"), "").await;
    assert_eq!(other_tty.ran, words("lxc-console -n qvd-1 -P /run/lxc -t 3"));
    let elsewhere = site.qa(&words("vm console -f name=b"), "").await;
    assert_eq!(elsewhere.err, "Error: VM 2 runs on n2; run this command there\n");
}

fn vm_id(id: i64) -> qvd_core::VmId {
    qvd_core::VmId::new(id)
}

fn host_id(id: i64) -> qvd_core::HostId {
    qvd_core::HostId::new(id)
}

#[tokio::test]
async fn a_shell_and_a_screen_are_reached_by_the_recorded_ports() {
    let site = Site::with_one_vm().await;
    site.host_runs(1).await;
    site.plays("$ config set admin.ssh.opt.ConnectTimeout=5\n$ vm start -f id=1 -q\n").await;
    let admin = site.admin().await;
    let mut vms = admin.vms(&Filter::all()).await.unwrap();
    let overview = &mut vms[0].row.overview;
    overview.runtime.vm_address = Some("10.3.15.254".to_owned());
    (overview.ssh_port, overview.vnc_port, overview.serial_port) = (Some(22), Some(5901), Some(0));
    let extra = words("-l qvd -X xterm");
    let ssh = admin.vm_access(&vms, Access::Ssh, &extra).await.unwrap();
    let expected = "ssh 10.3.15.254 -p 22 -o ConnectTimeout=5 -o StrictHostKeyChecking=no \
                    -o UserKnownHostsFile=/dev/null -l qvd -X xterm";
    assert_eq!(ssh, words(expected));
    let vnc = admin.vm_access(&vms, Access::Vnc, &[]).await.unwrap();
    assert_eq!(vnc, words("vncviewer 10.0.0.1::5901"));
    let console = admin.vm_access(&vms, Access::Console, &[]).await.unwrap_err();
    assert_eq!(console.to_string(), "Console access is disabled", "0 is no port");
}
