//! What every backend must do alike: one case per law, each on an empty database of its own.

#![allow(clippy::unwrap_used, reason = "a case that fails panics, and the panic names the line")]

mod counters;
mod crashes;
mod edits;
mod hosts;
mod images;
mod launches;
mod notices;
mod objects;
mod provision;
mod races;
mod runs;
mod sessions;
mod takeover;
mod tokens;
mod upgrades;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{NewerSchema, Site};

/// A case: its name says the law.
pub type Case = (&'static str, fn(Site) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Makes the list of a file's cases.
macro_rules! case_list {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[super::Case] = &[$((stringify!($name), |site| Box::pin($name(site)))),*];
    };
}
use case_list;

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        objects::CASES,
        counters::CASES,
        hosts::CASES,
        takeover::CASES,
        launches::CASES,
        runs::CASES,
        sessions::CASES,
        images::CASES,
        notices::CASES,
        crashes::CASES,
        races::CASES,
        edits::CASES,
        provision::CASES,
        tokens::CASES,
        upgrades::CASES,
    ]
    .concat()
}

/// Runs all cases, each on what `fresh` yields: an empty database. Cases that fail do not keep the others from running.
///
/// # Panics
///
/// When a case failed, with the names of all that did.
pub async fn run<F: Future<Output = Site>>(fresh: impl Fn() -> F) {
    run_these(cases(), fresh).await;
}

/// As [`run`], on databases that are one version ahead of this program, which adds only; without the cases that bring
/// them there.
///
/// # Panics
///
/// When a case failed, with the names of all that did.
pub async fn run_ahead<F: Future<Output = Site>>(fresh: impl Fn() -> F) {
    let ahead = async || {
        let site = fresh().await;
        site.db.deploy_newer(NewerSchema::Additive).await.expect("nothing is in its way");
        site
    };
    let upgrades = upgrades::CASES.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    run_these(cases().into_iter().filter(|(name, _)| !upgrades.contains(name)), ahead).await;
}

async fn run_these<F: Future<Output = Site>>(cases: impl IntoIterator<Item = Case>, fresh: impl Fn() -> F) {
    let mut failed = Vec::new();
    for (name, case) in cases {
        let site = fresh().await;
        let db = site.db.clone();
        let outcome = tokio::time::timeout(LONGEST, tokio::spawn(case(site))).await;
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("failed: {name}: {outcome:?}");
            failed.push(name);
        }
        db.close().await;
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// No case takes longer, unless it hangs.
const LONGEST: Duration = Duration::from_secs(60);
