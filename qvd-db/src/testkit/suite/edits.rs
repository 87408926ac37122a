//! What an administrator changes of virtual machines afterwards.

use std::time::{Duration, SystemTime};

use qvd_core::ErrorKind;

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Error, LimitChange, VmChanges, VmOverview};

case_list![
    only_what_is_given_changes,
    a_series_changes_as_a_whole_or_not_at_all,
    owner_and_flavour_change_only_while_stopped,
    limits_are_for_what_runs_from_another_image,
];

async fn overview(world: &Fixture) -> VmOverview {
    world.db.vms().overview(world.vm).await.unwrap().unwrap()
}

async fn only_what_is_given_changes(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let address = VmChanges { ip: Some(Some("10.3.15.7".to_owned())), ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm], &address).await.unwrap(), 1);
    let name = VmChanges { name: Some("other".to_owned()), ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm], &name).await.unwrap(), 1);
    let vm = overview(&world).await.vm;
    assert_eq!(
        (vm.name.as_str(), vm.ip.as_deref(), vm.di_tag.as_str()),
        ("other", Some("10.3.15.7"), "default")
    );
    let without = VmChanges { ip: Some(None), di_tag: Some("head".to_owned()), ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm], &without).await.unwrap(), 1);
    let vm = overview(&world).await.vm;
    assert_eq!((vm.name.as_str(), vm.ip.as_deref(), vm.di_tag.as_str()), ("other", None, "head"));
}

async fn a_series_changes_as_a_whole_or_not_at_all(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    let same = VmChanges { ip: Some(Some("10.3.15.7".to_owned())), ..VmChanges::default() };
    let taken = site.db.vms().edit(&[world.vm, second], &same).await.unwrap_err();
    assert!(matches!(taken, Error::Duplicate { field: "VM address", .. }), "{taken:?}");
    assert_eq!(overview(&world).await.vm.ip, None);
    let tag = VmChanges { di_tag: Some("head".to_owned()), ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm, second], &tag).await.unwrap(), 2);
}

async fn owner_and_flavour_change_only_while_stopped(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let bob = site.db.users().add(qvd_core::TenantId::DEFAULT, "bob", None).await.unwrap();
    let osf_id = Some(site.db.osfs().add(Fixture::osf("other")).await.unwrap());
    let owner = VmChanges { user_id: Some(bob), osf_id, ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm], &owner).await.unwrap(), 1);
    let changed = overview(&world).await;
    assert_eq!((changed.user_login.as_str(), changed.osf_name.as_str()), ("bob", "other"));
    let refused = async |why: &str| {
        let refused = site.db.vms().edit(&[world.vm], &owner).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused}");
    };
    let session = world.session(1).session_id;
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    refused("a user is connected").await;
    assert!(site.db.sessions().release(world.vm, session).await.unwrap().is_updated());
    let claimed = site.db.vms().claim(world.vm, world.host, crate::Claimant::Router).await.unwrap();
    assert!(claimed.is_updated());
    refused("is about to start").await;
    assert!(site.db.vms().order_stop(world.vm).await.unwrap().is_updated());
    world.run().await;
    refused("is running").await;
}

async fn limits_are_for_what_runs_from_another_image(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limits = |change| VmChanges { soft: change, hard: change, ..VmChanges::default() };
    let edit = async |change| assert_eq!(site.db.vms().edit(&[world.vm], &limits(change)).await.unwrap(), 1);
    let stored = async || {
        let now = overview(&world).await;
        (now.expires_soft, now.expires_hard)
    };

    edit(LimitChange::Set(soon)).await;
    assert_eq!(stored().await, (None, None), "a stopped one gets none");

    let run = world.run().await;
    edit(LimitChange::Set(soon)).await;
    assert_eq!(stored().await, (Some(soon), Some(soon)), "its image is not known yet");

    assert!(site.db.vms().set_current_di(world.vm, world.host, run, world.di).await.unwrap().is_updated());
    edit(LimitChange::Set(soon)).await;
    assert_eq!(stored().await, (None, None), "it runs from the image that its tag names");

    site.db.images().add(Fixture::image(world.osf, Some("v2"))).await.unwrap();
    let outdated =
        VmChanges { di_tag: Some("head".to_owned()), hard: LimitChange::Set(soon), ..VmChanges::default() };
    assert_eq!(site.db.vms().edit(&[world.vm], &outdated).await.unwrap(), 1);
    assert_eq!(stored().await, (None, Some(soon)));
    edit(LimitChange::Clear).await;
    assert_eq!(stored().await, (None, None));
}
