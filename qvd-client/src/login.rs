//! Who logs in, and what is sent along.

use qvd_core::Secret;
use qvd_core::proto::basic::{MAX_ENVIRONMENT, MAX_ENVIRONMENT_VALUE, encode_basic, encode_environment};

use crate::error::{Error, Result};

/// What proves who the user is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// Login and password.
    Basic {
        /// Login.
        login: String,
        /// Password; a second factor is appended to it where the server asks for one.
        password: Secret<String>,
    },
    /// A token, for servers that take one.
    Bearer(Secret<String>),
}

impl Credentials {
    /// Login and password.
    pub fn basic(login: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic { login: login.into(), password: Secret::new(password.into()) }
    }

    /// A token.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self::Bearer(Secret::new(token.into()))
    }

    /// The value of the `Authorization` header.
    ///
    /// # Errors
    ///
    /// When the login is empty or holds a colon, or anything holds a line break: such a request cannot be sent.
    pub(crate) fn authorization(&self) -> Result<Secret<String>> {
        let bad = |what, why: &str| Error::Setting { what, value: "…".to_owned(), why: why.to_owned() };
        match self {
            Self::Basic { login, password } => {
                if login.is_empty() || login.contains([':', '\n', '\r']) {
                    let why = "it must not be empty nor hold a colon or a line break".to_owned();
                    return Err(Error::Setting { what: "user name", value: login.clone(), why });
                }
                if password.expose().contains(['\n', '\r']) {
                    return Err(bad("password", "it holds a line break"));
                }
                Ok(Secret::new(encode_basic(login, password.expose().as_bytes())))
            }
            Self::Bearer(token) => {
                let token = token.expose();
                if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(bad("bearer token", "it is empty or holds blanks or foreign characters"));
                }
                Ok(Secret::new(format!("Bearer {token}")))
            }
        }
    }
}

/// Headers that share environment variables with the server's authenticators. What is beyond the server's limits
/// (64 variables, 8 KiB each) is left out.
pub(crate) fn environment_headers(variables: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
    variables
        .iter()
        .filter(|(name, value)| !name.is_empty() && value.len() <= MAX_ENVIRONMENT_VALUE)
        .take(MAX_ENVIRONMENT)
        .map(|(name, value)| encode_environment(name, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_and_line_breaks_do_not_pass() {
        let alice = Credentials::basic("alice", "s3cret");
        assert!(!format!("{alice:?}").contains("s3cret"));
        assert_eq!(alice.authorization().unwrap().expose(), "Basic YWxpY2U6czNjcmV0");
        assert_eq!(Credentials::bearer("abc.def").authorization().unwrap().expose(), "Bearer abc.def");
        for bad in [
            Credentials::basic("", "x"),
            Credentials::basic("a:b", "x"),
            Credentials::basic("a", "x\ny"),
            Credentials::bearer("a b"),
            Credentials::bearer("a\r\nX: y"),
        ] {
            let text = bad.authorization().unwrap_err().to_string();
            assert!(!text.contains("X: y") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn environment_stays_within_the_servers_limits() {
        let many: Vec<_> = (0..100).map(|i| (format!("V{i}"), vec![b'x'])).collect();
        assert_eq!(environment_headers(&many).len(), 64);
        assert!(environment_headers(&[("BIG".to_owned(), vec![0; 9 << 10])]).is_empty());
    }
}
