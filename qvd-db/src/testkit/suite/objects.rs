//! Users, flavours, virtual machines, properties, configuration.

use std::net::Ipv4Addr;

use qvd_core::{ErrorKind, Secret, TenantId, UserId, VmId};

use super::case_list;
use crate::testkit::{Fixture, Site};
use crate::{AddressRange, BlockedBy, Channel, Error, Guard, Hint, NewOsf, NewVm, Owner, SslMaterial};

case_list![
    users_are_found_by_login_and_taken_logins_are_named,
    a_password_upgrade_never_undoes_a_change,
    a_user_with_vms_cannot_be_deleted,
    osfs_keep_their_values_and_refuse_nonsense,
    an_osf_goes_with_its_images_but_not_while_it_has_vms,
    vms_name_what_is_missing_or_taken,
    addresses_are_given_downwards_and_run_out,
    two_vms_never_get_one_address,
    ids_are_never_used_again,
    only_idle_vms_are_deleted,
    properties_merge_from_osf_to_vm,
    what_one_command_changes_it_changes_as_a_whole,
    configuration_changes_as_a_whole,
    certificates_left_out_are_deleted,
    a_full_list_names_what_it_refers_to,
];

async fn users_are_found_by_login_and_taken_logins_are_named(site: Site) {
    let users = site.db.users();
    let id = users.add(TenantId::DEFAULT, "ana", None).await.unwrap();
    let loaded = users.by_login(TenantId::DEFAULT, "ana").await.unwrap().unwrap();
    assert_eq!((loaded.id, loaded.blocked, loaded.password_hash), (id, false, None));
    assert!(users.by_login(TenantId::DEFAULT, "Ana").await.unwrap().is_none());
    let taken = users.add(TenantId::DEFAULT, "ana", None).await.unwrap_err();
    assert_eq!(
        (taken.to_string().as_str(), taken.kind()),
        ("user login 'ana' already exists", ErrorKind::Conflict)
    );
    let empty = users.add(TenantId::DEFAULT, "", None).await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Invalid);
    let nowhere = users.add(TenantId::new(99), "bob", None).await.unwrap_err();
    assert_eq!((nowhere.to_string().as_str(), nowhere.kind()), ("tenant 99 not found", ErrorKind::NotFound));
    assert!(users.set_blocked(id, true).await.unwrap().is_updated());
    assert!(users.load(id).await.unwrap().unwrap().blocked);
    assert_eq!(users.set_blocked(UserId::new(99), true).await.unwrap(), Guard::NotFound);
}

async fn a_password_upgrade_never_undoes_a_change(site: Site) {
    let users = site.db.users();
    let id = users.add(TenantId::DEFAULT, "ana", Some("old")).await.unwrap();
    assert_eq!(users.set_password_hash(id, None, "changed").await.unwrap(), Guard::Updated(()));
    assert_eq!(users.set_password_hash(id, Some("old"), "upgraded").await.unwrap(), Guard::Unchanged(()));
    let stored = users.load(id).await.unwrap().unwrap().password_hash;
    assert_eq!(stored, Some(Secret::new("changed".to_owned())));
    assert_eq!(users.set_password_hash(id, Some("changed"), "new").await.unwrap(), Guard::Updated(()));
    assert_eq!(users.set_password_hash(UserId::new(99), None, "x").await.unwrap(), Guard::NotFound);
}

async fn a_user_with_vms_cannot_be_deleted(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let refused = site.db.users().delete(world.user).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("user {} (ana) owns 1 VMs", world.user));
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Updated(()));
    assert_eq!(site.db.users().delete(world.user).await.unwrap(), Guard::Updated(()));
    assert_eq!(site.db.users().delete(world.user).await.unwrap(), Guard::NotFound);
}

async fn osfs_keep_their_values_and_refuse_nonsense(site: Site) {
    let osfs = site.db.osfs();
    let id = osfs.add(Fixture::osf("desk")).await.unwrap();
    let osf = osfs.by_name(TenantId::DEFAULT, "desk").await.unwrap().unwrap();
    assert_eq!((osf.id, osf.memory.0, osf.home.map(|m| m.0)), (id, 256, Some(1024)));
    assert_eq!(osf.hypervisor.as_deref(), Some("process"));
    let taken = osfs.add(Fixture::osf("desk")).await.unwrap_err();
    assert_eq!(taken.to_string(), "OSF name 'desk' already exists");
    let nonsense = NewOsf { hypervisor: Some("xen".to_owned()), ..Fixture::osf("other") };
    assert_eq!(osfs.add(nonsense).await.unwrap_err().kind(), ErrorKind::Invalid);
    let plain = NewOsf { hypervisor: None, home: None, ..Fixture::osf("plain") };
    let plain = osfs.add(plain).await.unwrap();
    let plain = osfs.load(plain).await.unwrap().unwrap();
    assert_eq!((plain.hypervisor, plain.home), (None, None));
    assert_eq!(osfs.list().await.unwrap().len(), 2);
}

async fn an_osf_goes_with_its_images_but_not_while_it_has_vms(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let refused = site.db.osfs().delete(world.osf).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("OSF {} (desk) has 1 VMs", world.osf));
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Updated(()));
    assert_eq!(site.db.osfs().delete(world.osf).await.unwrap(), Guard::Updated(()));
    assert!(site.db.images().load(world.di).await.unwrap().is_none());
}

async fn vms_name_what_is_missing_or_taken(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let vms = site.db.vms();
    let taken = vms.add(Fixture::vm("ana-1", world.user, world.osf)).await.unwrap_err();
    assert_eq!(taken.to_string(), "VM name 'ana-1' already exists");
    let nobody = vms.add(Fixture::vm("x", UserId::new(99), world.osf)).await.unwrap_err();
    assert_eq!(nobody.to_string(), "user 99 not found");
    let nothing = vms.add(Fixture::vm("x", world.user, qvd_core::OsfId::new(99))).await.unwrap_err();
    assert_eq!(nothing.to_string(), "OSF 99 not found");
    let with_ip =
        |name: &str, ip: &str| NewVm { ip: Some(ip.to_owned()), ..Fixture::vm(name, world.user, world.osf) };
    let id = vms.add(with_ip("a", "10.3.15.50")).await.unwrap();
    assert_eq!(vms.load(id).await.unwrap().unwrap().0.ip.as_deref(), Some("10.3.15.50"));
    let taken = vms.add(with_ip("b", "10.3.15.50")).await.unwrap_err();
    assert_eq!(taken.to_string(), "VM address '10.3.15.50' already exists");
    assert_eq!(vms.add(with_ip("b", "10.3.15")).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(vms.load(VmId::new(999)).await.unwrap().is_none());
    assert_eq!(vms.of_user(world.user).await.unwrap().len(), 2);
}

fn small_range() -> AddressRange {
    AddressRange {
        first: Ipv4Addr::new(10, 3, 15, 250),
        last: Ipv4Addr::new(10, 3, 15, 254),
        reserved: vec![Ipv4Addr::new(10, 3, 15, 254)],
    }
}

async fn addresses_are_given_downwards_and_run_out(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let host = crate::NewHost {
        name: "n2".to_owned(),
        address: "10.3.15.252".to_owned(),
        frontend: true,
        backend: true,
    };
    site.db.hosts().add(host).await.unwrap();
    let mut given = Vec::new();
    for n in 0..3 {
        let vm = Fixture::vm(&format!("class-{n}"), world.user, world.osf);
        let id = site.db.vms().add_with_address(vm, &small_range()).await.unwrap();
        given.push(site.db.vms().load(id).await.unwrap().unwrap().0.ip.unwrap());
    }
    assert_eq!(given, ["10.3.15.253", "10.3.15.251", "10.3.15.250"]);
    let vm = Fixture::vm("class-3", world.user, world.osf);
    let none_left = site.db.vms().add_with_address(vm, &small_range()).await.unwrap_err();
    assert_eq!(none_left.to_string(), "no free IP address from 10.3.15.250 to 10.3.15.254 (5 addresses)");
}

async fn two_vms_never_get_one_address(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let second = site.second().await;
    let range = small_range();
    let add = |db: crate::Db, name: &'static str| {
        let (range, vm) = (range.clone(), Fixture::vm(name, world.user, world.osf));
        async move { db.vms().add_with_address(vm, &range).await.unwrap() }
    };
    let (a, b) = tokio::join!(add(site.db.clone(), "a"), add(second, "b"));
    let ip = async |id| site.db.vms().load(id).await.unwrap().unwrap().0.ip;
    assert_ne!(ip(a).await, ip(b).await);
}

async fn ids_are_never_used_again(site: Site) {
    let world = Fixture::fill(&site.db).await;
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Updated(()));
    let next = site.db.vms().add(Fixture::vm("ana-1", world.user, world.osf)).await.unwrap();
    assert!(next > world.vm, "{next} after {}", world.vm);
}

async fn only_idle_vms_are_deleted(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Unchanged(()));
    assert_eq!(site.db.vms().clear(world.vm, world.host, run).await.unwrap(), Guard::Updated(()));
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Unchanged(()));
    let session = world.session(1).session_id;
    assert_eq!(site.db.sessions().release(world.vm, session).await.unwrap(), Guard::Updated(()));
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::Updated(()));
    assert_eq!(site.db.vms().delete(world.vm).await.unwrap(), Guard::NotFound);
    assert!(site.db.vms().list().await.unwrap().is_empty());
}

async fn properties_merge_from_osf_to_vm(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let properties = site.db.properties();
    let owners = [
        (Owner::Osf(world.osf), "osf"),
        (Owner::Di(world.di), "di"),
        (Owner::User(world.user), "user"),
        (Owner::Vm(world.vm), "vm"),
    ];
    for (level, (owner, name)) in owners.into_iter().enumerate() {
        for key in level..4 {
            properties.set(owner, &format!("k{key}"), "overwritten").await.unwrap();
            properties.set(owner, &format!("k{key}"), name).await.unwrap();
        }
    }
    properties.set(Owner::Host(world.host), "k0", "host").await.unwrap();
    // The router's own, which no agent is told.
    properties.set(Owner::User(world.user), "l7r.auth.plugin.totp.secret32", "GEZDGNBV").await.unwrap();
    let values = async || {
        let runtime = site.db.vms().runtime(world.vm).await.unwrap().unwrap();
        let merged = properties.merged_for_vm(&runtime).await.unwrap();
        merged.into_values().collect::<Vec<_>>()
    };
    // Nothing runs: the image says nothing.
    assert_eq!(values().await, ["osf", "osf", "user", "vm"]);
    let run = world.run().await;
    let pinned = site.db.vms().pin_image(world.vm, world.host, run).await.unwrap();
    assert_eq!(pinned.updated().flatten().map(|di| di.id), Some(world.di));
    assert_eq!(values().await, ["osf", "di", "user", "vm"]);
    assert_eq!(properties.delete(Owner::Vm(world.vm), "k3").await.unwrap(), Guard::Updated(()));
    assert_eq!(properties.delete(Owner::Vm(world.vm), "k3").await.unwrap(), Guard::NotFound);
    assert_eq!(values().await, ["osf", "di", "user", "user"]);
    let nobody = properties.set(Owner::User(UserId::new(99)), "k", "v").await.unwrap_err();
    assert_eq!(nobody.to_string(), "user 99 not found");
    let long = properties.set(Owner::Vm(world.vm), "k", &"x".repeat(32_769)).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Invalid);
}

async fn configuration_changes_as_a_whole(site: Site) {
    let config = site.db.config();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    config.set_all(&[pair("b", "2"), pair("a", "1")]).await.unwrap();
    config.set_all(&[pair("a", "3")]).await.unwrap();
    assert_eq!(config.load(TenantId::DEFAULT).await.unwrap(), [pair("a", "3"), pair("b", "2")]);
    let long = "k".repeat(256);
    let refused = config.set_all(&[pair("c", "4"), pair(&long, "5")]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(config.load(TenantId::DEFAULT).await.unwrap().len(), 2, "none of a set that fails is kept");
    let mut subscription = site.db.subscribe(&[Channel::ConfigChanged]);
    assert_eq!(subscription.next().await, Hint::Rescan);
    assert_eq!(config.delete(&["a".to_owned(), "x".to_owned()]).await.unwrap(), 1);
    assert_eq!(subscription.next().await, Hint::Notified(Channel::ConfigChanged));
    assert_eq!(config.delete_all().await.unwrap(), 1);
    assert!(config.load(TenantId::DEFAULT).await.unwrap().is_empty());
}

async fn certificates_left_out_are_deleted(site: Site) {
    let config = site.db.config();
    assert_eq!(config.ssl().await.unwrap(), SslMaterial::default());
    let full = SslMaterial {
        cert: Some("cert".to_owned()),
        key: Some(Secret::new("key".to_owned())),
        ca: Some("ca".to_owned()),
        crl: Some("crl".to_owned()),
    };
    config.set_ssl(&full).await.unwrap();
    assert_eq!(config.ssl().await.unwrap(), full);
    let less = SslMaterial { ca: None, crl: None, ..full };
    config.set_ssl(&less).await.unwrap();
    assert_eq!(config.ssl().await.unwrap(), less);
}

async fn what_one_command_changes_it_changes_as_a_whole(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let bob = site.db.users().add(TenantId::DEFAULT, "bob", None).await.unwrap();
    let busy = site.db.users().delete_all(&[bob, world.user]).await.unwrap_err();
    assert!(matches!(busy, Error::InUse { .. }), "{busy:?}");
    assert!(site.db.users().load(bob).await.unwrap().is_some(), "none went");

    let properties = site.db.properties();
    let (ours, theirs) = (Owner::User(world.user), Owner::User(bob));
    let pairs = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let pairs = pairs.into_iter().collect();
    let missing = properties.set_all(&[ours, Owner::User(UserId::new(99))], &pairs).await.unwrap_err();
    assert_eq!(missing.to_string(), "user 99 not found");
    assert!(properties.get(ours).await.unwrap().is_empty(), "none was set");
    properties.set_all(&[ours, theirs], &pairs).await.unwrap();
    assert_eq!(properties.delete_all(&[ours, theirs], &["a".to_owned(), "x".to_owned()]).await.unwrap(), 2);
    assert_eq!(properties.get(theirs).await.unwrap().len(), 1);
    assert_eq!(properties.delete_all(&[ours, theirs], &[]).await.unwrap(), 2);
    assert_eq!(site.db.users().delete_all(&[bob, UserId::new(99)]).await.unwrap(), [bob]);

    let second = site.db.vms().add(Fixture::vm("ana-2", world.user, world.osf)).await.unwrap();
    site.db.vms().set_all_blocked(&[world.vm, second], true).await.unwrap();
    let blocked = site.db.vms().list().await.unwrap();
    assert!(blocked.iter().all(|vm| vm.runtime.blocked && vm.blocked_by.as_deref() == Some("admin")));
}

async fn a_full_list_names_what_it_refers_to(site: Site) {
    let world = Fixture::fill(&site.db).await;
    let run = world.run().await;
    let pinned = site.db.vms().pin_image(world.vm, world.host, run).await.unwrap();
    assert!(pinned.is_updated());
    assert!(site.db.sessions().acquire(world.vm, world.session(1)).await.unwrap().is_updated());
    let newer = site.db.images().add(Fixture::image(world.osf, Some("v2"))).await.unwrap();
    site.db.images().tag(newer.id, "default", crate::Expirations::default()).await.unwrap();
    let blocked = site.db.vms().set_blocked(world.vm, true, BlockedBy::Admin, Some("exam")).await.unwrap();
    assert!(blocked.is_updated());
    let list = site.db.vms().list().await.unwrap();
    let [row] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((row.user_login.as_str(), row.osf_name.as_str()), ("ana", "desk"));
    assert_eq!(row.host_name.as_deref(), Some("n1"));
    assert_eq!(row.l7r_host_name.as_deref(), Some("n1"));
    assert_eq!(row.real_user_login.as_deref(), Some("ana"));
    assert_eq!(row.di_version.as_deref(), Some("v2"));
    assert_eq!(row.running_di_version.as_deref(), Some("v1"));
    assert_eq!(row.user_ip.as_deref(), Some("192.0.2.7"));
    assert_eq!(
        (row.runtime.blocked_reason.as_deref(), row.blocked_by.as_deref()),
        (Some("exam"), Some("admin"))
    );
    assert_eq!(site.db.vms().overview(world.vm).await.unwrap().as_ref(), Some(row));
    assert!(matches!(site.db.images().delete(world.di).await.unwrap_err(), Error::InUse { .. }));
}
