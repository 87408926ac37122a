//! Certificates: several, new ones, and their ends; what is spoken, and what is resumed.

use std::sync::Arc;

use qvd_core::Secret;
use qvd_db::SslMaterial;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::HandshakeKind;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::cipher_suite;
use tokio::net::TcpStream;

use crate::support::{Client, Options, World, believer, config, eventually, logged};

/// A certificate for these names that ends in so many days, and its key, as texts.
fn pair(names: &[&str], days: u32) -> (String, String) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(86_400) * days).into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn material(pairs: &[&(String, String)]) -> SslMaterial {
    SslMaterial {
        cert: Some(pairs.iter().map(|(cert, _)| cert.as_str()).collect()),
        key: Some(Secret::new(pairs.iter().map(|(_, key)| key.as_str()).collect())),
        ..SslMaterial::default()
    }
}

async fn with(ssl: SslMaterial) -> World {
    World::with(Options { ssl: Some(ssl), ..Options::default() }).await
}

/// The certificate that a client sees who asks for this name.
async fn shown(world: &World, name: &str) -> Vec<u8> {
    let tcp = TcpStream::connect(world.address).await.unwrap();
    let client = Client::over(tcp, name, config(&[])).await.unwrap();
    client.tls().peer_certificates().unwrap()[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn each_name_is_greeted_with_its_own_certificate() {
    let (one, two) = (pair(&["one.example"], 100), pair(&["*.two.example"], 100));
    let world = with(material(&[&one, &two])).await;
    for (name, pair) in [
        ("one.example", &one),
        ("any.two.example", &two),
        ("three.example", &one),
        // An address is no name that a client may ask for.
        ("127.0.0.1", &one),
    ] {
        assert_eq!(shown(&world, name).await, der(&pair.0), "{name}");
    }
    let three = pair(&["three.example"], 100);
    world.db.config().set_ssl(&material(&[&one, &two, &three])).await.unwrap();
    eventually("the third, while serving", async || shown(&world, "three.example").await == der(&three.0))
        .await;
    // One that cannot be used changes nothing.
    let broken = SslMaterial { key: Some(Secret::new(one.1.clone())), ..material(&[&two]) };
    world.db.config().set_ssl(&broken).await.unwrap();
    eventually("it is told", async || logged().contains("the previous certificate stays")).await;
    assert_eq!(shown(&world, "any.two.example").await, der(&two.0));
}

#[tokio::test]
async fn the_end_of_a_certificate_is_told_weeks_ahead() {
    let near = pair(&["near-its-end.example"], 20);
    let world = with(material(&[&near])).await;
    let in_days = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        world.handle.metrics().certificate_end_seconds.abs_diff(now + days * 86_400) < 3600
    };
    eventually("it is in the metrics", async || in_days(20)).await;
    assert!(logged().contains("l7r.ssl.cert (CN=rcgen self signed cert) ends soon"));
    world.db.config().set_ssl(&material(&[&pair(&["fresh.example"], 300)])).await.unwrap();
    eventually("the new one, too", async || in_days(300)).await;
}

/// An authority that ends in so many days, and its revocation list, whose next one was promised in so many days, or so
/// many ago.
fn authority(name: &str, days: u32, list: Result<u32, u32>) -> (String, String) {
    let today = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = (today + day * days).into();
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let promised = list.map_or_else(|ago| today - day * ago, |ahead| today + day * ahead);
    let list = CertificateRevocationListParams {
        this_update: (today - day * 100).into(),
        next_update: promised.into(),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    (issuer.pem(), list.signed_by(&issuer).unwrap().pem().unwrap())
}

#[tokio::test]
async fn the_ends_of_authorities_and_revocation_lists_are_told_weeks_ahead_and_behind() {
    let own = pair(&["localhost"], 300);
    let ends =
        |(ca, crl): (String, String)| SslMaterial { ca: Some(ca), crl: Some(crl), ..material(&[&own]) };
    let world = with(ends(authority("ca-near", 20, Ok(200)))).await;
    let in_days = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        world.handle.metrics().certificate_end_seconds.abs_diff(now + days * 86_400) < 3600
    };
    eventually("the authority is the first to end", async || in_days(20)).await;
    let told = |what: &str| logged().lines().find(|line| line.contains(what)).map(str::to_owned);
    let line = told("l7r.ssl.ca (CN=ca-near) ends soon").expect("it is told");
    assert!(line.contains(" WARN ") && (line.contains("days=19") || line.contains("days=20")), "{line}");
    assert_eq!(told("l7r.ssl.crl (CN=ca-near)"), None, "its list has time");

    world.db.config().set_ssl(&ends(authority("list-near", 250, Ok(10)))).await.unwrap();
    eventually("then the list", async || in_days(10)).await;
    let line = told("l7r.ssl.crl (CN=list-near) ends soon").expect("it is told");
    assert!(line.contains(" WARN ") && (line.contains("days=9") || line.contains("days=10")), "{line}");
    assert_eq!(told("l7r.ssl.ca (CN=list-near)"), None, "its authority has time");

    world.db.config().set_ssl(&ends(authority("list-over", 250, Err(2)))).await.unwrap();
    eventually("it is told", async || told("l7r.ssl.crl (CN=list-over) is over").is_some()).await;
    assert!(told("l7r.ssl.crl (CN=list-over) is over").unwrap().contains("ERROR "));
}

#[tokio::test]
async fn a_session_is_resumed_even_over_a_change_of_certificate() {
    let world = with(material(&[&pair(&["localhost"], 100)])).await;
    let config = config(&[]);
    let kind = async || {
        let mut client = Client::try_connect(world.address, config.clone()).await.unwrap();
        // The ticket comes with the first answer.
        assert_eq!(client.ask("/qvd/ping", &[]).await.status(), 200);
        client.tls().handshake_kind().unwrap()
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    let second = pair(&["localhost"], 100);
    world.db.config().set_ssl(&material(&[&second])).await.unwrap();
    eventually("the change", async || shown(&world, "localhost").await == der(&second.0)).await;
    assert_eq!(kind().await, HandshakeKind::Resumed);
}

#[tokio::test]
async fn the_policy_decides_what_is_spoken_and_the_routers_order_wins() {
    let offering = |suites: &[rustls::SupportedCipherSuite], version| {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: suites.to_vec(),
            ..aws_lc_rs::default_provider()
        };
        rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(believer())
            .with_no_client_auth()
    };
    let (chacha, gcm) =
        (cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384);
    let world = World::new().await;
    let client = Client::try_connect(world.address, offering(&[chacha, gcm], &rustls::version::TLS13)).await;
    assert_eq!(client.unwrap().tls().negotiated_cipher_suite(), Some(gcm));

    let old = cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    for (key, value, refused) in [
        ("l7r.ssl.options.SSL_version", "TLSv1_3", offering(&[old], &rustls::version::TLS12)),
        // The name of 4.x.
        ("l7r.options.SSL_cipher_list", "HIGH:!CHACHA20", offering(&[old], &rustls::version::TLS12)),
        ("l7r.ssl.options.SSL_cipher_list", "HIGH:!CHACHA20", offering(&[chacha], &rustls::version::TLS13)),
    ] {
        let world = World::with(Options::default().set(key, value)).await;
        assert!(Client::try_connect(world.address, refused).await.is_err(), "{key} = {value}");
        assert_eq!(world.client().await.ask("/qvd/ping", &[]).await.status(), 200, "the rest is spoken");
    }
}
