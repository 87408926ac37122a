//! An identity provider of one key: it tells where its key is, and signs what the test wants.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// One that answers as long as the process lives.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    key: KeyPair,
}

impl Issuer {
    /// Starts one on loopback.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519).context("cannot make a key")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let url = format!("http://{}", listener.local_addr().context("cannot listen")?);
        let description = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let public = URL_SAFE_NO_PAD.encode(key.der_bytes());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": public}]});
        std::thread::spawn(move || {
            for mut asked in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let read = asked.read(&mut head).unwrap_or(0);
                let body = match head[..read].starts_with(b"GET /keys ") {
                    true => keys.to_string(),
                    false => description.to_string(),
                };
                // Who asked may be gone.
                let _ = write!(asked, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
            }
        });
        Ok(Self { url, key })
    }

    /// Its name.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An ID token of five minutes for a client, with more claims.
    ///
    /// # Errors
    ///
    /// When the key does not sign.
    pub fn id_token(&self, client: &str, login: &str, more: &Value) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_secs();
        let claims = json!({
            "iss": self.url, "aud": client, "preferred_username": login, "iat": now, "exp": now + 300, "more": more,
        });
        let parts = [json!({"alg": "EdDSA", "kid": "1"}), claims]
            .map(|json| URL_SAFE_NO_PAD.encode(json.to_string()));
        let signed = parts.join(".");
        let signature = self.key.sign(signed.as_bytes()).context("cannot sign a token")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
