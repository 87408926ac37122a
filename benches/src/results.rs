//! The results' file: a section for each part, so that a run of some parts leaves the others as they were.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What a part has to say, as Markdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What stands below.
    pub text: String,
}

/// Prints a section.
#[allow(clippy::print_stdout, reason = "the benchmark's output")]
pub fn print(section: &Section) {
    println!("\n## {}\n\n{}", section.title, section.text.trim());
}

/// Puts sections into the file in place of those of the same headings; new ones come last.
///
/// # Errors
///
/// When it cannot be written.
pub fn record(file: &Path, sections: &[Section]) -> Result<()> {
    let before = fs::read_to_string(file).unwrap_or_default();
    fs::write(file, merged(&before, sections)).with_context(|| format!("cannot write {}", file.display()))
}

fn merged(before: &str, sections: &[Section]) -> String {
    let (head, rest) = match before.find("\n## ") {
        Some(at) => before.split_at(at + 1),
        None => (before, ""),
    };
    let mut all: Vec<(String, String)> = rest
        .split("\n## ")
        .map(|text| text.strip_prefix("## ").unwrap_or(text))
        .filter(|text| !text.trim().is_empty())
        .map(|text| {
            let (title, body) = text.split_once('\n').unwrap_or((text, ""));
            (title.trim().to_owned(), body.trim().to_owned())
        })
        .collect();
    for section in sections {
        let body = section.text.trim().to_owned();
        match all.iter_mut().find(|(title, _)| title == section.title) {
            Some((_, known)) => *known = body,
            None => all.push((section.title.to_owned(), body)),
        }
    }
    let mut text = head.trim_end().to_owned();
    for (title, body) in all {
        text.push_str(&format!("\n\n## {title}\n\n{body}"));
    }
    text.push('\n');
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_replaced_and_others_stay() {
        let before = "# Results\n\nWords.\n\n## One\n\nold\n\n## Two\n\nkept\n";
        let sections = [
            Section { title: "One", text: "new\n".to_owned() },
            Section { title: "Three", text: "more".to_owned() },
        ];
        let after = merged(before, &sections);
        assert_eq!(after, "# Results\n\nWords.\n\n## One\n\nnew\n\n## Two\n\nkept\n\n## Three\n\nmore\n");
        assert_eq!(merged(&after, &sections), after);
        assert_eq!(merged("", &sections[1..]), "## Three\n\nmore\n");
    }
}
