//! Disk images: versions, tags, the way from staged to published.

use std::time::{Duration, SystemTime};

use qvd_core::model::DiskImage;
use qvd_core::{DiId, ErrorKind, OsfId};

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{Claimant, Expirations, Guard, NewImage};

case_list![
    two_images_of_a_day_get_two_numbers,
    two_images_at_once_get_two_numbers,
    a_version_is_given_once,
    the_default_stays_and_head_moves,
    a_staged_image_is_nobodys_choice,
    a_crash_leaves_a_staged_row_that_can_be_swept,
    fixed_tags_neither_move_nor_go,
    tags_are_unique_in_their_osf_only,
    two_taggers_leave_one_holder,
    a_deleted_image_leaves_its_tags_to_the_latest,
    a_blocked_image_inherits_only_when_there_is_no_other,
    an_added_image_limits_what_runs_from_head,
];

async fn osf(site: &Site, name: &str) -> OsfId {
    site.db.osfs().add(Fixture::osf(name)).await.unwrap()
}

async fn tags(site: &Site, id: DiId) -> Vec<String> {
    let image: DiskImage = site.db.images().load(id).await.unwrap().unwrap();
    image.tags.into_iter().map(|tag| tag.tag).collect()
}

async fn holder(site: &Site, osf: OsfId, tag: &str) -> Option<DiId> {
    site.db.images().resolve(osf, tag).await.unwrap().map(|image| image.id)
}

const DAY: &str = "2026-03-01";

async fn add_on_day(site: &Site, osf: OsfId) -> DiskImage {
    let images = site.db.images();
    let staged = images.stage_on(Fixture::image(osf, None), DAY.to_owned()).await.unwrap();
    let published = images.publish(staged.id, Expirations::default()).await.unwrap();
    published.updated().unwrap().image
}

async fn two_images_of_a_day_get_two_numbers(site: Site) {
    let desk = osf(&site, "desk").await;
    let first = add_on_day(&site, desk).await;
    let second = add_on_day(&site, desk).await;
    assert_eq!((first.version.as_str(), second.version.as_str()), ("2026-03-01-000", "2026-03-01-001"));
    assert_eq!(first.path, format!("{}-desk.img", first.id));
    // A tag that looks like a version takes its number.
    site.db.images().tag(first.id, "2026-03-01-002", Expirations::default()).await.unwrap();
    assert_eq!(add_on_day(&site, desk).await.version, "2026-03-01-003");
    let other = osf(&site, "other").await;
    assert_eq!(add_on_day(&site, other).await.version, "2026-03-01-000", "each OSF counts for itself");
}

async fn two_images_at_once_get_two_numbers(site: Site) {
    let desk = osf(&site, "desk").await;
    let second = site.second().await;
    let stage = |db: crate::Db| async move {
        db.images().stage_on(Fixture::image(desk, None), DAY.to_owned()).await.unwrap().version
    };
    let (a, b) = tokio::join!(stage(site.db.clone()), stage(second));
    let mut versions = [a, b];
    versions.sort();
    assert_eq!(versions, ["2026-03-01-000", "2026-03-01-001"]);
}

async fn a_version_is_given_once(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    images.add(Fixture::image(desk, Some("v1"))).await.unwrap();
    let taken = images.add(Fixture::image(desk, Some("v1"))).await.unwrap_err();
    assert_eq!(taken.to_string(), format!("OSF {desk} already has a DI with version v1"));
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    let nowhere = images.add(Fixture::image(OsfId::new(99), None)).await.unwrap_err();
    assert_eq!(nowhere.to_string(), "OSF 99 not found");
    let strange = NewImage { format: "iso".to_owned(), ..Fixture::image(desk, None) };
    assert_eq!(images.add(strange).await.unwrap_err().kind(), ErrorKind::Invalid);
    let outside = NewImage { file_name: "../etc/passwd".to_owned(), ..Fixture::image(desk, None) };
    assert_eq!(images.add(outside).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(images.list().await.unwrap().len(), 1);
}

async fn the_default_stays_and_head_moves(site: Site) {
    let desk = osf(&site, "desk").await;
    let first = add_on_day(&site, desk).await.id;
    assert_eq!(tags(&site, first).await, ["2026-03-01-000", "default", "head"]);
    let second = add_on_day(&site, desk).await.id;
    assert_eq!(tags(&site, first).await, ["2026-03-01-000", "default"]);
    assert_eq!(tags(&site, second).await, ["2026-03-01-001", "head"]);
    assert_eq!(holder(&site, desk, "default").await, Some(first));
    assert_eq!(holder(&site, desk, "2026-03-01-001").await, Some(second));
    let fixed: Vec<_> = site.db.images().load(second).await.unwrap().unwrap().tags;
    assert_eq!(
        fixed.iter().filter(|tag| tag.fixed).map(|tag| tag.tag.as_str()).collect::<Vec<_>>(),
        ["2026-03-01-001"]
    );
    // A movable tag named like a new version gives way to it.
    site.db.images().tag(first, "v9", Expirations::default()).await.unwrap();
    let third = site.db.images().add(Fixture::image(desk, Some("v9"))).await.unwrap().id;
    assert_eq!(holder(&site, desk, "v9").await, Some(third));
    let list = site.db.images().list().await.unwrap();
    assert_eq!(list.iter().map(|image| image.tags.len()).collect::<Vec<_>>(), [2, 1, 2]);
}

async fn a_staged_image_is_nobodys_choice(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    let staged = images.stage(Fixture::image(desk, Some("v1"))).await.unwrap();
    assert!(staged.tags.is_empty());
    assert_eq!(holder(&site, desk, "default").await, None);
    assert!(images.list().await.unwrap().is_empty());
    assert!(images.publish(staged.id, Expirations::default()).await.unwrap().is_updated());
    assert!(matches!(images.publish(staged.id, Expirations::default()).await.unwrap(), Guard::Unchanged(_)));
    assert_eq!(images.publish(DiId::new(99), Expirations::default()).await.unwrap(), Guard::NotFound);
    assert_eq!(images.discard(staged.id).await.unwrap(), Guard::Unchanged(()), "it is published");
}

async fn a_crash_leaves_a_staged_row_that_can_be_swept(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    let staged = images.stage(Fixture::image(desk, Some("v1"))).await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let abandoned = images.staged_before(later).await.unwrap();
    assert_eq!(abandoned.iter().map(|image| image.id).collect::<Vec<_>>(), [staged.id]);
    let earlier = SystemTime::now() - Duration::from_secs(3600);
    assert!(images.staged_before(earlier).await.unwrap().is_empty());
    assert_eq!(images.discard(staged.id).await.unwrap(), Guard::Updated(()));
    assert_eq!(images.discard(staged.id).await.unwrap(), Guard::NotFound);
    assert!(images.add(Fixture::image(desk, Some("v1"))).await.is_ok(), "the version is free again");
}

async fn fixed_tags_neither_move_nor_go(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    let first = add_on_day(&site, desk).await;
    let second = add_on_day(&site, desk).await;
    let none = Expirations::default();
    let fixed = images.tag(second.id, &first.version, none).await.unwrap_err();
    assert_eq!(fixed.to_string(), format!("There is a DI with the tag {} fixed", first.version));
    let fixed = images.tag(first.id, &first.version, none).await.unwrap_err();
    assert_eq!(fixed.kind(), ErrorKind::Conflict);
    let fixed = images.untag(first.id, &first.version, none).await.unwrap_err();
    assert_eq!(fixed.to_string(), format!("DI {} tag {} is fixed", first.id, first.version));
    let missing = images.untag(first.id, "testing", none).await.unwrap_err();
    assert_eq!(missing.to_string(), format!("DI {} is not tagged as testing", first.id));
    let nothing = images.tag(DiId::new(42), "testing", none).await.unwrap_err();
    assert_eq!(nothing.to_string(), "DI 42 not found");
    assert_eq!(images.tag(first.id, "a b", none).await.unwrap_err().kind(), ErrorKind::Invalid);
    images.tag(first.id, "testing", none).await.unwrap();
    images.tag(first.id, "testing", none).await.unwrap();
    images.untag(first.id, "testing", none).await.unwrap();
    assert_eq!(holder(&site, desk, "testing").await, None);
}

async fn tags_are_unique_in_their_osf_only(site: Site) {
    let (desk, lab) = (osf(&site, "desk").await, osf(&site, "lab").await);
    let (one, two) = (add_on_day(&site, desk).await.id, add_on_day(&site, lab).await.id);
    for id in [one, two] {
        site.db.images().tag(id, "foo", Expirations::default()).await.unwrap();
    }
    assert_eq!((holder(&site, desk, "foo").await, holder(&site, lab, "foo").await), (Some(one), Some(two)));
}

async fn two_taggers_leave_one_holder(site: Site) {
    let desk = osf(&site, "desk").await;
    let (one, two) = (add_on_day(&site, desk).await.id, add_on_day(&site, desk).await.id);
    let second = site.second().await;
    for _ in 0..5 {
        let (a, b) = tokio::join!(
            site.db.images().tag(one, "exam", Expirations::default()),
            second.images().tag(two, "exam", Expirations::default()),
        );
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
        let holders = [tags(&site, one).await, tags(&site, two).await];
        let held = holders.iter().flatten().filter(|tag| *tag == "exam").count();
        assert_eq!(held, 1, "{holders:?}");
    }
}

async fn a_deleted_image_leaves_its_tags_to_the_latest(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    let first = add_on_day(&site, desk).await.id;
    let second = add_on_day(&site, desk).await.id;
    let third = add_on_day(&site, desk).await.id;
    images.stage(Fixture::image(desk, Some("unfinished"))).await.unwrap();
    assert_eq!(images.delete(third).await.unwrap(), Guard::Updated(()));
    assert_eq!(holder(&site, desk, "head").await, Some(second));
    assert_eq!(images.delete(first).await.unwrap(), Guard::Updated(()));
    assert_eq!(holder(&site, desk, "default").await, Some(second));
    assert_eq!(images.delete(second).await.unwrap(), Guard::Updated(()));
    assert_eq!(holder(&site, desk, "default").await, None);
    assert_eq!(images.delete(second).await.unwrap(), Guard::NotFound);
}

async fn a_blocked_image_inherits_only_when_there_is_no_other(site: Site) {
    let desk = osf(&site, "desk").await;
    let images = site.db.images();
    let first = add_on_day(&site, desk).await.id;
    let second = add_on_day(&site, desk).await.id;
    let third = add_on_day(&site, desk).await.id;
    assert!(images.set_blocked(third, true).await.unwrap().is_updated());
    assert!(images.delete(first).await.unwrap().is_updated());
    assert_eq!(holder(&site, desk, "default").await, Some(second));
    assert!(images.delete(second).await.unwrap().is_updated());
    assert!(tags(&site, third).await.contains(&"default".to_owned()), "to start from once it is unblocked");
}

async fn an_added_image_limits_what_runs_from_head(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let on_head = crate::NewVm { di_tag: "head".to_owned(), ..Fixture::vm("ana-2", world.user, world.osf) };
    let on_head = site.db.vms().add(on_head).await.unwrap();
    world.run().await;
    let other = Fixture { vm: on_head, ..world.clone() };
    other.run().await;
    // It starts and has no image yet: it will start from the new one.
    let starting = crate::NewVm { di_tag: "head".to_owned(), ..Fixture::vm("ana-3", world.user, world.osf) };
    let starting = site.db.vms().add(starting).await.unwrap();
    assert!(site.db.vms().claim(starting, world.host, Claimant::Router).await.unwrap().is_updated());
    let accepted = site.db.vms().accept_start(starting, world.host, world.incarnation).await.unwrap();
    let run = accepted.updated().unwrap().run_id;
    let images = site.db.images();
    let staged = images.stage(Fixture::image(world.osf, None)).await.unwrap();
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limits = Expirations { soft: Some(soon), hard: Some(soon) };
    let published = images.publish(staged.id, limits).await.unwrap().updated().unwrap();
    assert_eq!(published.expiring_vms, 1);
    let expiring = site.db.vms().expiring(world.host).await.unwrap();
    assert_eq!(expiring.iter().map(|limit| limit.vm_id).collect::<Vec<_>>(), [on_head]);
    let pinned = site.db.vms().pin_image(starting, world.host, run).await.unwrap().updated().unwrap();
    assert_eq!(pinned.map(|image| image.id), Some(staged.id));
    // Once it has an image, a newer one outdates it, whether it runs yet or not.
    let staged = images.stage(Fixture::image(world.osf, None)).await.unwrap();
    let published = images.publish(staged.id, limits).await.unwrap().updated().unwrap();
    assert_eq!(published.expiring_vms, 2);
}
