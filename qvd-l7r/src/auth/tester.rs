//! The authenticator named `authtester`: shows what an attempt to log in brings, and accepts nobody.

use async_trait::async_trait;
use qvd_core::auth::{Attempt, AuthError, Authenticator, Verdict};

/// Logs each attempt: login, how long the password is, and the environment that the client shares. For whoever sets
/// up environment sharing; the password itself is not logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthTester;

#[async_trait]
impl Authenticator for AuthTester {
    fn name(&self) -> &str {
        "authtester"
    }

    async fn authenticate(&self, attempt: &Attempt) -> Result<Verdict, AuthError> {
        let environment: Vec<String> = attempt
            .environment
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_debug(), shown(value)))
            .collect();
        tracing::info!(
            login = attempt.login,
            normalized = attempt.normalized_login,
            password = %format_args!("({} bytes, not shown)", attempt.password.expose().len()),
            peer = attempt.peer.map(tracing::field::display),
            environment = ?environment,
            "an attempt to log in"
        );
        Ok(Verdict::NotMine)
    }
}

/// The beginning of a value, in one line.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(LONGEST)]);
    let cut = if value.len() > LONGEST { "…" } else { "" };
    format!("{}{cut}", text.escape_debug())
}

const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_one_line_and_not_for_ever() {
        assert_eq!(shown(b"Alice Doe"), "Alice Doe");
        assert_eq!(shown(b"a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(shown(&[b'x'; 8192]).chars().count(), LONGEST + 1);
    }
}
