//! What is to be reached, beside what was measured: the last thing that a run prints.

use std::fmt::Write as _;

use crate::book::Book;
use crate::figures::{Ratio, Samples};
use crate::run::Part;

/// Heading of the section.
pub const TITLE: &str = "Targets";

/// One limit on one figure.
struct Target {
    part: Part,
    figure: String,
    unit: &'static str,
    party: &'static str,
    against: Against,
    limit: f64,
    /// A better one that would be welcome.
    stretch: Option<f64>,
}

/// What a limit is a multiple of.
#[derive(Clone, Copy)]
enum Against {
    /// Another party.
    Party(&'static str),
    /// Another party's other figure.
    Figure(&'static str, &'static str),
    /// The plain copy's and the processor time of AES.
    Sealed,
    /// One: the figure is absolute, and no more than the limit.
    AtMost,
    /// One: the figure is absolute, and no less than the limit.
    AtLeast,
}

/// Every row of the table as Markdown, those that were not measured included; `aes` is the time of AES alone in
/// seconds per GiB.
pub fn table(book: &Book, aes: f64) -> String {
    let mut text = String::from(
        "H is HAProxy, P the plain copy without TLS; a span is that of the ratios round by round.\n\n\
         | figure | of | target | measured | |\n|---|---|---|---|---|\n",
    );
    for target in targets() {
        let limit = match target.against {
            Against::Party(name) => format!("≤ {:.2} × {}", target.limit, short(name)),
            Against::Figure(figure, name) => format!("≤ {:.2} × {} ({figure})", target.limit, short(name)),
            Against::Sealed => format!("≤ {:.2} × (P + AES {aes:.3} s)", target.limit),
            Against::AtMost => format!("≤ {} {}", target.limit, target.unit),
            Against::AtLeast => format!("≥ {} {}", target.limit, target.unit),
        };
        let (measured, verdict) = match measure(&target, book, aes) {
            Some(ratio) if ratio.min < ratio.max => (
                format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
                verdict(&target, ratio.median),
            ),
            Some(ratio) => (format!("{:.2}", ratio.median), verdict(&target, ratio.median)),
            None => ("–".to_owned(), format!("not measured (part `{}`)", target.part.name())),
        };
        let _ = writeln!(
            text,
            "| {}, {} | {} | {limit} | {measured} | {verdict} |",
            target.figure, target.unit, target.party
        );
    }
    text
}

fn measure(target: &Target, book: &Book, aes: f64) -> Option<Ratio> {
    let find = |figure: &str, party: &str| book.samples(target.part.name(), figure, target.unit, party);
    let ours = find(&target.figure, target.party)?;
    match target.against {
        Against::Party(name) => find(&target.figure, name).map(|theirs| ours.ratio_to(theirs)),
        Against::Figure(figure, name) => find(figure, name).map(|theirs| ours.ratio_to(theirs)),
        Against::Sealed => {
            let plain = find(&target.figure, "plain copy").filter(|_| aes.is_finite())?;
            Some(ours.ratio_to(&plain.more(aes)))
        }
        Against::AtMost | Against::AtLeast => {
            Some(Ratio { median: ours.median(), min: ours.min(), max: ours.max() })
        }
    }
}

fn verdict(target: &Target, measured: f64) -> String {
    let over = |limit: f64| match target.against {
        Against::AtLeast => limit - measured,
        _ => measured - limit,
    };
    match (over(target.limit), target.stretch) {
        (miss, _) if miss > 0.0 => format!("missed by {miss:.2}"),
        (_, Some(stretch)) if over(stretch) <= 0.0 => format!("met, and the stretch {stretch:.2}"),
        (miss, _) if miss <= 0.0 => "met".to_owned(),
        _ => "not a number".to_owned(),
    }
}

fn short(party: &str) -> &str {
    match party {
        "HAProxy" => "H",
        "HAProxy plain" => "H plain",
        "plain copy" => "P",
        other => other,
    }
}

fn targets() -> Vec<Target> {
    let target = |part, figure: &str, unit, against, limit| Target {
        part,
        figure: figure.to_owned(),
        unit,
        party: "ours",
        against,
        limit,
        stretch: None,
    };
    let haproxy = Against::Party("HAProxy");
    let copy = Against::Party("plain copy");
    let mut all = Vec::new();
    for (way, limit, stretch, sealed) in [("down", 0.50, 0.42, 1.15), ("up", 0.48, 0.40, 1.20)] {
        for sessions in ["1 session", "16 sessions"] {
            let figure = format!("{way}, {sessions}");
            let to_haproxy = target(Part::Bulk, &figure, "CPU s/GiB", haproxy, limit);
            all.push(Target { stretch: Some(stretch), ..to_haproxy });
            all.push(target(Part::Bulk, &figure, "CPU s/GiB", Against::Sealed, sealed));
        }
    }
    for (sessions, cpu, p50) in [("1 session", 0.88, 1.0), ("50 sessions", 0.92, 1.15)] {
        let figure = format!("64-byte trip, {sessions}");
        all.push(target(Part::Trips, &figure, "CPU µs", haproxy, cpu));
        all.push(target(Part::Trips, &figure, "CPU µs", copy, 1.15));
        all.push(target(Part::Trips, &format!("{figure}, p50"), "µs", haproxy, p50));
        all.push(target(Part::Trips, &format!("{figure}, p99"), "µs", haproxy, 1.1));
    }
    for (figure, whole, limit) in [
        ("handshake and answer from memory, ECDSA P-256", "new session, ECDSA P-256", 0.48),
        ("handshake and answer from memory, RSA-2048", "new session, RSA-2048", 0.68),
    ] {
        all.push(target(Part::Sessions, figure, "CPU ms", haproxy, limit));
        all.push(target(Part::Sessions, figure, "CPU ms", Against::Figure(whole, "HAProxy"), limit));
    }
    let resumed = Against::Figure("handshake and answer from memory, ECDSA P-256", "HAProxy");
    all.push(target(Part::Sessions, "resumed handshake and answer from memory", "CPU ms", resumed, 0.25));
    for number in [3000, 9000] {
        let figure = format!("idle session, of {number}");
        all.push(target(Part::Idle, &figure, "KiB", haproxy, 0.40));
        all.push(target(Part::Idle, &figure, "KiB", Against::AtMost, 6.0));
    }
    for way in ["down", "up"] {
        for sessions in ["1 session", "16 sessions", "50 sessions"] {
            let figure = format!("{way}, {sessions}");
            for (against, limit) in [(Against::Party("HAProxy plain"), 0.60), (copy, 0.9)] {
                let plain = target(Part::Bulk, &figure, "CPU s/GiB", against, limit);
                all.push(Target { party: "ours plain", ..plain });
            }
        }
    }
    for sessions in [16, 50] {
        let figure = format!("down, {sessions} sessions, two workers to one");
        all.push(target(Part::Workers, &figure, "× the bytes", Against::AtLeast, 1.8));
    }
    for database in ["SQLite", "PostgreSQL"] {
        for at_once in [1, 8, 32] {
            for (share, limit) in [("p50", 30.0), ("p99", 100.0)] {
                let figure = format!("first byte to 101, {at_once} at once, {share}");
                let whole = target(Part::Connect, &figure, "ms", Against::AtMost, limit);
                all.push(Target { party: database, ..whole });
            }
        }
    }
    for database in ["SQLite", "PostgreSQL"] {
        let errors = target(Part::Storm, "1000 users, errors", "errors", Against::AtMost, 0.0);
        all.push(Target { party: database, ..errors });
        // The last one comes at the end of the minute.
        let lasted = target(Part::Storm, "1000 users, first to last", "s", Against::AtMost, 61.0);
        all.push(Target { party: database, ..lasted });
    }
    all
}

impl Samples {
    /// These with a constant on top.
    fn more(&self, constant: f64) -> Self {
        let mut more = Self::default();
        self.values().iter().for_each(|value| more.push(value + constant));
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_there_with_its_verdict() {
        let mut book = Book::default();
        for (party, value) in [("ours", 0.45), ("HAProxy", 1.0), ("plain copy", 0.3), ("ours plain", 0.3)] {
            book.push("bulk", "down, 1 session", "CPU s/GiB", party, value);
        }
        book.push("connect", "first byte to 101, 8 at once, p50", "ms", "SQLite", 31.5);
        book.push("workers", "down, 16 sessions, two workers to one", "× the bytes", "ours", 1.9);
        let table = table(&book, 0.1);
        let row = |start: &str| table.lines().filter(|l| l.starts_with(start)).collect::<Vec<_>>().join("\n");
        let down = row("| down, 1 session, CPU s/GiB | ours |");
        assert!(down.contains("| ≤ 0.50 × H | 0.45 | met |"), "{down}");
        assert!(down.contains("| ≤ 1.15 × (P + AES 0.100 s) | 1.12 | met |"), "{down}");
        let plain = row("| down, 1 session, CPU s/GiB | ours plain |");
        assert!(plain.contains("| ≤ 0.90 × P | 1.00 | missed by 0.10 |"), "{plain}");
        assert!(row("| first byte to 101, 8").contains("| ≤ 30 ms | 31.50 | missed by 1.50 |"));
        assert!(row("| down, 16 sessions, two").contains("| ≥ 1.8 × the bytes | 1.90 | met |"));
        assert!(table.contains("not measured (part `storm`)"));
    }
}
