//! What an `Authorization` header shows, login and password or a token (protocol page §2.4, §8), and shared environment headers (§2.11).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::proto::http1::Headers;
use crate::secret::Secret;

/// Most environment variables taken from one request.
pub const MAX_ENVIRONMENT: usize = 64;

/// Most bytes of one shared environment value.
pub const MAX_ENVIRONMENT_VALUE: usize = 8 << 10;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Login and password of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Login; UTF-8, or read as Latin-1 when it is not.
    pub login: String,
    /// Password bytes as sent.
    pub password: Secret<Vec<u8>>,
}

/// Reads the value of an `Authorization` header. `None` for another scheme, undecodable text, no colon, an empty login,
/// or one with a NUL, which no database takes: the attempt does not count then.
///
/// ```
/// use qvd_core::proto::basic::parse_basic;
/// let c = parse_basic(b"Basic YWxpY2U6czNjcmV0").unwrap();
/// assert_eq!((c.login.as_str(), c.password.expose().as_slice()), ("alice", &b"s3cret"[..]));
/// assert!(parse_basic(b"Digest x").is_none());
/// ```
pub fn parse_basic(value: &[u8]) -> Option<Credentials> {
    let text = value.trim_ascii();
    let scheme_end = text.iter().position(|b| *b == b' ')?;
    if !text[..scheme_end].eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let plain = decode_lenient(&text[scheme_end..])?;
    let colon = plain.iter().position(|b| *b == b':')?;
    let (login, password) = (&plain[..colon], &plain[colon + 1..]);
    if login.is_empty() || login.contains(&0) || password.contains(&b'\n') {
        return None;
    }
    let login = match std::str::from_utf8(login) {
        Ok(utf8) => utf8.to_owned(),
        Err(_) => login.iter().map(|b| char::from(*b)).collect(),
    };
    Some(Credentials { login, password: Secret::new(password.to_vec()) })
}

/// What a request shows to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Login and password.
    Basic(Credentials),
    /// A token, the text as sent.
    Bearer(Secret<String>),
}

/// Reads the value of an `Authorization` header of either scheme; `None` for what is no attempt, as [`parse_basic`]
/// has it. A token is one word of visible ASCII; clients send the text that they were given, so it is not decoded.
///
/// ```
/// use qvd_core::proto::basic::{Authorization, parse_authorization};
/// assert!(matches!(parse_authorization(b"Basic YWxpY2U6czNjcmV0"), Some(Authorization::Basic(_))));
/// assert!(matches!(parse_authorization(b"Bearer abc.def"), Some(Authorization::Bearer(_))));
/// ```
pub fn parse_authorization(value: &[u8]) -> Option<Authorization> {
    let text = value.trim_ascii();
    let scheme_end = text.iter().position(|b| *b == b' ')?;
    if !text[..scheme_end].eq_ignore_ascii_case(b"Bearer") {
        return parse_basic(text).map(Authorization::Basic);
    }
    let token = std::str::from_utf8(text[scheme_end..].trim_ascii()).ok()?;
    let one_word = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    one_word.then(|| Authorization::Bearer(Secret::new(token.to_owned())))
}

/// The value of an `Authorization` header for these credentials.
pub fn encode_basic(login: &str, password: &[u8]) -> String {
    let plain = [login.as_bytes(), b":", password].concat();
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
}

/// Environment variables shared by `Auth-HEX: BASE64` headers; malformed ones are ignored.
pub fn shared_environment(headers: &Headers) -> BTreeMap<String, Vec<u8>> {
    let mut variables = BTreeMap::new();
    for (name, value) in headers.iter() {
        let Some((prefix, hex)) = name.split_at_checked(5) else { continue };
        if !prefix.eq_ignore_ascii_case("Auth-") || variables.len() >= MAX_ENVIRONMENT {
            continue;
        }
        if let (Some(name), Some(value)) = (decode_hex(hex), decode_lenient(value))
            && value.len() <= MAX_ENVIRONMENT_VALUE
        {
            variables.insert(name, value);
        }
    }
    variables
}

/// The header that shares one environment variable.
pub fn encode_environment(name: &str, value: &[u8]) -> (String, String) {
    let hex: String = name.bytes().map(|b| format!("{b:02x}")).collect();
    (format!("Auth-{hex}"), base64::engine::general_purpose::STANDARD.encode(value))
}

/// Base64 with characters outside the alphabet ignored.
fn decode_lenient(text: &[u8]) -> Option<Vec<u8>> {
    let kept: Vec<u8> =
        text.iter().copied().filter(|b| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/').collect();
    LENIENT.decode(kept).ok()
}

fn decode_hex(hex: &str) -> Option<String> {
    // The conversion alone would take a sign for a digit.
    if hex.is_empty() || !hex.len().is_multiple_of(2) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Limits, parse_request};

    fn headers(lines: &str) -> Headers {
        let text = format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n");
        parse_request(text.as_bytes(), &Limits::default()).unwrap().unwrap().0.headers
    }

    #[test]
    fn basic_splits_at_the_first_colon_and_is_lenient() {
        let value = encode_basic("alice", "pä:ss".as_bytes());
        let c = parse_basic(value.as_bytes()).unwrap();
        assert_eq!((c.login.as_str(), c.password.expose().as_slice()), ("alice", "pä:ss".as_bytes()));
        assert_eq!(parse_basic(b"basic   YWxp Y2U6eA").unwrap().login, "alice");
        assert_eq!(parse_basic(b"Basic 6Tph").unwrap().login, "é");
    }

    #[test]
    fn what_is_no_attempt() {
        let nul = encode_basic("ali\0ce", b"x");
        let line = encode_basic("alice", b"a\nb");
        for value in ["Basic OnNlY3JldA==", "Basic YWxpY2U=", "Digest x", "Basic", "", &nul, &line] {
            assert!(parse_basic(value.as_bytes()).is_none(), "{value}");
        }
    }

    #[test]
    fn a_token_is_one_word_in_any_case_of_the_scheme() {
        let token = |value: &[u8]| match parse_authorization(value) {
            Some(Authorization::Bearer(token)) => Some(token.expose().clone()),
            _ => None,
        };
        assert_eq!(token(b"Bearer a-b_c.d~+/=").as_deref(), Some("a-b_c.d~+/="));
        assert_eq!(token(b" bEARER   abc ").as_deref(), Some("abc"));
        for none in [
            &b"Bearer"[..],
            b"Bearer ",
            b"Bearer a b",
            b"Bearer a\tb",
            b"Bearer \xc3\xa4",
            b"Bearer a\0",
            b"Token a",
        ] {
            assert!(parse_authorization(none).is_none(), "{}", none.escape_ascii());
        }
        let shown = format!("{:?}", parse_authorization(b"Bearer s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn environment_headers_decode_or_are_ignored() {
        let vars = shared_environment(&headers(
            "Auth-4d594e414d45: QWxpY2UgRG9l\r\nauth-4D59: QQ==\r\nAuth-zz: QQ==\r\nAuth-4d5: QQ==\r\n\
             Auth-+a: QQ==\r\nAuth-4d+9: QQ==",
        ));
        assert_eq!(vars.len(), 2);
        assert_eq!(vars["MYNAME"], b"Alice Doe");
        assert_eq!(vars["MY"], b"A");
        assert_eq!(
            encode_environment("MYNAME", b"Alice Doe"),
            ("Auth-4d594e414d45".into(), "QWxpY2UgRG9l".into())
        );
    }
}
