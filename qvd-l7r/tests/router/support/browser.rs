//! A browser, as far as a login at an identity provider needs one: cookies, forms, redirects step by step.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Url, redirect};

use super::{config, soon};

/// One user's browser.
pub(crate) struct Browser {
    client: Client,
    cookies: BTreeMap<String, String>,
}

/// A page, or where it sends the browser.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) location: Option<Url>,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) fn new() -> Self {
        let client = Client::builder()
            .tls_backend_preconfigured(config(&[]))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { client, cookies: BTreeMap::new() }
    }

    pub(crate) async fn get(&mut self, url: &str) -> Page {
        let request = self.client.get(url);
        self.send(request, url).await
    }

    pub(crate) async fn json(&mut self, method: Method, url: &str, body: &serde_json::Value) -> Page {
        let request = self.client.request(method, url).header("Content-Type", "application/json");
        self.send(request.body(body.to_string()), url).await
    }

    /// Sends a form, as the client of that name and secret if one is given.
    pub(crate) async fn form(
        &mut self,
        url: &str,
        fields: &[(&str, &str)],
        client: Option<(&str, &str)>,
    ) -> Page {
        let request = self.client.post(url).header("Content-Type", "application/x-www-form-urlencoded");
        let request = match client {
            Some((name, secret)) => request.basic_auth(encoded(name), Some(encoded(secret))),
            None => request,
        };
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.send(request.body(body.join("&")), url).await
    }

    async fn send(&mut self, request: RequestBuilder, url: &str) -> Page {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = soon(request.header(COOKIE, cookies.join("; ")).send()).await.unwrap();
        for cookie in answer.headers().get_all(SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let base: Url = url.parse().unwrap();
        let location = answer.headers().get(LOCATION).map(|to| base.join(to.to_str().unwrap()).unwrap());
        Page { status: answer.status().as_u16(), location, body: soon(answer.text()).await.unwrap() }
    }
}

/// A URL with a query of these.
pub(crate) fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    format!("{url}?{}", pairs.join("&"))
}

/// The value of a name in a query, or in what stands behind a `#`.
pub(crate) fn in_query(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
