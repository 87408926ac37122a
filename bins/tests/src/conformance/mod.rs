//! The conformance rows of the protocol page against the programs themselves: `qvd-l7r` with a real database and, for
//! the agent's rows, `qvd-vma` with a real nxagent.
//!
//! What the runner plays is what a row has to decide to the byte: clients ([`wire`], [`clients`]), the house-keeping
//! of the node ([`world`], [`host`]: they write the rows that a house-keeping daemon would), and the agent inside a virtual
//! machine where a row needs one that refuses, dawdles or dies on cue ([`desktop`]).
//!
//! Rows stand in groups; a group has a world of its own and takes its rows one after another, the groups run side by
//! side. A row that is not due yet says why.

pub mod agent;
pub mod clients;
pub mod desktop;
pub mod directory;
pub mod host;
pub mod router;
mod rows;
pub mod wire;
pub mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::LocalSet;

use world::{Setup, World};

/// Rows of the table.
pub const ROWS: u32 = 117;

/// A check under way.
pub(crate) type Checking = Pin<Box<dyn Future<Output = Result<()>>>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    number: u32,
    says: &'static str,
    due: Due,
}

/// Whether a row is looked at.
#[derive(Clone, Copy)]
enum Due {
    Now(fn(Arc<World>) -> Checking),
    /// Its check comes with the part that it is about.
    Later(&'static str),
}

/// Rows that share a world.
pub(crate) struct Group {
    setup: Setup,
    rows: Vec<Row>,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as the table says.
    Passed,
    /// It is not due yet, and why.
    Later(&'static str),
    /// It is not as the table says.
    Failed(String),
}

/// What became of all of them.
#[derive(Debug, Default)]
pub struct Totals {
    rows: BTreeMap<u32, (&'static str, Outcome)>,
}

impl Row {
    pub(crate) const fn new(number: u32, says: &'static str, check: fn(Arc<World>) -> Checking) -> Self {
        Self { number, says, due: Due::Now(check) }
    }

    /// A row whose check comes with the part that it is about.
    pub(crate) const fn unwritten(number: u32, says: &'static str, why: &'static str) -> Self {
        Self { number, says, due: Due::Later(why) }
    }
}

/// Makes a [`Row`] of an `async fn(&World) -> Result<()>`.
macro_rules! row {
    ($number:literal, $says:literal, $check:path) => {
        $crate::conformance::Row::new($number, $says, |world| Box::pin(async move { $check(&world).await }))
    };
}
pub(crate) use row;

impl Totals {
    /// A line for each row, in order.
    pub fn lines(&self) -> Vec<String> {
        let line = |(number, (says, outcome)): (&u32, &(&str, Outcome))| match outcome {
            Outcome::Passed => format!("row {number} passed: {says}"),
            Outcome::Later(why) => format!("row {number} later: {why} ({says})"),
            Outcome::Failed(why) => format!("row {number} FAILED: {says}: {why}"),
        };
        self.rows.iter().map(line).collect()
    }

    /// Rows that were looked at.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The rows that are not as the table says.
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// The numbers of the rows that are not due yet.
    pub fn later(&self) -> Vec<u32> {
        let is_later = |(number, (_, outcome)): (&u32, &(&str, Outcome))| {
            matches!(outcome, Outcome::Later(_)).then_some(*number)
        };
        self.rows.iter().filter_map(is_later).collect()
    }

    fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.rows.values().filter(|(_, outcome)| wanted(outcome)).count()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, later) = (self.count(|o| *o == Outcome::Passed), self.later().len());
        write!(f, "rows={} passed={passed} later={later} failed={}", self.rows(), self.failed())
    }
}

/// Checks these rows, or all of them when none is named.
///
/// # Errors
///
/// When a program is missing or the table does not hold every row once; a row that fails is an outcome.
pub fn check(only: &[u32]) -> Result<Totals> {
    let mut groups = rows::groups();
    let mut numbers: Vec<u32> = groups.iter().flat_map(|group| group.rows.iter().map(|r| r.number)).collect();
    numbers.sort_unstable();
    anyhow::ensure!(numbers == (1..=ROWS).collect::<Vec<_>>(), "not every row once: {numbers:?}");
    for program in ["qvd-l7r", "qvd-vma"] {
        crate::process::program(program)?;
    }
    for group in &mut groups {
        group.rows.retain(|row| only.is_empty() || only.contains(&row.number));
    }
    let left = Mutex::new(groups.into_iter());
    let totals = Mutex::new(Totals::default());
    let work = || -> Result<()> {
        while let Some(group) = next(&left) {
            // A runtime for each: what a check leaves behind ends with its group.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("cannot start a runtime")?;
            LocalSet::new().block_on(&runtime, group.check(&totals));
            runtime.shutdown_background();
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    Ok(totals.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn next(left: &Mutex<std::vec::IntoIter<Group>>) -> Option<Group> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next()
}

impl Group {
    pub(crate) fn new(setup: Setup, rows: Vec<Row>) -> Self {
        Self { setup, rows }
    }

    /// Takes the rows one after another. A world is made when the first row that is due needs it.
    async fn check(self, totals: &Mutex<Totals>) {
        let note = |row: &Row, outcome| {
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.rows.insert(row.number, (row.says, outcome));
        };
        let mut world: Option<Arc<World>> = None;
        for row in &self.rows {
            let check = match row.due {
                Due::Now(check) => check,
                Due::Later(why) => {
                    note(row, Outcome::Later(why));
                    continue;
                }
            };
            let made = match world.take() {
                Some(world) => Ok(world),
                None => World::start(&self.setup).await.map(Arc::new),
            };
            let outcome = match made {
                Ok(made) => {
                    world = Some(made.clone());
                    outcome(check, made).await
                }
                Err(error) => Outcome::Failed(format!("no world: {error:#}")),
            };
            if let (Outcome::Failed(_), Some(world)) = (&outcome, &world) {
                world.keep();
            }
            note(row, outcome);
        }
    }
}

async fn outcome(check: fn(Arc<World>) -> Checking, world: Arc<World>) -> Outcome {
    let kept = world.dir().display().to_string();
    // In a task of its own: a check that panics fails its row and nothing else.
    let checking = tokio::task::spawn_local(tokio::time::timeout(LIMIT, check(world)));
    let failed = match checking.await {
        Ok(Ok(Ok(()))) => return Outcome::Passed,
        Ok(Ok(Err(error))) => format!("{error:#}"),
        Ok(Err(_)) => format!("not done within {} s", LIMIT.as_secs()),
        Err(panic) => format!("it broke off: {panic}"),
    };
    Outcome::Failed(format!("{} (logs: {kept})", failed.replace('\n', " ")))
}

/// A row takes seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Groups at the same time. Most of the time each of them waits for something.
const SIDE_BY_SIDE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_adds_up_and_each_row_says_what_became_of_it() {
        let mut totals = Totals::default();
        totals.rows.insert(2, ("two", Outcome::Later("not built")));
        totals.rows.insert(1, ("one", Outcome::Passed));
        totals.rows.insert(3, ("three", Outcome::Failed("got 500".into())));
        assert_eq!(
            totals.lines(),
            ["row 1 passed: one", "row 2 later: not built (two)", "row 3 FAILED: three: got 500"]
        );
        assert_eq!(totals.to_string(), "rows=3 passed=1 later=1 failed=1");
    }

    #[test]
    fn the_table_holds_every_row_once() {
        let mut numbers: Vec<u32> =
            rows::groups().iter().flat_map(|group| group.rows.iter().map(|row| row.number)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    }
}
