//! The little of CSV that the key table needs: quoted fields, one record per line.

/// One line of the table.
pub(super) struct Record {
    pub(super) fields: Vec<&'static str>,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// The records of a text; blank lines are none. A field may stand in double quotes to hold commas; a doubled
/// quote inside is one quote.
pub(super) fn records(text: &'static str) -> impl Iterator<Item = Record> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered.map(|(index, line)| Record { fields: fields(line), line: index + 1 })
}

fn fields(line: &'static str) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut rest = Some(line);
    while let Some(text) = rest {
        let (field, after) = match text.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted),
            None => match text.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (text, None),
            },
        };
        fields.push(field);
        rest = after;
    }
    fields
}

/// The field after its opening quote, and what follows its comma, if there is one.
fn quoted_field(text: &'static str) -> (&'static str, Option<&'static str>) {
    let mut from = 0;
    let end = loop {
        match text[from..].find('"').map(|at| from + at) {
            Some(at) if text[at + 1..].starts_with('"') => from = at + 2,
            Some(at) => break at,
            None => break text.len(),
        }
    };
    let field = &text[..end];
    // Leaked once per process and field: the table lives as long as the program.
    let field =
        if field.contains('"') { Box::leak(field.replace("\"\"", "\"").into_boxed_str()) } else { field };
    let after = text.get(end + 1..).and_then(|rest| rest.strip_prefix(','));
    (field, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_quoted_fields() {
        for (line, expected) in [
            ("a,b,c", &["a", "b", "c"][..]),
            ("a,,", &["a", "", ""]),
            (r#"a,"b, c",d"#, &["a", "b, c", "d"]),
            (r#""a","say ""x"", y""#, &["a", r#"say "x", y"#]),
            (r#"a,"""#, &["a", ""]),
            (r#"a,"open"#, &["a", "open"]),
        ] {
            assert_eq!(fields(line), expected, "{line}");
        }
    }

    #[test]
    fn records_are_counted_with_blank_lines() {
        let lines: Vec<_> = records("a\n\n b,c\n").map(|record| (record.line, record.fields.len())).collect();
        assert_eq!(lines, [(1, 1), (3, 2)]);
    }
}
