//! TLS and the doors (rows 36–38, limits of §2.2).

use std::sync::Arc;

use qvd_core::Secret;
use qvd_db::SslMaterial;
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Options, World, eventually, soon};

fn config(alpn: &[&str]) -> rustls::ClientConfig {
    crate::support::config(alpn)
}

#[tokio::test]
async fn row_36_a_client_that_offers_h2_gets_http_1_1() {
    let world = World::new().await;
    let mut client = Client::try_connect(world.address, config(&["h2", "http/1.1"])).await.unwrap();
    assert_ne!(client.tls().alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
}

#[tokio::test]
async fn row_37_nothing_below_tls_1_2_is_spoken() {
    let world = World::new().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let mut only = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        only.dangerous().set_certificate_verifier(crate::support::believer());
        let mut client = Client::try_connect(world.address, only).await.unwrap();
        assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
    }
    // A hello of TLS 1.0, written by hand: rustls cannot speak it. One suite, no extensions.
    let hello: Vec<u8> =
        [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(matches!(answer.as_slice(), [] | [0x15, ..]), "an alert at most: {answer:?}");
    eventually("counted", async || world.handle.metrics().handshake_failures_total == 1).await;
}

#[tokio::test]
async fn row_38_without_the_certificate_that_is_required_nothing_is_spoken() {
    // Any certificate serves as the authority: the client has none at all.
    let db = qvd_db::Db::open(&qvd_db::Backend::SqliteMemory).await.unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let material = SslMaterial {
        cert: Some(made.cert.pem()),
        key: Some(Secret::new(made.signing_key.serialize_pem())),
        ca: Some(made.cert.pem()),
        crl: None,
    };
    db.config().set_ssl(&material).await.unwrap();
    let run = tempfile::tempdir().unwrap();
    let config = qvd_core::config::Config::builder()
        .set("path.run", run.path().display().to_string())
        .set("l7r.client.cert.require", "1")
        .build()
        .unwrap();
    let router = qvd_l7r::Router::builder(db, "node1").config(config).listen(([127, 0, 0, 1], 0).into());
    let router = router.build().unwrap().bind().await.unwrap();
    let address = router.local_addr();
    let serving = tokio::spawn(router.serve(std::future::pending()));
    if let Ok(mut client) = Client::try_connect(address, self::config(&[])).await {
        // With TLS 1.3 the client learns of the refusal behind its own Finished.
        client.send("GET /qvd/ping HTTP/1.1\r\n\r\n").await;
        assert_eq!(client.record().await, None);
    }
    serving.abort();
}

#[tokio::test]
async fn the_certificate_that_was_made_is_kept_and_a_new_one_is_taken_up_while_serving() {
    let world = World::new().await;
    let stored = world.db.config().ssl().await.unwrap();
    assert!(stored.cert.is_some() && stored.key.is_some(), "stored at the first start");
    let second = world.second_router().await;
    assert_eq!(second.fingerprint, world.fingerprint, "the same for all routers");

    let seen = |client: &Client| client.tls().peer_certificates().unwrap()[0].to_vec();
    let before = seen(&world.client().await);
    let made = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    let material = SslMaterial {
        cert: Some(made.cert.pem()),
        key: Some(Secret::new(made.signing_key.serialize_pem())),
        ..SslMaterial::default()
    };
    world.db.config().set_ssl(&material).await.unwrap();
    eventually("the new certificate", async || seen(&world.client().await) != before).await;
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_closed_before_tls() {
    let world = World::with(Options::default().set("l7r.limit.connections.per.address", "2")).await;
    let (_one, two) = (world.client().await, world.client().await);
    assert!(Client::try_connect(world.address, config(&[])).await.is_err());
    assert_eq!(world.handle.metrics().refused_connections_total, 1);
    two.close().await;
    eventually("room again", async || Client::try_connect(world.address, config(&[])).await.is_ok()).await;
}

#[tokio::test]
async fn over_the_total_limit_connections_wait_until_another_ends() {
    let world = World::with(Options::default().set("l7r.limit.connections", "1")).await;
    let first = world.client().await;
    let second = world.client();
    tokio::pin!(second);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "not greeted yet");
    first.close().await;
    assert_eq!(soon(second).await.ask("/qvd/ping", &[]).await.status(), 200);
}
