//! Disk images: tags, files, limits.

use std::fs;

use qvd_core::state::VmState;

use crate::transcript::{Site, words};

#[tokio::test]
async fn tags() {
    Site::new().await.plays(include_str!("sessions/images.txt")).await;
}

#[tokio::test]
async fn versions_are_numbered_per_flavour_and_day() {
    let site = Site::new().await;
    site.plays("$ osf add name=one hypervisor=process -q\n$ osf add name=two hypervisor=process -q\n").await;
    for osf in ["one", "one", "two"] {
        assert_eq!(site.qa(&words(&format!("di add osf={osf} format=none")), "").await.code, 0);
    }
    let list = site.qa(&words("di list -q"), "").await.out;
    let versions: Vec<_> = list.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    let numbers: Vec<_> = versions.iter().map(|version| version.rsplit('-').next().unwrap()).collect();
    assert_eq!(numbers, ["000", "001", "000"], "{list}");
    assert!(list.lines().nth(1).unwrap().contains(", head"), "head moves: {list}");
    assert!(list.lines().next().unwrap().contains(", default"), "default stays: {list}");
    assert!(list.lines().nth(2).unwrap().contains(", default, head"), "{list}");
}

#[tokio::test]
async fn a_file_is_copied_under_its_id_and_the_source_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let source = dir.path().join("guest.img");
    fs::write(&source, b"QFI\xfb\0\0\0\x03 and the rest").unwrap();
    let site = Site::configured(&format!("path.storage.root = {at}\n")).await;
    site.plays("$ osf add name=one -q\n$ osf add name=boxes hypervisor=lxc -q\n").await;
    let add = |osf: &str| words(&format!("di add path={at}/guest.img osf={osf} version=v"));
    let refused = site.qa(&add("boxes"), "").await;
    assert_eq!(refused.err, format!("Error: {at}/guest.img is a qcow2 image, but vm.hypervisor is lxc\n"));
    assert_eq!(site.qa(&add("one"), "").await.out, "DI added with id 1\n");
    let images = dir.path().join("images");
    assert_eq!(fs::read(images.join("1-guest.img")).unwrap(), fs::read(&source).unwrap());

    // The same version again: no row, no file.
    let again = site.qa(&add("one"), "").await;
    assert_eq!(again.err, "Error: OSF 1 already has a DI with version v\n");
    assert_eq!(fs::read_dir(&images).unwrap().count(), 1);

    let near = site.qa(&words(&format!("di add path={at}/Guest.im osf=one")), "").await;
    assert_eq!(near.err, format!("Error: {at}/Guest.im: No such file or directory (there is: guest.img)\n"));

    site.plays("$ di del -f id=1 --purge -q\n").await;
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
}

#[tokio::test]
async fn limits_go_to_what_runs_from_an_outdated_image() {
    let site = Site::with_one_vm().await;
    site.plays("$ vm add name=h user=ana osf=desk di_tag=head -q\n").await;
    site.host_runs(1).await;
    site.plays("$ vm start --force\nStarted 2 VMs.\n").await;
    for vm in [1, 2] {
        site.vm_becomes(vm, 1, VmState::Running).await;
        site.vm_runs_from(vm, 1, 1).await;
    }
    site.plays(
        "\
$ di add osf=desk format=none version=2 expire-soft=now expire-hard=tomorrow
DI added with id 2
! 1 VM have had their expiration dates set (2013-08-05T23:34:00, 2013-08-06T23:34:00)!
$ vm list -f id=2 -q
2  h    ana  -        -  desk head   2  1          n1   running -   disconnected 0       2013-08-05 23:34:00 2013-08-06 23:34:00
$ di tag di_id=2 tag=default expire-soft='now + 5 minutes' -q
! 1 VM have had their expiration dates set (2013-08-05T23:39:00, undef)!
$ di tag di_id=2 tag=default
DI tagged
$ di tag di_id=2 tag=other expire-hard=now
DI tagged
$ di del -f id=1
Deleting 1 di(s)
0 DIs deleted.
! Warning: di 1 (1-none) skipped: is in use by 2 VMs
$ vm edit expire-soft= -f id=1
Edited 1 VMs.
$ vm list -f id=1 -q
1  a    ana  -        -  desk default 2  1          n1   running -   disconnected 0       -           -
$ vm edit expire-soft=noon di_tag=1 -f id=1
Edited 1 VMs.
$ vm list -f id=1 -q
1  a    ana  -        -  desk 1      1  1          n1   running -   disconnected 0       -           -
$ vm edit expire-soft=noon expire-hard=friday di_tag=head -f id=1
Edited 1 VMs.
$ vm list -f 'vm_expiration_soft=2013-08-06 12*' -q
1  a    ana  -        -  desk head   2  1          n1   running -   disconnected 0       2013-08-06 12:00:00 2013-08-09 23:34:00
",
    )
    .await;
}
