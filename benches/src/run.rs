//! One run: which parts, for how long, and what came of them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::book::Book;
use crate::{parts, results, targets};

/// A part of the bench, to be chosen by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Memory of idle sessions.
    Idle,
    /// Processor time per GiB.
    Bulk,
    /// Round trips.
    Trips,
    /// New sessions, full and resumed handshakes.
    Sessions,
    /// Two workers beside one.
    Workers,
    /// The forward path over a veth pair.
    Veth,
    /// The whole connect, by phase.
    Connect,
    /// Everybody comes at once.
    Storm,
}

impl Part {
    /// All of them, in the order in which they run. Memory comes first: of processes that have done nothing else.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Bulk,
        Self::Trips,
        Self::Sessions,
        Self::Workers,
        Self::Veth,
        Self::Connect,
        Self::Storm,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Bulk => "bulk",
            Self::Trips => "trips",
            Self::Sessions => "sessions",
            Self::Workers => "workers",
            Self::Veth => "veth",
            Self::Connect => "connect",
            Self::Storm => "storm",
        }
    }
}

/// What to run and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parts.
    pub parts: Vec<Part>,
    /// Rounds of each figure (`QVD_BENCH_ROUNDS`, 5).
    pub rounds: usize,
    /// Time of each figure (`QVD_BENCH_SECONDS`, 1).
    pub span: Duration,
    /// Time in which the users of a storm come (`QVD_BENCH_STORM_SECONDS`, 60).
    pub storm: Duration,
    /// Sizes of storms (`QVD_BENCH_STORM_USERS`, 250,500,1000).
    pub users: Vec<usize>,
    /// Numbers of idle sessions (`QVD_BENCH_IDLE`, 1000,3000,9000).
    pub idle: Vec<usize>,
}

impl Plan {
    /// The parts of these names, all when there are none; the rest from the environment.
    ///
    /// # Errors
    ///
    /// An unknown name, or a number that is none.
    pub fn new(names: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let words = |text: &str| -> Vec<String> {
            text.split([',', ' ']).filter(|w| !w.is_empty()).map(str::to_owned).collect()
        };
        let set = env("QVD_BENCH_PARTS").map(|text| words(&text)).unwrap_or_default();
        let names = if names.is_empty() { &set } else { names };
        let number = |name: &str, default: f64| match env(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| anyhow::anyhow!("{name}: '{text}' is no number")),
        };
        let numbers = |name: &str, default: &[usize]| match env(name) {
            None => Ok(default.to_vec()),
            Some(text) => words(&text)
                .iter()
                .map(|word| word.parse().map_err(|_| anyhow::anyhow!("{name}: '{word}' is no number")))
                .collect::<Result<Vec<usize>>>(),
        };
        Ok(Self {
            parts: chosen(names)?,
            rounds: number("QVD_BENCH_ROUNDS", 5.0)? as usize,
            span: Duration::from_secs_f64(number("QVD_BENCH_SECONDS", 1.0)?),
            storm: Duration::from_secs_f64(number("QVD_BENCH_STORM_SECONDS", 60.0)?),
            users: numbers("QVD_BENCH_STORM_USERS", &[250, 500, 1000])?,
            idle: numbers("QVD_BENCH_IDLE", &[1000, 3000, 9000])?,
        })
    }

    /// Whether a part is to run.
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

fn chosen(names: &[String]) -> Result<Vec<Part>> {
    if names.is_empty() {
        return Ok(Part::ALL.to_vec());
    }
    for name in names {
        if !Part::ALL.iter().any(|part| part.name() == name) {
            let all = Part::ALL.map(Part::name).join(", ");
            bail!("'{name}' is no part of the bench (one of: {all})");
        }
    }
    Ok(Part::ALL.into_iter().filter(|part| names.iter().any(|name| name == part.name())).collect())
}

/// Runs the plan. Each part's section is printed when it is done, the targets' last; all go into the results' file if
/// one is named.
///
/// # Errors
///
/// What a part meets; the parts before it have been printed.
pub async fn run(plan: &Plan, file: Option<&std::path::Path>) -> Result<()> {
    let mut book = Book::default();
    let mut aes = f64::NAN;
    let mut sections = Vec::new();
    let begun = Instant::now();
    let stream = plan.parts.iter().any(|part| matches!(part, Part::Idle | Part::Bulk | Part::Trips));
    if stream {
        sections.push(timed(parts::stream::run(plan, &mut book, &mut aes)).await?);
    }
    for part in &plan.parts {
        let section = match part {
            Part::Idle | Part::Bulk | Part::Trips => continue,
            Part::Sessions => timed(parts::sessions::run(plan, &mut book)).await?,
            Part::Workers => timed(parts::workers::run(plan, &mut book)).await?,
            Part::Veth => timed(parts::veth::run(plan, &mut book)).await?,
            Part::Connect => timed(parts::connect::run(plan, &mut book)).await?,
            Part::Storm => timed(parts::storm::run(plan, &mut book)).await?,
        };
        sections.push(section);
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let text = format!("{}\nThe run took {minutes:.1} minutes.\n", targets::table(&book, aes));
    let last = results::Section { title: targets::TITLE, text };
    results::print(&last);
    // A run of some parts says nothing on the others' targets, and leaves what is known of them.
    if plan.parts == Part::ALL {
        sections.push(last);
    }
    match file {
        Some(file) => results::record(file, &sections),
        None => Ok(()),
    }
}

/// Prints a section, and how long it took, when it is done.
async fn timed(part: impl Future<Output = Result<results::Section>>) -> Result<results::Section> {
    let begun = Instant::now();
    let mut section = part.await?;
    section.text += &format!(
        "\n{:.1} minutes; load afterwards: {}\n",
        begun.elapsed().as_secs_f64() / 60.0,
        crate::machine::load()
    );
    results::print(&section);
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_run_in_their_order_and_unknown_ones_are_named() {
        let names = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(&names(&["storm", "idle"])).unwrap(), [Part::Idle, Part::Storm]);
        assert_eq!(chosen(&[]).unwrap(), Part::ALL);
        assert!(chosen(&names(&["idel"])).unwrap_err().to_string().contains("'idel'"));
    }

    #[test]
    fn the_environment_chooses_where_the_command_line_does_not() {
        let env = |name: &str| match name {
            "QVD_BENCH_PARTS" => Some("bulk trips".to_owned()),
            "QVD_BENCH_STORM_USERS" => Some("10,20".to_owned()),
            _ => None,
        };
        let plan = Plan::new(&[], env).unwrap();
        assert_eq!((plan.parts, plan.users), (vec![Part::Bulk, Part::Trips], vec![10, 20]));
        assert_eq!(Plan::new(&["veth".to_owned()], env).unwrap().parts, [Part::Veth]);
        assert!(Plan::new(&[], |name| (name == "QVD_BENCH_ROUNDS").then(|| "x".to_owned())).is_err());
    }
}
