//! Splitting a command into its words, without a shell.

use std::iter::Peekable;
use std::str::Chars;

/// A quote that is opened and never closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {0} is opened and not closed")]
pub struct UnclosedQuote(char);

/// Splits at blanks; single and double quotes keep blanks together and may stand within a word.
///
/// A backslash outside single quotes escapes a blank, a quote or a backslash and is an ordinary
/// character before anything else, so that `bin\nxproxy.exe` stays what it is.
///
/// # Errors
/// A quote is not closed.
///
/// ```
/// let words = qvd_core::config::split_words("-o idmap=user -title 'my desktop'")?;
/// assert_eq!(words, ["-o", "idmap=user", "-title", "my desktop"]);
/// # Ok::<(), qvd_core::config::UnclosedQuote>(())
/// ```
pub fn split_words(text: &str) -> Result<Vec<String>, UnclosedQuote> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&c) = rest.peek() {
        if c.is_whitespace() {
            rest.next();
        } else {
            words.push(take_word(&mut rest)?);
        }
    }
    Ok(words)
}

fn take_word(rest: &mut Peekable<Chars<'_>>) -> Result<String, UnclosedQuote> {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !c.is_whitespace()) {
        match c {
            '\'' => take_until('\'', false, rest, &mut word)?,
            '"' => take_until('"', true, rest, &mut word)?,
            '\\' => word.push(rest.next_if(|&c| escapable(c)).unwrap_or('\\')),
            c => word.push(c),
        }
    }
    Ok(word)
}

fn take_until(
    quote: char,
    escapes: bool,
    rest: &mut Peekable<Chars<'_>>,
    word: &mut String,
) -> Result<(), UnclosedQuote> {
    loop {
        match rest.next() {
            None => return Err(UnclosedQuote(quote)),
            Some(c) if c == quote => return Ok(()),
            Some('\\') if escapes => word.push(rest.next_if(|&c| escapable(c)).unwrap_or('\\')),
            Some(c) => word.push(c),
        }
    }
}

const fn escapable(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\'' | '"' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_split_as_a_person_expects() {
        for (text, expected) in [
            ("", &[][..]),
            ("  \t ", &[]),
            ("/usr/bin/nxagent", &["/usr/bin/nxagent"]),
            ("  sh   -c  true ", &["sh", "-c", "true"]),
            ("sh -c 'a b'", &["sh", "-c", "a b"]),
            (r#"say "it's" 'say "x"'"#, &["say", "it's", r#"say "x""#]),
            (r#"a"b c"d"#, &["ab cd"]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            (r"a\ b c\\d", &["a b", r"c\d"]),
            (r"nx\nxproxy.exe", &[r"nx\nxproxy.exe"]),
            (r#""C:\Program Files\nx.exe" -a"#, &[r"C:\Program Files\nx.exe", "-a"]),
            (r#""a\"b""#, &[r#"a"b"#]),
            (r"'a\' b", &[r"a\", "b"]),
            ("end\\", &["end\\"]),
        ] {
            assert_eq!(split_words(text).as_deref(), Ok(expected.map_strings().as_slice()), "{text}");
        }
    }

    #[test]
    fn an_open_quote_is_refused_and_named() {
        for (text, quote) in [("a 'b", '\''), ("a \"b c", '"'), ("it's", '\''), (r#""a\""#, '"')] {
            assert_eq!(split_words(text), Err(UnclosedQuote(quote)), "{text}");
        }
    }

    trait Strings {
        fn map_strings(&self) -> Vec<String>;
    }

    impl Strings for [&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_or_refused(text in "\\PC{0,40}") {
            if let Ok(words) = split_words(&text) {
                prop_assert!(words.iter().map(String::len).sum::<usize>() <= text.len());
            }
        }
    }
}
