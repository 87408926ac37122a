//! `${name}` in values: finding the references. What they stand for is decided by [`resolve`](super::resolve).

/// A piece of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    /// The name between `${` and `}`.
    Reference(&'a str),
}

/// A `${` without its `}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has a '${{' that is not closed (write ${{{{}} for a literal ${{)")]
pub(super) struct Unclosed;

/// The pieces of a value, in order. `${{}` is the text `${`.
pub(super) fn pieces(value: &str) -> Result<Vec<Piece<'_>>, Unclosed> {
    let mut pieces = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find(OPEN) {
        let (text, inside) = (&rest[..at], &rest[at + OPEN.len()..]);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if let Some(after) = inside.strip_prefix("{}") {
            pieces.push(Piece::Text(OPEN));
            rest = after;
        } else {
            let (name, after) = inside.split_once('}').ok_or(Unclosed)?;
            pieces.push(Piece::Reference(name));
            rest = after;
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

const OPEN: &str = "${";

#[cfg(test)]
mod tests {
    use super::*;
    use Piece::{Reference, Text};
    use proptest::prelude::*;

    #[test]
    fn references_are_found_anywhere() {
        for (value, expected) in [
            ("", &[][..]),
            ("plain $x {y}", &[Text("plain $x {y}")]),
            ("${path.log}/qvd.log", &[Reference("path.log"), Text("/qvd.log")]),
            ("a${b}${c}d", &[Text("a"), Reference("b"), Reference("c"), Text("d")]),
            ("${{}path.log}", &[Text("${"), Text("path.log}")]),
            ("%d{yyyy} $", &[Text("%d{yyyy} $")]),
            ("${}", &[Reference("")]),
            ("$${a}", &[Text("$"), Reference("a")]),
        ] {
            assert_eq!(pieces(value).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn an_open_reference_is_refused() {
        assert_eq!(pieces("a${b"), Err(Unclosed));
        assert_eq!(Unclosed.to_string(), "has a '${' that is not closed (write ${{} for a literal ${)");
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(value in "[${}a. é]{0,24}") {
            if let Ok(pieces) = pieces(&value) {
                prop_assert!(pieces.iter().all(|piece| *piece != Text("")));
            }
        }
    }
}
