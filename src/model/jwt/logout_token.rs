//! Verification of logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.4 and §2.6).

use serde_json::Value;

use super::id_token::{IdTokenError, ProviderTokenRules, refuse};
use super::{UnverifiedToken, VerificationKeys};

/// The member of `events` that makes a token a logout token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The accepted types of logout tokens that state a type. Before the type had a name, providers wrote `JWT`.
const TYPES: [&str; 2] = ["logout+jwt", "jwt"];
/// The greatest age of a logout token in seconds, whatever its `exp`. A provider sends it at once.
const MAX_AGE: f64 = 600.0;
/// The longest `jti`, `sid` and `sub`, in bytes.
const MAX_TEXT: usize = 1024;

/// The contents of a valid logout token: the logins that end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderLogout {
    /// The session at the provider.
    pub sid: Option<String>,
    /// The person. Without `sid`, all their logins end.
    pub sub: Option<String>,
    /// The id of the token, which is used once.
    pub jti: String,
    /// When the provider ended the logins, in seconds of Unix time by its own clock.
    pub at: i64,
    /// When the token is certainly over, in seconds of Unix time.
    pub until: i64,
}

impl UnverifiedToken<'_> {
    /// Returns whether the token names this issuer and this client. Nothing in it is verified yet: this only chooses whose
    /// keys verify it.
    #[must_use]
    pub fn is_alleged_for(&self, issuer: &str, client: &str) -> bool {
        self.alleged_issuer() == Some(issuer) && self.audiences(None).is_ok_and(|audiences| audiences.contains(&client))
    }

    /// Verifies the logout token at a time in seconds of Unix time, and returns which logins end.
    ///
    /// # Errors
    /// When the token ends no login. [`IdTokenError::Unreadable`], [`IdTokenError::UnknownKey`] and
    /// [`IdTokenError::Signature`]: the provider did not sign it.
    pub fn prove_logout(
        &self,
        keys: &VerificationKeys,
        rules: &ProviderTokenRules<'_>,
        now: f64,
    ) -> Result<ProviderLogout, IdTokenError> {
        self.check_provider(&TYPES, keys, rules)?;
        self.check_event()?;
        let (issued, until) = self.life(now, MAX_AGE)?;
        let (sid, sub) = (self.optional_text("sid")?, self.optional_text("sub")?);
        if sid.is_none() && sub.is_none() {
            return refuse("it names neither a session (sid) nor a person (sub)");
        }
        let jti = self.optional_text("jti")?.ok_or(IdTokenError::Refused("it has no jti"))?;
        Ok(ProviderLogout { sid, sub, jti, at: issued.floor() as i64, until: until.ceil() as i64 })
    }

    /// Checks that the token reports a logout, and nothing else: an ID token has a `nonce`, and no event.
    fn check_event(&self) -> Result<(), IdTokenError> {
        let event = self.claims.get("events").and_then(Value::as_object).and_then(|events| events.get(EVENT));
        if !event.is_some_and(Value::is_object) {
            return refuse("it reports no logout (events)");
        }
        if self.claims.contains_key("nonce") { refuse("it has a nonce, as only ID tokens have") } else { Ok(()) }
    }

    /// Reads a claim that is a text if it is there.
    fn optional_text(&self, name: &'static str) -> Result<Option<String>, IdTokenError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TEXT => Ok(Some(text.clone())),
            Some(_) => refuse("its jti, sid or sub is not a text of 1 to 1024 bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: f64 = 1_000_000.0;

    fn rules() -> ProviderTokenRules<'static> {
        ProviderTokenRules { issuer: "https://id.test", client: "us", trusted_audiences: None, algorithms: None }
    }

    fn sign(typ: Option<&str>, changes: &Value) -> String {
        let mut claims = json!({
            "iss": "https://id.test", "aud": "us", "sub": "ann", "sid": "s1", "jti": "j1", "iat": NOW, "exp": NOW + 120.0,
            "events": { EVENT: {} },
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let header = jsonwebtoken::Header { typ: typ.map(str::to_owned), ..jsonwebtoken::Header::default() };
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    fn judge(typ: Option<&str>, changes: &Value) -> Result<ProviderLogout, IdTokenError> {
        let keys = VerificationKeys::of_secret(SECRET).unwrap();
        let token = sign(typ, changes);
        UnverifiedToken::read(token.as_bytes()).unwrap().prove_logout(&keys, &rules(), NOW)
    }

    #[track_caller]
    fn check(changes: Value, expected: Result<(), &'static str>) {
        let judged = judge(Some("logout+jwt"), &changes);
        assert_eq!(judged.map(drop), expected.map_err(IdTokenError::Refused), "{changes}");
    }

    #[test]
    fn a_logout_names_a_session_or_a_person() {
        let ended = judge(Some("logout+jwt"), &json!({})).unwrap();
        let expected = ProviderLogout {
            sid: Some("s1".into()),
            sub: Some("ann".into()),
            jti: "j1".into(),
            at: 1_000_000,
            until: 1_000_120,
        };
        assert_eq!(ended, expected);
        check(json!({ "sid": null }), Ok(()));
        check(json!({ "sub": null }), Ok(()));
        check(json!({ "sid": null, "sub": null }), Err("it names neither a session (sid) nor a person (sub)"));
        for name in ["sid", "sub", "jti"] {
            for odd in [json!(""), json!(1), json!(["a"]), json!("a".repeat(1025))] {
                check(json!({ name: odd }), Err("its jti, sid or sub is not a text of 1 to 1024 bytes"));
            }
        }
        check(json!({ "jti": null }), Err("it has no jti"));
    }

    #[test]
    fn only_logout_tokens_log_out() {
        for typ in [None, Some("JWT"), Some("logout+jwt"), Some("application/logout+jwt")] {
            assert!(judge(typ, &json!({})).is_ok(), "{typ:?}");
        }
        for typ in ["at+jwt", "secevent+jwt", "jose", ""] {
            assert_eq!(judge(Some(typ), &json!({})), refuse("it has another type"), "{typ}");
        }
        let none = Err("it reports no logout (events)");
        for odd in [json!(null), json!({}), json!(EVENT), json!([EVENT]), json!({ "other": {} }), json!({ EVENT: 1 })] {
            check(json!({ "events": odd }), none);
        }
        check(json!({ "events": { EVENT: {}, "other": {} } }), Ok(()));
        for nonce in [json!("n"), json!(1), json!("")] {
            check(json!({ "nonce": nonce }), Err("it has a nonce, as only ID tokens have"));
        }
    }

    #[test]
    fn it_is_for_this_client_of_this_provider() {
        check(json!({ "iss": "https://id.test/" }), Err("it is another provider's (iss)"));
        check(json!({ "iss": null }), Err("it is another provider's (iss)"));
        check(json!({ "aud": "them" }), Err("it is for another client (aud)"));
        check(json!({ "aud": ["us"] }), Ok(()));
        check(json!({ "aud": ["us", "project"], "azp": "us" }), Ok(()));
        check(json!({ "azp": "them" }), Err("it was given to another client (azp)"));
        let alleged = |changes: Value| {
            let token = sign(None, &changes);
            UnverifiedToken::read(token.as_bytes()).unwrap().is_alleged_for("https://id.test", "us")
        };
        assert!(alleged(json!({})) && alleged(json!({ "aud": ["them", "us"] })));
        assert!(!alleged(json!({ "aud": "them" })) && !alleged(json!({ "iss": "https://other.test" })));
        assert!(!alleged(json!({ "aud": ["us", 1] })) && !alleged(json!({ "aud": null })));
    }

    #[test]
    fn it_is_young() {
        check(json!({ "exp": NOW }), Err("it has expired"));
        check(json!({ "exp": null }), Err("it has no exp"));
        check(json!({ "exp": "9999999999" }), Err("exp is not a number"));
        check(json!({ "iat": null }), Err("it has no iat"));
        check(json!({ "iat": NOW + 31.0 }), Err("it is not valid yet: look at the clocks"));
        check(json!({ "nbf": NOW + 31.0 }), Err("it is not valid yet: look at the clocks"));
        // A token that says to live for years is over after ten minutes.
        let long = judge(None, &json!({ "exp": NOW * 10.0 })).unwrap();
        assert_eq!(long.until, 1_000_600);
        check(json!({ "iat": NOW - 600.0, "exp": NOW * 10.0 }), Err("it has expired"));
    }

    #[test]
    fn the_provider_signed_it() {
        let keys = VerificationKeys::of_secret(b"another key of at least 32 bytes!!").unwrap();
        let token = sign(None, &json!({}));
        let token = UnverifiedToken::read(token.as_bytes()).unwrap();
        assert_eq!(token.prove_logout(&keys, &rules(), NOW), Err(IdTokenError::Signature));
        let rules = ProviderTokenRules { algorithms: Some(&[crate::model::jwt::Algorithm::ES256]), ..rules() };
        let keys = VerificationKeys::of_secret(SECRET).unwrap();
        let reason = "its algorithm is not one that the provider says to use";
        assert_eq!(token.prove_logout(&keys, &rules, NOW), refuse(reason));
    }
}
