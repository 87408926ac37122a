//! The load generator: bulk, round trips, new sessions, idle ones; the same for every party.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::desktop::{Desktop, order, pull, push};
use crate::figures::{cpu_time, idle_time, resident_kib, thread_times};
use crate::peers::Peer;

/// What moving bytes took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Processor seconds of the proxy per GiB.
    pub cpu: f64,
    /// Those of its busiest thread.
    pub busiest: f64,
    /// Seconds that a GiB took.
    pub wall: f64,
    /// Share of the machine's processors that was idle meanwhile.
    pub idle: f64,
}

/// Moves bytes through so many sessions at the same time, from the desktop or to it.
///
/// # Errors
///
/// When a session breaks.
pub async fn bulk(peer: &Peer, sessions: usize, span: Duration, down: bool) -> Result<Moved> {
    // About one second's worth on the machines at hand; the figure is per byte, so the amount only sets the noise.
    let total = (span.as_secs_f64() * f64::from(1u32 << 30)) as u64;
    let each = total / sessions as u64;
    let mut streams = Vec::new();
    for _ in 0..sessions {
        streams.push(peer.session().await?);
    }
    let (before, threads, idle) = (cpu_time(&peer.pids)?, thread_times(&peer.pids)?, idle_time()?);
    let begun = Instant::now();
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
    let taken = begun.elapsed().as_secs_f64();
    let used = (cpu_time(&peer.pids)? - before).as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let idle = (idle_time()?.saturating_sub(idle)).as_secs_f64() / cores / taken;
    let own =
        |(id, time): (&i32, &Duration)| time.saturating_sub(threads.get(id).copied().unwrap_or_default());
    let busiest = thread_times(&peer.pids)?.iter().map(own).max().unwrap_or_default().as_secs_f64();
    let gib = (each * sessions as u64) as f64 / f64::from(1u32 << 30);
    Ok(Moved { cpu: used / gib, busiest: busiest / gib, wall: taken / gib, idle })
}

/// Processor microseconds of the proxy per round trip of 64 bytes, and the microseconds that each one took.
///
/// # Errors
///
/// When a session breaks.
pub async fn trips(peer: &Peer, sessions: usize, span: Duration) -> Result<(f64, Vec<f64>)> {
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

/// Microseconds that round trips of 64 bytes of one session took while others were sent as much as they could take.
///
/// # Errors
///
/// When a session breaks.
pub async fn trips_beside(peer: &Peer, busy: usize, span: Duration) -> Result<Vec<f64>> {
    // More than any party moves in the time; who is left behind is cut.
    const MUCH: u64 = 1 << 40;
    let mut flows = JoinSet::new();
    for _ in 0..busy {
        let mut stream = peer.session().await?;
        flows.spawn(async move { pull(&mut stream, MUCH).await });
    }
    tokio::select! {
        done = trips(peer, 1, span) => done.map(|(_, times)| times),
        Some(ended) = flows.join_next() => {
            ended.context("a transfer panicked")??;
            bail!("a transfer through {} ended too early", peer.name)
        }
    }
}

/// Processor milliseconds of the proxy for each time that something is done, one after another, for a while.
///
/// # Errors
///
/// What goes wrong in it.
pub async fn each_time<F: Future<Output = Result<()>>>(
    peer: &Peer,
    span: Duration,
    mut done: impl FnMut() -> F,
) -> Result<f64> {
    // What is only done once, such as a login that is remembered from then on, is not part of it.
    done().await?;
    let before = cpu_time(&peer.pids)?;
    let end = Instant::now() + span;
    let mut count = 0u32;
    while count == 0 || Instant::now() < end {
        done().await?;
        count += 1;
    }
    let used = cpu_time(&peer.pids)? - before;
    Ok(used.as_secs_f64() * 1e3 / f64::from(count))
}

/// Resident KiB of the proxy per idle session, for each number of them.
///
/// # Errors
///
/// When a session cannot be had.
pub async fn idle(peer: &Peer, desktop: &Desktop, numbers: &[usize]) -> Result<Vec<f64>> {
    for _ in 0..WARM_UP {
        let mut stream = peer.session().await?;
        pull(&mut stream, 1).await.context("a session carries nothing")?;
    }
    drained(desktop).await?;
    let before = resident_kib(&peer.pids)?;
    let mut streams = Vec::new();
    let mut figures = Vec::new();
    for sessions in numbers {
        while streams.len() < *sessions {
            let mut stream = peer.session().await?;
            order(&mut stream, b'I', 0).await.context("cannot order idleness")?;
            streams.push(stream);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while desktop.open() < *sessions as u64 {
            if Instant::now() > deadline {
                bail!("only {} of {sessions} sessions reached the desktop", desktop.open());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        figures.push(resident_kib(&peer.pids)?.saturating_sub(before) as f64 / *sessions as f64);
    }
    Ok(figures)
}

/// Waits until the desktop holds no connection of the last figure.
///
/// # Errors
///
/// When that does not come to pass.
pub async fn drained(desktop: &Desktop) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while desktop.open() > 0 {
        if Instant::now() > deadline {
            bail!("{} connections to the desktop never ended", desktop.open());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Sessions that come and go before memory is measured: what a process takes once is not an idle session's.
const WARM_UP: usize = 32;
