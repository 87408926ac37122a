//! A second real identity provider: node's `oidc-provider`, over plain HTTP on this machine.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};

use serde_json::Value;

use super::Options;
use super::browser::{Browser, in_query, with_query};
use super::server::{Server, skipped};

/// The audience of its access tokens.
pub(crate) const AUDIENCE: &str = "https://desktops.example";

pub(crate) struct NodeIssuer {
    server: Server,
    /// A server whose output nobody holds would end.
    _output: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl NodeIssuer {
    /// Starts one; none where it is not installed, which is a failure where tests may not be skipped.
    pub(crate) fn start() -> Option<Self> {
        let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/issuer/node_modules");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has_node = std::env::split_paths(&path).any(|dir| dir.join("node").exists());
        if !has_node || !modules.join("oidc-provider").exists() {
            let why = "node or its oidc-provider is not there ('.ci/setup test' gets both)";
            skipped(why);
            return None;
        }
        Some(Self::launch(&modules))
    }

    /// The keys that make a router take its ID tokens of one algorithm; each has a client of its own.
    pub(crate) fn keys(&self, options: Options, algorithm: &str) -> Options {
        options
            .set("l7r.auth.plugins", "default,oidc")
            .set("auth.oidc.issuer", self.url.clone())
            .set("auth.oidc.client_id", format!("qvd-{algorithm}"))
    }

    /// The ID token and the access token that a client gets for a user who logs in and agrees.
    pub(crate) async fn tokens(&self, algorithm: &str, login: &str) -> (String, String) {
        let client = format!("qvd-{algorithm}");
        let mut browser = Browser::new();
        let mut url = with_query(
            &format!("{}/auth", self.url),
            &[
                ("response_type", "code"),
                ("client_id", &client),
                ("redirect_uri", CALLBACK),
                ("scope", "openid desktop"),
                ("resource", AUDIENCE),
                ("state", "a state"),
            ],
        );
        let code = loop {
            if let Some(query) = url.strip_prefix(CALLBACK) {
                break in_query(query.trim_start_matches('?'), "code")
                    .unwrap_or_else(|| panic!("no code: {url}"));
            }
            let mut page = browser.get(&url).await;
            if page.location.is_none() {
                assert_eq!(page.status, 200, "{url}: {}", page.body);
                let login_is_asked = page.body.contains(r#"name="prompt" value="login""#);
                let prompt = if login_is_asked { "login" } else { "consent" };
                page = browser
                    .form(&url, &[("prompt", prompt), ("login", login), ("password", "x")], None)
                    .await;
            }
            url = page.location.unwrap_or_else(|| panic!("{url} goes nowhere: {}", page.body)).into();
        };
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", CALLBACK),
            ("resource", AUDIENCE),
        ];
        let secret = Some((client.as_str(), "the secret of a client of the test"));
        let page = browser.form(&format!("{}/token", self.url), &fields, secret).await;
        let answer: Value = serde_json::from_str(&page.body).unwrap();
        let token =
            |kind: &str| answer[kind].as_str().unwrap_or_else(|| panic!("no {kind}: {answer}")).to_owned();
        (token("id_token"), token("access_token"))
    }

    /// Ends it, as an outage does.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }

    fn launch(modules: &Path) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/router/support/issuer.mjs");
        let mut command = Server::command("node");
        command.arg(script).arg(modules).arg("0").stdout(Stdio::piped());
        let mut server = Server::start(&mut command);
        let mut output = BufReader::new(server.output());
        let mut line = String::new();
        while !line.starts_with("http://") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the issuer does not start");
        }
        Self { server, _output: output, url: line.trim().to_owned() }
    }
}

const CALLBACK: &str = "http://127.0.0.1/callback";
