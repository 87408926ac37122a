//! The forward path over a veth pair with MTU 1500: proxies in one network namespace, generator and desktop in another,
//! so that both halves of every session cross it.
//!
//! The generator is this program again, run in its namespace; its figures come back line by line.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::stream::{Work, measure};
use crate::book::Book;
use crate::desktop::Desktop;
use crate::load::drained;
use crate::machine;
use crate::peers::{self, Certificate, Peer};
use crate::place::{CONGESTION, Pieces, Place, VethPair};
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::RouterSite;

/// Rounds of each figure; the ratios stand beside those of loopback and need not be as exact.
const ROUNDS: usize = 3;

const PARTIES: &[&str] = &["ours", "HAProxy", "nginx stream", "plain copy", "buffered rustls"];

const WORK: &[Work] = &[
    Work::Bulk { sessions: 1, down: true },
    Work::Bulk { sessions: 16, down: true },
    Work::Bulk { sessions: 1, down: false },
    Work::Bulk { sessions: 16, down: false },
    Work::Trips { sessions: 1 },
    Work::Trips { sessions: 50 },
];

/// Measures both kinds of link; where there are no namespaces the section says so.
///
/// # Errors
///
/// When a party does not start or breaks.
pub async fn run(plan: &Plan, book: &mut Book) -> Result<Section> {
    let title = "Over a veth pair";
    if !nix::unistd::geteuid().is_root() {
        return Ok(Section { title, text: "Left out: network namespaces need root.\n".to_owned() });
    }
    let mut text = machine::describe();
    text += &format!(
        "\nMTU 1500, {CONGESTION}, proxies in one namespace, generator and desktop in another. *Frames* lets every frame \
         cross by itself, *joined* is what the kernel does by default: up to 64 KiB in one piece.\n\n"
    );
    for (word, pieces, share) in KINDS {
        // The generator may be killed in the middle, and leaves nothing all the same.
        let scratch = tempfile::tempdir().context("no temporary directory")?;
        let pair = VethPair::make(pieces)?;
        let own = std::env::current_exe().context("cannot find the running program")?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", pair.clients()]).arg(own);
        command.args(["across", pair.proxies(), &plan.rounds.min(ROUNDS).to_string(), &share.to_string()]);
        command.env("QVD_BENCH_SECONDS", plan.span.as_secs_f64().to_string()).env("TMPDIR", scratch.path());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start ip")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        while let Some(line) = lines.next_line().await.context("no line")? {
            let words: Vec<&str> = line.split('\t').collect();
            let [figure, unit, party, value] = words[..] else { bail!("no figure: '{line}'") };
            let value = value.parse().with_context(|| format!("no number: '{line}'"))?;
            book.push(Part::Veth.name(), &format!("{word}: {figure}"), unit, party, value);
        }
        ensure!(child.wait().await.context("the generator is lost")?.success(), "the generator failed");
        eprintln!("measured: veth pair, {word}");
    }
    text += &book.table(Part::Veth.name(), PARTIES);
    text += &format!("\n{}", book.ratios(Part::Veth.name(), "ours", PARTIES));
    Ok(Section { title, text })
}

/// Name, kind, and the share of loopback's bytes that is moved: by itself a frame costs many times as much.
const KINDS: [(&str, Pieces, f64); 2] = [("frames", Pieces::Frames, 0.2), ("joined", Pieces::Joined, 1.0)];

/// What the generator does in its namespace, with the proxies in another, moving this share of the usual bytes: prints
/// figure, unit, party and value.
///
/// # Errors
///
/// When a party does not start or breaks.
#[allow(clippy::print_stdout, reason = "how figures get out of the namespace")]
pub async fn run_inside(proxies: &str, rounds: usize, share: f64, plan: &Plan) -> Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let place = Place::across(proxies);
    let desktop = Desktop::start().await?;
    let certificate = Certificate::ecdsa()?;
    let (place, dir, port) = (&place, dir.path(), desktop.port());
    let mut all: Vec<Peer> = vec![RouterSite::default().start(place, dir, port, &certificate).await?];
    all.extend(peers::haproxy(place, dir, port, &certificate, 1).await?.map(|haproxy| haproxy.tls));
    all.extend(peers::nginx(place, dir, port, &certificate).await?);
    all.push(peers::plain_copy(place, dir, port).await?);
    all.push(peers::buffered_tls(place, dir, port, &certificate).await?);
    for work in WORK {
        let span = if matches!(work, Work::Bulk { .. }) { plan.span.mul_f64(share) } else { plan.span };
        for round in 0..rounds {
            for at in (0..all.len()).map(|step| (round + step) % all.len()) {
                let mut book = Book::default();
                let done = measure(&mut book, &all[at], *work, span).await;
                done.with_context(|| format!("{}: {}", all[at].name, work.name()))?;
                for (figure, unit, party, value) in book.values() {
                    println!("{figure}\t{unit}\t{party}\t{value}");
                }
                drained(&desktop).await?;
            }
        }
    }
    Ok(())
}
