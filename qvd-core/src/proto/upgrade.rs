//! The `QVD/1.0` upgrade: header names, texts and the checks of a connect request's parameters.

use crate::proto::http1::Headers;
use crate::proto::query::{self, Pair};

/// Protocol named in the `Upgrade` header.
pub const PROTOCOL: &str = "QVD/1.0";

/// Header of the 102 answers that carries the progress text.
pub const INFO_HEADER: &str = "X-QVD-VM-Info";

/// Header of the 101 answer that carries the slave key.
pub const SLAVE_KEY_HEADER: &str = "X-QVD-Slave-Key";

/// Paths of the QVD port.
pub mod path {
    /// Health check.
    pub const PING: &str = "/qvd/ping";
    /// List of virtual machines.
    pub const LIST: &str = "/qvd/list_of_vm";
    /// Connect and upgrade.
    pub const CONNECT: &str = "/qvd/connect_to_vm";
    /// Stop a virtual machine.
    pub const STOP: &str = "/qvd/stop_vm";
    /// Make a token for whoever is logged in.
    pub const TOKEN: &str = "/qvd/create_auth_token";
}

/// Whether the headers ask for the upgrade.
pub fn is_upgrade(headers: &Headers) -> bool {
    headers.has_token("Connection", "Upgrade") && headers.has_token("Upgrade", PROTOCOL)
}

/// What a connect request asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Text of the `id` parameter; whether it names a machine is for the database to say.
    pub id: String,
    /// `qvd.client.*` and `custom.*` parameters; the last duplicate wins; sorted by name.
    pub params: Vec<(String, String)>,
}

/// Why the parameters are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// No usable `id`.
    #[error("parameter id is missing")]
    IdMissing,
    /// Names outside the two families, or text that could break a line.
    #[error("Invalid parameters {0}")]
    Invalid(String),
}

impl ParamError {
    /// The status that the router answers with.
    pub const fn status(&self) -> u16 {
        match self {
            Self::IdMissing => 422,
            Self::Invalid(_) => 403,
        }
    }
}

/// Checks the query of a connect request (§2.7, checks 6 and 7).
///
/// # Errors
///
/// [`ParamError`], whose text is the answer's body.
pub fn connect_request(raw_query: &[u8]) -> Result<ConnectRequest, ParamError> {
    let pairs = query::decode(raw_query);
    let id = last_value(&pairs, b"id").ok_or(ParamError::IdMissing)?;
    let mut invalid: Vec<String> = Vec::new();
    let mut params = std::collections::BTreeMap::new();
    for Pair { name, value } in &pairs {
        if name == b"id" || name == b"file_name" {
            continue;
        }
        let value = value.as_deref().unwrap_or_default();
        let allowed = name.starts_with(b"qvd.client.") || name.starts_with(b"custom.");
        if allowed && is_safe(name) && is_safe(value) {
            params.insert(
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            );
        } else {
            invalid.push(String::from_utf8_lossy(name).replace(char::is_control, "?"));
        }
    }
    if !invalid.is_empty() {
        return Err(ParamError::Invalid(invalid.join(" ")));
    }
    Ok(ConnectRequest { id: String::from_utf8_lossy(id).into_owned(), params: params.into_iter().collect() })
}

/// The `id` of a stop request.
///
/// # Errors
///
/// [`ParamError::IdMissing`].
pub fn stop_request(raw_query: &[u8]) -> Result<String, ParamError> {
    let pairs = query::decode(raw_query);
    let id = last_value(&pairs, b"id").ok_or(ParamError::IdMissing)?;
    Ok(String::from_utf8_lossy(id).into_owned())
}

/// What a request for a token asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Text of the `id` parameter: the one machine that the token is for.
    pub id: Option<String>,
    /// Whether it may be used again and again (`multi_use`, true unless said otherwise).
    pub multi_use: bool,
}

/// Reads the query of a request for a token; what it does not know is ignored.
pub fn token_request(raw_query: &[u8]) -> TokenRequest {
    let pairs = query::decode(raw_query);
    let text = |name| last_value(&pairs, name).map(|value| String::from_utf8_lossy(value).into_owned());
    let multi_use = text(b"multi_use").is_none_or(|value| flag(Some(&value)));
    TokenRequest { id: text(b"id"), multi_use }
}

/// A flag of the protocol: empty, `0` and absent are false, everything else is true.
pub fn flag(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0"))
}

fn last_value<'a>(pairs: &'a [Pair], name: &[u8]) -> Option<&'a [u8]> {
    pairs.iter().rev().find(|p| p.name == name).and_then(|p| p.value.as_deref())
}

fn is_safe(bytes: &[u8]) -> bool {
    !bytes.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_everything_and_for_long_unless_said_otherwise() {
        let all = TokenRequest { id: None, multi_use: true };
        assert_eq!(token_request(b""), all);
        assert_eq!(token_request(b"store_auth=1&multi_use=1"), all);
        let one = TokenRequest { id: Some("7".to_owned()), multi_use: false };
        assert_eq!(token_request(b"id=3&id=7&multi_use=0"), one);
    }

    #[test]
    fn only_the_two_families_pass() {
        let r = connect_request(b"id=7&custom.x=1&%71vd.client.y=2").unwrap();
        assert_eq!(r.id, "7");
        assert_eq!(r.params, [("custom.x".into(), "1".into()), ("qvd.client.y".into(), "2".into())]);
        assert_eq!(
            connect_request(b"id=7&foo=1&bar=2").unwrap_err().to_string(),
            "Invalid parameters foo bar"
        );
        for bad in [
            "id=7&qvd.vm.user.name=root",
            "id=7&qvd.slave.key=k",
            "id=7&&a=1",
            "id=7&custom.a=%00",
            "id=7&custom.a=%0d%0ax",
        ] {
            assert_eq!(connect_request(bad.as_bytes()).unwrap_err().status(), 403, "{bad}");
        }
    }

    #[test]
    fn the_last_id_counts_and_must_have_a_value() {
        assert_eq!(connect_request(b"id=7&id=8").unwrap().id, "8");
        assert_eq!(connect_request(b"id=7&").unwrap().id, "7");
        for bad in ["", "id", "custom.x=1"] {
            assert_eq!(connect_request(bad.as_bytes()).unwrap_err(), ParamError::IdMissing, "{bad}");
        }
        assert_eq!(stop_request(b"id=3"), Ok("3".to_owned()));
    }

    #[test]
    fn flags_know_two_words_for_false() {
        assert!(!flag(None) && !flag(Some("")) && !flag(Some("0")));
        assert!(flag(Some("1")) && flag(Some("no")) && flag(Some("false")));
    }
}
