//! What the forward path is to reach, beside what was measured.

use crate::figures::Samples;
use crate::peers::Peer;

/// One figure: name, unit, the samples of each party.
pub type Row = ((String, &'static str), Vec<Samples>);

/// A figure's two limits: against HAProxy, and against a plain copy with the processor time of AES beside it.
struct Target {
    figure: &'static str,
    unit: &'static str,
    to_haproxy: f64,
    to_floor: Option<f64>,
    sealed: bool,
}

const fn bulk(figure: &'static str, to_haproxy: f64, to_floor: f64) -> Target {
    Target { figure, unit: "CPU s/GiB", to_haproxy, to_floor: Some(to_floor), sealed: true }
}

const TARGETS: &[Target] = &[
    bulk("down, 1 session", 0.50, 1.15),
    bulk("down, 16 sessions", 0.50, 1.15),
    bulk("up, 1 session", 0.48, 1.20),
    bulk("up, 16 sessions", 0.48, 1.20),
    Target { to_floor: Some(1.15), ..trip("64-byte trip, 1 session", "CPU µs", 0.88) },
    Target { to_floor: Some(1.15), ..trip("64-byte trip, 50 sessions", "CPU µs", 0.92) },
    trip("64-byte trip, 1 session, p50", "µs", 1.0),
    trip("64-byte trip, 50 sessions, p50", "µs", 1.15),
    trip("64-byte trip, 1 session, p99", "µs", 1.1),
    trip("64-byte trip, 50 sessions, p99", "µs", 1.1),
    trip("idle session, of 3000", "KiB", 0.40),
    trip("idle session, of 9000", "KiB", 0.40),
];

const fn trip(figure: &'static str, unit: &'static str, to_haproxy: f64) -> Target {
    Target { figure, unit, to_haproxy, to_floor: None, sealed: false }
}

/// Prints each target and what was reached, as Markdown; `aes` is the time of AES alone in seconds per GiB.
#[allow(clippy::print_stdout, reason = "a table of the benchmark's output")]
pub fn print(all: &[Peer], table: &[Row], aes: f64) {
    let column = |name: &str| all.iter().position(|peer| peer.name == name);
    let (haproxy, plain) = (column("HAProxy"), column("plain copy"));
    println!("\nTargets. The floor is the plain copy, with AES beside it where bytes count.\n");
    println!("| figure | to HAProxy | target | to the floor | target | |\n|---|---|---|---|---|---|");
    for target in TARGETS {
        let Some((_, samples)) =
            table.iter().find(|((name, unit), _)| name == target.figure && *unit == target.unit)
        else {
            continue;
        };
        let median = |at: Option<usize>| at.map(|at| samples[at].median()).filter(|value| value.is_finite());
        let ours = samples[0].median();
        let to_haproxy = median(haproxy).map(|theirs| ours / theirs);
        let floor = |plain: f64| plain + if target.sealed { aes } else { 0.0 };
        let to_floor = target.to_floor.and(median(plain)).map(|plain| ours / floor(plain));
        let met = to_haproxy.is_none_or(|ratio| ratio <= target.to_haproxy)
            && to_floor.zip(target.to_floor).is_none_or(|(ratio, limit)| ratio <= limit);
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        println!(
            "| {}, {} | {} | {:.2} | {} | {} | {} |",
            target.figure,
            target.unit,
            number(to_haproxy),
            target.to_haproxy,
            number(to_floor),
            number(target.to_floor),
            if met { "met" } else { "missed" }
        );
    }
}
