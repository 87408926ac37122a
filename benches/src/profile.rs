//! Where a figure's time goes: a party under one figure's load, sampled by `perf`.
//!
//! Three files come of it: what `perf report` says, the folded stacks, and a flame graph of them. They belong to the
//! machine that they were taken on and stay out of the repository.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qvd_system_tests::process::run;

use crate::client::full_handshakes;
use crate::desktop::{Desktop, pull};
use crate::load::{bulk, each_time, trips};
use crate::peers::{self, Certificate, Peer};
use crate::place::Place;
use crate::site::RouterSite;

/// How long is sampled (`QVD_BENCH_PROFILE_SECONDS`).
const SECONDS: u64 = 10;

/// A figure by its short name: `down-16`, `up-1`, `trip-50`, `session` or `ping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Bulk { sessions: usize, down: bool },
    Trips { sessions: usize },
    Session,
    Ping,
}

impl Figure {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("'{text}' is no figure (down-N, up-N, trip-N, session, ping)");
        let (word, sessions) = match text.split_once('-') {
            Some((word, number)) => (word, number.parse().ok().filter(|n| *n > 0).with_context(wrong)?),
            None => (text, 0),
        };
        Ok(match (word, sessions) {
            ("down", 1..) => Self::Bulk { sessions, down: true },
            ("up", 1..) => Self::Bulk { sessions, down: false },
            ("trip", 1..) => Self::Trips { sessions },
            ("session", 0) => Self::Session,
            ("ping", 0) => Self::Ping,
            _ => bail!(wrong()),
        })
    }
}

/// Samples one party (`ours`, `ours-plain`, `haproxy`, `nginx`, `plain-copy`, `buffered`) under one figure's load, and
/// leaves the files in `dir`.
///
/// # Errors
///
/// When `perf` is not there or may not look, or the party does not start.
pub async fn profile(figure: &str, party: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    let work = Figure::parse(figure)?;
    ensure!(
        qvd_system_tests::process::in_path("perf"),
        "perf is not installed; on Debian: apt-get install linux-perf"
    );
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let desktop = Desktop::start().await?;
    let peer = start(party, work, scratch.path(), desktop.port()).await?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let base = dir.join(format!("{party}-{figure}"));
    let seconds = std::env::var("QVD_BENCH_PROFILE_SECONDS").ok().and_then(|n| n.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let data = scratch.path().join("perf.data");
    let pids: Vec<String> = peer.pids.iter().map(ToString::to_string).collect();
    let mut sampler = Command::new("perf");
    // Processors of virtual machines often have no counters of cycles; the clock is always there.
    sampler.args(["record", "--quiet", "-e", "cpu-clock", "-F", "997", "--call-graph", "dwarf,16384", "-o"]);
    sampler.arg(&data).arg("-p").arg(pids.join(",")).args(["--", "sleep", &seconds.to_string()]);
    let mut sampler = sampler.stdout(Stdio::null()).spawn().context("cannot start perf")?;
    let span = Duration::from_secs(1);
    while sampler.try_wait().context("perf is lost")?.is_none() {
        match work {
            Figure::Bulk { sessions, down } => drop(bulk(&peer, sessions, span, down).await?),
            Figure::Trips { sessions } => drop(trips(&peer, sessions, span).await?),
            Figure::Session => drop(each_time(&peer, span, || visit(&peer)).await?),
            Figure::Ping => drop(each_time(&peer, span, || ping(&peer)).await?),
        }
    }
    let status = sampler.wait().context("perf is lost")?;
    ensure!(status.success(), "perf may not look (as root it may; else see kernel.perf_event_paranoid)");
    write_files(&base, &data)
}

async fn visit(peer: &Peer) -> Result<()> {
    let mut stream = peer.session().await?;
    pull(&mut stream, 1).await.context("a new session carries nothing")
}

async fn ping(peer: &Peer) -> Result<()> {
    peer.ping(full_handshakes()).await.map(drop)
}

async fn start(party: &str, work: Figure, dir: &Path, desktop: u16) -> Result<Peer> {
    let (place, certificate) = (Place::loopback(), Certificate::ecdsa()?);
    let (place, certificate) = (&place, &certificate);
    let site = RouterSite { tls: party != "ours-plain", ..RouterSite::default() };
    Ok(match party {
        "ours-plain" if work == Figure::Ping => bail!("a handshake is part of this figure"),
        "ours" | "ours-plain" => site.start(place, dir, desktop, certificate).await?,
        "haproxy" => {
            let haproxy = peers::haproxy(place, dir, desktop, certificate, 1).await?;
            let haproxy = haproxy.context("HAProxy is not installed")?;
            if work == Figure::Ping { haproxy.answering } else { haproxy.tls }
        }
        _ if work == Figure::Ping => bail!("'{party}' answers nothing from memory (ours and haproxy do)"),
        "nginx" => peers::nginx(place, dir, desktop, certificate).await?.context("nginx is not installed")?,
        "plain-copy" => peers::plain_copy(place, dir, desktop).await?,
        "buffered" => peers::buffered_tls(place, dir, desktop, certificate).await?,
        _ => bail!("'{party}' is no party (ours, ours-plain, haproxy, nginx, plain-copy, buffered)"),
    })
}

fn write_files(base: &Path, data: &Path) -> Result<Vec<PathBuf>> {
    let report = run(Command::new("perf")
        .args(["report", "--stdio", "--no-children", "-g", "none"])
        .args(["--percent-limit", "0.3", "-i"])
        .arg(data))?;
    let script =
        run(Command::new("perf").args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]).arg(data))?;
    let folded = fold(&script);
    let lines: String =
        folded.iter().map(|(stack, count)| format!("{} {count}\n", stack.join(";"))).collect();
    let files = [("txt", report), ("folded", lines), ("svg", draw(&folded))];
    let mut written = Vec::new();
    for (ending, text) in files {
        let file = base.with_extension(ending);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        written.push(file);
    }
    Ok(written)
}

/// Stacks, outermost first, and how often each was seen.
type Stacks = BTreeMap<Vec<String>, u64>;

/// Reads what `perf script` says: a line with the program's name, then the frames from the inside out, then an empty one.
fn fold(script: &str) -> Stacks {
    let mut stacks = Stacks::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.trim_start_matches('\n').lines();
        let Some(name) = lines.next().filter(|line| !line.trim().is_empty()) else { continue };
        let mut stack: Vec<String> = lines
            .filter_map(|line| line.trim().split_once(' '))
            // What a generic function is generic over fills pages and tells little.
            .map(|(_, symbol)| symbol.replace(';', ":"))
            .collect();
        stack.push(name.trim().to_owned());
        stack.reverse();
        *stacks.entry(stack).or_default() += 1;
    }
    stacks
}

const WIDTH: f64 = 1400.0;
const ROW: f64 = 16.0;

/// A flame graph: a box for each frame, as wide as its share, upon the frame that called it.
fn draw(stacks: &Stacks) -> String {
    let total: u64 = stacks.values().sum();
    let depth = stacks.keys().map(Vec::len).max().unwrap_or(0);
    let height = (depth + 1) as f64 * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" \
         font-size=\"11\">\n"
    );
    // Stacks stand sorted, so those that begin alike are neighbours.
    let all: Vec<(&Vec<String>, u64)> = stacks.iter().map(|(stack, count)| (stack, *count)).collect();
    draw_level(&mut svg, &all, 0, 0, total.max(1), height);
    svg.push_str("</svg>\n");
    svg
}

fn draw_level(
    svg: &mut String,
    stacks: &[(&Vec<String>, u64)],
    level: usize,
    before: u64,
    total: u64,
    height: f64,
) {
    let mut start = before;
    let mut rest = stacks;
    while let Some((first, _)) = rest.first() {
        let same = rest.iter().take_while(|(stack, _)| stack.get(level) == first.get(level)).count();
        let (group, others) = rest.split_at(same);
        let count: u64 = group.iter().map(|(_, count)| count).sum();
        if let Some(name) = first.get(level) {
            draw_box(svg, name, level, start, count, total, height);
            draw_level(svg, group, level + 1, start, total, height);
        }
        start += count;
        rest = others;
    }
}

fn draw_box(svg: &mut String, name: &str, level: usize, start: u64, count: u64, total: u64, height: f64) {
    let scale = WIDTH / total as f64;
    let (x, width) = (start as f64 * scale, count as f64 * scale);
    if width < 0.3 {
        return;
    }
    let y = height - (level + 1) as f64 * ROW;
    let colour = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let share = 100.0 * count as f64 / total as f64;
    let _ = writeln!(
        svg,
        "<g><title>{escaped}: {share:.1} %</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" \
         fill=\"hsl({}, 80%, 65%)\"/>",
        colour % 60
    );
    let letters = (width / 7.0) as usize;
    if letters > 2 {
        let shown: String = name.chars().take(letters).collect();
        let shown = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\">{shown}</text>", x + 2.0, y + 11.0);
    }
    svg.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_their_short_names() {
        assert_eq!(Figure::parse("down-16").unwrap(), Figure::Bulk { sessions: 16, down: true });
        assert_eq!(Figure::parse("trip-1").unwrap(), Figure::Trips { sessions: 1 });
        assert_eq!(Figure::parse("ping").unwrap(), Figure::Ping);
        for wrong in ["down", "down-0", "up-x", "session-3", "sideways-1"] {
            assert!(Figure::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn samples_are_folded_and_drawn() {
        let script = "qvd-l7r \n\t  ffff tcp_sendmsg\n\t  55aa push<T>\n\nqvd-l7r \n\t  ffff tcp_sendmsg\n\t  55aa push<T>\n\n\
                      qvd-l7r \n\t  55ab pull\n\n";
        let stacks = fold(script);
        let stack = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(stacks[&stack(&["qvd-l7r", "push<T>", "tcp_sendmsg"])], 2);
        assert_eq!(stacks[&stack(&["qvd-l7r", "pull"])], 1);
        let svg = draw(&stacks);
        assert!(svg.contains("<title>push&lt;T&gt;: 66.7 %</title>"), "{svg}");
        assert!(svg.contains("<title>qvd-l7r: 100.0 %</title>"), "{svg}");
    }
}
