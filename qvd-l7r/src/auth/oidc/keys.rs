//! The issuer's public keys, and whether one of them signed a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use qvd_core::proto::jwt::{Header, Jwt};
use serde::Deserialize;
use serde_json::Value;

/// The keys of one document, as far as they can check signatures.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// Those that it may be used for.
    algorithms: Vec<Algorithm>,
    material: DecodingKey,
}

/// Which key a token asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    algorithm: Algorithm,
    kid: Option<String>,
}

/// What the keys say of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    Good,
    Bad,
    /// The token does not say which of several keys it means.
    Ambiguous,
}

impl Wanted {
    /// What a header asks for; none when its algorithm is not one of those allowed.
    pub(super) fn by(header: &Header, allowed: &[Algorithm]) -> Option<Self> {
        let algorithm = asymmetric(&header.alg).filter(|algorithm| allowed.contains(algorithm))?;
        Some(Self { algorithm, kid: header.kid.clone() })
    }
}

/// The algorithm of a name, if it is one in which only the issuer can sign.
pub(super) fn asymmetric(name: &str) -> Option<Algorithm> {
    let algorithm: Algorithm = name.parse().ok()?;
    (algorithm.family() != AlgorithmFamily::Hmac).then_some(algorithm)
}

impl Keys {
    /// Reads a document (RFC 7517); none when it is not one. Keys of kinds that are not known here are passed over.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(json).ok()?;
        let known = document.keys.into_iter().filter_map(|key| Key::read(serde_json::from_value(key).ok()?));
        Some(Self(known.take(MOST_KEYS).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key is here that a token could mean.
    pub(super) fn know(&self, wanted: &Wanted) -> bool {
        self.meant(wanted).next().is_some()
    }

    /// Whether a key that the token can mean signed it.
    pub(super) fn check(&self, jwt: &Jwt<'_>, wanted: &Wanted) -> Signature {
        if wanted.kid.is_none() && self.meant(wanted).nth(1).is_some() {
            return Signature::Ambiguous;
        }
        match self.meant(wanted).any(|key| key.signed(jwt, wanted.algorithm)) {
            true => Signature::Good,
            false => Signature::Bad,
        }
    }

    fn meant<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(|key| {
            key.algorithms.contains(&wanted.algorithm) && (wanted.kid.is_none() || wanted.kid == key.kid)
        })
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Self> {
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // A shared secret has no place among public keys.
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|is| *is == PublicKeyUse::Signature)
                && common.key_operations.as_ref().is_none_or(|may| may.contains(&KeyOperations::Verify));
        if !is_for_signatures {
            return None;
        }
        let only = common.key_algorithm;
        let may = |algorithm: &Algorithm| only.is_none_or(|only| only == KeyAlgorithm::from(*algorithm));
        let algorithms: Vec<_> = fitting.iter().copied().filter(may).collect();
        let material = material(&jwk.algorithm)?;
        (!algorithms.is_empty()).then(|| Self { kid: common.key_id.clone(), algorithms, material })
    }

    fn signed(&self, jwt: &Jwt<'_>, algorithm: Algorithm) -> bool {
        // Not the process's default, which another crate's choice of features could make a panic.
        let verifier = (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&algorithm, &self.material);
        verifier.is_ok_and(|verifier| verifier.verify(jwt.signed.as_bytes(), &jwt.signature).is_ok())
    }
}

/// The numbers of a key, in the lengths that they must have: some issuers put a zero before one that looks negative.
fn material(key: &AlgorithmParameters) -> Option<DecodingKey> {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    match key {
        AlgorithmParameters::RSA(key) => {
            Some(DecodingKey::from_rsa_raw_components(&number(&key.n)?, &number(&key.e)?))
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let size: usize = if key.curve == EllipticCurve::P384 { 48 } else { 32 };
            let mut point = vec![UNCOMPRESSED];
            for coordinate in [&key.x, &key.y] {
                let digits = number(coordinate)?;
                point.resize(point.len() + size.checked_sub(digits.len())?, 0);
                point.extend_from_slice(&digits);
            }
            Some(DecodingKey::from_ec_der(&point))
        }
        AlgorithmParameters::OctetKeyPair(key) => DecodingKey::from_ed_components(&key.x).ok(),
        _ => None,
    }
}

/// How a point with both its coordinates begins.
const UNCOMPRESSED: u8 = 4;

/// More than any issuer has.
const MOST_KEYS: usize = 100;

#[cfg(test)]
pub(super) mod testkit {
    //! Keys of issuers that the tests play.

    use jsonwebtoken::{EncodingKey, crypto};
    use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
    use serde_json::json;

    use super::*;

    /// A key with its private half.
    pub(crate) struct Signer {
        pub(crate) kid: Option<String>,
        pub(crate) algorithm: Algorithm,
        pair: KeyPair,
    }

    impl Signer {
        pub(crate) fn es256(kid: Option<&str>) -> Self {
            let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            Self { kid: kid.map(str::to_owned), algorithm: Algorithm::ES256, pair }
        }

        pub(crate) fn eddsa(kid: Option<&str>) -> Self {
            let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            Self { kid: kid.map(str::to_owned), algorithm: Algorithm::EdDSA, pair }
        }

        /// The public half, as in a document.
        pub(crate) fn public(&self) -> Value {
            let raw = self.pair.der_bytes();
            let mut jwk = match self.algorithm {
                Algorithm::ES256 => {
                    let [x, y] = [&raw[1..33], &raw[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
                    json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
                }
                _ => json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(raw)}),
            };
            if let Some(kid) = &self.kid {
                jwk["kid"] = json!(kid);
            }
            jwk
        }

        fn sign(&self, signed: &str) -> String {
            match self.algorithm {
                Algorithm::ES256 => {
                    let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
                    crypto::sign(signed.as_bytes(), &key, Algorithm::ES256).unwrap()
                }
                _ => URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).unwrap()),
            }
        }

        pub(crate) fn wanted(&self) -> Wanted {
            Wanted { algorithm: self.algorithm, kid: self.kid.clone() }
        }

        pub(crate) fn token(&self, claims: &Value) -> String {
            let mut header = json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT"});
            if let Some(kid) = &self.kid {
                header["kid"] = json!(kid);
            }
            self.token_with(&header, claims)
        }

        pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
            let signed = unsigned(header, claims);
            format!("{signed}.{}", self.sign(&signed))
        }
    }

    pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
        [header, claims].map(|json| URL_SAFE_NO_PAD.encode(json.to_string())).join(".")
    }

    /// The document of an issuer with these keys.
    pub(crate) fn keys(signers: &[Signer]) -> Keys {
        let all: Vec<_> = signers.iter().map(Signer::public).collect();
        Keys::parse(json!({"keys": all}).to_string().as_bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use qvd_core::proto::jwt;
    use serde_json::json;

    use super::testkit::{Signer, keys};
    use super::*;

    fn checked(keys: &Keys, signer: &Signer) -> Signature {
        let token = signer.token(&json!({"iss": "i"}));
        keys.check(&jwt::parse(&token).unwrap(), &signer.wanted())
    }

    #[test]
    fn what_a_key_signed_is_good_and_nothing_else() {
        let [first, second] = ["a", "b"].map(|kid| Signer::es256(Some(kid)));
        let edwards = Signer::eddsa(Some("e"));
        let (stranger, nameless) = (Signer::es256(Some("a")), Signer::es256(None));
        let all = keys(&[first, second, edwards]);
        assert_eq!(checked(&all, &stranger), Signature::Bad, "another one of the same name");
        assert_eq!(checked(&all, &nameless), Signature::Ambiguous);
        let [first, edwards] = [Signer::es256(Some("a")), Signer::eddsa(Some("e"))];
        let [one, other] = [keys(&[first]), keys(&[edwards])];
        assert_eq!(checked(&one, &nameless), Signature::Bad, "without a name it can only mean the only one");
        assert!(!other.know(&nameless.wanted()), "of another algorithm");
    }

    #[test]
    fn each_algorithm_checks_what_it_signed_and_no_byte_more() {
        for make in [Signer::es256, Signer::eddsa] {
            for kid in [Some("k"), None] {
                let signer = make(kid);
                let token = signer.token(&json!({"iss": "i"}));
                let wanted = signer.wanted();
                let keys = keys(&[signer]);
                let check = |token: &str| jwt::parse(token).map(|jwt| keys.check(&jwt, &wanted));
                assert_eq!(check(&token), Ok(Signature::Good));
                let (signed, signature) = token.rsplit_once('.').unwrap();
                let (header, claims) = signed.split_once('.').unwrap();
                for other in [
                    format!("{header}.eyJpc3MiOiJqIn0.{signature}"),
                    format!("{header}.{claims}.{}", &signature[..signature.len() - 2]),
                    format!("{header}.{claims}.{signature}AAAA"),
                    format!("{header}.{claims}.AAAA"),
                ] {
                    assert_eq!(check(&other), Ok(Signature::Bad), "{other}");
                }
            }
        }
    }

    #[test]
    fn keys_are_for_what_they_say_they_are_for() {
        let signer = Signer::es256(Some("k"));
        let changed = |key: &str, value: Value| {
            let mut jwk = signer.public();
            jwk[key] = value;
            Keys::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap()
        };
        for (key, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("ES384")),
            ("alg", json!("HS256")),
            ("alg", json!("ES512")),
            ("crv", json!("P-384")),
            ("crv", json!("secp256k1")),
            ("kty", json!("oct")),
            ("kid", json!("other")),
        ] {
            let keys = changed(key, value.clone());
            assert!(!keys.know(&signer.wanted()), "{key}={value}");
        }
        for (key, value) in [
            ("use", json!("sig")),
            ("key_ops", json!(["verify"])),
            ("alg", json!("ES256")),
            ("x", signer.public()["x"].clone()),
        ] {
            assert_eq!(checked(&changed(key, value.clone()), &signer), Signature::Good, "{key}={value}");
        }
        let padded =
            [&[0][..], &URL_SAFE_NO_PAD.decode(signer.public()["x"].as_str().unwrap()).unwrap()].concat();
        let padded = changed("x", json!(URL_SAFE_NO_PAD.encode(padded)));
        assert_eq!(checked(&padded, &signer), Signature::Good, "a zero before it");
        // A point that is not on the curve is a key of nobody.
        assert_eq!(checked(&changed("x", signer.public()["y"].clone()), &signer), Signature::Bad);
    }

    #[test]
    fn what_is_not_known_among_the_keys_is_passed_over() {
        let signer = Signer::es256(Some("k"));
        let document = json!({"keys": [
            {"kty": "OKP", "crv": "Ed448", "x": "AA"}, {"kty": "AKP", "alg": "ML-DSA-44"}, {"kty": "oct", "k": "AAAA", "kid": "k"},
            7, {}, {"kty": "RSA"}, signer.public(),
        ]});
        let keys = Keys::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!((keys.0.len(), checked(&keys, &signer)), (1, Signature::Good));
        for none in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(Keys::parse(none.as_bytes()).is_none(), "{none}");
        }
        assert!(Keys::parse(br#"{"keys":[]}"#).unwrap().is_empty());
    }

    #[test]
    fn only_algorithms_in_which_the_issuer_alone_can_sign_are_any() {
        for name in ["none", "None", "", "HS256", "HS384", "HS512", "rs256", "RS1", "dir"] {
            assert_eq!(asymmetric(name), None, "{name}");
        }
        for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
            let header = Header { alg: name.to_owned(), kid: None, typ: None };
            let algorithm = asymmetric(name).unwrap();
            assert!(Wanted::by(&header, &[algorithm]).is_some());
            assert!(Wanted::by(&header, &[]).is_none(), "not allowed: {name}");
        }
    }
}
