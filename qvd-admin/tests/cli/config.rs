//! `qa config …`

use crate::transcript::{Site, words};

#[tokio::test]
async fn configuration() {
    let file = "nodename = n1\npath.storage.root = /srv\ndatabase.password = hush\n";
    Site::configured(file).await.plays(include_str!("sessions/config.txt")).await;
}

#[tokio::test]
async fn without_keys_everything_but_internals_and_secrets_is_shown_by_key() {
    let site = Site::configured("nodename = n1\ndatabase.password = hush\n").await;
    let text = site.qa(&words("config get"), "").await.out;
    let keys: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    assert!(keys.is_sorted() && keys.contains(&"l7r.port"));
    assert!(!keys.iter().any(|key| key.starts_with("internal.")));
    assert!(!text.contains("hush"));
}

#[tokio::test]
async fn a_certificate_is_checked_and_what_is_not_given_is_removed() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let site = Site::new()
        .await
        .file("cert.pem", &cert)
        .file("key.pem", &key)
        .file("other.pem", &other)
        .file("empty.pem", "");
    site.plays(
        "\
$ config ssl cert=cert.pem key=key.pem ca=cert.pem
SSL certificate, private key, ca and crl set.

$ config ssl cert=cert.pem key=other.pem
! Error: private key does not match the certificate
? 1
$ config ssl cert=no.pem key=none.pem
! Error: no.pem: Unable to read cert file: No such file or directory
? 1
$ config ssl cert=cert.pem key=empty.pem
! Error: empty.pem: Unable to read key file: the file is empty
? 1
",
    )
    .await;
    let stored = site.db.config().ssl().await.unwrap();
    assert_eq!((stored.cert.as_deref(), stored.ca.as_deref()), (Some(cert.as_str()), Some(cert.as_str())));
    site.plays("$ config ssl cert=cert.pem key=key.pem -q\n").await;
    let stored = site.db.config().ssl().await.unwrap();
    assert_eq!((stored.cert.is_some(), stored.key.is_some(), stored.ca), (true, true, None));
}
