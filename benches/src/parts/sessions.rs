//! New sessions: whole ones, and handshake and framing alone, with full and resumed handshakes.
//!
//! *Handshake and answer from memory* is a new connection that asks for `/qvd/ping` and is answered without the
//! database; HAProxy answers the same request itself (`monitor-uri`), so that both do TLS and HTTP and no more. A whole
//! *new session* of ours is login, acquire, agent, commit and 101 with real rows; the login is answered by the proof of
//! the last minute. HAProxy's is a connection through to the desktop and a byte from it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;

use crate::book::Book;
use crate::client::{full_handshakes, resumed_handshakes};
use crate::desktop::{Desktop, pull};
use crate::load::{drained, each_time};
use crate::machine;
use crate::peers::{self, Certificate, Peer};
use crate::place::Place;
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::{RouterSite, password_check_ms};

const PARTIES: &[&str] = &["ours", "HAProxy", "nginx stream", "plain copy", "buffered rustls"];

/// Measures all of it.
///
/// # Errors
///
/// When a party does not start or breaks.
pub async fn run(plan: &Plan, book: &mut Book) -> Result<Section> {
    let mut text = machine::describe();
    let desktop = Desktop::start().await?;
    for certificate in [Certificate::ecdsa()?, Certificate::rsa()?] {
        let dir = tempfile::tempdir().context("no temporary directory")?;
        let all = Parties::start(dir.path(), &desktop, &certificate).await?;
        text += &format!("- with a certificate of {}:\n", certificate.kind);
        text += &machine::describe_encryption(&all.forwarding).await?.replace("- ", "  - ");
        drained(&desktop).await?;
        for round in 0..plan.rounds {
            all.measure(plan, book, round, &certificate, &desktop).await?;
        }
        eprintln!("measured: new sessions, {}", certificate.kind);
    }
    let check = password_check_ms()?;
    text += &format!(
        "- a password check (argon2id), which a login costs once a minute, takes {check:.1} ms CPU and is not among the \
         figures\n\nA new session of ours has rows, agent and 101; of the others a connection to the desktop and a byte of it.\n\
         A resumed handshake does not depend on the certificate.\n\n"
    );
    text += &book.table(Part::Sessions.name(), PARTIES);
    text += &format!("\n{}", book.ratios(Part::Sessions.name(), "ours", PARTIES));
    Ok(Section { title: "New sessions", text })
}

struct Parties {
    /// Those that forward; ours first.
    forwarding: Vec<Peer>,
    /// HAProxy where it answers itself.
    answering: Option<Peer>,
}

impl Parties {
    async fn start(dir: &std::path::Path, desktop: &Desktop, certificate: &Certificate) -> Result<Self> {
        let (place, port) = (Place::loopback(), desktop.port());
        let mut forwarding = vec![RouterSite::default().start(&place, dir, port, certificate).await?];
        let mut answering = None;
        if let Some(haproxy) = peers::haproxy(&place, dir, port, certificate, 1).await? {
            forwarding.push(haproxy.tls);
            answering = Some(haproxy.answering);
        }
        forwarding.extend(peers::nginx(&place, dir, port, certificate).await?);
        forwarding.push(peers::plain_copy(&place, dir, port).await?);
        forwarding.push(peers::buffered_tls(&place, dir, port, certificate).await?);
        Ok(Self { forwarding, answering })
    }

    async fn measure(
        &self,
        plan: &Plan,
        book: &mut Book,
        round: usize,
        certificate: &Certificate,
        desktop: &Desktop,
    ) -> Result<()> {
        let kind = certificate.kind;
        let mut push = |figure: &str, peer: &Peer, value: f64| {
            book.push(Part::Sessions.name(), figure, "CPU ms", peer.name, value);
        };
        let ours = &self.forwarding[0];
        let answering: Vec<&Peer> = [Some(ours), self.answering.as_ref()].into_iter().flatten().collect();
        // With tickets only once: the certificate is not shown then.
        let resumed = kind == "ECDSA P-256";
        for peer in turned(&answering, round) {
            let once = || async { ping(peer, full_handshakes(), false).await };
            let figure = format!("handshake and answer from memory, {kind}");
            push(&figure, peer, each_time(peer, plan.span, once).await?);
            if resumed {
                let client = with_ticket(peer, true).await?;
                let once = || async { ping(peer, client.clone(), true).await };
                push(
                    "resumed handshake and answer from memory",
                    peer,
                    each_time(peer, plan.span, once).await?,
                );
            }
        }
        let forwarding: Vec<&Peer> = self.forwarding.iter().collect();
        for peer in turned(&forwarding, round) {
            let once = || async { visit(peer, full_handshakes(), false).await };
            push(&format!("new session, {kind}"), peer, each_time(peer, plan.span, once).await?);
            if resumed && peer.name != "plain copy" {
                let client = with_ticket(peer, false).await?;
                let once = || async { visit(peer, client.clone(), true).await };
                push("resumed new session", peer, each_time(peer, plan.span, once).await?);
            }
            drained(desktop).await?;
        }
        Ok(())
    }
}

fn turned<'a>(peers: &[&'a Peer], round: usize) -> Vec<&'a Peer> {
    (0..peers.len()).map(|step| peers[(round + step) % peers.len()]).collect()
}

/// A client that has tickets of this server.
async fn with_ticket(peer: &Peer, ping_only: bool) -> Result<Arc<ClientConfig>> {
    let client = resumed_handshakes();
    match ping_only {
        true => ping(peer, client.clone(), false).await?,
        false => visit(peer, client.clone(), false).await?,
    }
    Ok(client)
}

async fn ping(peer: &Peer, client: Arc<ClientConfig>, resumed: bool) -> Result<()> {
    let was = peer.ping(client).await.with_context(|| format!("{} does not answer", peer.name))?;
    ensure!(was == resumed, "{}: the handshake was {}resumed", peer.name, if was { "" } else { "not " });
    Ok(())
}

async fn visit(peer: &Peer, client: Arc<ClientConfig>, resumed: bool) -> Result<()> {
    let (mut stream, was) = peer.session_over(client).await?;
    ensure!(was == resumed, "{}: the handshake was {}resumed", peer.name, if was { "" } else { "not " });
    // One byte from the desktop, so that the whole way exists.
    pull(&mut stream, 1).await.context("a new session carries nothing")
}
