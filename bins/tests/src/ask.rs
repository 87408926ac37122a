//! Plain requests to a router that does not encrypt, for what a client's words do not show: the status.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// Asks whether the node serves; the status is the answer.
///
/// # Errors
///
/// When nothing answers.
pub fn ping(port: u16) -> Result<u16> {
    ask(port, "/qvd/ping", "").map(|answer| answer.status)
}

/// Asks for the list of virtual machines.
///
/// # Errors
///
/// When nothing answers.
pub fn list(port: u16, login: &str, password: &str) -> Result<Answer> {
    ask(port, "/qvd/list_of_vm", &authorization(login, password))
}

/// Asks for a short token that stands for this login.
///
/// # Errors
///
/// When nothing answers.
pub fn token(port: u16, login: &str, password: &str) -> Result<Answer> {
    ask(port, "/qvd/create_auth_token", &authorization(login, password))
}

/// Asks for a desktop; answers the final refusal, or 101.
///
/// # Errors
///
/// When nothing answers.
pub fn connect(port: u16, login: &str, password: &str, vm: i64) -> Result<Answer> {
    let headers = format!("{}Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n", authorization(login, password));
    ask(port, &format!("/qvd/connect_to_vm?id={vm}"), &headers)
}

/// Sends a request and reads until a final answer is complete.
fn ask(port: u16, target: &str, headers: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot reach the router")?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).context("cannot limit the wait")?;
    write!(stream, "GET {target} HTTP/1.1\r\n{headers}\r\n").context("cannot ask the router")?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).context("the router does not answer")?;
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some(answer) = final_answer(&text) {
            return Ok(answer);
        }
        anyhow::ensure!(count > 0, "the router hung up after '{text}'");
    }
}

/// The first answer that is not a 102, once all of it is there.
fn final_answer(mut text: &str) -> Option<Answer> {
    loop {
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status == 102 {
            text = rest;
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let body = rest.get(..length.unwrap_or(0))?;
        return Some(Answer { status, body: body.to_owned() });
    }
}

fn authorization(login: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", base64(format!("{login}:{password}").as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_passed_over_and_an_answer_waited_for() {
        let refused = "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: a\r\n\r\n\
                       HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nlate";
        for cut in 0..refused.len() {
            assert_eq!(final_answer(&refused[..cut]), None, "{cut}");
        }
        assert_eq!(final_answer(refused), Some(Answer { status: 503, body: "late".to_owned() }));
    }

    #[test]
    fn credentials_are_encoded_in_whole_groups() {
        assert_eq!(base64(b"alice:pw"), "YWxpY2U6cHc=");
        assert_eq!(base64(b"a:b"), "YTpi");
        assert_eq!(base64(b"a:bc"), "YTpiYw==");
    }
}
