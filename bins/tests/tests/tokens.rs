//! `qvdclient -b`: a desktop for whoever shows a token, a short one of the router's or a long one of an issuer's.

use std::path::Path;
use std::time::Duration;

use qvd_system_tests::desktop::TERMINAL;
use qvd_system_tests::issuer::Issuer;
use qvd_system_tests::scratch::Scratch;
use qvd_system_tests::screen::Screen;
use qvd_system_tests::site::{Site, Visit};
use qvd_system_tests::visitor::wait_drawn;
use qvd_system_tests::{ask, can_show_a_desktop, skeleton};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

/// A site that does not encrypt, so that a token can be asked for.
fn site(dir: &Path, more: &[(&str, &str)]) -> Site {
    let skel = skeleton("bare");
    let mut settings = vec![("l7r.use_ssl", "0"), ("vm.process.home.skel", skel.as_str())];
    settings.extend(more);
    let site = Site::start(dir, &settings).expect("a site");
    site.add_flavour().expect("a flavour");
    site
}

#[test]
fn a_short_token_shows_the_desktop_until_it_is_revoked() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 1000, 700).expect("a screen");
    let site = site(dir.path(), &[]);
    let alice = site.add_account("alice").expect("an account");
    let answer = ask::token(site.port(), "alice", &alice.password).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let token = answer["auth_token"].as_str().expect("a token").to_owned();

    let visit = Visit { geometry: (640, 480), ..Visit::default() };
    let mut client = site.connect_with_token(&screen, &alice, &visit, &token).expect("a client");
    wait_drawn(&site, &screen, alice.vm, &mut client, &[TERMINAL]).expect("the desktop is drawn");
    client.stop(Duration::from_secs(10));
    let said = client.lines().join("\n");
    assert!(!said.contains(&token), "{said}");

    site.qa(&["user", "tokens", "revoke", "-f", "login=alice"]).expect("it is revoked");
    let mut client = site.connect_with_token(&screen, &alice, &visit, &token).expect("a client");
    assert_eq!(client.wait_exit(LIMIT).expect("it ends").code(), Some(5), "{:?}", client.lines());
    let log = std::fs::read_to_string(site.log()).expect("a log");
    assert!(log.contains("token refused") && !log.contains(&token), "{log}");
}

#[test]
fn a_long_token_of_an_issuer_does_too() {
    if !can_show_a_desktop() {
        return;
    }
    let dir = Scratch::new().expect("a temporary directory");
    let screen = Screen::start(&dir.path().join("screen"), 1000, 700).expect("a screen");
    let issuer = Issuer::start().expect("an issuer");
    let keys = [
        ("l7r.auth.plugins", "oidc,default"),
        ("auth.oidc.issuer", issuer.url()),
        ("auth.oidc.client_id", "qvd"),
    ];
    let site = site(dir.path(), &keys);
    let alice = site.add_account("alice").expect("an account");
    // Longer than what a client that writes its request into 1024 bytes could carry.
    let more = json!("x".repeat(6000));
    let token = issuer.id_token("qvd", "alice", &more).expect("a token");
    assert!(token.len() > 8000);

    let visit = Visit { geometry: (640, 480), ..Visit::default() };
    let mut client = site.connect_with_token(&screen, &alice, &visit, &token).expect("a client");
    wait_drawn(&site, &screen, alice.vm, &mut client, &[TERMINAL]).expect("the desktop is drawn");
    client.stop(Duration::from_secs(10));

    let other = issuer.id_token("another client", "alice", &more).expect("a token");
    let mut client = site.connect_with_token(&screen, &alice, &visit, &other).expect("a client");
    assert_eq!(client.wait_exit(LIMIT).expect("it ends").code(), Some(5), "{:?}", client.lines());
    let log = std::fs::read_to_string(site.log()).expect("a log");
    let part = token.rsplit_once('.').expect("three parts").1;
    assert!(log.contains("it is meant for neither") && !log.contains(part), "{log}");
}
