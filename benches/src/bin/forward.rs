//! The forward path, side by side: processor time per GiB and per round trip, new sessions, memory of idle ones.
//!
//! `QVD_BENCH_ROUNDS` (5) and `QVD_BENCH_SECONDS` (1, per figure) shorten or lengthen it.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qvd_benches::desktop::{Desktop, order, pull, push};
use qvd_benches::figures::{Samples, cpu_time, quantile, resident_kib};
use qvd_benches::peers::{self, Certificate, Entry, Peer};
use qvd_benches::site::RouterSite;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// Most sessions that any figure holds at once.
const SESSIONS: usize = 3000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("plain-copy") => {
            let port = |at: usize| -> Result<u16> {
                args.get(at).context("plain-copy PORT DESKTOP")?.parse().context("a port")
            };
            let (port, desktop) = (port(1)?, port(2)?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(peers::run_plain_copy(port, desktop))
        }
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(compare())
        }
        Some(other) => bail!("unknown word '{other}'"),
    }
}

/// One row of the table.
struct Figure {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Down(usize),
    Up(usize),
    Trip(usize),
    TripMedian(usize),
    NewSession,
    IdleMemory(usize),
}

const FIGURES: &[Figure] = &[
    Figure { name: "down, 1 session", unit: "CPU s/GiB", kind: Kind::Down(1) },
    Figure { name: "down, 4 sessions", unit: "CPU s/GiB", kind: Kind::Down(4) },
    Figure { name: "down, 16 sessions", unit: "CPU s/GiB", kind: Kind::Down(16) },
    Figure { name: "up, 1 session", unit: "CPU s/GiB", kind: Kind::Up(1) },
    Figure { name: "up, 4 sessions", unit: "CPU s/GiB", kind: Kind::Up(4) },
    Figure { name: "up, 16 sessions", unit: "CPU s/GiB", kind: Kind::Up(16) },
    Figure { name: "64-byte trip, 1 session", unit: "CPU µs", kind: Kind::Trip(1) },
    Figure { name: "64-byte trip, 10 sessions", unit: "CPU µs", kind: Kind::Trip(10) },
    Figure { name: "64-byte trip, 50 sessions", unit: "CPU µs", kind: Kind::Trip(50) },
    Figure { name: "64-byte trip, 1 session, p50", unit: "µs", kind: Kind::TripMedian(1) },
    Figure { name: "64-byte trip, 50 sessions, p50", unit: "µs", kind: Kind::TripMedian(50) },
    Figure { name: "new session (ours: with login)", unit: "CPU ms", kind: Kind::NewSession },
    Figure { name: "idle session, of 300", unit: "KiB", kind: Kind::IdleMemory(300) },
    Figure { name: "idle session, of 1000", unit: "KiB", kind: Kind::IdleMemory(1000) },
    Figure { name: "idle session, of 3000", unit: "KiB", kind: Kind::IdleMemory(3000) },
];

async fn compare() -> Result<()> {
    raise_file_limit();
    let rounds = setting("QVD_BENCH_ROUNDS", 5.0) as usize;
    let span = Duration::from_secs_f64(setting("QVD_BENCH_SECONDS", 1.0));
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let desktop = Desktop::start().await?;
    let certificate = Certificate::make()?;
    describe_machine();

    let mut all: Vec<Peer> = Vec::new();
    all.push(RouterSite::start(dir.path(), desktop.port(), &certificate, SESSIONS).await?);
    match peers::haproxy(dir.path(), desktop.port(), &certificate).await? {
        Some((tls, plain_port)) => {
            let pids = tls.pids.clone();
            all.push(tls);
            all.push(Peer::new("HAProxy plain", plain_port, Entry::Plain, pids, None));
        }
        None => println!("HAProxy is not installed: left out"),
    }
    match peers::nginx(dir.path(), desktop.port(), &certificate).await? {
        Some(peer) => all.push(peer),
        None => println!("nginx with its stream module is not installed: left out"),
    }
    all.push(peers::plain_copy(dir.path(), desktop.port()).await?);
    all.push(Peer::new("direct", desktop.port(), Entry::Plain, Vec::new(), None));

    let mut table: Vec<Vec<Samples>> = vec![vec![Samples::default(); all.len()]; FIGURES.len()];
    for (figure, row) in FIGURES.iter().zip(&mut table) {
        // Memory of idle sessions only grows while a process lives: one round, smallest number first.
        let times = if matches!(figure.kind, Kind::IdleMemory(_)) { 1 } else { rounds };
        for _ in 0..times {
            for (peer, samples) in all.iter().zip(row.iter_mut()) {
                if let Some(value) = measure(peer, &desktop, figure.kind, span).await? {
                    samples.push(value);
                }
                drained(&desktop).await?;
            }
        }
        eprintln!("measured: {}", figure.name);
    }
    print_table(&all, &table);
    Ok(())
}

async fn measure(peer: &Peer, desktop: &Desktop, kind: Kind, span: Duration) -> Result<Option<f64>> {
    if peer.pids.is_empty() && !matches!(kind, Kind::TripMedian(_)) {
        return Ok(None);
    }
    match kind {
        Kind::Down(sessions) => bulk(peer, sessions, span, true).await.map(Some),
        Kind::Up(sessions) => bulk(peer, sessions, span, false).await.map(Some),
        Kind::Trip(sessions) => trips(peer, sessions, span).await.map(|(cpu, _)| Some(cpu)),
        Kind::TripMedian(sessions) => trips(peer, sessions, span).await.map(|(_, median)| Some(median)),
        Kind::NewSession => new_sessions(peer, span).await.map(Some),
        Kind::IdleMemory(sessions) => idle(peer, desktop, sessions).await.map(Some),
    }
}

/// Processor seconds of the proxy per GiB.
async fn bulk(peer: &Peer, sessions: usize, span: Duration, down: bool) -> Result<f64> {
    // About one second's worth on the machines at hand; the figure is per byte, so the amount only sets the noise.
    let total = (span.as_secs_f64() * f64::from(1u32 << 30)) as u64;
    let each = total / sessions as u64;
    let mut streams = Vec::new();
    for _ in 0..sessions {
        streams.push(peer.session().await?);
    }
    let before = cpu_time(&peer.pids)?;
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let done = if down { pull(&mut stream, each).await } else { push(&mut stream, each).await };
            done.map(|()| stream)
        });
    }
    let mut kept = Vec::new();
    while let Some(done) = tasks.join_next().await {
        kept.push(done.context("a transfer panicked")?.with_context(|| format!("transfer through {}", peer.name))?);
    }
    let used = cpu_time(&peer.pids)? - before;
    Ok(used.as_secs_f64() * f64::from(1u32 << 30) / (each * sessions as u64) as f64)
}

/// Processor microseconds of the proxy per round trip of 64 bytes, and the median time of one.
async fn trips(peer: &Peer, sessions: usize, span: Duration) -> Result<(f64, f64)> {
    let mut streams = Vec::new();
    for _ in 0..sessions {
        let mut stream = peer.session().await?;
        order(&mut stream, b'E', 0).await.context("cannot order an echo")?;
        streams.push(stream);
    }
    let before = if peer.pids.is_empty() { Duration::ZERO } else { cpu_time(&peer.pids)? };
    let end = Instant::now() + span;
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let (message, mut answer) = ([7u8; 64], [0u8; 64]);
            let mut times = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                stream.write_all(&message).await?;
                stream.flush().await?;
                stream.read_exact(&mut answer).await?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            std::io::Result::Ok((times, stream))
        });
    }
    let mut times = Vec::new();
    let mut kept = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (own, stream) = done.context("an echo panicked")?.context("an echo broke")?;
        times.extend(own);
        kept.push(stream);
    }
    let used = if peer.pids.is_empty() { Duration::ZERO } else { cpu_time(&peer.pids)? - before };
    Ok((used.as_secs_f64() * 1e6 / times.len() as f64, quantile(&times, 0.5)))
}

/// Processor milliseconds of the proxy per new session.
async fn new_sessions(peer: &Peer, span: Duration) -> Result<f64> {
    let before = cpu_time(&peer.pids)?;
    let end = Instant::now() + span;
    let mut count = 0u32;
    while Instant::now() < end {
        let mut stream = peer.session().await?;
        // One byte from the desktop, so that the whole way exists.
        pull(&mut stream, 1).await.context("a new session carries nothing")?;
        count += 1;
    }
    let used = cpu_time(&peer.pids)? - before;
    Ok(used.as_secs_f64() * 1e3 / f64::from(count))
}

/// Resident KiB of the proxy per idle session.
async fn idle(peer: &Peer, desktop: &Desktop, sessions: usize) -> Result<f64> {
    let before = resident_kib(&peer.pids)?;
    let mut streams = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        let mut stream = peer.session().await?;
        order(&mut stream, b'I', 0).await.context("cannot order idleness")?;
        streams.push(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while desktop.open() < sessions as u64 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = resident_kib(&peer.pids)?;
    Ok(after.saturating_sub(before) as f64 / sessions as f64)
}

/// Waits until the desktop holds no connection of the last figure.
async fn drained(desktop: &Desktop) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while desktop.open() > 0 {
        if Instant::now() > deadline {
            bail!("{} connections to the desktop never ended", desktop.open());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn print_table(all: &[Peer], table: &[Vec<Samples>]) {
    println!("\nmedian (minimum–maximum)");
    print!("{:<32} {:<10}", "figure", "unit");
    all.iter().for_each(|peer| print!(" {:>22}", peer.name));
    println!();
    for (figure, row) in FIGURES.iter().zip(table) {
        print!("{:<32} {:<10}", figure.name, figure.unit);
        for samples in row {
            let cell = if samples.is_empty() {
                "–".to_owned()
            } else {
                format!("{:.3} ({:.3}–{:.3})", samples.median(), samples.min(), samples.max())
            };
            print!(" {cell:>22}");
        }
        println!();
    }
    println!("\nratios, ours to the others (below 1: ours needs less)");
    for (figure, row) in FIGURES.iter().zip(table) {
        print!("{:<32}", figure.name);
        for (peer, samples) in all.iter().zip(row).skip(1) {
            if !samples.is_empty() {
                print!("  {} {:.2}", peer.name, row[0].median() / samples.median());
            }
        }
        println!();
    }
}

fn describe_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("machine: {model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("load before: {}", read("/proc/loadavg").trim());
    println!("build: {}", if cfg!(debug_assertions) { "debug (figures mean nothing)" } else { "optimised" });
    println!("TLS: 1.3, full handshakes, ECDSA P-256; ours and the generator: rustls with aws-lc-rs");
    for (program, arg) in [("haproxy", "-v"), ("nginx", "-v")] {
        if let Ok(output) = std::process::Command::new(program).arg(arg).output() {
            let text = [output.stdout, output.stderr].concat();
            println!("peer: {}", String::from_utf8_lossy(&text).lines().next().unwrap_or_default());
        }
    }
}

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer the larger figures fail with a clear error of their own.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
