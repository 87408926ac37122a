//! The real clients, as far as the router can tell them apart: what each sends, and how each takes what comes back,
//! with the hazards of its parser (protocol page §2.10).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qvd_core::proto::basic::encode_basic;
use serde_json::Value;

use super::wire::Wire;
use super::world::{PASSWORD, Person, World};

/// A family of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// libqvdclient: lists with libcurl, then connects on a second connection with raw text and bare line feeds.
    C,
    /// The GUI and the command line in Perl: everything on one connection.
    Perl,
    /// The 4.x client: one connection, bare line feeds, raw spaces.
    Qt,
}

/// All of them.
pub const ALL: [Client; 3] = [Client::C, Client::Perl, Client::Qt];

/// How an attempt to connect went in a client's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its NX session begins.
    Desktop {
        /// The key, where it reads one.
        slave_key: Option<String>,
    },
    /// It gives up with this text.
    Failed(String),
}

impl Client {
    /// Lists, takes the machine of this id, connects.
    ///
    /// # Errors
    ///
    /// When the client would crash, hang or lose bytes.
    pub async fn visit(self, world: &World, person: &Person, vm: i64) -> Result<(Wire, Seen)> {
        let mut wire = world.wire(person).await?;
        let listed = self.list(&mut wire, person).await.with_context(|| format!("{self:?} lists"))?;
        ensure!(listed.contains(&person.vm.get()), "{self:?} does not see the machine in {listed:?}");
        if self == Self::C {
            wire = world.wire(person).await?;
        }
        wire.send(self.connect_request(person, vm)).await?;
        let seen = match self {
            Self::C => c_connect(&mut wire).await,
            Self::Perl => perl_connect(&mut wire).await,
            Self::Qt => qt_connect(&mut wire).await,
        };
        Ok((wire, seen.with_context(|| format!("{self:?} connects"))?))
    }

    /// Asks for the list and reads it with this client's parser; answers the ids.
    ///
    /// # Errors
    ///
    /// When the client would crash or hang.
    pub async fn list(self, wire: &mut Wire, person: &Person) -> Result<Vec<i64>> {
        wire.send(self.list_request(person)).await?;
        let body = match self {
            Self::C => curl_body(wire).await?,
            Self::Perl => perl_response(wire).await?.2,
            Self::Qt => qt_response(wire).await?.2,
        };
        let entries: Value = serde_json::from_str(&body).with_context(|| format!("no JSON: {body}"))?;
        let entries = entries.as_array().context("no array")?;
        entries.iter().map(|entry| self.entry(entry)).collect()
    }

    fn entry(self, entry: &Value) -> Result<i64> {
        let member = |name: &str| entry.get(name).with_context(|| format!("no {name} in {entry}"));
        let id = member("id")?.as_i64().with_context(|| format!("id of {entry}"))?;
        // What the C client unpacks with fixed types: anything else leaves its variables as they were.
        if self == Self::C {
            member("blocked")?.as_i64().with_context(|| format!("blocked of {entry}"))?;
        }
        member("name")?.as_str().with_context(|| format!("name of {entry}"))?;
        member("state")?.as_str().with_context(|| format!("state of {entry}"))?;
        Ok(id)
    }

    fn list_request(self, person: &Person) -> String {
        let credentials = encode_basic(&person.login, PASSWORD.as_bytes());
        match self {
            Self::C => format!(
                "GET /qvd/list_of_vm HTTP/1.1\r\nHost: vdi.example:8443\r\nAuthorization: {credentials}\r\n\
                 User-Agent: QVD/3.1 libcurl/7.38.0 OpenSSL/1.0.1\r\nAccept: */*\r\n\r\n"
            ),
            Self::Perl => format!(
                "GET /qvd/list_of_vm? HTTP/1.1\r\nAuthorization: {credentials}\r\nAccept: application/json\r\n\
                 User-Agent: QVD::HTTPC/0.01 (linux)\r\n\r\n"
            ),
            Self::Qt => format!(
                "GET /qvd/list_of_vm HTTP/1.1\nAuthorization: {credentials}\nAccept: application/json\n\
                 User-Agent: QVDClient Qt/0.01 (Linux)\nAuth-4c414e47: ZXM=\n\n"
            ),
        }
    }

    fn connect_request(self, person: &Person, vm: i64) -> String {
        let credentials = encode_basic(&person.login, PASSWORD.as_bytes());
        match self {
            Self::C => format!(
                "GET /qvd/connect_to_vm?id={vm}&qvd.client.os=linux&qvd.client.geometry=1024x768\
                 &qvd.client.link=adsl&qvd.client.keyboard=pc105/en&qvd.client.fullscreen=0 HTTP/1.1\n\
                 Authorization: {credentials}\nConnection: Upgrade\nUpgrade: QVD/1.0\n\n"
            ),
            Self::Perl => format!(
                "GET /qvd/connect_to_vm?qvd.client.keyboard=pc105%2Fes&qvd.client.os=linux&id={vm}\
                 &qvd.client.link=adsl&qvd.client.nxagent.extra_args=&qvd.client.geometry=1024x768\
                 &qvd.client.fullscreen=&qvd.client.printing.enabled=1&qvd.client.usb.enabled=0\
                 &qvd.client.usb.implementation=USBIP HTTP/1.1\r\nAuthorization: {credentials}\r\n\
                 Connection: Upgrade\r\nUpgrade: QVD/1.0\r\nUser-Agent: QVD::HTTPC/0.01 (linux)\r\n\r\n"
            ),
            Self::Qt => format!(
                "GET /qvd/connect_to_vm?id={vm}&qvd.client.type=qt&qvd.client.keyboard=pc105/es\
                 &qvd.client.os=linux&qvd.client.nxagent.extra_args=a b&qvd.client.geometry=1024x768\
                 &qvd.client.fullscreen=0&qvd.client.printing.enabled=1&qvd.client.link=adsl\
                 &qvd.client.audio.sound.enable=1&qvd.client.timezone=Europe/Madrid HTTP/1.1\n\
                 Authorization: {credentials}\nConnection: Upgrade\nUpgrade: QVD/1.0\n\
                 User-Agent: QVDClient Qt/0.01 (Linux)\nAuth-4c414e47: ZXM=\nAuth-454d505459: \n\n"
            ),
        }
    }
}

/// Where a parser's pieces come from: one TLS record at a time.
trait Chunks {
    /// The next one; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>>;
}

impl Chunks for Wire {
    async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        self.record().await
    }
}

async fn next_text(chunks: &mut impl Chunks) -> Result<String> {
    let chunk = chunks.chunk().await?.context("the connection ended where more was due")?;
    String::from_utf8(chunk).context("no text")
}

/// libcurl reads any order of pieces; the program behind it has room for 65,535 bytes.
async fn curl_body(chunks: &mut impl Chunks) -> Result<String> {
    let mut text = String::new();
    loop {
        text.push_str(&next_text(chunks).await?);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        ensure!(!head.starts_with("HTTP/1.1 401"), "wrong password");
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.context("a body until the end of the connection")?;
        if body.len() >= length {
            ensure!(length < 65_536, "more than its buffer: {length}");
            return Ok(body[..length].to_owned());
        }
    }
}

/// Waits for the 101: looks into each chunk for itself, a chunk being what one TLS record brought.
async fn c_connect(chunks: &mut impl Chunks) -> Result<Seen> {
    for count in 1.. {
        let Some(chunk) = chunks.chunk().await? else {
            bail!("closed without a final answer: it spins for 600 s");
        };
        let chunk = String::from_utf8_lossy(&chunk).into_owned();
        // Any text with such a line in it is taken for an error, whatever the chunk is.
        let failed =
            ["HTTP/1.1 2", "HTTP/1.1 3", "HTTP/1.1 4", "HTTP/1.1 5"].iter().any(|s| chunk.contains(s));
        if failed {
            ensure!(chunk.contains("Content-Length: "), "no length beside the status: {chunk:?}");
            // It waits for more without a limit, also when the body has come.
            let more = chunks.chunk().await?.context("nothing behind the head, and no body")?;
            let body = String::from_utf8_lossy(&more).into_owned();
            return Ok(Seen::Failed(body));
        }
        if let Some(at) = chunk.find("HTTP/1.1 101") {
            ensure!(count <= 10, "the 101 is chunk {count}, and old builds look at ten");
            let end = chunk[at..].find("\r\n\r\n").context("a 101 that is cut")? + at + 4;
            ensure!(end == chunk.len(), "what stands behind the 101 is thrown away: {:?}", &chunk[end..]);
            return Ok(Seen::Desktop { slave_key: None });
        }
        ensure!(chunk.contains("HTTP/1.1 102"), "neither 101 nor 102: {chunk:?}");
        let lower = chunk.to_ascii_lowercase();
        let text = lower.find("\r\nx-qvd-vm-info: ").context("a 102 without its text")?;
        ensure!(!lower[text..].contains("http/1.1 102"), "a second 102 in the chunk is not told: {chunk:?}");
    }
    unreachable!("chunks are counted without end")
}

type Response = (u16, Vec<(String, String)>, String);

/// Reads the next response with exact lines: `HTTP/1.1`, tokens without underscores, names in their exact case.
async fn perl_response(chunks: &mut impl Chunks) -> Result<Response> {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        text.push_str(&next_text(chunks).await?);
    }
    let (head, rest) = text.split_once("\r\n\r\n").context("no head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().context("no status line")?;
    let (version, status) = status.split_once(' ').context("651")?;
    ensure!(version == "HTTP/1.1", "651: {version}");
    let code: u16 = status.get(..3).and_then(|code| code.parse().ok()).context("no code")?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("652: {line:?}"))?;
        let is_token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.".contains(&b));
        ensure!(is_token && !name.is_empty(), "652: {line:?}");
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut body = rest.to_owned();
    if let Some(length) = find(&headers, "Content-Length") {
        let length: usize = length.parse().context("no length")?;
        while body.len() < length {
            body.push_str(&next_text(chunks).await?);
        }
        ensure!(body.len() == length, "{} bytes too many", body.len() - length);
    }
    Ok((code, headers, body))
}

/// Any code but 102 and 101 ends the attempt.
async fn perl_connect(chunks: &mut impl Chunks) -> Result<Seen> {
    loop {
        let (code, headers, body) = perl_response(chunks).await?;
        match code {
            102 => {}
            101 => {
                let key = find(&headers, "X-QVD-Slave-Key").context("no slave key")?;
                return Ok(Seen::Desktop { slave_key: Some(key) });
            }
            code => {
                ensure!(!body.is_empty(), "{code} without a body: the user is told nothing");
                return Ok(Seen::Failed(body));
            }
        }
    }
}

/// Lines end in CRLF, a reason phrase must be there, and a body must have exactly its length or the reply never ends.
async fn qt_response(chunks: &mut impl Chunks) -> Result<Response> {
    let response = perl_response(chunks).await?;
    let (code, headers, body) = &response;
    if *code >= 200 {
        find(headers, "Content-Length").context("no length: the reply never ends")?;
        ensure!(!body.is_empty(), "an empty body: the reply never ends");
    }
    Ok(response)
}

/// Starts nxproxy on any final answer; a closed connection ends that.
async fn qt_connect(chunks: &mut impl Chunks) -> Result<Seen> {
    loop {
        let (code, headers, body) = qt_response(chunks).await?;
        match code {
            102 => {}
            101 => {
                let key = find(&headers, "X-QVD-Slave-Key").context("no slave key")?;
                return Ok(Seen::Desktop { slave_key: Some(key) });
            }
            _ => {
                let end = tokio::time::timeout(Duration::from_secs(5), chunks.chunk()).await;
                let end = end.context("nxproxy runs on for ever: the connection is not closed")??;
                ensure!(end.is_none(), "nxproxy is fed with {end:?}");
                return Ok(Seen::Failed(body));
            }
        }
    }
}

fn find(headers: &[(String, String)], name: &str) -> Option<String> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    impl Chunks for VecDeque<&'static str> {
        async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
            Ok(self.pop_front().map(|text| text.as_bytes().to_vec()))
        }
    }

    const WAIT: &str = "HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: Starting\r\n\r\n";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: k\r\n\r\n";
    const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\n";

    async fn connect(client: Client, chunks: &[&'static str]) -> Result<Seen> {
        let mut chunks: VecDeque<&'static str> = chunks.iter().copied().collect();
        match client {
            Client::C => c_connect(&mut chunks).await,
            Client::Perl => perl_connect(&mut chunks).await,
            Client::Qt => qt_connect(&mut chunks).await,
        }
    }

    #[tokio::test]
    async fn what_all_of_them_can_read_is_read() {
        for client in ALL {
            let seen = connect(client, &[WAIT, WAIT, SWITCH]).await.expect("a desktop");
            assert!(matches!(seen, Seen::Desktop { .. }), "{client:?}: {seen:?}");
            let seen = connect(client, &[WAIT, REFUSAL, "late"]).await.expect("a refusal");
            assert_eq!(seen, Seen::Failed("late".to_owned()), "{client:?}");
        }
    }

    #[tokio::test]
    async fn what_each_of_them_trips_over_is_an_error() {
        let cases: &[(Client, &str, &[&str])] = &[
            (Client::C, "thrown away", &["HTTP/1.1 101 S\r\nX: k\r\n\r\nNX"]),
            (Client::C, "that is cut", &["HTTP/1.1 101 Swi", "tching\r\n\r\n"]),
            (Client::C, "is not told", &["HTTP/1.1 102 P\r\nX-QVD-VM-Info: a\r\n\r\nHTTP/1.1 102 P\r\n\r\n"]),
            (Client::C, "old builds", &[WAIT, WAIT, WAIT, WAIT, WAIT, WAIT, WAIT, WAIT, WAIT, WAIT, SWITCH]),
            (Client::C, "it spins", &[WAIT]),
            (Client::C, "no body", &[REFUSAL]),
            (Client::C, "no length", &["HTTP/1.1 404 Not Found\r\n\r\n", "gone"]),
            (Client::Perl, "no slave key", &["HTTP/1.1 101 S\r\nx-qvd-slave-key: k\r\n\r\n"]),
            (Client::Perl, "652", &["HTTP/1.1 102 P\r\nno colon\r\n\r\n"]),
            (Client::Perl, "651", &["HTTP/1.0 200 OK\r\n\r\n"]),
            (Client::Perl, "without a body", &["HTTP/1.1 403 F\r\ncontent-length: 4\r\n\r\n", "gone"]),
            (Client::Qt, "never ends", &["HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n"]),
            (Client::Qt, "is fed with", &[REFUSAL, "late", "more"]),
        ];
        for (client, why, chunks) in cases {
            let error = connect(*client, chunks).await.expect_err("a hazard");
            assert!(error.to_string().contains(why), "{client:?}: {error:#} is not '{why}'");
        }
    }
}
