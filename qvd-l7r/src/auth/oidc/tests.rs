//! The authenticator with an issuer that the test plays, on a clock that the test moves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use qvd_core::testkit::conformance::{self, AuthenticatorSubject};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::Notify;
use tokio::time::advance;

use super::issuer::{IssuerError, Source};
use super::keys::Keys;
use super::keys::testkit::{Signer, unsigned};
use super::*;

/// An issuer, and what it does when it is asked.
#[derive(Clone, Debug, Default)]
struct Played(Arc<State>);

#[derive(Debug, Default)]
struct State {
    public: Mutex<Vec<Value>>,
    away: AtomicBool,
    asked: AtomicUsize,
    /// It does not answer before it is told to.
    slow: Mutex<Option<Arc<Notify>>>,
}

impl Played {
    fn with(signers: &[&Signer]) -> Self {
        let played = Self::default();
        played.has(signers);
        played
    }

    fn has(&self, signers: &[&Signer]) {
        *self.0.public.lock().unwrap() = signers.iter().map(|signer| signer.public()).collect();
    }

    fn goes_away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    fn authenticator(&self) -> Oidc {
        let rules = Rules {
            issuer: ISSUER.into(),
            client_id: "qvd".into(),
            audience: None,
            login_claim: "preferred_username".into(),
            leeway: Duration::from_secs(60),
            case_sensitive: false,
        };
        let algorithms = vec![Algorithm::RS256, Algorithm::ES256];
        Oidc { rules, algorithms, keeper: Keeper::new(self.clone()), lines: Mutex::default() }
    }
}

#[async_trait]
impl Source for Played {
    async fn keys(&self) -> Result<Keys, IssuerError> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let slow = self.0.slow.lock().unwrap().clone();
        if let Some(slow) = slow {
            slow.notified().await;
        }
        if self.0.away.load(Ordering::SeqCst) {
            return Err(IssuerError::Status { url: ISSUER.parse().unwrap(), status: 502 });
        }
        let document = json!({"keys": *self.0.public.lock().unwrap()});
        Ok(Keys::parse(document.to_string().as_bytes()).unwrap())
    }
}

const ISSUER: &str = "https://issuer.example";

fn claims() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({"iss": ISSUER, "aud": "qvd", "preferred_username": "Alice", "iat": now, "exp": now + 300})
}

async fn ask(oidc: &Oidc, token: &str) -> Result<Verdict, AuthError> {
    oidc.authenticate_token(&Attempt::new("", ""), &Secret::new(token.to_owned())).await
}

async fn takes(oidc: &Oidc, token: &str) -> bool {
    match ask(oidc, token).await.unwrap() {
        Verdict::Accepted(login) => {
            assert_eq!(login.canonical_login.as_deref(), Some("alice"));
            assert!(login.expires_at.is_some());
            true
        }
        Verdict::NotMine => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_obeys_the_contract() {
    let oidc = Played::default().authenticator();
    conformance::authenticator(AuthenticatorSubject::new(Arc::new(oidc))).await;
}

#[tokio::test]
async fn a_token_that_the_issuer_signed_is_taken_and_no_other() {
    let (signer, stranger) = (Signer::es256(Some("a")), Signer::es256(Some("a")));
    let issuer = Played::with(&[&signer]);
    let oidc = issuer.authenticator();
    assert!(takes(&oidc, &signer.token(&claims())).await);
    assert!(!takes(&oidc, &stranger.token(&claims())).await);
    // The right signature on what nobody may take.
    let mut foreign = claims();
    foreign["aud"] = json!("another client");
    assert!(!takes(&oidc, &signer.token(&foreign)).await);
    // Not among those that are allowed here.
    let edwards = Signer::eddsa(Some("e"));
    issuer.has(&[&signer, &edwards]);
    assert!(!takes(&oidc, &edwards.token(&claims())).await);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn tokens_that_nobody_signed_are_not_taken_however_they_say_so() {
    let signer = Signer::es256(None);
    let issuer = Played::with(&[&signer]);
    let oidc = issuer.authenticator();
    let good = signer.token(&claims());
    assert!(takes(&oidc, &good).await);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let none = unsigned(&json!({"alg": "none"}), &claims());
    for token in [format!("{none}."), format!("{none}.{signature}"), format!("{signed}."), signed.to_owned()]
    {
        assert!(!takes(&oidc, &token).await, "{token}");
    }
    // The public key, which everybody has, as the secret of a MAC.
    let public = signer.public();
    let [x, y] = ["x", "y"].map(|part| public[part].as_str().unwrap().to_owned());
    for secret in [public.to_string(), x.clone(), format!("{x}{y}")] {
        let signed = unsigned(&json!({"alg": "HS256"}), &claims());
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        assert!(!takes(&oidc, &format!("{signed}.{signature}")).await);
    }
    // Another algorithm's name on a good signature.
    for alg in ["RS256", "ES384", "EdDSA", "es256", "HS256"] {
        assert!(!takes(&oidc, &signer.token_with(&json!({"alg": alg}), &claims())).await, "{alg}");
    }
    // A key of its own, brought along.
    let stranger = Signer::es256(None);
    for brought in [
        json!({"alg": "ES256", "jwk": stranger.public()}),
        json!({"alg": "ES256", "jku": "https://evil.example"}),
    ] {
        assert!(!takes(&oidc, &stranger.token_with(&brought, &claims())).await);
    }
}

#[tokio::test]
async fn a_token_without_a_key_id_is_taken_only_where_one_key_can_be_meant() {
    let (nameless, other) = (Signer::es256(None), Signer::es256(None));
    let issuer = Played::with(&[&nameless]);
    assert!(takes(&issuer.authenticator(), &nameless.token(&claims())).await);
    issuer.has(&[&nameless, &other]);
    assert!(!takes(&issuer.authenticator(), &nameless.token(&claims())).await);
    issuer.has(&[&nameless, &Signer::eddsa(None)]);
    assert!(
        takes(&issuer.authenticator(), &nameless.token(&claims())).await,
        "the other is for another algorithm"
    );
}

#[tokio::test]
async fn what_no_signature_could_make_right_is_not_asked_about() {
    let signer = Signer::es256(Some("a"));
    let issuer = Played::with(&[&signer]);
    let oidc = issuer.authenticator();
    let mut ended = claims();
    ended["exp"] = json!(1_600_000_000);
    let mut foreign = claims();
    foreign["iss"] = json!("https://another.example");
    let long = format!("{}{}", signer.token(&claims()), "A".repeat(jwt::MAX_TOKEN));
    let five = format!("{0}.{0}", unsigned(&json!({"alg": "RSA-OAEP"}), &claims())) + ".AA";
    for token in [
        signer.token(&ended),
        signer.token(&foreign),
        long,
        five,
        "0123456789abcdef".to_owned(),
        "a.b.c".to_owned(),
    ] {
        assert!(!takes(&oidc, &token).await);
    }
    assert_eq!(issuer.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_asked_for_at_once_and_then_once_a_minute() {
    let [old, new, invented] = ["old", "new", "invented"].map(|kid| Signer::es256(Some(kid)));
    let issuer = Played::with(&[&old]);
    let oidc = issuer.authenticator();
    assert!(takes(&oidc, &old.token(&claims())).await);
    issuer.has(&[&old, &new]);
    assert!(takes(&oidc, &new.token(&claims())).await, "the issuer has another key since");
    assert_eq!(issuer.asked(), 2);
    for _ in 0..59 {
        assert!(!takes(&oidc, &invented.token(&claims())).await);
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(issuer.asked(), 2);
    advance(Duration::from_secs(1)).await;
    for _ in 0..10 {
        assert!(!takes(&oidc, &invented.token(&claims())).await);
    }
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_serve_a_day_without_the_issuer_and_without_keys_nobody_knows() {
    let [known, new] = ["known", "new"].map(|kid| Signer::es256(Some(kid)));
    let issuer = Played::with(&[&known, &new]);
    issuer.goes_away(true);
    let oidc = issuer.authenticator();
    for _ in 0..5 {
        let error = ask(&oidc, &known.token(&claims())).await.unwrap_err();
        let words = qvd_core::error::chain(&error).to_string();
        assert!(words.contains("oidc could not check a token") && words.contains("issuer"), "{words}");
    }
    assert_eq!(issuer.asked(), 1, "not each time");
    issuer.goes_away(false);
    issuer.has(&[&known]);
    advance(Duration::from_secs(5)).await;
    assert!(takes(&oidc, &known.token(&claims())).await);

    issuer.goes_away(true);
    assert!(ask(&oidc, &new.token(&claims())).await.is_err(), "a new key, or an invented one: nobody knows");
    for _ in 0..23 {
        advance(Duration::from_secs(3600)).await;
        assert!(takes(&oidc, &known.token(&claims())).await);
    }
    advance(Duration::from_secs(3600)).await;
    assert!(ask(&oidc, &known.token(&claims())).await.is_err(), "too old");
}

#[tokio::test(start_paused = true)]
async fn old_keys_are_renewed_beside_the_login_that_uses_them() {
    let [first, second] = ["first", "second"].map(|kid| Signer::es256(Some(kid)));
    let issuer = Played::with(&[&first]);
    let oidc = issuer.authenticator();
    assert!(takes(&oidc, &first.token(&claims())).await);
    issuer.has(&[&second]);
    advance(Duration::from_secs(3600)).await;
    assert!(takes(&oidc, &first.token(&claims())).await, "it does not wait for the issuer");
    while issuer.asked() < 2 {
        tokio::task::yield_now().await;
    }
    // What was withdrawn does not count once the answer is here.
    while takes(&oidc, &first.token(&claims())).await {
        tokio::task::yield_now().await;
    }
    assert!(takes(&oidc, &second.token(&claims())).await);
}

#[tokio::test]
async fn many_who_come_at_once_ask_once_and_one_who_leaves_does_not_end_the_question() {
    let signer = Signer::es256(Some("a"));
    let issuer = Played::with(&[&signer]);
    let answer = Arc::new(Notify::new());
    *issuer.0.slow.lock().unwrap() = Some(answer.clone());
    let oidc = Arc::new(issuer.authenticator());
    let token = signer.token(&claims());
    let visitors: Vec<_> = (0..20)
        .map(|_| {
            let (oidc, token) = (oidc.clone(), token.clone());
            tokio::spawn(async move { takes(&oidc, &token).await })
        })
        .collect();
    while issuer.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let mut visitors = visitors.into_iter();
    visitors.next().unwrap().abort();
    answer.notify_one();
    for visitor in visitors {
        assert!(visitor.await.unwrap());
    }
    assert_eq!(issuer.asked(), 1);
}
