//! The forward path, side by side: processor time per GiB and per round trip, new sessions, memory of idle ones.
//!
//! `QVD_BENCH_ROUNDS` (5) and `QVD_BENCH_SECONDS` (1, per figure) shorten or lengthen it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qvd_benches::desktop::{Desktop, order, pull, push};
use qvd_benches::figures::{Samples, aes_s_per_gib, cpu_time, quantile, resident_kib};
use qvd_benches::peers::{self, Certificate, Entry, Peer};
use qvd_benches::site::{RouterSite, password_check_ms};
use qvd_benches::targets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// Most sessions that any figure holds at once.
const SESSIONS: usize = 9000;

/// Machines beyond that: the ones used last are still being given back when the next figure begins.
const SPARE: usize = 200;

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
        Some("buffered-tls") => {
            let word = |at: usize| args.get(at).context("buffered-tls PORT DESKTOP CERTIFICATE");
            let (port, desktop) = (word(1)?.parse().context("a port")?, word(2)?.parse().context("a port")?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(peers::run_buffered_tls(port, desktop, std::path::Path::new(word(3)?)))
        }
        None => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async {
                // The peers end with what is dropped here.
                tokio::select! {
                    done = compare() => done,
                    () = asked_to_end() => bail!("interrupted"),
                }
            })
        }
        Some(other) => bail!("unknown word '{other}'"),
    }
}

/// Ctrl-C or SIGTERM.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => std::future::pending().await,
    }
}

/// What is measured at one go; each fills one or more rows of the table.
#[derive(Clone, Copy)]
enum Work {
    Bulk { sessions: usize, down: bool },
    Trips { sessions: usize },
    NewSessions,
    Idle,
}

/// Memory first: of a process that has done nothing else.
const WORK: &[Work] = &[
    Work::Idle,
    Work::Bulk { sessions: 1, down: true },
    Work::Bulk { sessions: 16, down: true },
    Work::Bulk { sessions: 50, down: true },
    Work::Bulk { sessions: 1, down: false },
    Work::Bulk { sessions: 16, down: false },
    Work::Bulk { sessions: 50, down: false },
    Work::Trips { sessions: 1 },
    Work::Trips { sessions: 16 },
    Work::Trips { sessions: 50 },
    Work::NewSessions,
];

impl Work {
    /// Name and unit of its rows.
    fn rows(self) -> Vec<(String, &'static str)> {
        let counted = |n: usize| format!("{n} session{}", if n == 1 { "" } else { "s" });
        match self {
            Self::Bulk { sessions, down } => {
                let way = if down { "down" } else { "up" };
                let name = format!("{way}, {}", counted(sessions));
                vec![(name.clone(), "CPU s/GiB"), (name, "wall s/GiB")]
            }
            Self::Trips { sessions } => {
                let name = format!("64-byte trip, {}", counted(sessions));
                vec![(name.clone(), "CPU µs"), (format!("{name}, p50"), "µs"), (format!("{name}, p99"), "µs")]
            }
            Self::NewSessions => vec![("new session (ours: with login)".to_owned(), "CPU ms")],
            Self::Idle => IDLE.iter().map(|n| (format!("idle session, of {n}"), "KiB")).collect(),
        }
    }
}

/// Idle sessions at the same time, growing.
const IDLE: [usize; 3] = [1000, 3000, SESSIONS];

/// Sessions that come and go before memory is measured: what a process takes once is not an idle session's.
const WARM_UP: usize = 32;

async fn compare() -> Result<()> {
    raise_file_limit();
    let rounds = setting("QVD_BENCH_ROUNDS", 5.0) as usize;
    let span = Duration::from_secs_f64(setting("QVD_BENCH_SECONDS", 1.0));
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let desktop = Desktop::start().await?;
    let certificate = Certificate::make()?;
    describe_machine();

    let mut all: Vec<Peer> = Vec::new();
    all.push(RouterSite::start(dir.path(), desktop.port(), &certificate, SESSIONS + SPARE).await?);
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
    all.push(peers::buffered_tls(dir.path(), desktop.port(), &certificate).await?);
    all.push(Peer::new("direct", desktop.port(), Entry::Plain, Vec::new(), None));

    for peer in &all {
        if let Some(agreed) = peer.encryption().await? {
            println!("- {}: {agreed}", peer.name);
        }
    }
    println!(
        "- one password check (argon2id), part of each new session of ours: {:.1} ms CPU",
        password_check_ms()?
    );
    let aes = aes_s_per_gib()?;
    println!("- AES-256-GCM alone, records of 16 KiB: {aes:.3} CPU s/GiB");
    drained(&desktop).await?;

    let mut table = Vec::new();
    for work in WORK {
        let rows = work.rows();
        let mut samples = vec![vec![Samples::default(); all.len()]; rows.len()];
        // Memory of idle sessions only grows while a process lives: one round.
        let times = if matches!(work, Work::Idle) { 1 } else { rounds };
        for round in 0..times {
            // Each round begins with another one, so that none has always the same neighbour before it.
            for at in (0..all.len()).map(|step| (round + step) % all.len()) {
                let peer = &all[at];
                // A second entry of one process finds its memory grown already.
                if matches!(work, Work::Idle) && all[..at].iter().any(|other| other.pids == peer.pids) {
                    continue;
                }
                let values = measure(peer, &desktop, *work, span).await;
                let values = values.with_context(|| format!("{}: {}", peer.name, rows[0].0))?;
                for (row, value) in samples.iter_mut().zip(values) {
                    value.into_iter().for_each(|value| row[at].push(value));
                }
                drained(&desktop).await?;
            }
        }
        eprintln!("measured: {}", rows[0].0);
        table.extend(rows.into_iter().zip(samples));
    }
    print_table(&all, &table);
    targets::print(&all, &table, aes);
    Ok(())
}

/// One value for each row of this work; none where there is no process to account for.
async fn measure(peer: &Peer, desktop: &Desktop, work: Work, span: Duration) -> Result<Vec<Option<f64>>> {
    let accounted = !peer.pids.is_empty();
    Ok(match work {
        Work::Bulk { sessions, down } => {
            let (cpu, wall) = bulk(peer, sessions, span, down).await?;
            vec![accounted.then_some(cpu), Some(wall)]
        }
        Work::Trips { sessions } => {
            let (cpu, times) = trips(peer, sessions, span).await?;
            vec![accounted.then_some(cpu), Some(quantile(&times, 0.5)), Some(quantile(&times, 0.99))]
        }
        Work::NewSessions if accounted => vec![Some(new_sessions(peer, span).await?)],
        Work::Idle if accounted => idle(peer, desktop).await?.into_iter().map(Some).collect(),
        Work::NewSessions | Work::Idle => vec![None; work.rows().len()],
    })
}

/// Processor seconds of the proxy per GiB, and the seconds that a GiB takes.
async fn bulk(peer: &Peer, sessions: usize, span: Duration, down: bool) -> Result<(f64, f64)> {
    // About one second's worth on the machines at hand; the figure is per byte, so the amount only sets the noise.
    let total = (span.as_secs_f64() * f64::from(1u32 << 30)) as u64;
    let each = total / sessions as u64;
    let mut streams = Vec::new();
    for _ in 0..sessions {
        streams.push(peer.session().await?);
    }
    let (before, begun) = (cpu_time(&peer.pids)?, Instant::now());
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        tasks.spawn(async move {
            let done = if down { pull(&mut stream, each).await } else { push(&mut stream, each).await };
            done.map(|()| stream)
        });
    }
    let mut kept = Vec::new();
    while let Some(done) = tasks.join_next().await {
        kept.push(
            done.context("a transfer panicked")?
                .with_context(|| format!("transfer through {}", peer.name))?,
        );
    }
    let (used, taken) = (cpu_time(&peer.pids)? - before, begun.elapsed());
    let gib = (each * sessions as u64) as f64 / f64::from(1u32 << 30);
    Ok((used.as_secs_f64() / gib, taken.as_secs_f64() / gib))
}

/// Processor microseconds of the proxy per round trip of 64 bytes, and the microseconds that each one took.
async fn trips(peer: &Peer, sessions: usize, span: Duration) -> Result<(f64, Vec<f64>)> {
    let mut streams = Vec::new();
    for _ in 0..sessions {
        let mut stream = peer.session().await?;
        order(&mut stream, b'E', 0).await.context("cannot order an echo")?;
        streams.push(stream);
    }
    let before = cpu_time(&peer.pids)?;
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
    let used = cpu_time(&peer.pids)? - before;
    Ok((used.as_secs_f64() * 1e6 / times.len() as f64, times))
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

/// Resident KiB of the proxy per idle session, for each number of them.
async fn idle(peer: &Peer, desktop: &Desktop) -> Result<Vec<f64>> {
    for _ in 0..WARM_UP {
        let mut stream = peer.session().await?;
        pull(&mut stream, 1).await.context("a session carries nothing")?;
    }
    drained(desktop).await?;
    let before = resident_kib(&peer.pids)?;
    let mut streams = Vec::with_capacity(SESSIONS);
    let mut figures = Vec::new();
    for sessions in IDLE {
        while streams.len() < sessions {
            let mut stream = peer.session().await?;
            order(&mut stream, b'I', 0).await.context("cannot order idleness")?;
            streams.push(stream);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while desktop.open() < sessions as u64 {
            if Instant::now() > deadline {
                bail!("only {} of {sessions} sessions reached the desktop", desktop.open());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        figures.push(resident_kib(&peer.pids)?.saturating_sub(before) as f64 / sessions as f64);
    }
    Ok(figures)
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

/// Two tables as Markdown.
fn print_table(all: &[Peer], table: &[targets::Row]) {
    let names: Vec<&str> = all.iter().map(|peer| peer.name).collect();
    println!("\nMedian (minimum–maximum).\n\n| figure | unit | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(all.len()));
    for ((name, unit), samples) in table {
        let cells: Vec<String> = samples.iter().map(cell).collect();
        println!("| {name} | {unit} | {} |", cells.join(" | "));
    }
    println!(
        "\nRatios, ours to the others: below 1 ours needs less.\n\n| figure | {} |",
        names[1..].join(" | ")
    );
    println!("|---|{}", "---|".repeat(all.len() - 1));
    for ((name, unit), samples) in table {
        let ratio = |other: &Samples| match other.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.2}", samples[0].median() / other.median()),
        };
        let cells: Vec<String> = samples[1..].iter().map(ratio).collect();
        println!("| {name}, {unit} | {} |", cells.join(" | "));
    }
    println!("\nload after: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
}

fn cell(samples: &Samples) -> String {
    let digits = if samples.median() < 10.0 { 3 } else { 1 };
    match (samples.is_empty(), samples.min() < samples.max()) {
        (true, _) => "–".to_owned(),
        (false, true) => {
            format!("{:.digits$} ({:.digits$}–{:.digits$})", samples.median(), samples.min(), samples.max())
        }
        (false, false) => format!("{:.digits$}", samples.median()),
    }
}

fn describe_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("- machine: {model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("- load before: {}", read("/proc/loadavg").trim());
    // Router and generator are built by one cargo call; the directory has the profile's name.
    let own = std::env::current_exe().ok();
    let profile = own.as_deref().and_then(|path| path.parent()?.file_name()).unwrap_or_default();
    println!(
        "- build: profile {}{}",
        profile.display(),
        if cfg!(debug_assertions) { " (not optimised: figures mean nothing)" } else { "" }
    );
    println!("- threads: each party serves its sessions with one");
    println!("- TLS: full handshakes, ECDSA P-256; generator and ours: rustls with aws-lc-rs");
    for (program, arg, library) in
        [("haproxy", "-vv", "Running on OpenSSL version"), ("nginx", "-V", "built with")]
    {
        if let Ok(output) = std::process::Command::new(program).arg(arg).output() {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let library = text.lines().find_map(|line| line.split_once(library)).map_or("", |(_, name)| name);
            println!(
                "- peer: {}; TLS: {}",
                text.lines().next().unwrap_or_default(),
                library.trim_start_matches([':', ' '])
            );
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
