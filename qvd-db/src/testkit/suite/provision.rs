//! Users who come for the first time: one row, one virtual machine, whoever else does the same.

use std::net::Ipv4Addr;

use qvd_core::{OsfId, TenantId, VmId};

use super::case_list;
use super::crashes::{MANY, cut};
use crate::testkit::{Fixture, Site};
use crate::{AddressRange, Error, Provision, Provisioned};

case_list![
    a_first_login_gets_a_user_and_a_vm_and_later_ones_find_them,
    a_user_without_a_vm_of_that_flavour_gets_one,
    a_name_that_is_taken_is_passed_over_until_none_is_left,
    a_blocked_user_gets_nothing,
    a_new_user_stays_away_when_the_vm_cannot_be_made,
    first_logins_at_once_get_one_user_and_one_vm,
    first_logins_of_several_users_at_once_get_addresses_of_their_own,
    a_provision_cut_anywhere_is_whole_or_nothing,
];

fn wanted(login: &str, osf_id: OsfId) -> Provision {
    Provision {
        tenant: TenantId::DEFAULT,
        login: login.to_owned(),
        osf_id,
        di_tag: "head".to_owned(),
        max_names: 3,
        addresses: None,
    }
}

/// Names of the machines of a login; none when there is no such user.
async fn owned(site: &Site, login: &str) -> Option<Vec<String>> {
    let user = site.db.users().by_login(TenantId::DEFAULT, login).await.unwrap()?;
    Some(site.db.vms().of_user(user.id).await.unwrap().into_iter().map(|(vm, _)| vm.name).collect())
}

async fn a_first_login_gets_a_user_and_a_vm_and_later_ones_find_them(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let wanted = wanted("bea", world.osf);
    let made = site.db.vms().provision(&wanted).await.unwrap().unwrap();
    let (vm, runtime) = site.db.vms().load(made.new_vm.unwrap()).await.unwrap().unwrap();
    assert!(made.user_is_new);
    assert_eq!((vm.name.as_str(), vm.user_id, vm.osf_id), ("bea-1", made.user, world.osf));
    assert_eq!((vm.di_tag.as_str(), vm.ip, runtime.blocked), ("head", None, false));
    assert_eq!(site.db.users().load(made.user).await.unwrap().unwrap().password_hash, None);
    let found = site.db.vms().provision(&wanted).await.unwrap();
    assert_eq!(found, Some(Provisioned { user: made.user, user_is_new: false, new_vm: None }));
}

async fn a_user_without_a_vm_of_that_flavour_gets_one(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let other = site.db.osfs().add(Fixture::osf("other")).await.unwrap();
    let made = site.db.vms().provision(&wanted("ana", other)).await.unwrap().unwrap();
    assert_eq!((made.user, made.user_is_new), (world.user, false));
    // The fixture's machine of the other flavour has the first name.
    assert_eq!(owned(&site, "ana").await.unwrap(), ["ana-1", "ana-2"]);
    assert_eq!(site.db.vms().provision(&wanted("ana", other)).await.unwrap().unwrap().new_vm, None);
}

async fn a_name_that_is_taken_is_passed_over_until_none_is_left(site: Site) {
    let world = Fixture::fill(&site.db).await;
    for name in ["bea-1", "bea-3"] {
        site.db.vms().add(Fixture::vm(name, world.user, world.osf)).await.unwrap();
    }
    let made = site.db.vms().provision(&wanted("bea", world.osf)).await.unwrap().unwrap();
    assert_eq!(owned(&site, "bea").await.unwrap(), ["bea-2"]);
    let other = site.db.users().add(TenantId::DEFAULT, "cleo", None).await.unwrap();
    for name in ["cleo-1", "cleo-2", "cleo-3"] {
        site.db.vms().add(Fixture::vm(name, made.user, world.osf)).await.unwrap();
    }
    let refused = site.db.vms().provision(&wanted("cleo", world.osf)).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }) && refused.to_string().contains("cleo-3"), "{refused}");
    assert!(site.db.vms().of_user(other).await.unwrap().is_empty());
}

async fn a_blocked_user_gets_nothing(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let bea = site.db.users().add(TenantId::DEFAULT, "bea", None).await.unwrap();
    assert!(site.db.users().set_blocked(bea, true).await.unwrap().is_updated());
    assert_eq!(site.db.vms().provision(&wanted("bea", world.osf)).await.unwrap(), None);
    assert!(owned(&site, "bea").await.unwrap().is_empty());
}

async fn a_new_user_stays_away_when_the_vm_cannot_be_made(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let lost = site.db.vms().provision(&wanted("bea", OsfId::new(4711))).await.unwrap_err();
    assert!(matches!(lost, Error::Missing { .. }), "{lost}");
    let one = Ipv4Addr::new(10, 0, 0, 9);
    let full = AddressRange { first: one, last: one, reserved: vec![one] };
    let full = Provision { addresses: Some(full), ..wanted("bea", world.osf) };
    assert!(matches!(site.db.vms().provision(&full).await.unwrap_err(), Error::Refused { .. }));
    assert_eq!(owned(&site, "bea").await, None);
}

const ROUNDS: u8 = 6;

async fn first_logins_at_once_get_one_user_and_one_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let (second, third) = (site.second().await, site.second().await);
    for round in 0..ROUNDS {
        let login = format!("user{round}");
        let wanted = wanted(&login, world.osf);
        if round % 2 == 1 {
            site.db.users().add(TenantId::DEFAULT, &login, None).await.unwrap();
        }
        let (vms, seconds, thirds) = (site.db.vms(), second.vms(), third.vms());
        let (a, b, c) =
            tokio::join!(vms.provision(&wanted), seconds.provision(&wanted), thirds.provision(&wanted));
        let all = [a, b, c].map(|outcome| outcome.unwrap().unwrap());
        assert_eq!(all.iter().filter(|made| made.new_vm.is_some()).count(), 1, "{all:?}");
        assert_eq!(
            all.iter().filter(|made| made.user_is_new).count(),
            usize::from(round % 2 == 0),
            "{all:?}"
        );
        assert!(all.iter().all(|made| made.user == all[0].user), "{all:?}");
        assert_eq!(owned(&site, &login).await.unwrap(), [format!("{login}-1")]);
    }
}

async fn first_logins_of_several_users_at_once_get_addresses_of_their_own(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let addresses = AddressRange {
        first: Ipv4Addr::new(10, 0, 0, 1),
        last: Ipv4Addr::new(10, 0, 0, 2 * ROUNDS),
        reserved: Vec::new(),
    };
    let wanted =
        |login: String| Provision { addresses: Some(addresses.clone()), ..wanted(&login, world.osf) };
    let mut made: Vec<VmId> = Vec::new();
    for round in 0..ROUNDS {
        let (bea, cleo) = (wanted(format!("bea{round}")), wanted(format!("cleo{round}")));
        let (vms, seconds) = (site.db.vms(), second.vms());
        let (a, b) = tokio::join!(vms.provision(&bea), seconds.provision(&cleo));
        made.extend([a, b].map(|outcome| outcome.unwrap().unwrap().new_vm.unwrap()));
    }
    let mut given = std::collections::BTreeSet::new();
    for vm in &made {
        given.insert(site.db.vms().load(*vm).await.unwrap().unwrap().0.ip.unwrap());
    }
    assert_eq!(given.len(), made.len(), "{given:?}");
}

async fn a_provision_cut_anywhere_is_whole_or_nothing(site: Site) {
    let world = Fixture::fill(&site.db).await;
    for polls in 0..MANY {
        let login = format!("user{polls}");
        let ended = cut(site.db.vms().provision(&wanted(&login, world.osf)), polls).await;
        match owned(&site, &login).await {
            Some(names) => assert_eq!(names, [format!("{login}-1")]),
            None => assert!(!ended),
        }
        if ended {
            return;
        }
    }
    panic!("provisioning never ended");
}
