//! The syntax of configuration files: Java properties, as the reference implementation reads them.
//!
//! This is an own reader and not a crate for Java properties, because the syntax differs where it
//! matters: a key alone on its line is an error and not an empty value, an escape that means nothing
//! keeps its backslash (`\q` stays `\q`), files are UTF-8, and every entry knows its line.
//!
//! What is read here is only text. Which keys exist and what their values mean is
//! [`Registry`](super::Registry)'s knowledge.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// One entry of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The key, unescaped.
    pub key: String,
    /// The value, unescaped; trailing blanks are part of it.
    pub value: String,
    /// The line the entry starts on; the first line of a file is 1.
    pub line: usize,
}

/// A line that is no entry, no comment and not blank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid property line '{text}' at line {line}")]
pub struct SyntaxError {
    /// The line as written, without blanks around it.
    pub text: String,
    /// The line it starts on, from 1.
    pub line: usize,
}

/// What a file holds: its entries in order, repeated keys included, and every line that is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The entries.
    pub properties: Vec<Property>,
    /// The lines that could not be read.
    pub errors: Vec<SyntaxError>,
}

/// Reads the text of a file. It never fails as a whole: what cannot be read is listed.
///
/// ```
/// use qvd_core::config::properties;
/// let parsed = properties::parse("# the router\nl7r.port: 8443\n");
/// assert_eq!(parsed.properties[0].key, "l7r.port");
/// assert_eq!((parsed.properties[0].value.as_str(), parsed.properties[0].line), ("8443", 2));
/// ```
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut lines = natural_lines(text);
    while let Some((line, first)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let logical = join_continued(first, &mut lines);
        match split_entry(&logical) {
            Some((key, value)) => {
                parsed.properties.push(Property { key: unescape(key), value: unescape(value), line })
            }
            None => {
                parsed.errors.push(SyntaxError { text: logical.trim_end_matches(is_blank).to_owned(), line })
            }
        }
    }
    parsed
}

/// Writes one entry so that [`parse`] reads the same key and value back; without a line end.
///
/// ```
/// use qvd_core::config::properties;
/// assert_eq!(properties::entry("command.windows.xming", r"Xming\Xming.exe"),
///            r"command.windows.xming = Xming\\Xming.exe");
/// ```
pub fn entry(key: &str, value: &str) -> String {
    let mut text = String::with_capacity(key.len() + value.len() + 3);
    for c in key.chars() {
        match c {
            ' ' | '=' | ':' | '#' | '!' => {
                text.push('\\');
                text.push(c);
            }
            c => push_escaped(&mut text, c),
        }
    }
    text.push_str(" = ");
    let body = value.trim_start_matches(' ');
    for _ in body.len()..value.len() {
        text.push_str("\\ ");
    }
    for c in body.chars() {
        push_escaped(&mut text, c);
    }
    text
}

/// The lines of a text with their numbers from 1, without the byte order mark and line ends.
fn natural_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line.strip_suffix('\r').unwrap_or(line)))
}

/// Appends the lines that continue `first`. Any line may be a continuation, even one that looks like a comment.
fn join_continued<'a>(first: &str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut logical = first.to_owned();
    while ends_in_open_escape(&logical) {
        logical.pop();
        match lines.next() {
            Some((_, next)) => logical.push_str(next.trim_start_matches(is_blank)),
            None => break,
        }
    }
    logical
}

/// Whether the last backslash of a line escapes the line end: true for an odd number of them.
fn ends_in_open_escape(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

/// Splits at the first separator that is not escaped: `=`, `:` or blanks, with blanks around it removed.
fn split_entry(logical: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = logical.char_indices().find_map(|(at, c)| {
        let separates = !escaped && (c == '=' || c == ':' || is_blank(c));
        escaped = c == '\\' && !escaped;
        separates.then_some(at)
    })?;
    let (key, rest) = logical.split_at(end);
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (!key.is_empty()).then(|| (key, rest.trim_start_matches(is_blank)))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => match take_unicode(&mut rest) {
                Some(c) => out.push(c),
                None => out.push_str("\\u"),
            },
            Some(c @ ('\\' | '"' | '\'' | ':' | '=' | '#' | '!' | ' ')) => out.push(c),
            Some(other) => out.extend(['\\', other]),
            None => {}
        }
    }
    out
}

/// Takes the four digits after `\u`, and the second half of a pair when the first is one; nothing is taken
/// unless four digits are there. Half a pair alone is no character and becomes U+FFFD.
fn take_unicode(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    let first = take_hex4(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    let mut ahead = rest.clone();
    if ahead.next() == Some('\\')
        && ahead.next() == Some('u')
        && let Some(second @ 0xdc00..0xe000) = take_hex4(&mut ahead)
    {
        *rest = ahead;
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Some(char::REPLACEMENT_CHARACTER)
}

fn take_hex4(rest: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let mut ahead = rest.clone();
    let mut code = 0;
    for _ in 0..4 {
        code = code * 16 + ahead.next()?.to_digit(16)?;
    }
    *rest = ahead;
    Some(code)
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\\' => text.push_str("\\\\"),
        '\t' => text.push_str("\\t"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\u{c}' => text.push_str("\\f"),
        c if c.is_control() || c == '\u{feff}' => {
            // Control characters and the byte order mark lie in the first plane: four digits hold them.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        }
        c => text.push(c),
    }
}

/// Space, tab and form feed.
const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The key and value of a text that is one entry.
    fn one(text: &str) -> (String, String) {
        let parsed = parse(text);
        assert_eq!(parsed.errors, [], "{text:?}");
        assert_eq!(parsed.properties.len(), 1, "{text:?} gave {:?}", parsed.properties);
        let only = parsed.properties[0].clone();
        (only.key, only.value)
    }

    fn check(text: &str, key: &str, value: &str) {
        assert_eq!(one(text), (key.to_owned(), value.to_owned()), "for {text:?}");
    }

    #[test]
    fn the_three_separators_are_equal() {
        check("a = 1", "a", "1");
        check("b: 2", "b", "2");
        check("c 3", "c", "3");
        check("c\t3", "c", "3");
        check("a=1", "a", "1");
        check("b:2", "b", "2");
        check("a\t :\t 1", "a", "1");
        check("m==x", "m", "=x");
        check("m = :x", "m", ":x");
        check("m x = y", "m", "x = y");
        check(r#"client.slave.command "/path""#, "client.slave.command", "\"/path\"");
    }

    #[test]
    fn blanks_before_the_key_go_and_after_the_value_stay() {
        check("   a = 1", "a", "1");
        check("d=  x y  ", "d", "x y  ");
        check("\u{c} a\u{c}=\u{c}1", "a", "1");
    }

    #[test]
    fn blank_lines_and_comments_are_skipped_but_there_are_no_trailing_comments() {
        let text = "\n  \t\n# c\n ! d\n\u{c}# e\nn = a # b\n";
        check(text, "n", "a # b");
        check("n = a ! b", "n", "a ! b");
        // A comment does not continue, whatever it ends in.
        check("# c \\\nn = 1", "n", "1");
    }

    #[test]
    fn an_empty_value_needs_a_separator() {
        check("x=", "x", "");
        check("x:", "x", "");
        check("x =  ", "x", "");
        let parsed = parse("a = 1\n\n\n\n\n\n\n\n\n\n  i\nb = 2");
        assert_eq!(parsed.properties.len(), 2, "the other lines are read all the same");
        assert_eq!(parsed.errors.len(), 1);
        assert_eq!(parsed.errors[0].to_string(), "invalid property line 'i' at line 11");
    }

    #[test]
    fn a_line_without_key_is_an_error() {
        for text in ["= x", ": x", "=", ":"] {
            assert_eq!(parse(text).errors.len(), 1, "{text:?}");
            assert_eq!(parse(text).properties, [], "{text:?}");
        }
    }

    #[test]
    fn a_backslash_at_the_end_continues() {
        check("a = x\\\n   y", "a", "xy");
        check("a = x \\\n\t y\\\nz", "a", "x yz");
        check("a\\\n = 1", "a", "1");
        check("a = b\\\n# no comment", "a", "b# no comment");
        check("a = x\\\r\n  y\r\n", "a", "xy");
        check("a = x\\", "a", "x");
        check("a = x\\\n", "a", "x");
        check("a = x\\\\\n", "a", "x\\");
        let parsed = parse("a = 1\\\n2\nb = 3");
        assert_eq!(parsed.properties[1].line, 3, "an entry is counted from its own first line");
    }

    #[test]
    fn escapes_are_those_of_properties_files() {
        check(r"a = \t\n\r\f", "a", "\t\n\r\u{c}");
        check(r#"a = \\ \" \' \: \= \# \!"#, "a", "\\ \" ' : = # !");
        check(r"a = \ x", "a", " x");
        check(r"a = \q", "a", r"\q");
        check(r"a = Xming\\Xming.exe", "a", r"Xming\Xming.exe");
        check(r"a = C:\Temp\new", "a", "C:\\Temp\new");
        check(r"g\ h = 1", "g h", "1");
        check(r"z\=1 = 2", "z=1", "2");
        check(r"z\:1:2", "z:1", "2");
        check(r"k\\=2", r"k\", "2");
    }

    #[test]
    fn unicode_escapes_make_characters_pairs_included() {
        check(r"a = \u00e9\u20AC", "a", "é€");
        check(r"a = \ud83d\ude00", "a", "😀");
        check(r"a = \ud83d!", "a", "\u{fffd}!");
        check(r"a = \ude00", "a", "\u{fffd}");
        check(r"a = \ud83d\u0041", "a", "\u{fffd}A");
        check(r"a = \u12", "a", r"\u12");
        check(r"a = \uwxyz", "a", r"\uwxyz");
    }

    #[test]
    fn line_ends_byte_order_mark_and_utf8() {
        let parsed = parse("\u{feff}a = 1\r\nb = ü\r\n\r\nc = 3\r");
        let values: Vec<_> = parsed.properties.iter().map(|p| (p.value.as_str(), p.line)).collect();
        assert_eq!(values, [("1", 1), ("ü", 2), ("3", 4)]);
        check("a = x\ry", "a", "x\ry");
    }

    #[test]
    fn repeated_keys_are_all_there_with_their_lines() {
        let parsed = parse("a = 1\nb = 2\na = 3\n");
        let lines: Vec<_> = parsed.properties.iter().filter(|p| p.key == "a").map(|p| p.line).collect();
        assert_eq!(lines, [1, 3]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in r"[ \t\n\r\f\\=:#!a-cu0-9dD\u{feff}é😀]{0,60}|\PC{0,60}") {
            let parsed = parse(&text);
            let lines = text.split('\n').count();
            prop_assert!(parsed.properties.iter().all(|p| (1..=lines).contains(&p.line)));
            prop_assert!(parsed.errors.iter().all(|e| (1..=lines).contains(&e.line)));
        }

        #[test]
        fn what_is_written_is_read_back(
            key in r"[a-z \\=:#!\t\n\r\u{feff}é]{1,12}",
            value in r"[a-z \\=:#!\t\n\r\f\u{feff}\u{7f}é😀$\{\}]{0,30}",
        ) {
            let text = format!("first = 1\n{}\nlast = 2\n", entry(&key, &value));
            let parsed = parse(&text);
            prop_assert_eq!(&parsed.errors, &[]);
            prop_assert_eq!(parsed.properties.len(), 3);
            prop_assert_eq!(&parsed.properties[1], &Property { key, value, line: 2 });
        }
    }
}
