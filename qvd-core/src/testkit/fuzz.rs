//! What must hold of every parser of foreign bytes, whatever the bytes.
//!
//! Each function is the body of the fuzz target of its name, and of the ordinary test that runs the seed corpus
//! (`fuzz/corpus`): what a fuzzer once found is looked at in every test run. A law that does not hold panics.

use crate::proto::http1::{self, HeadError, Headers, Limits, RequestScan};
use crate::proto::{basic, jwt, proxy, query, upgrade, vm_list};

/// What must hold of any bytes.
pub type Law = fn(&[u8]);

/// Every target with its function, by name.
pub const TARGETS: [(&str, Law); 7] = [
    ("head", head),
    ("query", query),
    ("basic", basic),
    ("environment", environment),
    ("vm_list", vm_list),
    ("proxy", proxy),
    ("jwt", jwt),
];

/// Request and response heads: pieces are read as the whole, nothing is used that is not there, and what a refusal
/// says is a status.
pub fn head(bytes: &[u8]) {
    let limits = Limits::default();
    let whole = http1::parse_request(bytes, &limits);
    let mut scan = RequestScan::default();
    let early = scan.advance(&bytes[..bytes.len() / 2], &limits);
    let in_pieces = if early == Ok(None) { scan.advance(bytes, &limits) } else { early };
    if !is_about_size(&whole) && !is_about_size(&in_pieces) {
        assert_eq!(in_pieces, whole, "the second half changes what the first half was");
    }
    match whole {
        Ok(Some((head, used))) => {
            assert!(used <= bytes.len());
            assert!(head.path().len() + head.query().len() <= head.target.len().max(1));
            assert!(head.headers.iter().count() <= limits.headers);
            assert!(!head.target.contains(&b'\n') && !head.target.contains(&b'\r'));
            let _ = (head.announces_body(), upgrade::is_upgrade(&head.headers));
            assert!(!format!("{head:?}").contains('\n'), "one line in a log");
        }
        Ok(None) => {}
        Err(error) => assert!((400..600).contains(&error.status())),
    }
    if let Ok(Some((head, used))) = http1::parse_response(bytes, &limits) {
        assert!(used <= bytes.len());
        let _ = head.content_length();
    }
}

/// Which of two limits is met first may depend on how much was seen.
fn is_about_size<T>(outcome: &Result<T, HeadError>) -> bool {
    matches!(outcome, Err(HeadError::TooLarge | HeadError::TargetTooLong))
}

/// Queries: what passes as a parameter has an allowed name and nothing that could end a line.
pub fn query(bytes: &[u8]) {
    let pairs = query::decode(bytes);
    let held: usize = pairs.iter().map(|p| p.name.len() + p.value.as_ref().map_or(0, Vec::len)).sum();
    assert!(held <= bytes.len(), "decoding never grows");
    let _ = upgrade::stop_request(bytes);
    let _ = upgrade::token_request(bytes);
    if let Ok(wanted) = upgrade::connect_request(bytes) {
        for (name, value) in &wanted.params {
            assert!(name.starts_with("qvd.client.") || name.starts_with("custom."), "{name:?}");
            assert!(
                ![name, value].iter().any(|text| text.contains(['\0', '\r', '\n'])),
                "{name:?} {value:?}"
            );
        }
    }
}

/// Authorization headers: a token is one word of ASCII; basic credentials: never an empty login or one with a NUL, never shown, and what was read is read again.
pub fn basic(bytes: &[u8]) {
    if let Some(basic::Authorization::Bearer(token)) = basic::parse_authorization(bytes) {
        assert!(!token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic()));
    }
    let Some(credentials) = basic::parse_basic(bytes) else { return };
    assert!(!credentials.login.is_empty() && !credentials.login.contains('\0'));
    assert!(credentials.password.expose().len() <= bytes.len());
    let again = basic::encode_basic(&credentials.login, credentials.password.expose());
    // A login that holds a colon is the one that cannot come from a header.
    assert_eq!(basic::parse_basic(again.as_bytes()), Some(credentials));
}

/// Shared environment headers: bounded in number and size, whatever the head holds.
pub fn environment(bytes: &[u8]) {
    let text = [b"GET / HTTP/1.1\r\n".as_slice(), bytes, b"\r\n\r\n"].concat();
    let Ok(Some((head, _))) = http1::parse_request(&text, &Limits::default()) else { return };
    let headers: &Headers = &head.headers;
    let variables = basic::shared_environment(headers);
    assert!(variables.len() <= basic::MAX_ENVIRONMENT);
    for (name, value) in &variables {
        assert!(!name.is_empty() && value.len() <= basic::MAX_ENVIRONMENT_VALUE);
        let (header, encoded) = basic::encode_environment(name, value);
        let again = format!("GET / HTTP/1.1\r\n{header}: {encoded}\r\n\r\n");
        // Written anew it may be some bytes longer.
        let limits = Limits { header: 64 << 10, head: 64 << 10, ..Limits::default() };
        let (head, _) = http1::parse_request(again.as_bytes(), &limits)
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("not read again: {again:?}"));
        assert_eq!(basic::shared_environment(&head.headers).get(name), Some(value));
    }
}

/// The list of machines: what a client could read, a router can write, and the client reads the same again.
pub fn vm_list(bytes: &[u8]) {
    let Ok(entries) = vm_list::decode(bytes) else { return };
    let Ok(body) = vm_list::encode(&entries) else { return };
    assert!(body.is_ascii() && body.len() < vm_list::MAX_BODY);
    match vm_list::decode(body.as_bytes()) {
        Ok(again) => assert_eq!(again, entries),
        Err(error) => panic!("not read again: {error}: {body}"),
    }
}

/// PROXY headers: bounded, and an answer is an answer whatever follows.
pub fn proxy(bytes: &[u8]) {
    let whole = proxy::parse(bytes);
    for cut in [bytes.len() / 3, bytes.len() / 2] {
        let early = proxy::parse(&bytes[..cut]);
        assert!(early == Ok(None) || early == whole, "{early:?}, then {whole:?}");
    }
    match whole {
        Ok(Some((_, used))) => assert!(used <= bytes.len() && used <= proxy::MAX_HEADER),
        Ok(None) => assert!(bytes.len() < proxy::MAX_HEADER, "a header that never ends"),
        Err(_) => {}
    }
}

/// Signed tokens: what is read has the form, is bounded, is signed as a whole, and shows nothing of itself.
pub fn jwt(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = jwt::parse(text) else { return };
    assert!(text.len() <= jwt::MAX_TOKEN && jwt::has_form(text) && text.is_ascii());
    let signature = text.strip_prefix(read.signed).and_then(|rest| rest.strip_prefix('.'));
    assert!(signature.is_some_and(|last| !last.contains('.') && last.len() > read.signature.len()));
    assert_eq!(read.signed.matches('.').count(), 1);
    assert!(!format!("{read:?}").contains('\n'), "one line in a log");
}
