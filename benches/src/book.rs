//! Everything that a run measured: one row for each figure, one column for each party.

use std::fmt::Write as _;

use crate::figures::Samples;

/// The rows of a run.
#[derive(Debug, Default)]
pub struct Book(Vec<Row>);

#[derive(Debug)]
struct Row {
    part: &'static str,
    figure: String,
    unit: String,
    cells: Vec<(String, Samples)>,
}

impl Book {
    /// Writes one value down.
    pub fn push(&mut self, part: &'static str, figure: &str, unit: &str, party: &str, value: f64) {
        let same = |row: &Row| row.part == part && row.figure == figure && row.unit == unit;
        let at = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(Row { part, figure: figure.to_owned(), unit: unit.to_owned(), cells: Vec::new() });
            self.0.len() - 1
        });
        let cells = &mut self.0[at].cells;
        match cells.iter_mut().find(|(name, _)| name == party) {
            Some((_, samples)) => samples.push(value),
            None => {
                let mut samples = Samples::default();
                samples.push(value);
                cells.push((party.to_owned(), samples));
            }
        }
    }

    /// What was measured of one figure of one party.
    pub fn samples(&self, part: &str, figure: &str, unit: &str, party: &str) -> Option<&Samples> {
        let row = self.0.iter().find(|r| r.part == part && r.figure == figure && r.unit == unit)?;
        row.cell(party)
    }

    /// Every value: figure, unit, party, value.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str, &str, f64)> {
        self.0.iter().flat_map(|row| {
            row.cells.iter().flat_map(move |(party, samples)| {
                let values = samples.values().iter();
                values.map(move |value| (row.figure.as_str(), row.unit.as_str(), party.as_str(), *value))
            })
        })
    }

    /// Whether anything of a part was measured.
    pub fn has(&self, part: &str) -> bool {
        self.0.iter().any(|row| row.part == part)
    }

    /// A part's medians as Markdown; empty when nothing was measured. Parties stand in this order.
    pub fn table(&self, part: &str, parties: &[&str]) -> String {
        let mut text = String::new();
        let rows: Vec<&Row> = self.0.iter().filter(|row| row.part == part).collect();
        let parties = present(&rows, parties);
        if rows.is_empty() {
            return text;
        }
        let _ = writeln!(text, "Median (minimum–maximum).\n\n| figure | unit | {} |", parties.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---|".repeat(parties.len()));
        for row in rows {
            let cells: Vec<String> =
                parties.iter().map(|p| row.cell(p).map_or("–".to_owned(), cell)).collect();
            let _ = writeln!(text, "| {} | {} | {} |", row.figure, row.unit, cells.join(" | "));
        }
        text
    }

    /// A part's ratios of one party to the others as Markdown; empty when nothing was measured.
    pub fn ratios(&self, part: &str, own: &str, parties: &[&str]) -> String {
        let mut text = String::new();
        let rows: Vec<&Row> =
            self.0.iter().filter(|row| row.part == part && row.cell(own).is_some()).collect();
        let mut parties = present(&rows, parties);
        parties.retain(|name| *name != own);
        if rows.is_empty() || parties.is_empty() {
            return text;
        }
        let _ = writeln!(
            text,
            "Ratios, {own} to the others: below 1 {own} needs less.\n\n| figure | {} |\n|---|{}",
            parties.join(" | "),
            "---|".repeat(parties.len())
        );
        for row in rows {
            let Some(ours) = row.cell(own) else { continue };
            let ratio = |party: &&str| match row.cell(party) {
                Some(theirs) => format!("{:.2}", ours.ratio_to(theirs).median),
                None => "–".to_owned(),
            };
            let cells: Vec<String> = parties.iter().map(ratio).collect();
            let _ = writeln!(text, "| {}, {} | {} |", row.figure, row.unit, cells.join(" | "));
        }
        text
    }
}

impl Row {
    fn cell(&self, party: &str) -> Option<&Samples> {
        self.cells.iter().find(|(name, _)| name == party).map(|(_, samples)| samples)
    }
}

/// The parties of these rows, those of `order` first.
fn present<'a>(rows: &[&'a Row], order: &[&'a str]) -> Vec<&'a str> {
    let in_rows = |name: &&str| rows.iter().any(|row| row.cell(name).is_some());
    let mut names: Vec<&str> = order.iter().copied().filter(in_rows).collect();
    for (name, _) in rows.iter().flat_map(|row| &row.cells) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn cell(samples: &Samples) -> String {
    let digits = if samples.median() < 10.0 { 3 } else { 1 };
    match samples.min() < samples.max() {
        true => {
            format!("{:.digits$} ({:.digits$}–{:.digits$})", samples.median(), samples.min(), samples.max())
        }
        false => format!("{:.digits$}", samples.median()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_gather_rounds_and_parties_keep_their_order() {
        let mut book = Book::default();
        for value in [2.0, 1.0, 3.0] {
            book.push("bulk", "down", "s", "HAProxy", 2.0 * value);
            book.push("bulk", "down", "s", "ours", value);
        }
        book.push("other", "up", "s", "ours", 1.0);
        let table = book.table("bulk", &["ours", "HAProxy", "nginx"]);
        assert!(table.contains("| figure | unit | ours | HAProxy |\n"), "{table}");
        assert!(table.contains("| down | s | 2.000 (1.000–3.000) | 4.000 (2.000–6.000) |"), "{table}");
        let ratios = book.ratios("bulk", "ours", &[]);
        assert!(ratios.contains("| down, s | 0.50 |"), "{ratios}");
        assert!(book.has("other") && !book.has("trips") && book.table("trips", &[]).is_empty());
    }
}
