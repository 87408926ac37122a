//! A real identity provider: Glewlwyd over TLS, with a database and a free loopback port of its own.
//!
//! It is two issuers in one server: `rsa` signs with RS256, `ec` with ES256. Whoever is added may log in there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;
use serde_json::{Value, json};

use super::Options;
use super::browser::{Browser, Page, in_query, with_query};
use super::server::{Server, free_port, skipped};

/// Everybody's password there.
pub(crate) const GLEWLWYD_PASSWORD: &str = "an issuer's password";

/// Our name there, and that of another client.
pub(crate) const OUR_CLIENT: &str = "qvd";
pub(crate) const OTHER_CLIENT: &str = "wiki";

pub(crate) struct Glewlwyd {
    server: Server,
    dir: tempfile::TempDir,
    port: u16,
    administrator: Browser,
}

impl Glewlwyd {
    /// Starts one; none where it is not installed, which is a failure where tests may not be skipped.
    pub(crate) async fn start() -> Option<Self> {
        if !is_installed() {
            let why = "glewlwyd is not installed (Debian: glewlwyd dbconfig-sqlite3)";
            skipped(why);
            return None;
        }
        let dir = tempfile::Builder::new().prefix("qvd-oidc-").tempdir().unwrap();
        run(Command::new("sqlite3").arg(dir.path().join("database")).stdin(File::open(TABLES).unwrap()));
        write_certificate(dir.path());
        // Somebody else may take the port between our look and the server's.
        for _ in 0..5 {
            let port = free_port();
            let mut server = launch(dir.path(), port);
            if server.listens(port).await {
                let mut glewlwyd = Self { server, dir, port, administrator: Browser::new() };
                glewlwyd.furnish().await;
                return Some(glewlwyd);
            }
        }
        panic!("glewlwyd does not start");
    }

    /// The URL of one of its two issuers.
    pub(crate) fn issuer(&self, which: &str) -> String {
        format!("{}/{which}", self.api())
    }

    /// The certificate that vouches for it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Logins by tokens of its issuer `rsa`, and by the passwords of the database.
    pub(crate) fn keys(&self, options: Options) -> Options {
        options
            .set("l7r.auth.plugins", "oidc,default")
            .set("auth.oidc.issuer", self.issuer("rsa"))
            .set("auth.oidc.client_id", OUR_CLIENT)
            .set("auth.oidc.cafile", self.certificate().display().to_string())
    }

    pub(crate) async fn add_user(&mut self, login: &str) {
        let user = json!({"username": login, "name": login, "password": GLEWLWYD_PASSWORD, "scope": ["openid"], "enabled": true});
        self.administer(Method::POST, "user/", &user).await;
    }

    /// An ID token for one of the clients, as a user gets it in a browser.
    pub(crate) async fn id_token(&self, which: &str, client: &str, login: &str) -> String {
        self.token(which, client, login, "id_token").await
    }

    /// An access token, got the same way.
    pub(crate) async fn access_token(&self, which: &str, client: &str, login: &str) -> String {
        self.token(which, client, login, "access_token").await
    }

    async fn token(&self, which: &str, client: &str, login: &str, kind: &str) -> String {
        let mut browser = Browser::new();
        let password = json!({"username": login, "password": GLEWLWYD_PASSWORD});
        ok(&browser.json(Method::POST, &format!("{}/auth/", self.api()), &password).await);
        let grant = format!("{}/auth/grant/{client}", self.api());
        ok(&browser.json(Method::PUT, &grant, &json!({"scope": "openid"})).await);
        let authorize = with_query(
            &format!("{}/auth", self.issuer(which)),
            &[
                ("response_type", "id_token token"),
                ("client_id", client),
                ("redirect_uri", CALLBACK),
                ("scope", "openid"),
                ("nonce", "a nonce"),
                ("state", "a state"),
                ("g_continue", ""),
            ],
        );
        let location = browser.get(&authorize).await.location.expect("it sends the browser back");
        in_query(location.fragment().unwrap_or_default(), kind)
            .unwrap_or_else(|| panic!("no {kind}: {location}"))
    }

    /// Gives the issuer `rsa` another key instead of its own.
    pub(crate) async fn rotate(&mut self) {
        let plugin = self.plugin("rsa", rsa_key(self.dir.path()));
        self.administer(Method::PUT, "mod/plugin/rsa", &plugin).await;
        self.administer(Method::PUT, "mod/plugin/rsa/reset", &json!({})).await;
    }

    /// Ends it, as an outage does.
    pub(crate) fn stop(&mut self) {
        self.server.stop();
    }

    async fn furnish(&mut self) {
        let login = format!("{}/auth/", self.api());
        // As it comes out of the package.
        let password = json!({"username": "admin", "password": "password"});
        ok(&self.administrator.json(Method::POST, &login, &password).await);
        for plugin in [self.plugin("rsa", rsa_key(self.dir.path())), self.plugin("ec", ec_key())] {
            self.administer(Method::POST, "mod/plugin/", &plugin).await;
        }
        for client in [OUR_CLIENT, OTHER_CLIENT] {
            let client = json!({
                "client_id": client, "name": client, "confidential": true, "password": "a secret of the test", "enabled": true,
                "redirect_uri": [CALLBACK], "authorization_type": ["code", "token", "id_token"], "scope": [],
            });
            self.administer(Method::POST, "client/", &client).await;
        }
        self.add_user("alice").await;
    }

    fn plugin(&self, which: &str, (kind, private, public): (&str, String, String)) -> Value {
        json!({"module": "oidc", "name": which, "display_name": which, "parameters": {
            "iss": self.issuer(which), "jwt-type": kind, "jwt-key-size": "256", "key": private, "cert": public,
            "access-token-duration": 3600, "refresh-token-duration": 3600, "code-duration": 600,
            "refresh-token-rolling": false, "allow-non-oidc": true, "auth-type-code-enabled": true,
            "auth-type-token-enabled": true, "auth-type-id-token-enabled": true, "auth-type-none-enabled": false,
            "auth-type-password-enabled": false, "auth-type-client-enabled": false,
            "auth-type-refresh-enabled": false, "subject-type": "public", "jwks-show": true, "scope": [],
            "claims": [{"name": "preferred_username", "user-property": "username", "type": "string", "mandatory": true}],
        }})
    }

    async fn administer(&mut self, method: Method, what: &str, body: &Value) {
        let url = format!("{}/{what}", self.api());
        ok(&self.administrator.json(method, &url, body).await);
    }

    fn api(&self) -> String {
        format!("https://127.0.0.1:{}/api", self.port)
    }
}

#[track_caller]
fn ok(page: &Page) {
    assert_eq!(page.status, 200, "{}", page.body);
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
    is_there("glewlwyd") && is_there("sqlite3") && is_there("openssl") && Path::new(TABLES).exists()
}

fn launch(dir: &Path, port: u16) -> Server {
    let top = dir.display();
    let text = format!(
        r#"port = {port}
bind_address = "127.0.0.1"
external_url = "https://127.0.0.1:{port}"
login_url = "login.html"
api_prefix = "api"
cookie_secure = 1
session_expiration = 3600
session_key = "GLEWLWYD2_SESSION_ID"
admin_session_authentication = "cookie"
profile_session_authentication = "cookie"
login_api_enabled = true
log_mode = "console"
log_level = "ERROR"
admin_scope = "g_admin"
profile_scope = "g_profile"
user_module_path = "/usr/lib/glewlwyd/user"
client_module_path = "/usr/lib/glewlwyd/client"
user_auth_scheme_module_path = "/usr/lib/glewlwyd/scheme"
plugin_module_path = "/usr/lib/glewlwyd/plugin"
use_secure_connection = true
secure_connection_key_file = "{top}/key.pem"
secure_connection_pem_file = "{top}/cert.pem"
secure_connection_ca_file = "{top}/cert.pem"
hash_algorithm = "SHA512"
database = {{ type = "sqlite3"; path = "{top}/database"; }};
"#
    );
    let file = dir.join("glewlwyd.conf");
    std::fs::write(&file, text).unwrap();
    Server::start(Server::command("glewlwyd").arg("--config-file").arg(file))
}

fn write_certificate(dir: &Path) {
    let names = ["127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

fn rsa_key(dir: &Path) -> (&'static str, String, String) {
    let [private, public] = ["private.pem", "public.pem"].map(|name| dir.join(name));
    run(Command::new("openssl").args(["genrsa", "-out"]).arg(&private).arg("2048"));
    run(Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public));
    ("rsa", std::fs::read_to_string(private).unwrap(), std::fs::read_to_string(public).unwrap())
}

fn ec_key() -> (&'static str, String, String) {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    ("ecdsa", pair.serialize_pem(), pair.public_key_pem())
}

fn run(command: &mut Command) {
    let done = command.stderr(Stdio::piped()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What the package makes its database of.
const TABLES: &str = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3";

const CALLBACK: &str = "http://127.0.0.1/callback";
