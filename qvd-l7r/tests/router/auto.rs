//! Users who come for the first time (rows 109, 110).

use qvd_core::TenantId;
use qvd_db::Backend;

use crate::support::{DIRECTORY_PASSWORD, Options, PASSWORD, Slapd, World, basic, logged, machine, user};

const LIST: &str = "/qvd/list_of_vm";

fn provisioning(options: Options) -> Options {
    // The one flavour of the world.
    options
        .set("l7r.auth.plugins", "auto,ldap")
        .set("auth.auto.osf_id", "1")
        .set("auth.auto.di_tag", "testing")
}

fn only(plugins: &str) -> Options {
    Options::default().set("l7r.auth.plugins", plugins).set("auth.auto.osf_id", "1")
}

#[tokio::test]
async fn row_109_two_first_logins_at_once_get_one_user_and_one_vm_that_are_listed() {
    let Some(slapd) = Slapd::start().await else { return };
    let world = World::with(provisioning(slapd.unix(Options::default()))).await;
    let login = basic("twin1", DIRECTORY_PASSWORD);
    let headers = [login.as_str()];
    let (mut a, mut b, mut c) = tokio::join!(world.client(), world.client(), world.client());
    let (a, b, c) = tokio::join!(a.ask(LIST, &headers), b.ask(LIST, &headers), c.ask(LIST, &headers));
    assert_eq!((a.status(), b.status(), c.status()), (200, 200, 200));
    let user = world.db.users().by_login(TenantId::DEFAULT, "twin1").await.unwrap().unwrap();
    let vms = world.db.vms().of_user(user.id).await.unwrap();
    let [(vm, _)] = &vms[..] else { panic!("{vms:?}") };
    assert_eq!((vm.name.as_str(), vm.di_tag.as_str(), vm.osf_id), ("twin1-1", "testing", world.osf));
    let listed = format!(r#"[{{"id":{},"name":"twin1-1","state":"stopped","blocked":0}}]"#, vm.id);
    assert_eq!([&a.body, &b.body, &c.body], [&listed; 3]);
    assert_eq!(user.password_hash, None);
    world.until_counted("three logins", |c| (c.auth_attempts, c.auth_ok) == (3, 3)).await;
}

#[tokio::test]
async fn row_110_without_a_free_name_it_is_500_and_the_log_says_why() {
    let world = World::with(only("default,auto")).await;
    let bob = user(&world.db, "bob").await;
    for number in 1..=5 {
        machine(&world.db, &format!("bob-{number}"), world.alice, world.osf).await;
    }
    let answer = world.client().await.ask(LIST, &[&basic("bob", PASSWORD)]).await;
    assert_eq!(answer.status(), 500);
    assert!(!answer.body.contains("bob") && !answer.body.contains("VM"), "{}", answer.body);
    assert!(logged().contains("none is left for user bob"));
    assert!(world.db.vms().of_user(bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_is_refused_or_blocked_gets_nothing() {
    let world = World::with(only("auto,default")).await;
    let bob = user(&world.db, "bob").await;
    for (login, password) in [("stranger", PASSWORD), ("bob", "wrong")] {
        assert_eq!(world.client().await.ask(LIST, &[&basic(login, password)]).await.status(), 401);
    }
    let _ = world.db.users().set_blocked(bob, true).await.unwrap();
    assert_eq!(world.client().await.ask(LIST, &[&basic("bob", PASSWORD)]).await.status(), 401);
    assert!(world.db.users().by_login(TenantId::DEFAULT, "stranger").await.unwrap().is_none());
    assert!(world.db.vms().of_user(bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_blocked_user_of_a_directory_is_refused_and_gets_nothing() {
    let Some(slapd) = Slapd::start().await else { return };
    let world = World::with(provisioning(slapd.unix(Options::default()))).await;
    let twin = world.db.users().add(TenantId::DEFAULT, "twin1", None).await.unwrap();
    let _ = world.db.users().set_blocked(twin, true).await.unwrap();
    let login = basic("twin1", DIRECTORY_PASSWORD);
    assert_eq!(world.client().await.ask(LIST, &[&login]).await.status(), 401);
    assert!(world.db.vms().of_user(twin).await.unwrap().is_empty());
    let _ = world.db.users().set_blocked(twin, false).await.unwrap();
    assert_eq!(world.client().await.ask(LIST, &[&login]).await.status(), 200);
}

#[tokio::test]
async fn a_machine_that_needs_an_address_gets_the_highest_free_one_of_the_network() {
    use qvd_core::auth::{Attempt, Authenticator as _, Login};
    use qvd_core::config::Config;

    let db = qvd_db::Db::open(&Backend::SqliteMemory).await.unwrap();
    let osf = qvd_db::NewOsf {
        tenant: TenantId::DEFAULT,
        name: "virtual".into(),
        memory: qvd_core::units::Mebibytes(256),
        use_overlay: true,
        home: None,
        hypervisor: Some("kvm".into()),
    };
    let osf = db.osfs().add(osf).await.unwrap();
    let config = Config::builder().set("auth.auto.osf_id", osf.to_string());
    let network = config.clone().set("vm.network.ip.start", "10.3.15.50").set("vm.network.netmask", "24");
    let after_login = async |config: Config, login: &str| {
        let auto = qvd_l7r::auth::Auto::from_config(db.clone(), &config).unwrap();
        let mut accepted = Login::new();
        auto.after_login(&Attempt::new(login, "any"), &mut accepted).await.map(|()| accepted.user_id.unwrap())
    };
    for (login, ip) in [("ana", "10.3.15.254"), ("bea", "10.3.15.253")] {
        let user = after_login(network.clone().build().unwrap(), login).await.unwrap();
        assert_eq!(db.vms().of_user(user).await.unwrap()[0].0.ip.as_deref(), Some(ip));
    }
    let error = after_login(config.build().unwrap(), "cleo").await.unwrap_err();
    assert!(
        qvd_core::error::chain(&error).to_string().contains("'vm.network.ip.start' is not set"),
        "{error:?}"
    );
    assert!(db.users().by_login(TenantId::DEFAULT, "cleo").await.unwrap().is_none());
}
