//! The whole connect of a user whose machine runs already, by phase, as the client sees it: from its first byte to the
//! 101.
//!
//! The times are the client's, so they hold everything of the router, the database, the agent and the way between;
//! where many connect at once they also hold what the generator's own handshakes take of the same processors.
//!
//! | phase | ends with |
//! |---|---|
//! | TLS | the handshake, TCP's included |
//! | login and list | the list of machines; the password was right within the last minute, so it is not hashed |
//! | claim | "Session acquired": machine found and allowed, row taken |
//! | VMA | "Connecting X session": the agent was asked, has started the desktop, and said that it listens |
//! | 101 | the 101: desktop dialled, row committed |
//!
//! Login and list are told apart on connections of their own, by asking for the list twice: only the first costs a login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use qvd_db::testkit::TemporaryPostgres;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::book::Book;
use crate::client::{Answers, Tls, authorization, connect_request, full_handshakes, send, shake_hands};
use crate::desktop::{Desktop, pull};
use crate::figures::quantile;
use crate::load::drained;
use crate::machine;
use crate::peers::{Certificate, Peer};
use crate::place::Place;
use crate::results::Section;
use crate::run::{Part, Plan};
use crate::site::{PASSWORD, RouterSite, password_check_ms};

/// How many connect at once.
const SIZES: [usize; 3] = [1, 8, 32];

/// Machines of each user: one that was just left is still being given back when the next batch comes.
const MACHINES: usize = 4;

/// The proof of a right password holds for a minute; figures are taken within it.
const PROVEN: Duration = Duration::from_secs(45);

/// Measures over both databases.
///
/// # Errors
///
/// When the router does not start or refuses a user.
pub async fn run(plan: &Plan, book: &mut Book) -> Result<Section> {
    let mut text = machine::describe();
    text += &format!(
        "- one password check (argon2id), not among the figures: {:.1} ms CPU\n\nWhat the client sees, the machine running \
         already. Many at once share two processors with the generator that shakes hands with them.\n\n",
        password_check_ms()?
    );
    // Ends when this function does.
    let postgres = TemporaryPostgres::start().await;
    let mut databases = vec![("SQLite", None)];
    match &postgres {
        Some(postgres) => databases.push(("PostgreSQL", Some(postgres.database().await))),
        None => text += "PostgreSQL is not installed: left out.\n\n",
    }
    for (name, database) in databases {
        let dir = tempfile::tempdir().context("no temporary directory")?;
        let desktop = Desktop::start().await?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let users = SIZES.iter().sum();
        let site = RouterSite { workers, users, machines: MACHINES, database, ..RouterSite::default() };
        let certificate = Certificate::ecdsa()?;
        let router = site.start(&Place::loopback(), dir.path(), desktop.port(), &certificate).await?;
        let router = Arc::new(router);
        let mut first = 0;
        for size in SIZES {
            measure(plan, book, name, &router, &desktop, first, size).await?;
            first += size;
            eprintln!("measured: connect, {name}, {size} at once");
        }
    }
    text += &book.table(Part::Connect.name(), &["SQLite", "PostgreSQL"]);
    Ok(Section { title: "The whole connect", text })
}

/// Users `first` and up connect together, again and again.
async fn measure(
    plan: &Plan,
    book: &mut Book,
    database: &str,
    router: &Arc<Peer>,
    desktop: &Desktop,
    first: usize,
    size: usize,
) -> Result<()> {
    let users = first..first + size;
    for user in users.clone() {
        list_twice(router.clone(), user, Arc::new(Barrier::new(1))).await?;
    }
    let proven = Instant::now();
    let batches = (plan.rounds * 20 / size).max(plan.rounds * 2);
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    for batch in 0..batches {
        if proven.elapsed() > PROVEN {
            break;
        }
        let barrier = Arc::new(Barrier::new(size));
        let (mut lists, mut visits) = (JoinSet::new(), JoinSet::new());
        for user in users.clone() {
            lists.spawn(list_twice(router.clone(), user, barrier.clone()));
        }
        gather(&mut all, lists).await?;
        for user in users.clone() {
            let machine = user * MACHINES + batch % MACHINES + 1;
            visits.spawn(visit(router.clone(), user, machine, barrier.clone()));
        }
        gather(&mut all, visits).await?;
        drained(desktop).await?;
    }
    for (phase, times) in &all {
        for (word, share) in [("p50", 0.5), ("p99", 0.99)] {
            let figure = format!("{phase}, {size} at once, {word}");
            book.push(Part::Connect.name(), &figure, "ms", database, quantile(times, share));
        }
    }
    Ok(())
}

/// Milliseconds of each phase.
type Phases = Vec<(&'static str, f64)>;

async fn gather(all: &mut Vec<(&'static str, Vec<f64>)>, mut tasks: JoinSet<Result<Phases>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        for (phase, time) in done.context("a visit panicked")?? {
            match all.iter_mut().find(|(name, _)| *name == phase) {
                Some((_, times)) => times.push(time),
                None => all.push((phase, vec![time])),
            }
        }
    }
    Ok(())
}

async fn visit(router: Arc<Peer>, user: usize, machine: usize, barrier: Arc<Barrier>) -> Result<Phases> {
    barrier.wait().await;
    let begun = Instant::now();
    let shown = shown(user);
    let (mut tls, mut answers) = (greet(&router).await?, Answers::default());
    let greeted = begun.elapsed();
    list(&mut tls, &mut answers, &shown).await?;
    let listed = begun.elapsed();
    send(&mut tls, &connect_request(machine, &shown)).await?;
    let (mut acquired, mut connecting) = (None, None);
    let told = |remarks: &[String]| {
        let is = |text: &str| remarks.iter().any(|remark| remark.starts_with(text));
        if is("Session acquired") {
            acquired = Some(begun.elapsed());
        }
        if is("Connecting X session") {
            connecting = Some(begun.elapsed());
        }
    };
    answers.switched(&mut tls, told).await?;
    let switched = begun.elapsed();
    pull(&mut tls, 1).await.context("the session carries nothing")?;
    let acquired = acquired.context("the client was not told of its session")?;
    let connecting = connecting.context("the client was not told of the desktop")?;
    let ms = |to: Duration, from: Duration| (to - from).as_secs_f64() * 1e3;
    Ok(vec![
        ("first byte to 101", ms(switched, Duration::ZERO)),
        ("TLS", ms(greeted, Duration::ZERO)),
        ("login and list", ms(listed, greeted)),
        ("claim", ms(acquired, listed)),
        ("VMA", ms(connecting, acquired)),
        ("101", ms(switched, connecting)),
    ])
}

async fn list_twice(router: Arc<Peer>, user: usize, barrier: Arc<Barrier>) -> Result<Phases> {
    barrier.wait().await;
    let shown = shown(user);
    let (mut tls, mut answers) = (greet(&router).await?, Answers::default());
    let mut times = [0.0; 2];
    for time in &mut times {
        let begun = Instant::now();
        list(&mut tls, &mut answers, &shown).await?;
        *time = begun.elapsed().as_secs_f64() * 1e3;
    }
    let [both, list] = times;
    Ok(vec![("login alone", (both - list).max(0.0)), ("list alone", list)])
}

async fn greet(router: &Peer) -> Result<Tls> {
    shake_hands(router.dial().await?, full_handshakes()).await
}

async fn list(tls: &mut Tls, answers: &mut Answers, shown: &str) -> Result<()> {
    send(tls, &format!("GET /qvd/list_of_vm HTTP/1.1\r\n{shown}")).await?;
    let (answer, _) = answers.next(tls).await?;
    ensure!(answer.code == 200, "no list but {}: {}", answer.code, answer.body.trim());
    Ok(())
}

fn shown(user: usize) -> String {
    authorization(&format!("bench{}", user + 1), PASSWORD)
}
