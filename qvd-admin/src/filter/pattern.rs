//! Wildcards and escapes.

/// A pattern with `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    One,
    Any,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Literal(chars.next_if(|next| is_special(*next)).unwrap_or('\\')),
                c => Part::Literal(c),
            });
        }
        // A run of stars says no more than one and would only cost time.
        parts.dedup_by(|a, b| *a == Part::Any && *b == Part::Any);
        Self { parts }
    }

    pub(super) fn has_wildcard(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    /// Whether the whole text matches. Takes at most the product of both lengths, whatever the pattern.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on when the characters after the last star turn out wrong.
        let mut retry = None;
        while at < text.len() {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    retry = Some((at, part));
                    part += 1;
                }
                Some(Part::One) => (at, part) = (at + 1, part + 1),
                Some(Part::Literal(c)) if *c == text[at] => (at, part) = (at + 1, part + 1),
                Some(Part::Literal(_)) | None => {
                    let Some((start, star)) = retry else { return false };
                    retry = Some((start + 1, star));
                    (at, part) = (start + 1, star + 1);
                }
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Any)
    }
}

/// The terms of a filter; an escaped comma does not separate.
pub(super) fn split_at_commas(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next_if(|(_, next)| is_special(*next));
            }
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn is_special(c: char) -> bool {
    matches!(c, ',' | '*' | '?' | '\\')
}
