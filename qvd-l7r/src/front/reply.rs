//! Final answers, typed, and their bytes.

use std::time::Duration;

use qvd_core::proto::http1::{HeadError, encode_head, reason_phrase, status_line};
use qvd_core::proto::upgrade::{INFO_HEADER, ParamError, SLAVE_KEY_HEADER};
use qvd_core::state::{HostState, VmState};
use qvd_core::{Secret, VmId};

use crate::progress::{Reason, Step};

/// A final answer. Its body is never empty: some clients wait for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The node serves.
    Alive,
    /// The list of virtual machines, encoded.
    List(String),
    /// The virtual machine is stopped.
    Stopped,
    /// A new token, and how long it is good for.
    Token(Secret<String>, Duration),
    /// The head cannot be served.
    BadHead(HeadError),
    /// The request announces a body.
    BodyRefused,
    /// Nobody serves this path.
    NoRoute,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Whether they are right cannot be said now.
    LoginUndecided,
    /// The node is not in the database.
    NotRegistered,
    /// The node is not in service.
    HostState(HostState),
    /// The node takes no work.
    HostBlocked,
    /// This router is on its way out.
    ServerStopping,
    /// The upgrade headers are missing.
    UpgradeRequired,
    /// Parameters are missing or not allowed.
    BadParams(ParamError),
    /// No such virtual machine.
    NoVm,
    /// The virtual machine is blocked.
    VmBlocked,
    /// The user may not use it.
    VmForbidden,
    /// Who came with a token asks for another one.
    TokenForbidden,
    /// The connect failed after its checks.
    NotAvailable(VmId, Reason),
    /// It cannot be stopped from this state.
    Unstoppable(VmState),
    /// It took too long to stop.
    StopTimeout,
    /// The database is away.
    DatabaseAway,
    /// Something failed that the client cannot help; the log has it.
    Internal,
}

impl Reply {
    /// Status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::Alive | Self::List(_) | Self::Stopped | Self::Token(..) => 200,
            Self::BadHead(error) => error.status(),
            Self::BodyRefused => 400,
            Self::NoRoute | Self::NoVm => 404,
            Self::Unauthorized => 401,
            Self::UpgradeRequired => 426,
            Self::BadParams(error) => error.status(),
            Self::VmBlocked | Self::VmForbidden | Self::TokenForbidden => 403,
            Self::StopTimeout => 408,
            Self::Internal => 500,
            Self::LoginUndecided
            | Self::NotRegistered
            | Self::HostState(_)
            | Self::HostBlocked
            | Self::ServerStopping
            | Self::NotAvailable(..)
            | Self::Unstoppable(_)
            | Self::DatabaseAway => 503,
        }
    }

    /// The body, never empty.
    pub fn body(&self) -> String {
        match self {
            Self::Alive => "I am alive!\r\n".to_owned(),
            Self::List(json) => json.clone(),
            Self::Stopped => "Machine stopped\r\n".to_owned(),
            Self::Token(token, lifetime) => {
                // Letters and digits alone: nothing to escape.
                format!(r#"{{"auth_token":"{}","expires_in":{}}}"#, token.expose(), lifetime.as_secs())
            }
            Self::BadHead(error) => self.describe(&error.to_string()),
            Self::BodyRefused => self.describe("requests have no body"),
            Self::NoRoute => self.describe("nothing is served at this path"),
            Self::Unauthorized => self.describe("login and password are needed"),
            Self::LoginUndecided => self.describe("login and password cannot be checked at the moment"),
            Self::NotRegistered => "Host is not registered in the database".to_owned(),
            Self::HostState(state) => format!("Server is {state}"),
            Self::HostBlocked => "Server is blocked".to_owned(),
            Self::ServerStopping => "Server is stopping".to_owned(),
            Self::UpgradeRequired => self.describe("this path speaks QVD/1.0"),
            Self::BadParams(error) => error.to_string(),
            Self::NoVm => "The requested virtual machine does not exist".to_owned(),
            Self::VmBlocked => "The requested virtual machine is offline for maintenance".to_owned(),
            Self::VmForbidden => "You are not allowed to access requested virtual machine".to_owned(),
            Self::TokenForbidden => self.describe("a token does not get another one, log in for it"),
            Self::NotAvailable(vm, reason) => reason.body(*vm),
            Self::Unstoppable(state) => {
                format!("The requested virtual machine is in an unstoppable state ({state})")
            }
            Self::StopTimeout => "VM didn't reach state 'stopped'. Timeout".to_owned(),
            Self::DatabaseAway => self.describe("the database does not answer, try again later"),
            Self::Internal => self.describe("the request could not be completed, the server's log says why"),
        }
    }

    /// The head, which announces [`Reply::body`].
    pub fn head(&self, body: &str) -> String {
        let kind = match self {
            Self::List(_) | Self::Token(..) => "application/json",
            _ => "text/plain",
        };
        let length = body.len().to_string();
        let mut headers = vec![("Content-Type", kind), ("Content-Length", length.as_str())];
        if matches!(self, Self::Unauthorized) {
            headers.push(("WWW-Authenticate", "Basic realm=\"QVD\""));
        }
        encode_head(&status_line(self.status()), &headers)
    }

    /// Whether the connection must be closed behind it, whatever was asked: the stream cannot be trusted any more.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::BadHead(_) | Self::BodyRefused | Self::ServerStopping)
    }

    fn describe(&self, what: &str) -> String {
        let code = self.status();
        format!("{code} {}\r\n\r\n{what}\r\n", reason_phrase(code))
    }
}

/// The 102 head of a step.
pub(super) fn progress_head(step: Step, vm: VmId) -> String {
    remark_head(&step.text(vm))
}

/// A 102 head with any text of one line.
pub(super) fn remark_head(text: &str) -> String {
    encode_head(&status_line(102), &[(INFO_HEADER, text)])
}

/// The 101 head; it carries the key and nothing else.
pub(super) fn switch_head(slave_key: &str) -> String {
    encode_head(&status_line(101), &[(SLAVE_KEY_HEADER, slave_key)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::VmId;

    fn every_reply() -> Vec<Reply> {
        vec![
            Reply::Alive,
            Reply::List("[]".into()),
            Reply::Stopped,
            Reply::Token(Secret::new("abc".into()), Duration::from_secs(60)),
            Reply::TokenForbidden,
            Reply::BadHead(HeadError::Malformed),
            Reply::BodyRefused,
            Reply::NoRoute,
            Reply::Unauthorized,
            Reply::LoginUndecided,
            Reply::NotRegistered,
            Reply::HostState(HostState::Stopping),
            Reply::HostBlocked,
            Reply::ServerStopping,
            Reply::UpgradeRequired,
            Reply::BadParams(ParamError::IdMissing),
            Reply::NoVm,
            Reply::VmBlocked,
            Reply::VmForbidden,
            Reply::NotAvailable(VmId::new(1), Reason::NoHost),
            Reply::Unstoppable(VmState::Zombie),
            Reply::StopTimeout,
            Reply::DatabaseAway,
            Reply::Internal,
        ]
    }

    #[test]
    fn every_head_announces_a_body_that_is_there() {
        for reply in every_reply() {
            let body = reply.body();
            let head = reply.head(&body);
            assert!(!body.is_empty(), "{reply:?}");
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", reply.status())), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1, "{head}");
            assert!(!body.contains("HTTP/1.1"), "a client searches bodies for status lines: {body}");
        }
    }

    #[test]
    fn a_token_is_in_the_body_and_in_no_debug_output() {
        let reply = Reply::Token(Secret::new("s3cret".into()), Duration::from_secs(28_800));
        assert_eq!(reply.body(), r#"{"auth_token":"s3cret","expires_in":28800}"#);
        assert!(reply.head("x").contains("\r\nContent-Type: application/json\r\n"));
        assert!(!format!("{reply:?}").contains("s3cret"));
    }

    #[test]
    fn well_known_answers_are_byte_exact() {
        let alive = Reply::Alive;
        assert_eq!(
            format!("{}{}", alive.head(&alive.body()), alive.body()),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nI am alive!\r\n"
        );
        let denied = Reply::Unauthorized;
        assert!(denied.head(&denied.body()).contains("\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\n"));
        assert_eq!(
            progress_head(Step::WaitingForVm, VmId::new(1)),
            "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Waiting for VM to reach state 'running'\r\n\r\n"
        );
        assert_eq!(switch_head("k"), "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: k\r\n\r\n");
        assert_eq!(Reply::VmBlocked.body().len(), 56);
        assert_eq!(Reply::Stopped.body().len(), 17);
    }
}
