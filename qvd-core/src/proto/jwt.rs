//! Signed tokens in compact form (RFC 7515, RFC 7519), as far as they can be read without a key.
//!
//! Nothing that stands in one is true before its signature was checked with a key of the issuer, and that is not done
//! here. Extensions are refused (`crit`): one that is not understood may change what the rest means.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// Longest token that is read; what is longer does not fit into a header of a request either.
pub const MAX_TOKEN: usize = 16_000;

/// A token that was read and is not yet believed. Its `Debug` shows neither claims nor signature.
#[derive(Clone)]
pub struct Jwt<'a> {
    /// How it says that it was signed.
    pub header: Header,
    /// What it says of whom.
    pub claims: Claims,
    /// What the signature is about: the first two parts, and the dot between them.
    pub signed: &'a str,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

/// How a token says that it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The algorithm.
    pub alg: String,
    /// Which of the issuer's keys.
    pub kid: Option<String>,
    /// What kind of token.
    pub typ: Option<String>,
}

/// What a token says of whom. Times are seconds since 1970.
#[derive(Clone, Default, PartialEq, Deserialize)]
pub struct Claims {
    /// Who made it.
    pub iss: String,
    /// For whom it is meant.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// For whom it was made.
    #[serde(default)]
    pub azp: Option<String>,
    /// When it ends.
    #[serde(default, deserialize_with = "seconds")]
    pub exp: Option<i64>,
    /// When it begins.
    #[serde(default, deserialize_with = "seconds")]
    pub nbf: Option<i64>,
    /// When it was made.
    #[serde(default, deserialize_with = "seconds")]
    pub iat: Option<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// Why a text is no token that could be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN`].
    #[error("too long")]
    TooLong,
    /// Not three parts with something in each: a signature is missing, or it is an encrypted one.
    #[error("not three parts")]
    Parts,
    /// A part is not base64 in its form for URLs, without padding.
    #[error("a part is not base64")]
    Base64,
    /// The header is not what a header must be.
    #[error("malformed header")]
    Header,
    /// It wants an extension to be understood.
    #[error("it needs an extension")]
    Extension,
    /// The claims are not what claims must be, or nobody is named as the issuer.
    #[error("malformed claims")]
    Claims,
}

impl fmt::Debug for Jwt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("header", &self.header).finish_non_exhaustive()
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("iss", &self.iss).field("aud", &self.aud).finish_non_exhaustive()
    }
}

/// Whether a text has the form of a signed token: three parts, none of them empty.
///
/// ```
/// use qvd_core::proto::jwt::has_form;
/// assert!(has_form("e30.e30.c2ln"));
/// assert!(!has_form("0123456789abcdef") && !has_form("e30.e30."));
/// ```
pub fn has_form(text: &str) -> bool {
    parts(text).is_some()
}

/// Reads a token.
///
/// # Errors
///
/// [`JwtError`] says what is wrong with its form.
pub fn parse(text: &str) -> Result<Jwt<'_>, JwtError> {
    if text.len() > MAX_TOKEN {
        return Err(JwtError::TooLong);
    }
    let [header, claims, signature] = parts(text).ok_or(JwtError::Parts)?;
    let [header_json, claims_json, signature] = [decode(header)?, decode(claims)?, decode(signature)?];
    let read: RawHeader = object(&header_json).ok_or(JwtError::Header)?;
    if read.crit.is_some() || read.b64.is_some() {
        return Err(JwtError::Extension);
    }
    let claims_read = object(&claims_json).ok_or(JwtError::Claims)?;
    Ok(Jwt {
        header: Header { alg: read.alg, kid: read.kid, typ: read.typ },
        claims: claims_read,
        signed: &text[..header.len() + 1 + claims.len()],
        signature,
    })
}

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
    #[serde(default)]
    b64: Option<IgnoredAny>,
}

fn parts(text: &str) -> Option<[&str; 3]> {
    let mut parts = text.split('.');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next().is_none() && three.iter().all(|part| !part.is_empty())).then_some(three)
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Base64)
}

/// An object alone: an array of the same values would be read as one, too.
fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// Whole seconds; a fraction is cut off.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let number = Number::deserialize(from)?;
    if let Some(whole) = number.as_i64() {
        return Ok(Some(whole));
    }
    let fits = |float: &f64| float.is_finite() && float.abs() < LATEST;
    let float = number.as_f64().filter(fits).ok_or_else(|| D::Error::custom("not a time"))?;
    #[allow(clippy::cast_possible_truncation, reason = "checked above")]
    Ok(Some(float.floor() as i64))
}

/// Beyond this a float is no longer exact to the second.
const LATEST: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let [header, claims] = [header, claims].map(|json| URL_SAFE_NO_PAD.encode(json));
        format!("{header}.{claims}.c2ln")
    }

    fn refused(header: &str, claims: &str) -> JwtError {
        parse(&token(header, claims)).unwrap_err()
    }

    const RS256: &str = r#"{"alg":"RS256"}"#;
    const ISS: &str = r#"{"iss":"i"}"#;

    #[test]
    fn what_stands_in_a_token_is_read() {
        let text = token(
            r#"{"alg":"ES256","kid":"k1","typ":"JWT","x5t":"x"}"#,
            r#"{"iss":"https://issuer","aud":["a","b"],"azp":"a","exp":1700000000,"nbf":1699999999.9,
               "iat":1.6e9,"preferred_username":"alice"}"#,
        );
        let jwt = parse(&text).unwrap();
        let header = Header { alg: "ES256".into(), kid: Some("k1".into()), typ: Some("JWT".into()) };
        assert_eq!(jwt.header, header);
        assert_eq!((jwt.signed, jwt.signature.as_slice()), (text.rsplit_once('.').unwrap().0, &b"sig"[..]));
        let claims = &jwt.claims;
        assert_eq!((claims.iss.as_str(), claims.azp.as_deref()), ("https://issuer", Some("a")));
        assert_eq!((claims.exp, claims.nbf), (Some(1_700_000_000), Some(1_699_999_999)));
        assert_eq!(
            (claims.iat, claims.others["preferred_username"].as_str()),
            (Some(1_600_000_000), Some("alice"))
        );
        assert_eq!(claims.aud, ["a", "b"]);
        let one = token(RS256, r#"{"iss":"i","aud":"a"}"#);
        assert_eq!(
            parse(&one).unwrap().claims,
            Claims { iss: "i".into(), aud: vec!["a".into()], ..Claims::default() }
        );
    }

    #[test]
    fn a_signed_token_has_three_parts() {
        let whole = token(RS256, ISS);
        let (unsigned, _) = whole.rsplit_once('.').unwrap();
        for text in
            ["", ".", "..", "a", "a.b", "a..b", &format!("{unsigned}."), unsigned, &format!("{whole}.e30.x")]
        {
            assert_eq!(parse(text).unwrap_err(), JwtError::Parts, "{text}");
            assert!(!has_form(text), "{text}");
        }
        assert!(has_form(&whole) && parse(&whole).is_ok());
    }

    #[test]
    fn base64_is_that_of_urls_without_padding_or_bits_left_over() {
        for part in ["e30=", "e3+0", "e3/0", "e3 0", "e", "e31", "é"] {
            assert_eq!(parse(&format!("{part}.e30.c2ln")).unwrap_err(), JwtError::Base64, "{part}");
            assert_eq!(parse(&format!("e30.e30.{part}")).unwrap_err(), JwtError::Base64, "{part}");
        }
    }

    #[test]
    fn headers_and_claims_are_what_they_must_be() {
        for header in [
            " ",
            "[]",
            r#"["RS256",null,null]"#,
            "{}",
            "\"RS256\"",
            r#"{"alg":1}"#,
            r#"{"alg":"RS256","kid":7}"#,
            r#"{"alg":"RS256","alg":"none"}"#,
            r#"{"alg":"RS256"} {}"#,
        ] {
            assert_eq!(refused(header, ISS), JwtError::Header, "{header}");
        }
        for header in [r#"{"alg":"RS256","crit":["exp"]}"#, r#"{"alg":"RS256","b64":false}"#] {
            assert_eq!(refused(header, ISS), JwtError::Extension, "{header}");
        }
        for claims in [
            " ",
            "[]",
            "{}",
            r#"{"iss":["i"]}"#,
            r#"{"iss":"i","iss":"j"}"#,
            r#"{"iss":"i","aud":{}}"#,
            r#"{"iss":"i","aud":["a",1]}"#,
            r#"{"iss":"i","exp":"1700000000"}"#,
            r#"{"iss":"i","exp":null}"#,
            r#"{"iss":"i","nbf":1e300}"#,
        ] {
            assert_eq!(refused(RS256, claims), JwtError::Claims, "{claims}");
        }
        let deep = format!(r#"{{"iss":"i","x":{}}}"#, "[".repeat(10_000));
        assert_eq!(refused(RS256, &deep[..9000]), JwtError::Claims, "without an end of the stack");
    }

    #[test]
    fn too_long_is_said_before_anything_is_read() {
        let fits = format!("e30.e30.{}", "c2ln".repeat((MAX_TOKEN - 8) / 4));
        assert_eq!(fits.len(), MAX_TOKEN);
        assert_eq!(parse(&fits).unwrap_err(), JwtError::Header);
        assert_eq!(parse(&format!("{fits}c2ln")).unwrap_err(), JwtError::TooLong);
    }

    #[test]
    fn neither_claims_nor_signatures_are_shown() {
        let text = token(RS256, r#"{"iss":"i","email":"alice@example.com"}"#);
        let jwt = parse(&text).unwrap();
        let shown = format!("{jwt:?} {:?}", jwt.claims);
        assert!(!shown.contains("alice") && !shown.contains("c2ln") && !shown.contains("[115"), "{shown}");
    }
}
