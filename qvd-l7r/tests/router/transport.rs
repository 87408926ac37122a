//! TLS and the doors (rows 36–38, limits of §2.2).

use std::sync::Arc;

use qvd_core::Secret;
use qvd_db::SslMaterial;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose, RevokedCertParams,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Options, World, eventually, logged, soon};

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

/// An authority that vouches for clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A client with the certificate of this number.
    fn client(&self, number: u64) -> rustls::ClientConfig {
        let mut params = CertificateParams::new(["somebody".to_owned()]).unwrap();
        params.serial_number = Some(number.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(crate::support::believer())
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// The list of revoked certificates, with one.
    fn list(&self, revoked: u64) -> String {
        let day = |year| rcgen::date_time_ymd(year, 1, 1);
        let revoked = RevokedCertParams {
            serial_number: revoked.into(),
            revocation_time: day(2020),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: day(2020),
            next_update: day(2100),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A world whose router wants certificates of this authority.
async fn demanding(authority: &Authority, crl: Option<String>) -> World {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ssl = SslMaterial {
        cert: Some(made.cert.pem()),
        key: Some(Secret::new(made.signing_key.serialize_pem())),
        ca: Some(authority.0.pem()),
        crl,
    };
    World::with(Options { ssl: Some(ssl), ..Options::default() }.set("l7r.client.cert.require", "1")).await
}

/// Whether a client is spoken to. With TLS 1.3 it learns of a refusal behind its own Finished.
async fn is_served(world: &World, config: rustls::ClientConfig) -> bool {
    let Ok(mut client) = Client::try_connect(world.address, config).await else { return false };
    client.send("GET /qvd/ping HTTP/1.1\r\n\r\n").await;
    client.record().await.is_some()
}

#[tokio::test]
async fn row_38_without_the_certificate_that_is_required_nothing_is_spoken() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let world = demanding(&ours, None).await;
    let right = ours.client(7);
    for _ in 0..2 {
        let mut client = Client::try_connect(world.address, right.clone()).await.unwrap();
        assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
        let kind = client.tls().handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full), "the certificate is looked at each time");
    }
    let before = world.handle.metrics();
    assert!(!is_served(&world, config(&[])).await, "no certificate");
    assert!(!is_served(&world, other.client(7)).await, "somebody else's");
    eventually("refused", async || world.handle.metrics().handshake_failures_total == 2).await;
    assert_eq!(world.handle.metrics().requests_total, before.requests_total);
}

#[tokio::test]
async fn where_there_are_revocation_lists_a_certificate_must_be_on_the_good_side_of_one() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let world = demanding(&ours, Some(ours.list(7))).await;
    assert!(!is_served(&world, ours.client(7)).await, "revoked");
    assert!(is_served(&world, ours.client(8)).await);
    let world = demanding(&ours, Some(other.list(7))).await;
    assert!(!is_served(&world, ours.client(8)).await, "no list says anything of it");
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
    assert_eq!(world.handle.metrics().full_total, 1, "once, however long others wait");
    assert!(logged().contains("no room for another connection: others wait until one ends"));
    first.close().await;
    assert_eq!(soon(second).await.ask("/qvd/ping", &[]).await.status(), 200);
}
