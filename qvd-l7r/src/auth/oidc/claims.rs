//! Whether the claims of a token let somebody in, and whom. Pure: the signature is another question.
//!
//! | token | is for us when |
//! |---|---|
//! | ID token | `aud` has `auth.oidc.client_id`, and `azp`, which must be there beside several audiences, is it |
//! | access token | `aud` has `auth.oidc.audience`, which must be set |
//! | any other (logout tokens, …) | never |
//!
//! An access token is what says so in one of the ways of the issuers (`typ`, `scope`, …), and what is not meant for
//! our client.

use std::time::{Duration, SystemTime};

use qvd_core::auth::Login;
use qvd_core::proto::jwt::{Claims, Header};
use serde_json::Value;

/// What is asked of claims.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) audience: Option<String>,
    pub(super) login_claim: String,
    pub(super) leeway: Duration,
    /// Whether `Alice` and `alice` are two users.
    pub(super) case_sensitive: bool,
}

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("its algorithm is not one of auth.oidc.algs")]
    Algorithm,
    #[error("another issuer made it")]
    Issuer,
    #[error("it is neither an ID token nor an access token")]
    Kind,
    #[error("it is meant for neither auth.oidc.client_id nor auth.oidc.audience")]
    Audience,
    #[error("it is an access token, and not for auth.oidc.audience")]
    Access,
    #[error("it is an ID token for another client")]
    Client,
    #[error("it does not say when it was made and when it ends")]
    Undated,
    #[error("it has ended")]
    Ended,
    #[error("it does not hold yet")]
    Early,
    #[error("auth.oidc.login_claim is not a claim that is a login")]
    Login,
    #[error("the address in it is not verified")]
    Unverified,
    #[error("it names no key, and the issuer has several")]
    Ambiguous,
    #[error("the issuer has no such key")]
    Key,
    #[error("its signature is wrong")]
    Signature,
}

/// What claims would let in, were they signed by the issuer.
pub(super) fn judge(
    header: &Header,
    claims: &Claims,
    rules: &Rules,
    now: SystemTime,
) -> Result<Login, Refusal> {
    if claims.iss != rules.issuer {
        return Err(Refusal::Issuer);
    }
    is_for_us(header, claims, rules)?;
    let ends = holds(claims, rules.leeway, now)?;
    let mut login = Login::new();
    login.canonical_login = Some(whose(claims, rules)?);
    login.expires_at = Some(ends);
    Ok(login)
}

fn is_for_us(header: &Header, claims: &Claims, rules: &Rules) -> Result<(), Refusal> {
    let names = |wanted: &str| claims.aud.iter().any(|aud| aud == wanted);
    let is_allowed = rules.audience.as_deref().is_some_and(names);
    if says_access(header, claims)? {
        return if is_allowed { Ok(()) } else { Err(Refusal::Access) };
    }
    if !names(&rules.client_id) {
        return if is_allowed { Ok(()) } else { Err(Refusal::Audience) };
    }
    let made_for = claims.azp.as_deref();
    let is_made_for_us = made_for == Some(&rules.client_id) || (made_for.is_none() && claims.aud.len() == 1);
    if is_made_for_us { Ok(()) } else { Err(Refusal::Client) }
}

/// Whether a token says that it is an access token; refuses what says that it is something else again. Keycloak says it
/// in `typ`, Cognito in `token_use`, Glewlwyd in `type`; a logout token has `events`.
fn says_access(header: &Header, claims: &Claims) -> Result<bool, Refusal> {
    let said = |claim: &str| claims.others.get(claim).and_then(Value::as_str).unwrap_or_default();
    let typ = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    let by_header = match typ.strip_prefix("application/").unwrap_or(&typ) {
        "jwt" => false,
        "at+jwt" => true,
        _ => return Err(Refusal::Kind),
    };
    let mut by_claim = false;
    for claim in ["typ", "token_use", "type"] {
        match said(claim).to_ascii_lowercase().as_str() {
            "" | "id" | "id_token" => {}
            "access" | "access_token" | "bearer" => by_claim = true,
            // Somebody's own claim may be called so.
            other if claim == "type" && !other.ends_with("_token") => {}
            _ => return Err(Refusal::Kind),
        }
    }
    if claims.others.contains_key("events") {
        return Err(Refusal::Kind);
    }
    let has_scope = ["scope", "scp"].iter().any(|claim| claims.others.contains_key(*claim));
    Ok(by_header || by_claim || has_scope)
}

/// When the token ends, if it holds now.
fn holds(claims: &Claims, leeway: Duration, now: SystemTime) -> Result<SystemTime, Refusal> {
    let (Some(exp), Some(iat)) = (claims.exp, claims.iat) else { return Err(Refusal::Undated) };
    let ends = time(exp).ok_or(Refusal::Undated)?;
    if ends.checked_add(leeway).is_none_or(|last| last <= now) {
        return Err(Refusal::Ended);
    }
    for begins in [Some(iat), claims.nbf].into_iter().flatten() {
        let begins = time(begins).ok_or(Refusal::Undated)?;
        if begins.checked_sub(leeway).is_some_and(|first| first > now) {
            return Err(Refusal::Early);
        }
    }
    Ok(ends)
}

fn time(seconds: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// The login, folded as a typed one is.
fn whose(claims: &Claims, rules: &Rules) -> Result<String, Refusal> {
    let claim = rules.login_claim.as_str();
    let said = claims.others.get(claim).and_then(Value::as_str);
    // Whoever may write any address into their profile is not who it belongs to.
    let verified = claims.others.get("email_verified");
    if claim == "email" && verified.is_some_and(|is| *is != Value::Bool(true) && is.as_str() != Some("true"))
    {
        return Err(Refusal::Unverified);
    }
    let login = said.unwrap_or_default().trim();
    if login.is_empty() || login.len() > LONGEST_LOGIN || login.chars().any(char::is_control) {
        return Err(Refusal::Login);
    }
    Ok(if rules.case_sensitive { login.to_owned() } else { login.to_lowercase() })
}

const LONGEST_LOGIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_700_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: "https://issuer".into(),
            client_id: "qvd".into(),
            audience: None,
            login_claim: "preferred_username".into(),
            leeway: Duration::from_secs(60),
            case_sensitive: false,
        }
    }

    fn api() -> Rules {
        Rules { audience: Some("api".into()), ..rules() }
    }

    fn header(typ: Option<&str>) -> Header {
        Header { alg: "ES256".into(), kid: None, typ: typ.map(str::to_owned) }
    }

    /// The claims of a good ID token with some replaced; null takes one away.
    fn claims(changes: Value) -> Claims {
        let mut claims = json!({
            "iss": "https://issuer", "sub": "1", "aud": "qvd", "preferred_username": "alice",
            "iat": NOW - 10, "exp": NOW + 290,
        });
        for (claim, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(claim),
                _ => claims.as_object_mut().unwrap().insert(claim.clone(), value.clone()),
            };
        }
        serde_json::from_value(claims).unwrap()
    }

    fn judged(rules: &Rules, typ: Option<&str>, changes: Value) -> Result<Login, Refusal> {
        judge(&header(typ), &claims(changes), rules, time(NOW).unwrap())
    }

    #[track_caller]
    fn refuses(rules: &Rules, why: Refusal, changes: Value) {
        assert_eq!(judged(rules, Some("JWT"), changes.clone()), Err(why), "{changes}");
    }

    #[track_caller]
    fn takes(rules: &Rules, changes: Value) -> Login {
        judged(rules, Some("JWT"), changes.clone()).unwrap_or_else(|why| panic!("{changes}: {why}"))
    }

    #[test]
    fn an_id_token_for_us_lets_its_user_in_until_it_ends() {
        let login = takes(&rules(), json!({}));
        assert_eq!(login.canonical_login.as_deref(), Some("alice"));
        assert_eq!(login.expires_at, time(NOW + 290));
        assert_eq!((login.user_id, login.only_vm, login.delegated), (None, None, false));
        assert!(judged(&rules(), None, json!({"typ": "ID"})).is_ok());
    }

    #[test]
    fn issuers_are_compared_to_the_letter() {
        for iss in ["https://issuer/", "https://ISSUER", "http://issuer", "https://issuer.example", ""] {
            refuses(&rules(), Refusal::Issuer, json!({"iss": iss}));
        }
    }

    #[test]
    fn an_id_token_for_another_client_is_not_for_us() {
        for aud in [json!("other"), json!([]), json!(["other", "QVD"]), json!("qvd "), Value::Null] {
            refuses(&rules(), Refusal::Audience, json!({"aud": aud}));
        }
        refuses(&rules(), Refusal::Client, json!({"azp": "other"}));
        refuses(&rules(), Refusal::Client, json!({"aud": ["qvd", "other"]}));
        refuses(&rules(), Refusal::Client, json!({"aud": ["qvd", "other"], "azp": "other"}));
        takes(&rules(), json!({"aud": ["qvd", "other"], "azp": "qvd"}));
        takes(&rules(), json!({"aud": ["qvd"], "azp": "qvd"}));
    }

    #[test]
    fn access_tokens_need_the_configured_audience() {
        for says in [
            json!({"scope": "openid"}),
            json!({"scp": "x"}),
            json!({"typ": "Bearer"}),
            json!({"type": "access_token"}),
            json!({"token_use": "access"}),
        ] {
            refuses(&rules(), Refusal::Access, says.clone());
            refuses(&api(), Refusal::Access, says.clone());
            let mut meant = says;
            meant["aud"] = json!(["other", "api"]);
            meant["azp"] = json!("an app");
            refuses(&rules(), Refusal::Access, meant.clone());
            takes(&api(), meant);
        }
        for typ in ["at+jwt", "application/at+jwt", "AT+JWT"] {
            assert_eq!(judged(&rules(), Some(typ), json!({})), Err(Refusal::Access), "{typ}");
            assert!(judged(&api(), Some(typ), json!({"aud": "api"})).is_ok(), "{typ}");
        }
        takes(&api(), json!({}));
        let both = Rules { audience: Some("qvd".into()), ..rules() };
        takes(&both, json!({"scope": "openid"}));
    }

    #[test]
    fn what_is_neither_is_refused_whomever_it_is_for() {
        for typ in ["logout+jwt", "dpop+jwt", "JOSE", "secevent+jwt", "rt+jwt", ""] {
            for rules in [rules(), api()] {
                assert_eq!(judged(&rules, Some(typ), json!({})), Err(Refusal::Kind), "{typ}");
            }
        }
        let events = json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}});
        for other in
            [events, json!({"typ": "Refresh"}), json!({"type": "refresh_token"}), json!({"token_use": "x"})]
        {
            refuses(&rules(), Refusal::Kind, other);
        }
        takes(&rules(), json!({"type": "employee"}));
    }

    #[test]
    fn times_count_with_the_leeway() {
        for (exp, taken) in
            [(NOW - 61, false), (NOW - 60, false), (NOW - 59, true), (-1, false), (i64::MIN, false)]
        {
            assert_eq!(judged(&rules(), None, json!({"exp": exp})).is_ok(), taken, "{exp}");
        }
        for begins in ["nbf", "iat"] {
            refuses(&rules(), Refusal::Early, json!({begins: NOW + 61}));
            takes(&rules(), json!({begins: NOW + 60}));
            refuses(&rules(), Refusal::Early, json!({begins: i64::MAX}));
            refuses(&rules(), Refusal::Undated, json!({begins: -1}));
        }
        refuses(&rules(), Refusal::Ended, json!({"exp": NOW - 60}));
        refuses(&rules(), Refusal::Undated, json!({"exp": null}));
        refuses(&rules(), Refusal::Undated, json!({"iat": null}));
        let exact = Rules { leeway: Duration::ZERO, ..rules() };
        refuses(&exact, Refusal::Ended, json!({"exp": NOW}));
        takes(&exact, json!({"exp": NOW + 1}));
        // A token without an end is none, and one far away is no overflow.
        let _ = judged(&rules(), None, json!({"exp": i64::MAX}));
    }

    #[test]
    fn the_login_is_what_the_claim_says_folded_as_a_typed_one() {
        assert_eq!(
            takes(&rules(), json!({"preferred_username": " Alice "})).canonical_login.unwrap(),
            "alice"
        );
        let exact = Rules { case_sensitive: true, ..rules() };
        assert_eq!(takes(&exact, json!({"preferred_username": "Alice"})).canonical_login.unwrap(), "Alice");
        let tenant = takes(&rules(), json!({"preferred_username": "alice@tenant"}));
        assert_eq!(tenant.canonical_login.unwrap(), "alice@tenant");
        for none in [
            json!(""),
            json!(" "),
            json!(7),
            json!(["alice"]),
            json!("a\u{0}b"),
            json!("a\nb"),
            json!("x".repeat(257)),
            Value::Null,
        ] {
            refuses(&rules(), Refusal::Login, json!({"preferred_username": none}));
        }
        let by_subject = Rules { login_claim: "sub".into(), ..rules() };
        assert_eq!(takes(&by_subject, json!({})).canonical_login.unwrap(), "1");
    }

    #[test]
    fn an_address_that_is_known_not_to_be_verified_is_nobodys_login() {
        let by_email = Rules { login_claim: "email".into(), ..rules() };
        let email = |verified: Value| json!({"email": "alice@example.com", "email_verified": verified});
        for no in [json!(false), json!("false"), json!(0), json!("yes")] {
            refuses(&by_email, Refusal::Unverified, email(no));
        }
        for yes in [json!(true), json!("true"), Value::Null] {
            takes(&by_email, email(yes));
        }
        takes(&rules(), email(json!(false)));
    }
}
