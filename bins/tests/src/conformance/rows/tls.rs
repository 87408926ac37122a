//! The handshake (rows 36–38).

use anyhow::{Context as _, Result, ensure};
use qvd_core::Secret;
use qvd_db::SslMaterial;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::conformance::wire::{Wire, believing, plain};
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    vec![Group::new(
        Setup::default(),
        vec![
            row!(36, "a client that offers h2 is spoken HTTP/1.1 to", row_36),
            row!(37, "nothing below TLS 1.2 is spoken by default", row_37),
            row!(38, "without the certificate that is required no HTTP is spoken", row_38),
        ],
    )]
}

const HERE: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;

async fn row_36(world: &World) -> Result<()> {
    let config = believing(None, &["h2", "http/1.1"])?;
    let mut wire = Wire::connect_as(HERE, world.router().address, config).await?;
    let chosen = wire.tls().alpn_protocol().map(<[u8]>::to_vec);
    ensure!(chosen.is_none() || chosen.as_deref() == Some(b"http/1.1"), "{chosen:?} was chosen");
    wire.ask("/qvd/ping", &[]).await?.expect(200, "I am alive!")
}

async fn row_37(world: &World) -> Result<()> {
    // Hellos written by hand, one suite and no extensions: no library here speaks these versions any more.
    for (name, minor) in [("SSL 3.0", 0), ("TLS 1.0", 1), ("TLS 1.1", 2)] {
        let hello =
            [&[0x16, 3, minor, 0, 45, 1, 0, 0, 41, 3, minor][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]];
        let answer = plain(HERE, world.router().address, &hello.concat()).await?;
        ensure!(matches!(answer.as_slice(), [] | [0x15, ..]), "{name}: more than an alert: {answer:?}");
    }
    let mut wire = Wire::connect(HERE, world.router().address).await?;
    wire.ask("/qvd/ping", &[]).await?.expect(200, "")
}

async fn row_38(_: &World) -> Result<()> {
    let ours = authority("ours")?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let material = SslMaterial {
        cert: Some(made.cert.pem()),
        key: Some(Secret::new(made.signing_key.serialize_pem())),
        ca: Some(ours.pem()),
        crl: None,
    };
    let world = World::start(&Setup::default().set("l7r.client.cert.require", "1").ssl(material)).await?;
    ensure!(is_served(&world, Some(certificate(&ours)?)).await?, "the right certificate does not help");
    ensure!(!is_served(&world, None).await?, "served without a certificate");
    ensure!(!is_served(&world, Some(certificate(&authority("other")?)?)).await?, "served with another's");
    Ok(())
}

/// Whether a client is spoken to. With TLS 1.3 it learns of a refusal behind its own last word.
async fn is_served(
    world: &World,
    own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<bool> {
    let config = believing(own, &[])?;
    let Ok(mut wire) = Wire::connect_as(HERE, world.router().address, config).await else { return Ok(false) };
    wire.send("GET /qvd/ping HTTP/1.1\r\n\r\n").await?;
    Ok(wire.record().await?.is_some())
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("no authority")
}

/// A client's certificate of this authority.
fn certificate(
    by: &CertifiedIssuer<'static, KeyPair>,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let params = CertificateParams::new(["somebody".to_owned()])?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, by)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow::anyhow!(e))?;
    Ok((certificate.der().clone(), key))
}
