//! Whether two workers carry twice what one carries.
//!
//! Generator and desktop need processors too, so on a machine of two the bytes per second of two workers say little:
//! with two workers everybody shares what one worker left to the others. What is counted instead is how many bytes
//! cross for each second that the *busiest* thread of the proxy worked; that is what it could carry if its processor
//! did nothing else. It falls when two workers cost more per byte than one, and when they share the work unevenly. What
//! it would not show is time in which workers wait for each other; so the machine's idle time stands beside it: where
//! nobody is idle nobody waits.

use anyhow::{Context as _, Result};

use crate::book::Book;
use crate::desktop::Desktop;
use crate::load::{bulk, drained};
use crate::machine;
use crate::peers::{self, Certificate, Peer};
use crate::place::Place;
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::RouterSite;

const PARTIES: &[&str] = &["ours", "ours, 1", "ours, 2", "HAProxy", "HAProxy, 1", "HAProxy, 2"];

/// Measures one and two workers of ours and of HAProxy, in turn.
///
/// # Errors
///
/// When a party does not start or breaks.
pub async fn run(plan: &Plan, book: &mut Book) -> Result<Section> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let desktop = Desktop::start().await?;
    let certificate = Certificate::ecdsa()?;
    let (place, port) = (Place::loopback(), desktop.port());
    let mut all: Vec<(&str, [Peer; 2])> = Vec::new();
    let site = |name, workers| RouterSite { name, workers, ..RouterSite::default() };
    let one = site("ours, 1", 1).start(&place, dir.path(), port, &certificate).await?;
    let two = site("ours, 2", 2).start(&place, dir.path(), port, &certificate).await?;
    all.push(("ours", [one, two]));
    let one = peers::haproxy(&place, dir.path(), port, &certificate, 1).await?;
    let two = peers::haproxy(&place, dir.path(), port, &certificate, 2).await?;
    if let (Some(one), Some(two)) = (one, two) {
        all.push(("HAProxy", [one.tls.named("HAProxy, 1"), two.tls.named("HAProxy, 2")]));
    }
    for (sessions, down) in [(16, true), (50, true), (16, false), (50, false)] {
        let figure = format!("{}, {sessions} sessions", if down { "down" } else { "up" });
        for round in 0..plan.rounds {
            for at in (0..all.len()).map(|step| (round + step) % all.len()) {
                let (name, pair) = &all[at];
                let mut busiest = Vec::new();
                for peer in pair {
                    // The machine's idle time is told in hundredths of a second: longer than the others.
                    let moved = bulk(peer, sessions, plan.span * 2, down).await;
                    let moved = moved.with_context(|| format!("{}: {figure}", peer.name))?;
                    let mut push = |unit: &str, value: f64| {
                        book.push(Part::Workers.name(), &figure, unit, peer.name, value);
                    };
                    push("CPU s/GiB", moved.cpu);
                    push("busiest thread, s/GiB", moved.busiest);
                    push("wall s/GiB", moved.wall);
                    push("machine idle, %", moved.idle * 100.0);
                    busiest.push(moved.busiest);
                    drained(&desktop).await?;
                }
                let carried = format!("{figure}, two workers to one");
                book.push(Part::Workers.name(), &carried, "× the bytes", name, busiest[0] / busiest[1]);
            }
        }
        eprintln!("measured: workers, {figure}");
    }
    let mut text = machine::describe();
    text += "\n*Two workers to one* is bytes for each second of the busiest thread's work: what a processor of its own for \
             each worker would carry. Generator and desktop share the machine's processors with the workers, so the time on \
             the wall cannot show it; where the machine is not idle, no worker waited for another.\n\n";
    text += &book.table(Part::Workers.name(), PARTIES);
    Ok(Section { title: "Two workers", text })
}
