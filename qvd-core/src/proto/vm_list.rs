//! The JSON list of virtual machines (protocol page §2.6): what the router writes and what clients read.

use serde::Deserialize;

use crate::state::VmState;

/// Clients' receive buffers end here.
pub const MAX_BODY: usize = 65_000;

/// One machine of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// State text; unknown words are kept.
    pub state: String,
    /// Whether connecting is refused.
    pub blocked: bool,
}

impl Entry {
    /// An entry for the router's list.
    pub fn new(id: i64, name: impl Into<String>, state: VmState, blocked: bool) -> Self {
        Self { id, name: name.into(), state: state.as_str().to_owned(), blocked }
    }
}

/// The list does not fit into what clients can receive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a list of {machines} virtual machines takes {bytes} bytes, clients can receive {MAX_BODY}")]
pub struct TooLong {
    machines: usize,
    bytes: usize,
}

/// Writes the body: ASCII only, `blocked` as 0 or 1, since an old client crashes on anything else.
///
/// # Errors
///
/// [`TooLong`] above [`MAX_BODY`].
///
/// ```
/// use qvd_core::proto::vm_list::{encode, Entry};
/// use qvd_core::state::VmState;
/// let body = encode(&[Entry::new(7, "desk", VmState::Running, false)]).unwrap();
/// assert_eq!(body, r#"[{"id":7,"name":"desk","state":"running","blocked":0}]"#);
/// ```
pub fn encode(entries: &[Entry]) -> Result<String, TooLong> {
    let items: Vec<String> = entries
        .iter()
        .map(|e| {
            format!(
                r#"{{"id":{},"name":{},"state":{},"blocked":{}}}"#,
                e.id,
                ascii_json(&e.name),
                ascii_json(&e.state),
                u8::from(e.blocked)
            )
        })
        .collect();
    let body = format!("[{}]", items.join(","));
    if body.len() < MAX_BODY { Ok(body) } else { Err(TooLong { machines: entries.len(), bytes: body.len() }) }
}

/// Reads a body, tolerating what servers of all versions send: ids as text, `blocked` as number, boolean, text or null.
///
/// # Errors
///
/// A text for people when it is not such a list.
pub fn decode(body: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw {
        id: serde_json::Value,
        #[serde(default)]
        name: String,
        #[serde(default)]
        state: String,
        #[serde(default)]
        blocked: serde_json::Value,
    }
    let raw: Vec<Raw> = serde_json::from_slice(body)?;
    raw.into_iter()
        .map(|r| {
            let id = match &r.id {
                serde_json::Value::Number(n) => n.as_i64(),
                serde_json::Value::String(s) => s.trim().parse().ok(),
                _ => None,
            };
            let id = id.ok_or_else(|| {
                <serde_json::Error as serde::de::Error>::custom("a machine's id is no integer")
            })?;
            let blocked = match &r.blocked {
                serde_json::Value::Bool(b) => *b,
                serde_json::Value::Number(n) => n.as_f64() != Some(0.0),
                serde_json::Value::String(s) => crate::proto::upgrade::flag(Some(s)),
                _ => false,
            };
            Ok(Entry { id, name: r.name, state: r.state, blocked })
        })
        .collect()
}

fn ascii_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut units = [0u16; 2];
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_list_and_foreign_letters() {
        assert_eq!(encode(&[]).unwrap(), "[]");
        let body = encode(&[Entry::new(1, "ñ😀\n\"", VmState::Stopped, true)]).unwrap();
        assert!(body.is_ascii());
        assert!(body.contains(r#""name":"\u00f1\ud83d\ude00\u000a\"""#), "{body}");
    }

    #[test]
    fn servers_of_all_versions_are_understood() {
        let list = decode(br#"[{"id":"3","name":"a","state":"running","blocked":true},{"id":4,"blocked":null},{"id":5,"blocked":"0","is_application":1}]"#).unwrap();
        assert_eq!(
            list.iter().map(|e| (e.id, e.blocked)).collect::<Vec<_>>(),
            [(3, true), (4, false), (5, false)]
        );
        assert!(decode(b"<html>").is_err());
        assert!(decode(br#"[{"id":null}]"#).is_err());
    }

    #[test]
    fn a_list_too_long_for_clients_is_refused() {
        let many: Vec<_> = (0..2000).map(|i| Entry::new(i, "machine", VmState::Running, false)).collect();
        assert!(encode(&many).is_err());
    }

    proptest! {
        #[test]
        fn any_name_survives(name in ".*") {
            let list = vec![Entry::new(1, name, VmState::Zombie, true)];
            prop_assert_eq!(decode(encode(&list).unwrap().as_bytes()).unwrap(), list);
        }
    }
}
