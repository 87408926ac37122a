//! The forward path on loopback: memory of idle sessions, processor time per GiB and per round trip.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::counted;
use crate::book::Book;
use crate::desktop::Desktop;
use crate::figures::{aes_s_per_gib, quantile};
use crate::load::{bulk, drained, idle, trips, trips_beside};
use crate::machine;
use crate::peers::{self, Certificate, Entry, Peer};
use crate::place::Place;
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::RouterSite;

/// Order of the columns.
const PARTIES: &[&str] = &[
    "ours",
    "HAProxy",
    "nginx stream",
    "plain copy",
    "buffered rustls",
    "direct",
    "ours plain",
    "HAProxy plain",
];

/// Machines beyond those of the largest figure: the ones used last are still being given back when the next begins.
const SPARE: usize = 200;

/// Measures what the plan has of it; `aes` becomes the time of AES alone in seconds per GiB.
///
/// # Errors
///
/// When a party does not start or breaks.
pub async fn run(plan: &Plan, book: &mut Book, aes: &mut f64) -> Result<Section> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let desktop = Desktop::start().await?;
    let certificate = Certificate::ecdsa()?;
    let mut text = machine::describe();
    let all = parties(plan, dir.path(), &desktop, &certificate).await?;
    text += &machine::describe_encryption(&all).await?;
    *aes = aes_s_per_gib()?;
    text += &format!(
        "- threads: each party serves its sessions with one\n- AES-256-GCM alone, records of 16 KiB: {aes:.3} CPU s/GiB\n"
    );
    drained(&desktop).await?;
    text += &format!(
        "- {} rounds of {:.1} s for each figure, memory once; each round begins with another party\n\n",
        plan.rounds,
        plan.span.as_secs_f64()
    );
    if plan.has(Part::Idle) {
        measure_memory(plan, book, &all, &desktop).await?;
    }
    for work in works(plan) {
        for round in 0..plan.rounds {
            // Each round begins with another one, so that none has always the same neighbour before it.
            for at in (0..all.len()).map(|step| (round + step) % all.len()) {
                let peer = &all[at];
                let done = measure(book, peer, work, plan.span).await;
                done.with_context(|| format!("{}: {}", peer.name, work.name()))?;
                drained(&desktop).await?;
            }
        }
        eprintln!("measured: {}", work.name());
    }
    for part in [Part::Idle, Part::Bulk, Part::Trips] {
        text += &book.table(part.name(), PARTIES);
        text += &format!("\n{}\n", book.ratios(part.name(), "ours", PARTIES));
    }
    Ok(Section { title: "The forward path", text })
}

/// What is measured at one go.
#[derive(Clone, Copy)]
pub(super) enum Work {
    Bulk {
        sessions: usize,
        down: bool,
    },
    Trips {
        sessions: usize,
    },
    /// Of one session beside others in full flow.
    Beside {
        busy: usize,
    },
}

impl Work {
    pub(super) fn name(self) -> String {
        match self {
            Self::Bulk { sessions, down } => {
                format!("{}, {}", if down { "down" } else { "up" }, counted(sessions))
            }
            Self::Trips { sessions } => format!("64-byte trip, {}", counted(sessions)),
            Self::Beside { busy } => format!("64-byte trip beside {busy} in full flow"),
        }
    }
}

fn works(plan: &Plan) -> Vec<Work> {
    const SESSIONS: [usize; 3] = [1, 16, 50];
    let mut works = Vec::new();
    if plan.has(Part::Bulk) {
        for down in [true, false] {
            works.extend(SESSIONS.map(|sessions| Work::Bulk { sessions, down }));
        }
    }
    if plan.has(Part::Trips) {
        works.extend(SESSIONS.map(|sessions| Work::Trips { sessions }));
        works.extend([1, 5, 15].map(|busy| Work::Beside { busy }));
    }
    works
}

async fn parties(
    plan: &Plan,
    dir: &std::path::Path,
    desktop: &Desktop,
    certificate: &Certificate,
) -> Result<Vec<Peer>> {
    let (place, port) = (Place::loopback(), desktop.port());
    let most = if plan.has(Part::Idle) { plan.idle.iter().copied().max().unwrap_or(0) } else { 0 };
    let site = RouterSite { machines: most.max(100) + SPARE, ..RouterSite::default() };
    let mut all = vec![site.start(&place, dir, port, certificate).await?];
    let haproxy = peers::haproxy(&place, dir, port, certificate, 1).await?;
    let mut plain = Vec::new();
    if let Some(haproxy) = haproxy {
        all.push(haproxy.tls);
        plain.push(haproxy.plain);
    }
    all.extend(peers::nginx(&place, dir, port, certificate).await?);
    all.push(peers::plain_copy(&place, dir, port).await?);
    all.push(peers::buffered_tls(&place, dir, port, certificate).await?);
    all.push(Peer::new("direct", ([127, 0, 0, 1], port).into(), Entry::Plain, Vec::new(), None));
    let site = RouterSite { name: "ours plain", tls: false, ..RouterSite::default() };
    all.push(site.start(&place, dir, port, certificate).await?);
    all.extend(plain);
    Ok(all)
}

/// Memory of idle sessions only grows while a process lives: one round, and the first entry of each process.
async fn measure_memory(plan: &Plan, book: &mut Book, all: &[Peer], desktop: &Desktop) -> Result<()> {
    for (at, peer) in all.iter().enumerate() {
        let seen = all[..at].iter().any(|other| other.pids == peer.pids);
        if peer.pids.is_empty() || seen || peer.name == "ours plain" {
            continue;
        }
        let figures =
            idle(peer, desktop, &plan.idle).await.with_context(|| format!("{}: idle", peer.name))?;
        for (number, kib) in plan.idle.iter().zip(figures) {
            book.push(Part::Idle.name(), &format!("idle session, of {number}"), "KiB", peer.name, kib);
        }
        drained(desktop).await?;
    }
    eprintln!("measured: memory of idle sessions");
    Ok(())
}

pub(super) async fn measure(book: &mut Book, peer: &Peer, work: Work, span: Duration) -> Result<()> {
    let (name, accounted) = (work.name(), !peer.pids.is_empty());
    match work {
        Work::Bulk { sessions, down } => {
            let moved = bulk(peer, sessions, span, down).await?;
            if accounted {
                book.push(Part::Bulk.name(), &name, "CPU s/GiB", peer.name, moved.cpu);
            }
            book.push(Part::Bulk.name(), &name, "wall s/GiB", peer.name, moved.wall);
        }
        Work::Trips { sessions } => {
            let (cpu, times) = trips(peer, sessions, span).await?;
            if accounted {
                book.push(Part::Trips.name(), &name, "CPU µs", peer.name, cpu);
            }
            push_times(book, &name, peer, &times);
        }
        Work::Beside { busy } => push_times(book, &name, peer, &trips_beside(peer, busy, span).await?),
    }
    Ok(())
}

fn push_times(book: &mut Book, name: &str, peer: &Peer, times: &[f64]) {
    for (word, share) in [("p50", 0.5), ("p99", 0.99)] {
        let value = quantile(times, share);
        book.push(Part::Trips.name(), &format!("{name}, {word}"), "µs", peer.name, value);
    }
}
