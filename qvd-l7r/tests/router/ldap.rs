//! Users of a real directory (rows 104–108).

use std::sync::Arc;

use qvd_core::auth::{Attempt, Authenticator, Verdict};
use qvd_core::config::Config;
use qvd_core::model::Properties;
use qvd_core::testkit::conformance::{self, AuthenticatorSubject, Finding};
use qvd_l7r::auth::Ldap;

use crate::support::{
    ADMINISTRATOR_PASSWORD, DIRECTORY_PASSWORD, Options, PASSWORD, Slapd, World, basic, logged, user,
};

const LIST: &str = "/qvd/list_of_vm";

async fn status(world: &World, login: &str, password: &str) -> u16 {
    world.client().await.ask(LIST, &[&basic(login, password)]).await.status()
}

/// The authenticator alone, with these keys on top of the usual ones.
fn alone(slapd: &Slapd, set: &[(&str, &str)]) -> Ldap {
    let usual = slapd.unix(Options::default()).set;
    let config = usual.into_iter().fold(Config::builder(), |config, (key, value)| config.set(key, value));
    let config = set.iter().fold(config, |config, (key, value)| config.set(*key, *value));
    Ldap::from_config(&config.build().unwrap()).unwrap()
}

/// What the directory told of somebody who was accepted; none for others.
async fn told(ldap: &Ldap, login: &str, password: &str) -> Option<(Properties, Option<String>)> {
    match ldap.authenticate(&Attempt::new(login, password)).await.unwrap() {
        Verdict::Accepted(login) => Some((login.params, login.canonical_login)),
        _ => None,
    }
}

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn it_obeys_the_contract() {
    let Some(slapd) = Slapd::start().await else { return };
    let subject = AuthenticatorSubject::new(Arc::new(alone(&slapd, &[])));
    let report = conformance::authenticator(subject.user("alice", DIRECTORY_PASSWORD.as_bytes())).await;
    assert!(report.findings().iter().all(|(_, finding)| *finding == Finding::Kept), "{report}");
}

#[tokio::test]
async fn row_13_104_108_a_user_of_the_directory_with_a_row_here_is_let_in_and_nobody_else() {
    let Some(slapd) = Slapd::start().await else { return };
    let world = World::with(slapd.unix(Options::default())).await;
    // The password of the row is not looked at.
    assert_eq!(status(&world, "alice", DIRECTORY_PASSWORD).await, 200);
    assert_eq!(status(&world, " ALICE ", DIRECTORY_PASSWORD).await, 200);
    for (login, password) in [
        ("alice", PASSWORD),
        ("alice", ""),
        ("*", DIRECTORY_PASSWORD),
        ("alic*", DIRECTORY_PASSWORD),
        ("a)(uid=alice", DIRECTORY_PASSWORD),
        ("nobody)(|(uid=alice", DIRECTORY_PASSWORD),
        // In the directory, without a row.
        ("twin1", DIRECTORY_PASSWORD),
    ] {
        assert_eq!(status(&world, login, password).await, 401, "{login} {password}");
    }
    // Not only because no row has such a login: the directory itself finds nobody.
    for login in ["alic*", "a*e", "alice)(uid=*", "alice)(!(uid=x)", "\\61lice"] {
        assert!(told(&alone(&slapd, &[]), login, DIRECTORY_PASSWORD).await.is_none(), "{login}");
    }
    user(&world.db, "odd,one").await;
    assert_eq!(status(&world, "odd,one", DIRECTORY_PASSWORD).await, 200);
    let _ = world.db.users().set_blocked(world.alice, true).await.unwrap();
    assert_eq!(status(&world, "alice", DIRECTORY_PASSWORD).await, 401, "blocked here");
    assert!(!logged().contains(DIRECTORY_PASSWORD));
}

#[tokio::test]
async fn row_106_a_directory_that_is_away_is_503_unless_another_one_accepts() {
    let Some(mut slapd) = Slapd::start().await else { return };
    let alone = World::with(slapd.unix(Options::default())).await;
    let both = World::with(slapd.unix(Options::default()).set("l7r.auth.plugins", "ldap,default")).await;
    assert_eq!(status(&both, "alice", DIRECTORY_PASSWORD).await, 200);
    assert_eq!(
        status(&both, "alice", PASSWORD).await,
        200,
        "a wrong password there may be the right one here"
    );
    assert_eq!(status(&both, "alice", "wrong").await, 401);
    slapd.stop();
    assert_eq!(status(&alone, "alice", DIRECTORY_PASSWORD).await, 503);
    assert_eq!(status(&alone, "alice", "").await, 401, "needs no directory");
    assert_eq!(status(&both, "alice", PASSWORD).await, 200);
    assert_eq!(status(&both, "alice", "wrong").await, 503);
}

#[tokio::test]
async fn row_107_two_entries_are_nobody() {
    let Some(slapd) = Slapd::start().await else { return };
    let by_name = alone(&slapd, &[("auth.ldap.filter", "(|(uid=%u)(cn=%u))")]);
    assert!(told(&by_name, "twin", DIRECTORY_PASSWORD).await.is_none());
    assert!(told(&by_name, "twin1", DIRECTORY_PASSWORD).await.is_some());
    assert!(
        told(&by_name, "alice doe", DIRECTORY_PASSWORD).await.is_some(),
        "the manual's filter finds names too"
    );
}

#[tokio::test]
async fn row_105_106_what_a_mainframe_says_of_refused_credentials_counts_where_the_regex_says_so() {
    let Some(slapd) = Slapd::start().await else { return };
    let base = ("auth.ldap.base", "o=racf");
    let allowing = alone(&slapd, &[base, ("auth.ldap.racf_allowregex", "^R004109 ")]);
    let (params, _) = told(&allowing, "expired", "any").await.unwrap();
    let said = "R004109 The password has expired (srv_authenticate_native_password)";
    assert_eq!(params.get("qvd.auth.ldap.racf_detailed_error").map(String::as_str), Some(said));
    assert!(told(&allowing, "revoked", "any").await.is_none());
    assert!(told(&alone(&slapd, &[base]), "expired", "any").await.is_none());
}

#[tokio::test]
async fn the_manuals_active_directory() {
    let Some(slapd) = Slapd::start().await else { return };
    let keys = [
        ("auth.ldap.base", "OU=People,DC=example,DC=com"),
        ("auth.ldap.binddn", "CN=Administrator,CN=Users,DC=example,DC=com"),
        ("auth.ldap.bindpass", ADMINISTRATOR_PASSWORD),
        ("auth.ldap.filter", "(sAMAccountName=%u)"),
    ];
    // The manual's name of the list of plugins.
    let options = slapd.keys(Options::default().set("l7r.auth.mode", "ldap"));
    let options = keys.iter().fold(options, |options, (key, value)| options.set(key, *value));
    let world = World::with(options).await;
    assert_eq!(status(&world, "alice", DIRECTORY_PASSWORD).await, 200);
    assert_eq!(status(&world, "alice", ADMINISTRATOR_PASSWORD).await, 401);
    assert_eq!(status(&world, "administrator", ADMINISTRATOR_PASSWORD).await, 401, "not below the base");

    // Without the account, nobody is found; with a wrong password of ours, the user is not to blame.
    assert!(told(&alone(&slapd, &[keys[0], keys[3]]), "alice", DIRECTORY_PASSWORD).await.is_none());
    let refused = alone(&slapd, &[keys[0], keys[1], ("auth.ldap.bindpass", "wrong"), keys[3]]);
    let error = refused.authenticate(&Attempt::new("alice", DIRECTORY_PASSWORD)).await.unwrap_err();
    assert!(qvd_core::error::chain(&error).to_string().contains("auth.ldap.bindpass"), "{error:?}");
}

#[tokio::test]
async fn binds_before_and_for_the_search() {
    let Some(slapd) = Slapd::start().await else { return };
    let pattern = ("auth.ldap.userbindpattern", "uid=%u,ou=people,dc=qvd,dc=test");
    let (params, _) = told(&alone(&slapd, &[pattern]), "alice", DIRECTORY_PASSWORD).await.unwrap();
    assert_eq!(params, Properties::new(), "accepted at once, without attributes");
    // The pattern does not fit this one; the search does.
    let (params, _) =
        told(&alone(&slapd, &[pattern, ("auth.ldap.filter", "(cn=%u)")]), "alice doe", DIRECTORY_PASSWORD)
            .await
            .unwrap();
    assert!(params.contains_key("qvd.vm.user.uid"));
    assert!(told(&alone(&slapd, &[pattern]), "alice", "wrong").await.is_none());
    // Without a password of its own, the account that searches is the user's.
    let own = ("auth.ldap.binddn", pattern.1);
    assert!(told(&alone(&slapd, &[own]), "alice", DIRECTORY_PASSWORD).await.is_some());
    assert!(told(&alone(&slapd, &[own]), "alice", "wrong").await.is_none());
}

#[tokio::test]
async fn scopes_and_aliases() {
    let Some(slapd) = Slapd::start().await else { return };
    let finds = async |set: &[(&str, &str)], login: &str| {
        told(&alone(&slapd, set), login, DIRECTORY_PASSWORD).await.is_some()
    };
    let (top, entry) = ("dc=qvd,dc=test", "uid=alice,ou=people,dc=qvd,dc=test");
    assert!(finds(&[("auth.ldap.base", top), ("auth.ldap.scope", "sub")], "alice").await);
    assert!(!finds(&[("auth.ldap.base", top), ("auth.ldap.scope", "one")], "alice").await);
    assert!(finds(&[("auth.ldap.scope", "one")], "alice").await);
    assert!(!finds(&[("auth.ldap.scope", "base")], "alice").await);
    assert!(finds(&[("auth.ldap.base", entry), ("auth.ldap.scope", "base")], "alice").await);
    assert!(!finds(&[("auth.ldap.base", "ou=nowhere,dc=qvd,dc=test")], "alice").await);

    let links = ("auth.ldap.base", "ou=links,dc=qvd,dc=test");
    for (deref, found) in [("never", false), ("find", false), ("search", true), ("always", true)] {
        assert_eq!(finds(&[links, ("auth.ldap.deref", deref)], "alice").await, found, "{deref}");
    }
    let link = [("auth.ldap.base", "uid=linked,ou=links,dc=qvd,dc=test"), ("auth.ldap.scope", "base")];
    assert!(finds(&[link[0], link[1], ("auth.ldap.deref", "find")], "alice").await);
}

#[tokio::test]
async fn attributes_become_properties_and_the_directorys_name_the_login() {
    let Some(slapd) = Slapd::start().await else { return };
    let usual = [
        ("qvd.vm.user.uid", "2001"),
        ("qvd.vm.user.gid", "3001"),
        ("qvd.vm.user.ldap.name", "Bob"),
        ("qvd.vm.user.ldap.home", "/nfs/Bob"),
    ];
    let plain = told(&alone(&slapd, &[]), "bob", DIRECTORY_PASSWORD).await.unwrap();
    assert_eq!(plain, (properties(&usual), None));
    // By its old name, too.
    for key in ["auth.ldap.name.normalize", "auth.ldap.normalize.name"] {
        let all = alone(&slapd, &[("auth.ldap.home.set", "1"), (key, "1")]);
        let told = told(&all, "bob", DIRECTORY_PASSWORD).await.unwrap();
        let with_home = [&usual[..], &[("qvd.vm.user.home", "/nfs/Bob")]].concat();
        assert_eq!(told, (properties(&with_home), Some("Bob".to_owned())));
    }
}

#[tokio::test]
async fn tls_from_the_beginning_or_started_and_the_server_has_to_be_who_it_says() {
    let Some(slapd) = Slapd::start().await else { return };
    let certificate = slapd.certificate().display().to_string();
    let (tls, plain) =
        (format!("ldaps://127.0.0.1:{}", slapd.tls_port), format!("ldap://localhost:{}", slapd.port));
    let known = ("auth.ldap.cafile", certificate.as_str());
    let verdict = async |set: &[(&str, &str)]| {
        alone(&slapd, set).authenticate(&Attempt::new("alice", DIRECTORY_PASSWORD)).await
    };
    for set in [[("auth.ldap.host", tls.as_str()), known], [("auth.ldap.host", plain.as_str()), known]] {
        let start = ("auth.ldap.starttls", if set[0].1 == plain { "1" } else { "0" });
        assert!(matches!(verdict(&[set[0], set[1], start]).await, Ok(Verdict::Accepted(_))), "{set:?}");
    }

    // Another one's certificate, and a name that is not in it: nothing is said to such a server.
    let dir = tempfile::tempdir().unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let file = dir.path().join("stranger.pem");
    std::fs::write(&file, stranger).unwrap();
    let file = file.display().to_string();
    let other_name = format!("ldaps://127.0.0.2:{}", slapd.tls_port);
    for (host, ca, start) in [(&tls, &file, "0"), (&plain, &file, "1"), (&other_name, &certificate, "0")] {
        let set =
            [("auth.ldap.host", host.as_str()), ("auth.ldap.cafile", ca), ("auth.ldap.starttls", start)];
        let error = verdict(&set).await.unwrap_err();
        let words = qvd_core::error::chain(&error).to_string();
        assert!(words.contains("reach the directory") && words.contains("certificate"), "{words}");
    }
}
