//! Yardsticks that are part of the bench: a plain copy, and TLS with a library's own buffers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};

use super::{Certificate, Entry, Peer, Running};
use crate::place::{Place, free_port};

/// Starts the plain copy, which is this program again.
///
/// # Errors
///
/// When it does not start.
pub async fn plain_copy(place: &Place, dir: &Path, desktop: u16) -> Result<Peer> {
    again(place, dir, desktop, "plain copy", Entry::Plain, "plain-copy", None).await
}

/// What the plain copy does: one thread, a buffer of 128 KiB per direction, no TLS.
///
/// # Errors
///
/// When the port is taken.
pub async fn run_plain_copy(at: SocketAddr, desktop: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).await.context("cannot listen for the plain copy")?;
    let accept = async {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let Ok(mut server) = TcpStream::connect(desktop).await else { return };
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let size = 128 << 10;
                // A client that goes away is the end of a measurement.
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await;
            });
        }
    };
    tokio::task::LocalSet::new().run_until(accept).await;
    Ok(())
}

/// Starts the yardstick of TLS with a library's own buffers, which is this program again.
///
/// # Errors
///
/// When it does not start.
pub async fn buffered_tls(
    place: &Place,
    dir: &Path,
    desktop: u16,
    certificate: &Certificate,
) -> Result<Peer> {
    again(place, dir, desktop, "buffered rustls", Entry::Tls, "buffered-tls", Some(certificate)).await
}

/// What that does: one thread, tokio-rustls, a buffer of 64 KiB per direction, tickets, no HTTP.
///
/// # Errors
///
/// When the port is taken, or the certificate is of no use.
pub async fn run_buffered_tls(at: SocketAddr, desktop: SocketAddr, pem: &Path) -> Result<()> {
    let certificate = CertificateDer::from_pem_file(pem).context("no certificate")?;
    let key = PrivateKeyDer::from_pem_file(pem).context("no key")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(at).await.context("cannot listen for buffered TLS")?;
    let accept = async {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let _ = client.set_nodelay(true);
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(desktop).await else { return };
                let _ = server.set_nodelay(true);
                let size = 64 << 10;
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await;
            });
        }
    };
    tokio::task::LocalSet::new().run_until(accept).await;
    Ok(())
}

async fn again(
    place: &Place,
    dir: &Path,
    desktop: u16,
    name: &'static str,
    entry: Entry,
    word: &str,
    certificate: Option<&Certificate>,
) -> Result<Peer> {
    let address = SocketAddr::new(place.proxy(), free_port()?);
    let mut command = place.command(std::env::current_exe().context("cannot find the running program")?);
    command.arg(word).arg(address.to_string()).arg(SocketAddr::new(place.desktop(), desktop).to_string());
    let log = dir.join(format!("{word}-{}.log", address.port()));
    if let Some(certificate) = certificate {
        let pem = log.with_extension("pem");
        certificate.write(&pem)?;
        command.arg(pem);
    }
    let child = Running::start(command, &log)?;
    place.listening(address.port(), name, &log).await?;
    let pid = child.id();
    Ok(Peer::new(name, address, entry, vec![pid], Some(child)))
}
