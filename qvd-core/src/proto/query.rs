//! Query strings: an ordered list of name/value pairs, byte strings on the wire.
//!
//! Decoding follows protocol page §2.7: pieces split at `&`, name and value at the first `=`, in both `+` is a
//! space and `%HH` a byte; an invalid `%` stays literal; trailing `&` are ignored.

/// One piece of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Decoded name.
    pub name: Vec<u8>,
    /// Decoded value; `None` when the piece had no `=`.
    pub value: Option<Vec<u8>>,
}

/// Splits and decodes a query (the part after `?`).
///
/// ```
/// use qvd_core::proto::query::decode;
/// let pairs = decode(b"id=7&qvd.client.link=a+b%21&flag&");
/// assert_eq!(pairs.len(), 3);
/// assert_eq!(pairs[1].value.as_deref(), Some(&b"a b!"[..]));
/// assert_eq!(pairs[2].value, None);
/// ```
pub fn decode(query: &[u8]) -> Vec<Pair> {
    let end = query.iter().rposition(|b| *b != b'&').map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    query[..end]
        .split(|b| *b == b'&')
        .map(|piece| match piece.iter().position(|b| *b == b'=') {
            Some(at) => Pair { name: unescape(&piece[..at]), value: Some(unescape(&piece[at + 1..])) },
            None => Pair { name: unescape(piece), value: None },
        })
        .collect()
}

/// Encodes pairs; everything but `A-Z a-z 0-9 - . _ ~ ! * ' ( )` becomes `%HH`.
///
/// ```
/// assert_eq!(qvd_core::proto::query::encode([("a", "b c"), ("d", "")]), "a=b%20c&d=");
/// ```
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        escape(name, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

fn escape(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~!*'()".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(b >> 4)]));
            out.push(char::from(HEX[usize::from(b & 15)]));
        }
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&b, tail)) = rest.split_first() {
        let byte = match (b, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(if b == b'+' { b' ' } else { b });
                rest = tail;
            }
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(query: &[u8]) -> Vec<String> {
        decode(query).into_iter().map(|p| String::from_utf8(p.name).unwrap()).collect()
    }

    #[test]
    fn empty_pieces_count_except_at_the_end() {
        assert!(decode(b"").is_empty());
        assert!(decode(b"&&").is_empty());
        assert_eq!(names(b"id=7&&a=1"), ["id", "", "a"]);
        assert_eq!(names(b"id=7&"), ["id"]);
    }

    #[test]
    fn invalid_escapes_stay_literal() {
        assert_eq!(decode(b"a=%zz%4")[0].value.as_deref(), Some(&b"%zz%4"[..]));
        assert_eq!(names(b"%71vd.client.a=1"), ["qvd.client.a"]);
        assert_eq!(decode(b"a=%2")[0].value.as_deref(), Some(&b"%2"[..]));
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(pairs in proptest::collection::vec((".+", ".*"), 1..6)) {
            let text = encode(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let back: Vec<_> = decode(text.as_bytes())
                .into_iter()
                .map(|p| (String::from_utf8(p.name).unwrap(), String::from_utf8(p.value.unwrap()).unwrap()))
                .collect();
            prop_assert_eq!(back, pairs);
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode(&bytes);
        }
    }
}
