//! The identity provider: its keys, as its discovery document says where they are (OpenID Connect Discovery 1.0).
//!
//! Nothing is followed elsewhere, nothing is read that is too long, and nothing is believed from a server that the
//! certificates do not vouch for. What the document says of its issuer must be what is configured.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Url, redirect};
use rustls::ClientConfig;
use serde::Deserialize;

use super::keys::Keys;
use crate::auth::keys::is_loopback;

/// Who has the keys.
#[async_trait]
pub(super) trait Source: std::fmt::Debug + Send + Sync + 'static {
    /// Asks for the keys of this moment.
    async fn keys(&self) -> Result<Keys, IssuerError>;
}

/// An issuer at its URL.
#[derive(Debug)]
pub(super) struct Issuer {
    name: String,
    discovery: Url,
    client: Client,
}

/// Why there are no keys from the issuer.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerError {
    #[error("no answer from {url}")]
    NoAnswer {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answers with status {status}")]
    Status { url: Url, status: u16 },
    #[error("the answer from {url} is longer than {MOST_BYTES} bytes")]
    TooLong { url: Url },
    #[error("{url} is not {what}")]
    Malformed { url: Url, what: &'static str },
    #[error("{url} is about another issuer, '{said}'")]
    OtherIssuer { url: Url, said: String },
    #[error("{url} says that the keys are at '{said}', which is not an https URL")]
    KeysNowhere { url: Url, said: String },
    #[error("{url} has no key that could check a signature")]
    NoKeys { url: Url },
}

impl Issuer {
    /// An issuer by its name, which is its URL; the text says what is wrong with it.
    pub(super) fn new(name: &str, tls: &Arc<ClientConfig>) -> Result<Self, String> {
        let url: Url = name.parse().map_err(|error| format!("'{name}' is not a URL: {error}"))?;
        if !may_be_asked(&url, true) {
            return Err(format!(
                "'{name}' is not an https URL (http:// is for an issuer on this machine alone)"
            ));
        }
        let has_more = url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return Err(format!("'{name}' has more than a host and a path"));
        }
        let discovery = format!("{}/.well-known/openid-configuration", name.trim_end_matches('/'));
        let client = Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .user_agent(concat!("qvd-l7r/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no client for it can be made: {error}"))?;
        let discovery = discovery.parse().map_err(|error| format!("'{discovery}' is not a URL: {error}"))?;
        Ok(Self { name: name.to_owned(), discovery, client })
    }

    async fn load(&self, url: &Url) -> Result<Vec<u8>, IssuerError> {
        let no_answer =
            |source: reqwest::Error| IssuerError::NoAnswer { url: url.clone(), source: source.without_url() };
        let mut answer = self.client.get(url.clone()).send().await.map_err(no_answer)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(IssuerError::Status { url: url.clone(), status: answer.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(no_answer)? {
            if body.len() + piece.len() > MOST_BYTES {
                return Err(IssuerError::TooLong { url: url.clone() });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn address_of_keys(&self) -> Result<Url, IssuerError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = self.discovery.clone();
        let body = self.load(&url).await?;
        let Ok(Document { issuer, jwks_uri }) = serde_json::from_slice(&body) else {
            return Err(IssuerError::Malformed { url, what: "the description of an issuer" });
        };
        if issuer != self.name {
            return Err(IssuerError::OtherIssuer { url, said: shown(&issuer) });
        }
        // Plain HTTP stays what it was for the issuer: for this machine alone.
        let is_plain = url.scheme() == "http";
        match jwks_uri.parse() {
            Ok(keys) if may_be_asked(&keys, is_plain) => Ok(keys),
            _ => Err(IssuerError::KeysNowhere { url, said: shown(&jwks_uri) }),
        }
    }
}

#[async_trait]
impl Source for Issuer {
    async fn keys(&self) -> Result<Keys, IssuerError> {
        let url = self.address_of_keys().await?;
        match Keys::parse(&self.load(&url).await?) {
            Some(keys) if keys.is_empty() => Err(IssuerError::NoKeys { url }),
            Some(keys) => Ok(keys),
            None => Err(IssuerError::Malformed { url, what: "a set of keys" }),
        }
    }
}

fn may_be_asked(url: &Url, plain: bool) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !bare.is_empty() && (url.scheme() == "https" || (plain && url.scheme() == "http" && is_loopback(bare)))
}

/// What a foreign text begins with, in one line.
fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// More than any issuer has to say.
const MOST_BYTES: usize = 256 << 10;

/// Two questions have to be answered within the ten seconds that an authenticator has.
const ANSWER: Duration = Duration::from_secs(4);

const CONNECT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use qvd_core::config::Config;
    use qvd_core::error::chain;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::keys::testkit::Signer;
    use super::*;
    use crate::auth::trust;

    /// What a server says to whoever asks for a path.
    type Answer = Box<dyn Fn(&str, &str) -> String + Send + Sync>;

    /// An issuer whose server answers what the test wants.
    async fn issuer(answer: Answer) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let tls = trust::client(&Config::defaults(), "auth.oidc.cafile").unwrap();
        let issuer = Issuer::new(&name, &tls).unwrap();
        tokio::spawn(async move {
            while let Ok((mut asked, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && asked.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let _ = asked.write_all(answer(&name, path).as_bytes()).await;
            }
        });
        issuer
    }

    fn ok(body: impl std::fmt::Display) -> String {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}")
    }

    fn described(issuer: &str, keys: &str) -> String {
        ok(json!({"issuer": issuer, "jwks_uri": keys}))
    }

    const DISCOVERY: &str = "/.well-known/openid-configuration";

    async fn words(answer: Answer) -> String {
        chain(&issuer(answer).await.keys().await.unwrap_err()).to_string()
    }

    #[tokio::test]
    async fn keys_are_where_the_description_says() {
        let public = Signer::es256(Some("a")).public();
        let issuer = issuer(Box::new(move |name, path| match path {
            DISCOVERY => described(name, &format!("{name}/keys?of=today")),
            "/keys?of=today" => ok(json!({"keys": [public]})),
            other => panic!("{other}"),
        }));
        assert!(!issuer.await.keys().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_description_of_another_issuer_is_not_this_ones() {
        for other in ["https://issuer.example", "NAME/", "name"] {
            let said =
                words(Box::new(move |name, _| described(&other.replace("NAME", name), "https://x"))).await;
            assert!(said.contains("is about another issuer"), "{said}");
        }
    }

    #[tokio::test]
    async fn keys_are_asked_for_over_tls_or_on_this_machine() {
        for place in ["http://issuer.example/keys", "ftp://127.0.0.1/keys", "file:///etc/passwd", "/keys", ""]
        {
            let said = words(Box::new(move |name, _| described(name, place))).await;
            assert!(said.contains("which is not an https URL"), "{place}: {said}");
        }
    }

    #[tokio::test]
    async fn nothing_is_followed_elsewhere() {
        let away = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
        let said = words(Box::new(move |_, path| match path {
            DISCOVERY => away.to_owned(),
            other => panic!("it went to {other}"),
        }));
        assert!(said.await.ends_with("answers with status 302"));
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read_to_its_end() {
        let endless = |_: &str, _: &str| ok("x".repeat(MOST_BYTES + 1));
        assert!(words(Box::new(endless)).await.contains("is longer than 262144 bytes"));
        let just = words(Box::new(|_, _| ok("x".repeat(MOST_BYTES)))).await;
        assert!(just.ends_with("is not the description of an issuer"), "{just}");
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_told() {
        for (answer, told) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), "answers with status 404"),
            (ok("<html>"), "is not the description of an issuer"),
            (ok(r#"{"issuer":"x"}"#), "is not the description of an issuer"),
            ("nonsense\r\n\r\n".to_owned(), "no answer from"),
            (String::new(), "no answer from"),
        ] {
            let said = words(Box::new(move |_, _| answer.clone())).await;
            assert!(said.contains(told), "{said}");
        }
        for (keys, told) in [("{}", "is not a set of keys"), (r#"{"keys":[]}"#, "has no key")] {
            let said = words(Box::new(move |name, path| match path {
                DISCOVERY => described(name, &format!("{name}/keys")),
                _ => ok(keys),
            }));
            let said = said.await;
            assert!(said.contains("/keys ") && said.contains(told), "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_answer_in_time_for_the_next_authenticator() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let tls = trust::client(&Config::defaults(), "auth.oidc.cafile").unwrap();
        let begun = tokio::time::Instant::now();
        let error = Issuer::new(&name, &tls).unwrap().keys().await.unwrap_err();
        assert!(matches!(error, IssuerError::NoAnswer { .. }), "{error:?}");
        assert!(begun.elapsed() <= ANSWER, "{:?}", begun.elapsed());
        assert!(2 * ANSWER < Duration::from_secs(10), "both questions");
    }
}
