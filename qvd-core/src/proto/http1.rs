//! The HTTP/1.1 dialect of the QVD port and of the agent, without IO.
//!
//! No HTTP library speaks it: targets with raw spaces, bare LF, header names that clients compare byte by
//! byte, 1xx answers, and continuation lines are all in use by real clients (protocol page §2.2, §2.3, §2.10).
//! So heads are cut into lines here; nothing else of HTTP is needed, since neither side sends request bodies
//! or chunks.

use std::fmt;

use crate::secret::Names;

/// Sizes that a head must keep within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request or status line.
    pub first_line: usize,
    /// Bytes of one header, continuation lines included.
    pub header: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of the whole head.
    pub head: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { first_line: 16 << 10, header: 16 << 10, headers: 128, head: 64 << 10 }
    }
}

/// Why a head is refused; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Not HTTP.
    #[error("malformed head")]
    Malformed,
    /// A version other than `HTTP/1.1`, or none.
    #[error("HTTP version not supported")]
    Version,
    /// The request line is too long.
    #[error("request target too long")]
    TargetTooLong,
    /// A header, their number, or the head is too large.
    #[error("request head too large")]
    TooLarge,
}

impl HeadError {
    /// The status that a server answers with.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Version => 505,
            Self::TargetTooLong => 414,
            Self::TooLarge => 431,
        }
    }
}

/// Headers in the order received. Their `Debug` shows names alone: passwords, keys and what a client shares of its
/// environment all travel in values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Names(self.0.iter().map(|(name, _)| name.as_str())).fmt(f)
    }
}

impl Headers {
    /// The first value under this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// The first value under this name, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_slice()))
    }

    /// Whether a comma list under this name holds this token, whatever its case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .flat_map(|(_, v)| v.split(|b| *b == b','))
            .any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// Head of a request. Its `Debug` shows neither the query nor the values of headers.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, as sent.
    pub method: String,
    /// Target, as sent; may hold raw spaces and any byte but CR and LF.
    pub target: Vec<u8>,
    /// Headers.
    pub headers: Headers,
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &String::from_utf8_lossy(self.path()))
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl RequestHead {
    /// The path to route by: query, fragment, scheme and authority removed, not decoded.
    pub fn path(&self) -> &[u8] {
        let path = self.split().0;
        let after_scheme = match path.windows(3).position(|w| w == b"://") {
            Some(at) if !path.starts_with(b"/") => &path[at + 1..],
            _ => path,
        };
        match after_scheme.strip_prefix(b"//") {
            Some(rest) => rest.iter().position(|b| *b == b'/').map_or(b"/", |at| &rest[at..]),
            None => after_scheme,
        }
    }

    /// The query, without `?`; empty when there is none.
    pub fn query(&self) -> &[u8] {
        self.split().1
    }

    /// Whether the request announces a body, which no request of these protocols may.
    pub fn announces_body(&self) -> bool {
        self.headers.get("Transfer-Encoding").is_some()
            || self
                .headers
                .iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case("Content-Length"))
                .any(|(_, v)| v.trim_ascii() != b"0")
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let end = self.target.iter().position(|b| *b == b'#').unwrap_or(self.target.len());
        let target = &self.target[..end];
        match target.iter().position(|b| *b == b'?') {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, b""),
        }
    }
}

/// Head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub code: u16,
    /// Reason phrase, maybe empty.
    pub reason: String,
    /// Headers.
    pub headers: Headers,
    /// Lines without a colon, which the last 3.5 servers send for some refusals.
    pub stray_lines: Vec<String>,
}

impl ResponseHead {
    /// Body length as announced; 0 when not announced.
    ///
    /// # Errors
    ///
    /// [`HeadError::Malformed`] when it is announced as something else than a number.
    pub fn content_length(&self) -> Result<usize, HeadError> {
        match self.headers.get_str("Content-Length") {
            None => Ok(0),
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| HeadError::Malformed)
            }
            Some(_) => Err(HeadError::Malformed),
        }
    }
}

/// Reads a request head from the start of `buf`.
///
/// `Ok(None)` means that more bytes are needed; `Ok(Some((head, used)))` leaves `buf[used..]` for whatever
/// follows. Lines of white space before the request are skipped (and counted in `used`).
///
/// # Errors
///
/// [`HeadError`], as soon as it is certain.
///
/// ```
/// use qvd_core::proto::http1::{parse_request, Limits};
/// let (head, used) = parse_request(b"GET /a b?c=d HTTP/1.1\nX: y\n\nrest", &Limits::default()).unwrap().unwrap();
/// assert_eq!((head.path(), head.query(), used), (&b"/a b"[..], &b"c=d"[..], 28));
/// ```
pub fn parse_request(buf: &[u8], limits: &Limits) -> Result<Option<(RequestHead, usize)>, HeadError> {
    RequestScan::default().advance(buf, limits)
}

/// Reads a request head that arrives in pieces, looking at each byte once however many pieces there are.
///
/// ```
/// use qvd_core::proto::http1::{HeadError, Limits, RequestScan};
/// let (mut scan, mut received) = (RequestScan::default(), b"GET /qvd/pi".to_vec());
/// assert_eq!(scan.advance(&received, &Limits::default()), Ok(None));
/// received.extend_from_slice(b"ng HTTP/1.0\n");
/// assert_eq!(scan.advance(&received, &Limits::default()), Err(HeadError::Version));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RequestScan {
    /// Bytes looked at.
    seen: usize,
    /// Where the request begins: blank lines before it do not count.
    start: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
    /// Complete lines of the head.
    lines: usize,
    method: Method,
}

/// How much of the method there is.
#[derive(Clone, Copy, Debug, Default)]
enum Method {
    /// Nothing but white space on this line, if any.
    #[default]
    Awaited,
    Begun,
    Complete,
}

impl RequestScan {
    /// Goes on in `buf`, which holds the bytes of the calls before and what has come since.
    ///
    /// The answer is that of [`parse_request`] for the whole of it; what is no request is refused at the first byte that
    /// shows it, the version once its line is complete. After a request begin with a new scan behind it.
    ///
    /// # Errors
    ///
    /// [`HeadError`].
    pub fn advance(
        &mut self,
        buf: &[u8],
        limits: &Limits,
    ) -> Result<Option<(RequestHead, usize)>, HeadError> {
        self.read_method(buf)?;
        while let Some(length) = buf[self.seen..].iter().position(|b| *b == b'\n') {
            let end = self.seen + length;
            let line = &buf[self.line..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            too_long(self.lines, line.len(), end - self.start, limits)?;
            (self.seen, self.line) = (end + 1, end + 1);
            if self.lines == 0 {
                request_line(line)?;
            } else if line.is_empty() {
                return self.complete(buf, limits).map(Some);
            }
            self.lines += 1;
            if self.lines > limits.headers * 2 {
                return Err(HeadError::TooLarge);
            }
        }
        self.seen = buf.len();
        let rest = &buf[self.line..];
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        too_long(self.lines, rest.len(), buf.len() - self.start, limits)?;
        if self.start > limits.head { Err(HeadError::TooLarge) } else { Ok(None) }
    }

    /// Looks for the blank behind the method.
    fn read_method(&mut self, buf: &[u8]) -> Result<(), HeadError> {
        while let Some(byte) = buf.get(self.seen) {
            match (self.method, byte) {
                (Method::Complete, _) => break,
                (Method::Awaited, b'\n') => (self.start, self.line) = (self.seen + 1, self.seen + 1),
                (Method::Awaited, b'\r' | b' ' | b'\t') => {}
                (Method::Awaited, byte) if self.line == self.seen && is_word(*byte) => {
                    self.method = Method::Begun
                }
                (Method::Begun, byte) if is_word(*byte) => {}
                (Method::Begun, byte) if is_blank(*byte) => self.method = Method::Complete,
                (Method::Awaited | Method::Begun, _) => return Err(HeadError::Malformed),
            }
            self.seen += 1;
        }
        Ok(())
    }

    fn complete(&self, buf: &[u8], limits: &Limits) -> Result<(RequestHead, usize), HeadError> {
        let (lines, used) = cut_head(&buf[self.start..self.seen], limits)?.ok_or(HeadError::Malformed)?;
        let (method, target) = request_line(lines[0])?;
        let (headers, stray) = header_lines(&lines[1..], limits)?;
        if !stray.is_empty() {
            return Err(HeadError::Malformed);
        }
        Ok((RequestHead { method, target, headers }, self.start + used))
    }
}

/// Reads a response head from the start of `buf`; the rest is as for [`parse_request`].
///
/// # Errors
///
/// [`HeadError`].
pub fn parse_response(buf: &[u8], limits: &Limits) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let Some((lines, used)) = cut_head(buf, limits)? else { return Ok(None) };
    let line = std::str::from_utf8(lines[0]).map_err(|_| HeadError::Malformed)?;
    let rest = line.strip_prefix("HTTP/1.").ok_or(HeadError::Malformed)?;
    let mut words = rest.splitn(3, ' ');
    let (_minor, code, reason) = (words.next(), words.next(), words.next());
    let code = code
        .filter(|c| c.len() == 3 && c.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|c| c.parse().ok())
        .ok_or(HeadError::Malformed)?;
    let (headers, stray_lines) = header_lines(&lines[1..], limits)?;
    let reason = reason.unwrap_or_default().trim().to_owned();
    Ok(Some((ResponseHead { code, reason, headers, stray_lines }, used)))
}

/// Writes a head: first line, headers with exactly the case given, empty line. Nothing that is passed can add a line:
/// a line break or NUL becomes a space, and a name loses what no name may hold.
///
/// ```
/// use qvd_core::proto::http1::encode_head;
/// assert_eq!(encode_head("HTTP/1.1 102 Processing", &[("X-QVD-VM-Info", "hi")]),
///     "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: hi\r\n\r\n");
/// ```
pub fn encode_head(first_line: &str, headers: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(128);
    push_text(&mut out, first_line);
    out.push_str("\r\n");
    for (name, value) in headers {
        out.extend(name.chars().filter(|c| u8::try_from(*c).is_ok_and(is_token_byte)));
        out.push_str(": ");
        push_text(&mut out, value);
        out.push_str("\r\n");
    }
    out.push_str("\r\n");
    out
}

/// Text within a line.
fn push_text(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if matches!(c, '\r' | '\n' | '\0') { ' ' } else { c }));
}

/// The status line for a code of the protocol (§2.3); an unknown code gets the phrase `Status`.
pub fn status_line(code: u16) -> String {
    format!("HTTP/1.1 {code} {}", reason_phrase(code))
}

/// The reason phrase for a code of the protocol; never empty.
pub const fn reason_phrase(code: u16) -> &'static str {
    match code {
        101 => "Switching Protocols",
        102 => "Processing",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        422 => "Unprocessable Entity",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Lines, line ends removed, and the bytes that they take.
type CutHead<'a> = (Vec<&'a [u8]>, usize);

/// Lines up to the empty one.
fn cut_head<'a>(buf: &'a [u8], limits: &Limits) -> Result<Option<CutHead<'a>>, HeadError> {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    loop {
        let Some(length) = buf[at..].iter().position(|b| *b == b'\n') else {
            too_long(lines.len(), buf.len() - at, buf.len(), limits)?;
            return Ok(None);
        };
        let line = &buf[at..at + length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        too_long(lines.len(), line.len(), at + length, limits)?;
        at += length + 1;
        if line.is_empty() && !lines.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line);
        if lines.len() > limits.headers * 2 {
            return Err(HeadError::TooLarge);
        }
    }
}

fn too_long(line: usize, length: usize, total: usize, limits: &Limits) -> Result<(), HeadError> {
    if line == 0 && length > limits.first_line {
        return Err(HeadError::TargetTooLong);
    }
    if (line > 0 && length > limits.header) || total > limits.head {
        return Err(HeadError::TooLarge);
    }
    Ok(())
}

/// Method from the left, version from the right; what is between is the target, raw spaces included.
fn request_line(line: &[u8]) -> Result<(String, Vec<u8>), HeadError> {
    let line = line.trim_ascii_end();
    let method_end = line.iter().position(|b| is_blank(*b)).ok_or(HeadError::Malformed)?;
    let (method, rest) = line.split_at(method_end);
    if method.is_empty() || !method.iter().all(|b| is_word(*b)) {
        return Err(HeadError::Malformed);
    }
    let rest = rest.trim_ascii_start();
    if rest.contains(&0) || rest.contains(&b'\r') {
        return Err(HeadError::Malformed);
    }
    let version_at = rest.iter().rposition(|b| is_blank(*b)).ok_or(HeadError::Version)?;
    if &rest[version_at + 1..] != b"HTTP/1.1" {
        return Err(HeadError::Version);
    }
    let target = rest[..version_at].trim_ascii_end().to_vec();
    if target.is_empty() {
        return Err(HeadError::Malformed);
    }
    // The text of an ASCII-only slice.
    Ok((String::from_utf8_lossy(method).into_owned(), target))
}

/// Headers, and the lines that are none.
fn header_lines(lines: &[&[u8]], limits: &Limits) -> Result<(Headers, Vec<String>), HeadError> {
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    let mut stray = Vec::new();
    for line in lines {
        if line.contains(&0) || line.contains(&b'\r') {
            return Err(HeadError::Malformed);
        }
        if line.first().is_some_and(|b| is_blank(*b)) {
            let (_, value) = headers.last_mut().ok_or(HeadError::Malformed)?;
            value.push(b' ');
            value.extend_from_slice(line.trim_ascii());
            if value.len() > limits.header {
                return Err(HeadError::TooLarge);
            }
            continue;
        }
        match line.iter().position(|b| *b == b':') {
            Some(colon) if is_token(line[..colon].trim_ascii_end()) => {
                let name = String::from_utf8_lossy(line[..colon].trim_ascii_end()).into_owned();
                headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
                if headers.len() > limits.headers {
                    return Err(HeadError::TooLarge);
                }
            }
            Some(_) => return Err(HeadError::Malformed),
            None => stray.push(String::from_utf8_lossy(line).into_owned()),
        }
    }
    Ok((Headers(headers), stray))
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| is_token_byte(*b))
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
        parse_request(text, &Limits::default())
    }

    fn complete(text: &[u8]) -> RequestHead {
        request(text).unwrap().unwrap().0
    }

    #[test]
    fn the_target_may_hold_raw_spaces() {
        let head = complete(b"GET /qvd/connect_to_vm?id=7&x=a b HTTP/1.1\r\n\r\n");
        assert_eq!(head.path(), b"/qvd/connect_to_vm");
        assert_eq!(head.query(), b"id=7&x=a b");
    }

    #[test]
    fn bare_line_feeds_and_no_host_are_fine() {
        let head = complete(b"GET /qvd/ping HTTP/1.1\nauthorization: Basic x\n\n");
        assert_eq!(head.headers.get("Authorization"), Some(&b"Basic x"[..]));
    }

    #[test]
    fn other_versions_are_505_and_garbage_is_400() {
        assert_eq!(request(b"GET /qvd/ping HTTP/1.0\r\n\r\n"), Err(HeadError::Version));
        assert_eq!(request(b"GET /qvd/ping\r\n\r\n"), Err(HeadError::Version));
        assert_eq!(request(b"GARBAGE\r\n\r\n"), Err(HeadError::Malformed));
        assert_eq!(request(b"\x16\x03\x01\x02\n\n"), Err(HeadError::Malformed));
    }

    /// The beginning of what openssl sends; no line feed is in it.
    const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x01\x37\x01\x00\x01\x33\x03\x03\x8c\x1f\xe7";

    #[test]
    fn what_is_no_request_is_refused_as_soon_as_it_shows() {
        assert_eq!(request(CLIENT_HELLO), Err(HeadError::Malformed));
        assert_eq!(request(&CLIENT_HELLO[..1]), Err(HeadError::Malformed));
        assert_eq!(request(b"GARBAGE"), Ok(None), "it may become a method");
        assert_eq!(request(b"GARBAGE\r\n"), Err(HeadError::Malformed));
        assert_eq!(request(b"  GET"), Err(HeadError::Malformed));
        assert_eq!(request(b"GET /qvd/ping HTTP/1.0\r"), Ok(None));
        assert_eq!(request(b"GET /qvd/ping HTTP/1.0\r\n"), Err(HeadError::Version));
        assert_eq!(request(b"GET /qvd/ping HTTP/1.1\r\n"), Ok(None));
    }

    #[test]
    fn each_byte_of_a_slow_head_is_looked_at_once() {
        let mut text = b"\r\nGET / HTTP/1.1\r\n".to_vec();
        text.extend_from_slice(&b"A: b\r\n".repeat(100));
        let mut scan = RequestScan::default();
        for end in 0..=text.len() {
            // Complete lines are no longer the scan's business: empty ones in their place would end the head.
            let received = [vec![b'\n'; scan.line].as_slice(), &text[scan.line..end]].concat();
            assert_eq!(scan.advance(&received, &Limits::default()), Ok(None));
            assert_eq!(scan.seen, end);
        }
        text.extend_from_slice(b"\r\n");
        let (head, used) = scan.advance(&text, &Limits::default()).unwrap().unwrap();
        assert_eq!((head.headers.iter().count(), used), (100, text.len()));
    }

    #[test]
    fn heads_do_not_show_what_may_be_secret() {
        let shown = format!(
            "{:?} {:?}",
            complete(
                b"GET /qvd/connect_to_vm?id=7&custom.pin=s3cret HTTP/1.1\nAuthorization: Basic s3cret\n\n"
            ),
            parse_response(b"HTTP/1.1 101 OK\r\nX-QVD-Slave-Key: s3cret\r\n\r\n", &Limits::default())
                .unwrap(),
        );
        assert!(shown.contains("/qvd/connect_to_vm") && shown.contains("Authorization"), "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains(&format!("{:?}", b"s3cret")[1..10]), "{shown}");
    }

    #[test]
    fn nothing_that_is_written_adds_a_line() {
        let head = encode_head("HTTP/1.1 200 a\r\nb", &[("X-A\r\nB: c", "d\r\n\r\ne\0f")]);
        assert_eq!(head, "HTTP/1.1 200 a  b\r\nX-ABc: d    e f\r\n\r\n");
    }

    #[test]
    fn blank_lines_before_a_request_are_skipped() {
        let (head, used) = request(b"\r\n \r\n\nGET / HTTP/1.1\r\n\r\nX").unwrap().unwrap();
        assert_eq!(head.path(), b"/");
        assert_eq!(used, b"\r\n \r\n\nGET / HTTP/1.1\r\n\r\n".len());
        assert_eq!(request(b"\r\n\r\n"), Ok(None));
    }

    #[test]
    fn continuation_lines_are_joined_by_one_space() {
        let head = complete(b"GET / HTTP/1.1\r\nAuthorization: Basic\r\n   abc=\r\n\r\n");
        assert_eq!(head.headers.get_str("authorization"), Some("Basic abc="));
        assert_eq!(request(b"GET / HTTP/1.1\r\n abc\r\n\r\n"), Err(HeadError::Malformed));
        assert_eq!(request(b"GET / HTTP/1.1\r\nnocolon\r\n\r\n"), Err(HeadError::Malformed));
    }

    #[test]
    fn absolute_targets_are_routed_by_their_path() {
        assert_eq!(complete(b"GET //x/qvd/ping HTTP/1.1\n\n").path(), b"/qvd/ping");
        assert_eq!(complete(b"GET https://x:1/qvd/ping?a HTTP/1.1\n\n").path(), b"/qvd/ping");
        assert_eq!(complete(b"GET /shares//home/u HTTP/1.1\n\n").path(), b"/shares//home/u");
        assert_eq!(complete(b"GET /a?b#c?d HTTP/1.1\n\n").query(), b"b");
    }

    #[test]
    fn limits_hold_before_the_head_is_complete() {
        let long = [b"GET /".as_slice(), &vec![b'a'; 20 << 10]].concat();
        assert_eq!(request(&long), Err(HeadError::TargetTooLong));
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"A: b\r\n".repeat(10_000)].concat();
        assert_eq!(request(&many), Err(HeadError::TooLarge));
    }

    #[test]
    fn bodies_are_noticed() {
        assert!(complete(b"GET / HTTP/1.1\nContent-Length: 5\n\n").announces_body());
        assert!(complete(b"GET / HTTP/1.1\nContent-Length: +0\n\n").announces_body());
        assert!(complete(b"GET / HTTP/1.1\nTransfer-Encoding: chunked\n\n").announces_body());
        assert!(!complete(b"GET / HTTP/1.1\nContent-Length: 0\n\n").announces_body());
    }

    #[test]
    fn responses_keep_stray_lines_and_missing_reasons() {
        let text = b"HTTP/1.1 404\r\n403 Forbidden\r\nThe machine is offline\r\nContent-Length: 2\r\n\r\nhi";
        let (head, used) = parse_response(text, &Limits::default()).unwrap().unwrap();
        assert_eq!((head.code, head.reason.as_str(), head.content_length()), (404, "", Ok(2)));
        assert_eq!(head.stray_lines, ["403 Forbidden", "The machine is offline"]);
        assert_eq!(&text[used..], b"hi");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_never_uses_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Some((_, used))) = request(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            let _ = parse_response(&bytes, &Limits::default());
        }

        #[test]
        fn pieces_are_read_as_the_whole(bytes in "[ \t\r\nA:/.HTP1a]{0,60}", whole in any::<bool>(), cut in 0usize..80) {
            let head = if whole { "GET /a b HTTP/1.1\r\n" } else { "" };
            let bytes = format!("{head}{bytes}\n\n").into_bytes();
            let mut scan = RequestScan::default();
            let early = scan.advance(&bytes[..cut.min(bytes.len())], &Limits::default());
            let in_pieces = match early {
                Ok(None) => scan.advance(&bytes, &Limits::default()),
                decided => decided,
            };
            prop_assert_eq!(in_pieces, request(&bytes));
        }

        #[test]
        fn a_head_in_pieces_is_read_as_in_one(cut in 0usize..60) {
            let text = b"GET /qvd/list_of_vm? HTTP/1.1\r\nAuthorization: Basic x\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(request(&text[..cut]).unwrap(), None);
        }
    }
}
