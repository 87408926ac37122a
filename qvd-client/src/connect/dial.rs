//! From a host name to a connection that may carry a password.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::trust::inspect::{inspect, short_rsa_key};
use crate::trust::verifier::Collector;
use crate::trust::{
    Assessment, Decision, Flaw, Judge, Policy, Problem, Question, Report, TrustAnchors, TrustStore, assess,
};

/// Limit for each address of a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Limit for the TLS handshake; the user's thoughts about a certificate come after it.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// An idle session is probed this often, so that a dead server is noticed at last.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How certificates are judged.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) anchors: TrustAnchors,
    pub(super) policy: Policy,
    pub(super) memory: Option<PathBuf>,
    pub(super) judge: Arc<dyn Judge>,
    pub(super) identity: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
}

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Dialler {
    host: String,
    port: u16,
    tls: Option<(Tls, Arc<CryptoProvider>, ServerName<'static>)>,
}

impl Dialler {
    pub(super) fn new(host: String, port: u16, tls: Option<Tls>) -> Result<Self> {
        let tls = match tls {
            None => None,
            Some(tls) => {
                let provider = CryptoProvider::get_default().ok_or(Error::NoTlsProvider)?;
                let name = ServerName::try_from(host.clone()).map_err(|e| unusable(&host, &e))?;
                Some((tls, Arc::clone(provider), name))
            }
        };
        Ok(Self { host, port, tls })
    }

    /// Host and port, for people and for the memory of certificates.
    pub(super) fn server(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>> {
        let tcp = self.tcp().await?;
        match &self.tls {
            None => Ok(Box::new(tcp)),
            Some((tls, provider, name)) => {
                let collector = Collector::new(provider);
                let stream = self.handshake(tcp, tls, provider, name.clone(), &collector).await?;
                self.check_certificate(tls, &collector).await?;
                Ok(Box::new(stream))
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream> {
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|source| Error::Resolve { host: self.host.clone(), source })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Both are comforts: a session works without them.
                    let _ = stream.set_nodelay(true);
                    let _ =
                        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
            }
        }
        let server = self.server();
        Err(match last.kind() {
            io::ErrorKind::ConnectionRefused => Error::ConnectionRefused { server },
            _ => Error::Unreachable { server, source: last },
        })
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        tls: &Tls,
        provider: &Arc<CryptoProvider>,
        name: ServerName<'static>,
        collector: &Arc<Collector>,
    ) -> Result<TlsStream<TcpStream>> {
        let config = self.config(tls, provider, collector)?;
        let connector = TlsConnector::from(Arc::new(config));
        match timeout(HANDSHAKE_LIMIT, connector.connect(name, tcp)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.handshake_error(error, collector)),
            Err(_) => Err(Error::TimedOut { during: "setting up encryption", after: HANDSHAKE_LIMIT }),
        }
    }

    fn config(
        &self,
        tls: &Tls,
        provider: &Arc<CryptoProvider>,
        collector: &Arc<Collector>,
    ) -> Result<ClientConfig> {
        let failed = |e: rustls::Error| Error::Tls { server: self.server(), source: io::Error::other(e) };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(collector) as _);
        match tls.identity.as_deref() {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|error| {
                    Error::Setting {
                        what: "client certificate",
                        value: format!("{} certificates", chain.len()),
                        why: error.to_string(),
                    }
                })
            }
        }
    }

    fn handshake_error(&self, error: io::Error, collector: &Collector) -> Error {
        let server = self.server();
        let shown = collector.shown();
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                match short_rsa_key(&shown) {
                    Some(bits) => {
                        let problems = format!("{}, too few to protect anything", Flaw::WeakKey(bits));
                        let fingerprint = crate::trust::Fingerprint::of(&shown[0]);
                        Error::CertificateUnacceptable { server, fingerprint, problems }
                    }
                    None => Error::Tls { server, source: error },
                }
            }
            Some(rustls::Error::PeerIncompatible(_)) => Error::TlsTooOld { server },
            Some(rustls::Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity,
            )) if shown.is_empty() => Error::TlsTooOld { server },
            Some(rustls::Error::InvalidMessage(_)) if shown.is_empty() => Error::NotTls { server },
            Some(_) | None => Error::Tls { server, source: error },
        }
    }

    async fn check_certificate(&self, tls: &Tls, collector: &Collector) -> Result<()> {
        let server = self.server();
        let shown = collector.shown();
        if shown.is_empty() {
            let source = io::Error::other("the server showed no certificate");
            return Err(Error::Tls { server, source });
        }
        let report =
            inspect(&server, &self.host, &shown, &tls.anchors, collector.algorithms(), SystemTime::now());
        let store = match &tls.memory {
            Some(file) => TrustStore::load(file)?,
            None => TrustStore::default(),
        };
        match assess(report, &store, &tls.policy) {
            Assessment::Remembered => Ok(()),
            Assessment::Trusted(report) => {
                if let Some(file) = tls.memory.as_ref().filter(|_| !store.knows(&report)) {
                    // Only a later change would go unnoticed: no reason to keep anybody from a server that is trusted.
                    if let Err(error) = TrustStore::remember_in(file, &report) {
                        tracing::warn!(error = %qvd_core::error::chain(&error), "a trusted certificate is not remembered");
                    }
                }
                Ok(())
            }
            Assessment::Unacceptable(report) => {
                let fatal = report.problems.iter().filter(|p| !tls.policy.allows(&p.flaw)).cloned();
                let problems =
                    Report { problems: fatal.collect::<Vec<Problem>>(), ..report.clone() }.summary();
                Err(Error::CertificateUnacceptable { server, fingerprint: report.fingerprint(), problems })
            }
            Assessment::Ask(question) => match tls.judge.decide(&question).await {
                Decision::Once => Ok(()),
                Decision::Always => match &tls.memory {
                    Some(file) => TrustStore::remember_in(file, &question.report),
                    None => Ok(()),
                },
                Decision::Reject => Err(rejected(server, question)),
            },
        }
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialler").field(&self.server()).finish()
    }
}

fn rejected(server: String, question: Question) -> Error {
    let fingerprint = question.report.fingerprint();
    match question.changed_from {
        Some(remembered) => Error::CertificateChanged { server, fingerprint, remembered },
        None => Error::CertificateRejected { server, fingerprint, problems: question.report.summary() },
    }
}

fn unusable(host: &str, why: &dyn fmt::Display) -> Error {
    Error::Setting { what: "server name", value: host.to_owned(), why: why.to_string() }
}

/// Splits a port off a host's text: `host`, `host:port`, `[v6]`, `[v6]:port`; a bare IPv6 address has none.
pub(super) fn split_port(text: &str, default: u16) -> Result<(String, u16)> {
    let text = text.trim();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| unusable(text, &"']' is missing"))?;
            (host, after.strip_prefix(':').or((!after.is_empty()).then_some(after)))
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => default,
        Some(port) => port.parse().map_err(|_| unusable(text, &"the port is no number up to 65535"))?,
    };
    if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
        return Err(unusable(text, &"give a host name or address, and a port above 0"));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_stand_in_the_hosts_text() {
        let split = |text| split_port(text, 8443).ok();
        let ok = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(split("vdi.example"), ok("vdi.example", 8443));
        assert_eq!(split(" vdi.example:443 "), ok("vdi.example", 443));
        assert_eq!(split("::1"), ok("::1", 8443));
        assert_eq!(split("[::1]"), ok("::1", 8443));
        assert_eq!(split("[::1]:99"), ok("::1", 99));
        for bad in ["", ":1", "a:", "a:b", "a:0", "a:70000", "[::1", "[::1]x", "a b"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
