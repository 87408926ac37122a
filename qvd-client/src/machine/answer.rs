//! Final answers that are no success, made into words. Servers of all versions are read here.

use qvd_core::proto::http1::ResponseHead;

use crate::error::Error;
use crate::list::printable;

/// What an answer to the list (`is_list`), or else to a stop or connect, refuses.
pub(super) fn refusal(is_list: bool, server: &str, head: &ResponseHead, body: &[u8]) -> Error {
    // The last 3.5 servers wrap some refusals into a 404 head whose stray lines say what is meant.
    let (code, text) = match wrapped(head) {
        Some(wrapped) => wrapped,
        None => (head.code, words(body)),
    };
    let or = |fallback: &str| if text.is_empty() { fallback.to_owned() } else { text.clone() };
    match code {
        401 => Error::LoginFailed,
        403 => Error::Forbidden(or("you may not use this virtual machine")),
        404 if is_list => Error::NotQvd { server: server.to_owned() },
        404 => Error::NoSuchVm(or("the virtual machine does not exist any more")),
        426 => Error::ClientTooOld,
        408 => Error::ServerTimeout(or("the virtual machine did not get there")),
        503 => Error::Unavailable(or("the server cannot do it now, try again later")),
        code => Error::Refused { code, text: or(&printable(&head.reason)) },
    }
}

/// Status and text that stand as bare lines in the head of a 404.
fn wrapped(head: &ResponseHead) -> Option<(u16, String)> {
    let (status, rest) = head.stray_lines.split_first()?;
    let code = status.split(' ').next()?.parse().ok().filter(|code| (400..=599).contains(code))?;
    Some((code, one_line(&rest.join(" "))))
}

/// The body as one line for people; empty when it is a server's internals.
fn words(body: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(body))
}

fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if names_internals(&text) || text.starts_with('<') {
        return String::new();
    }
    printable(&text).chars().take(LONGEST).collect()
}

/// Whether a Perl server let its insides out: an object's address, or ` at FILE line N.` at the end.
fn names_internals(text: &str) -> bool {
    let address = ["ARRAY(0x", "HASH(0x", "CODE(0x", "SCALAR(0x"].iter().any(|dump| text.contains(dump));
    let place = || {
        let (_, place) = text.rsplit_once(" at ")?;
        let (_, line) = place.rsplit_once(" line ")?;
        let digits = line.trim_end_matches(|c: char| !c.is_ascii_digit());
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())
    };
    address || place().is_some()
}

#[cfg(test)]
mod tests {
    use qvd_core::proto::http1::{Limits, parse_response};

    use super::*;

    fn said(is_list: bool, response: &str) -> String {
        let (head, used) = parse_response(response.as_bytes(), &Limits::default()).unwrap().unwrap();
        refusal(is_list, "vdi:8443", &head, &response.as_bytes()[used..]).to_string()
    }

    #[test]
    fn each_status_has_its_words() {
        let case = |code: &str, body: &str| said(false, &format!("HTTP/1.1 {code} X\r\n\r\n{body}"));
        assert!(case("401", "401 Unauthorized").contains("wrong user name or password"));
        assert!(
            case("403", "The requested virtual machine is offline for maintenance").contains("maintenance")
        );
        assert!(case("404", "").contains("does not exist any more"));
        assert!(case("426", "").contains("more up-to-date client"));
        assert!(case("503", "Server is blocked").ends_with("Server is blocked"));
        assert!(case("408", "VM didn't reach state 'stopped'. Timeout").contains("didn't reach"));
        assert_eq!(case("505", "no"), "the server answers 505: no");
        assert_eq!(
            said(true, "HTTP/1.1 404 Not Found\r\n\r\n<html>"),
            "vdi:8443 answers, but is not a QVD server"
        );
        assert!(said(true, "HTTP/1.1 401 Unauthorized\r\n\r\n").contains("login failed"));
    }

    #[test]
    fn a_wrapped_refusal_is_unwrapped() {
        let text = said(
            false,
            "HTTP/1.1 404\r\n403 Forbidden\r\nThe requested virtual machine is offline for maintenance\r\n\r\n",
        );
        assert_eq!(text, "the server refuses: The requested virtual machine is offline for maintenance");
    }

    #[test]
    fn a_servers_insides_stay_inside() {
        for body in [
            "The requested virtual machine is not available: X=ARRAY(0x55d0c8), retry later",
            "Unable to start VM 7 at /usr/lib/qvd/lib/perl5/QVD/L7R.pm line 512.",
            "<html><body>503</body></html>",
        ] {
            let text = said(false, &format!("HTTP/1.1 503 Service Unavailable\r\n\r\n{body}"));
            assert_eq!(text, "not available: the server cannot do it now, try again later", "{body}");
        }
        let text = said(false, "HTTP/1.1 503 X\r\n\r\nserver is down at line 5 of the plan\u{1b}[2J\n");
        assert!(text.contains("line 5 of the plan?[2J"), "{text}");
    }
}
