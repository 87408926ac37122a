//! Request heads, typed.

use std::collections::BTreeMap;

use qvd_core::proto::basic::{self, Authorization};
use qvd_core::proto::http1::RequestHead;
use qvd_core::proto::upgrade::{self, path};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Health check.
    Ping,
    /// The user's virtual machines.
    List,
    /// Connect and upgrade.
    Connect,
    /// Stop a virtual machine.
    Stop,
    /// Make a token.
    Token,
}

impl Route {
    /// By method and path, exactly; the query plays no part.
    fn of(head: &RequestHead) -> Option<Self> {
        if head.method != "GET" {
            return None;
        }
        let path = head.path();
        [
            (path::PING, Self::Ping),
            (path::LIST, Self::List),
            (path::CONNECT, Self::Connect),
            (path::STOP, Self::Stop),
            (path::TOKEN, Self::Token),
        ]
        .into_iter()
        .find_map(|(known, route)| (path == known.as_bytes()).then_some(route))
    }
}

/// A request, as far as its head tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for; `None` when nobody serves it.
    pub route: Option<Route>,
    /// The query, not decoded.
    pub query: Vec<u8>,
    /// Login and password, or a token, when it carries usable ones.
    pub authorization: Option<Authorization>,
    /// Environment variables that the client shares with authenticators.
    pub environment: BTreeMap<String, Vec<u8>>,
    /// It asks for the upgrade to `QVD/1.0`.
    pub upgrade: bool,
    /// It wants the connection closed behind the answer.
    pub close: bool,
    /// It announces a body, which no request may have.
    pub announces_body: bool,
}

impl From<RequestHead> for Request {
    fn from(head: RequestHead) -> Self {
        let upgrade = upgrade::is_upgrade(&head.headers);
        Self {
            route: Route::of(&head),
            query: head.query().to_vec(),
            authorization: head.headers.get("Authorization").and_then(basic::parse_authorization),
            environment: basic::shared_environment(&head.headers),
            upgrade,
            close: !upgrade && head.headers.has_token("Connection", "close"),
            announces_body: head.announces_body(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qvd_core::proto::http1::{Limits, parse_request};

    fn request(text: &str) -> Request {
        parse_request(text.as_bytes(), &Limits::default()).unwrap().unwrap().0.into()
    }

    #[test]
    fn routes_are_exact() {
        assert_eq!(request("GET /qvd/ping?x HTTP/1.1\n\n").route, Some(Route::Ping));
        assert_eq!(request("GET //any/qvd/list_of_vm? HTTP/1.1\n\n").route, Some(Route::List));
        for none in
            ["POST /qvd/ping", "HEAD /qvd/ping", "GET /qvd/ping/x", "GET /qvd/p%69ng", "get /qvd/ping"]
        {
            assert_eq!(request(&format!("{none} HTTP/1.1\n\n")).route, None, "{none}");
        }
    }

    #[test]
    fn an_upgrade_is_a_list_in_any_case() {
        let r =
            request("GET /qvd/connect_to_vm HTTP/1.1\nconnection: keep-alive, Upgrade\nUpgrade: qvd/1.0\n\n");
        assert!(r.upgrade && !r.close);
        assert!(!request("GET / HTTP/1.1\nConnection: Upgrade\n\n").upgrade);
    }

    #[test]
    fn credentials_do_not_show_in_debug_output() {
        let r = request("GET /qvd/ping HTTP/1.1\nAuthorization: Basic YWxpY2U6czNjcmV0\n\n");
        assert!(matches!(&r.authorization, Some(Authorization::Basic(c)) if c.login == "alice"));
        assert!(!format!("{r:?}").contains("s3cret"));
        assert!(!format!("{r:?}").contains("115, 51"), "nor as bytes");
    }
}
