//! Calls of the agent: plain HTTP requests whose answer is JSON without brackets (protocol page §3.1).

use serde_json::Value;

/// Content type of every answer to a known method.
pub const CONTENT_TYPE: &str = "application/json-simplerpc";

/// The method that a path names: the trailing run of word characters below `/vma`. `None` for foreign paths.
///
/// ```
/// use qvd_core::proto::vma_rpc::method;
/// assert_eq!(method(b"/vma/x_state"), Some("x_state"));
/// assert_eq!(method(b"/vma/x/ping"), Some("ping"));
/// assert_eq!(method(b"/other/ping"), None);
/// ```
pub fn method(path: &[u8]) -> Option<&str> {
    let below = path.strip_prefix(b"/vma/")?;
    let start = below.iter().rposition(|b| !(b.is_ascii_alphanumeric() || *b == b'_')).map_or(0, |at| at + 1);
    std::str::from_utf8(&below[start..]).ok().filter(|m| !m.is_empty())
}

/// Body of a success.
pub fn encode_result(value: &Value) -> String {
    format!("{value}\n\r\n")
}

/// Body of a failure: an empty string, a comma, the message.
///
/// ```
/// assert_eq!(qvd_core::proto::vma_rpc::encode_error("no"), "\"\",\"no\"\r\n");
/// ```
pub fn encode_error(message: &str) -> String {
    format!("\"\",{}\r\n", Value::from(message))
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The method's result.
    Result(Value),
    /// The agent's error text.
    Error(String),
}

/// Reads a body: one value is a result, a second one is an error text.
///
/// # Errors
///
/// When it is not JSON of that form.
pub fn decode(body: &[u8]) -> Result<Answer, serde_json::Error> {
    let text = [b"[".as_slice(), body, b"]"].concat();
    let mut values: Vec<Value> = serde_json::from_slice(&text)?;
    match values.len() {
        0 => Ok(Answer::Result(Value::Null)),
        1 => Ok(Answer::Result(values.remove(0))),
        _ => Ok(Answer::Error(match values.remove(1) {
            Value::String(message) => message.trim().to_owned(),
            other => other.to_string(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn results_and_errors_read_back() {
        assert_eq!(decode(b"\"listening\"\n\r\n").unwrap(), Answer::Result("listening".into()));
        assert_eq!(
            decode(b"\"\",\"hook failed, rc: 3\\n\"\r\n").unwrap(),
            Answer::Error("hook failed, rc: 3".into())
        );
        assert_eq!(decode(b" \r\n").unwrap(), Answer::Result(Value::Null));
        assert!(decode(b"<html>").is_err());
    }

    proptest! {
        #[test]
        fn any_message_survives(message in "[^\\s]+( [^\\s]+)*") {
            prop_assert_eq!(decode(encode_error(&message).as_bytes()).unwrap(), Answer::Error(message));
        }
    }
}
