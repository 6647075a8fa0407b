//! Verification of ID tokens (OpenID Connect Core 1.0 §3.1.3.7).

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Algorithm::{self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
use super::{MALFORMED, TokenError, UnverifiedToken, VerificationKeys, WRONG_SIGNATURE};

/// The longest ID token that is read, in bytes. It comes from the provider itself, which may list many groups.
const MAX_ID_TOKEN: usize = 64 << 10;

/// The tolerated lead of the provider's clock, in seconds.
const LEEWAY: f64 = 30.0;
/// The accepted types of ID tokens that state a type. An access token of the same provider has another.
const TYPES: [&str; 2] = ["jwt", "jose"];

/// The rules for every token that a provider makes for us, besides its signature.
#[derive(Debug, Clone, Copy)]
pub struct ProviderTokenRules<'r> {
    /// The provider.
    pub issuer: &'r str,
    /// Our client id at the provider.
    pub client: &'r str,
    /// Further audiences that the token may name; `None`: any, if `azp` says that the token was issued to us.
    pub trusted_audiences: Option<&'r [String]>,
    /// The algorithms that the provider's metadata lists; `None`: it lists none.
    pub algorithms: Option<&'r [Algorithm]>,
}

/// The rules for an ID token, besides its signature.
#[derive(Debug, Clone, Copy)]
pub struct IdTokenRules<'r> {
    /// The rules for every token of the provider.
    pub provider: ProviderTokenRules<'r>,
    /// The nonce that the login was started with.
    pub nonce: &'r str,
    /// The access token that came with the ID token.
    pub access_token: Option<&'r str>,
}

/// The reason why an ID token proves no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// The text cannot be parsed.
    #[error("the ID token cannot be read")]
    Unreadable,
    /// The header states the algorithm `none`.
    #[error("the ID token is not signed")]
    Unsigned,
    /// The token names an unknown key. The key may have been published since.
    #[error("the ID token is signed with a key that the provider does not have")]
    UnknownKey,
    /// The signature is of another key or over another token.
    #[error("the signature of the ID token is wrong")]
    Signature,
    /// The token also names an audience that is not trusted.
    #[error("the ID token is refused: it is also for {0:?} (aud); if you trust it: trusted_audiences = [{0:?}]")]
    Audience(String),
    /// The token is invalid, for this reason.
    #[error("the ID token is refused: {0}")]
    Refused(&'static str),
}

impl From<TokenError> for IdTokenError {
    fn from(bad: TokenError) -> Self {
        match bad {
            MALFORMED => Self::Unreadable,
            WRONG_SIGNATURE => Self::Signature,
            TokenError::UnknownKey => Self::UnknownKey,
            TokenError::Refused(reason) | TokenError::Unfit(reason) => Self::Refused(reason),
        }
    }
}

impl<'t> UnverifiedToken<'t> {
    /// Parses the text of an ID token.
    ///
    /// # Errors
    /// When the token is malformed, or signed with an unknown algorithm.
    pub fn read_id_token(text: &'t [u8]) -> Result<Self, IdTokenError> {
        Self::read_within(text, MAX_ID_TOKEN)
            .map_err(|bad| if is_unsigned(text) { IdTokenError::Unsigned } else { bad.into() })
    }

    /// Verifies the ID token at a time in seconds of Unix time, and returns its claims.
    ///
    /// # Errors
    /// When the token proves no login.
    pub fn prove_login(
        &self,
        keys: &VerificationKeys,
        rules: &IdTokenRules<'_>,
        now: f64,
    ) -> Result<&Map<String, Value>, IdTokenError> {
        self.check_provider(&TYPES, keys, &rules.provider)?;
        self.check_kind()?;
        self.check_life(now)?;
        if self.claims.get("nonce").and_then(Value::as_str) != Some(rules.nonce) {
            return refuse("it is of another login (nonce)");
        }
        if self.claims.get("sub").and_then(Value::as_str).is_none_or(str::is_empty) {
            return refuse("its subject (sub) is missing or not text");
        }
        self.check_access_token(rules.access_token)?;
        Ok(&self.claims)
    }

    /// Checks that the token has one of these types, and that the provider made it for us.
    pub(super) fn check_provider(
        &self,
        types: &[&str],
        keys: &VerificationKeys,
        rules: &ProviderTokenRules<'_>,
    ) -> Result<(), IdTokenError> {
        if !self.header.media_type().is_none_or(|typ| types.contains(&typ.as_str())) {
            return refuse("it has another type");
        }
        if rules.algorithms.is_some_and(|used| !used.contains(&self.header.algorithm)) {
            return refuse("its algorithm is not one that the provider says to use");
        }
        self.check_signature(keys)?;
        if self.alleged_issuer() != Some(rules.issuer) {
            return refuse("it is another provider's (iss)");
        }
        self.check_audience(rules.client, rules.trusted_audiences)
    }

    /// Checks that the token is for us, and for no audience that is not trusted. `azp` names the client that it was
    /// issued to.
    fn check_audience(&self, client: &str, trusted: Option<&[String]>) -> Result<(), IdTokenError> {
        let audiences = self.audiences(None)?;
        let party = self.claims.get("azp");
        if !audiences.contains(&client) {
            return refuse("it is for another client (aud)");
        }
        if party.is_some_and(|party| party != client) {
            return refuse("it was given to another client (azp)");
        }
        let mut others = audiences.into_iter().filter(|name| *name != client);
        let Some(other) = others.next() else { return Ok(()) };
        if party.is_none() {
            return refuse("it is also for another client (aud), and does not say that it was given to this one (azp)");
        }
        let trusts = |name: &&str| trusted.is_none_or(|listed| listed.iter().any(|one| one == name));
        match [other].into_iter().chain(others).find(|name| !trusts(name)) {
            Some(stranger) => Err(IdTokenError::Audience(stranger.to_owned())),
            None => Ok(()),
        }
    }

    fn check_life(&self, now: f64) -> Result<(), TokenError> {
        self.life(now, f64::INFINITY).map(drop)
    }

    /// Checks the times of a token that lives for `longest` seconds at most. Returns when it was issued, and when it is over.
    pub(super) fn life(&self, now: f64, longest: f64) -> Result<(f64, f64), TokenError> {
        let until = self.time("exp", "exp is not a number")?.ok_or(TokenError::Refused("it has no exp"))?;
        let issued = self.time("iat", "iat is not a number")?.ok_or(TokenError::Refused("it has no iat"))?;
        let from = self.time("nbf", "nbf is not a number")?.unwrap_or(issued);
        let until = until.min(issued + longest);
        if now >= until {
            return Err(TokenError::Refused("it has expired"));
        }
        match issued.max(from) > now + LEEWAY {
            true => Err(TokenError::Refused("it is not valid yet: look at the clocks")),
            false => Ok((issued, until)),
        }
    }

    /// Checks that the access token belongs to this ID token, if `at_hash` is present (§3.1.3.8).
    fn check_access_token(&self, token: Option<&str>) -> Result<(), TokenError> {
        let Some(told) = self.claims.get("at_hash") else { return Ok(()) };
        let made = token.and_then(|token| half_hash(self.header.algorithm, token));
        match made.is_some_and(|made| told == made.as_str()) {
            true => Ok(()),
            false => Err(TokenError::Refused("the access token is not the one that it came with (at_hash)")),
        }
    }
}

pub(super) fn refuse<T>(reason: &'static str) -> Result<T, IdTokenError> {
    Err(IdTokenError::Refused(reason))
}

/// Tells whether the header states the algorithm `none`.
fn is_unsigned(token: &[u8]) -> bool {
    let header = token.split(|byte| *byte == b'.').next().and_then(|header| str::from_utf8(header).ok());
    let header = header.and_then(|header| super::object(header).ok());
    header.is_some_and(|header| header.get("alg").is_some_and(|algorithm| algorithm == "none"))
}

/// Returns the left half of a text's hash, by the hash function of the token's algorithm (§3.1.3.6).
fn half_hash(algorithm: Algorithm, text: &str) -> Option<String> {
    let hash = match algorithm {
        HS256 | RS256 | PS256 | ES256 => &SHA256,
        HS384 | RS384 | PS384 | ES384 => &SHA384,
        // Ed25519 hashes with SHA-512.
        HS512 | RS512 | PS512 | EdDSA => &SHA512,
        _ => return None,
    };
    let hash = digest(hash, text.as_bytes());
    Some(URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: f64 = 1_000_000.0;

    fn provider() -> ProviderTokenRules<'static> {
        ProviderTokenRules { issuer: "https://id.test", client: "us", trusted_audiences: None, algorithms: None }
    }

    fn of_provider(provider: ProviderTokenRules<'_>) -> IdTokenRules<'_> {
        IdTokenRules { provider, nonce: "n", access_token: Some("at") }
    }

    fn rules() -> IdTokenRules<'static> {
        of_provider(provider())
    }

    /// Verifies the claims of a good ID token with some of them changed; `null` removes one.
    fn judge(changes: &Value, rules: &IdTokenRules<'_>) -> Result<(), IdTokenError> {
        let mut claims = json!({
            "iss": "https://id.test", "aud": "us", "sub": "ann", "nonce": "n", "iat": NOW, "exp": NOW + 300.0,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        let keys = VerificationKeys::of_secret(SECRET).unwrap();
        UnverifiedToken::read_id_token(token.as_bytes()).unwrap().prove_login(&keys, rules, NOW).map(drop)
    }

    #[track_caller]
    fn check(changes: Value, expected: Result<(), &'static str>) {
        assert_eq!(judge(&changes, &rules()), expected.map_err(IdTokenError::Refused), "{changes}");
    }

    #[test]
    fn what_is_used_is_right() {
        check(json!({}), Ok(()));
        check(json!({ "iss": null }), Err("it is another provider's (iss)"));
        check(json!({ "iss": "https://id.test/" }), Err("it is another provider's (iss)"));
        check(json!({ "aud": null }), Err("it is for another client (aud)"));
        check(json!({ "aud": 1 }), Err("its audience is not text"));
        check(json!({ "azp": ["us"] }), Err("it was given to another client (azp)"));
        check(json!({ "exp": "9999999999" }), Err("exp is not a number"));
        check(json!({ "exp": NOW }), Err("it has expired"));
        check(json!({ "iat": null }), Err("it has no iat"));
        check(json!({ "iat": NOW + 30.0 }), Ok(()));
        check(json!({ "iat": NOW + 31.0 }), Err("it is not valid yet: look at the clocks"));
        check(json!({ "nbf": NOW + 31.0 }), Err("it is not valid yet: look at the clocks"));
        check(json!({ "nonce": 1 }), Err("it is of another login (nonce)"));
        for subject in [json!(null), json!(""), json!(1), json!(["ann"])] {
            check(json!({ "sub": subject }), Err("its subject (sub) is missing or not text"));
        }
        check(json!({ "events": {} }), Err("it tells of an event"));
    }

    #[test]
    fn what_nobody_uses_may_be_odd() {
        for odd in [json!(1), json!("1"), json!([]), json!({ "a": [null] }), json!(true), json!(1.5)] {
            let odd =
                |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), odd.clone())).collect::<Map<_, _>>();
            let claims = odd(&["amr", "acr", "auth_time", "updated_at", "address", "locale", "c_hash", "jti", "email"]);
            check(Value::Object(claims), Ok(()));
        }
    }

    #[test]
    fn other_audiences_are_trusted_by_azp_and_by_the_list() {
        let two = |azp: Value| json!({ "aud": ["us", "project"], "azp": azp });
        let untold = "it is also for another client (aud), and does not say that it was given to this one (azp)";
        check(two(json!("us")), Ok(()));
        check(two(json!(null)), Err(untold));
        check(two(json!("project")), Err("it was given to another client (azp)"));
        for (listed, good) in [(&[][..], false), (&["other"], false), (&["other", "project"], true)] {
            let listed: Vec<_> = listed.iter().map(|name| (*name).to_owned()).collect();
            let rules = of_provider(ProviderTokenRules { trusted_audiences: Some(&listed), ..provider() });
            let judged = judge(&two(json!("us")), &rules);
            assert_eq!(judged, if good { Ok(()) } else { Err(IdTokenError::Audience("project".into())) }, "{listed:?}");
            assert!(judge(&two(json!(null)), &rules).is_err() && judge(&json!({}), &rules).is_ok());
        }
    }

    #[test]
    fn an_access_token_is_the_one_that_came_along() {
        let hash = half_hash(HS256, "at").unwrap();
        let refusal = Err("the access token is not the one that it came with (at_hash)");
        check(json!({ "at_hash": hash }), Ok(()));
        check(json!({ "at_hash": half_hash(HS512, "at") }), refusal);
        check(json!({ "at_hash": [hash] }), refusal);
        let without = IdTokenRules { access_token: None, ..rules() };
        assert!(judge(&json!({ "at_hash": hash }), &without).is_err() && judge(&json!({}), &without).is_ok());
        // OpenID Connect Core 1.0 appendix A.3.
        assert_eq!(half_hash(RS256, "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y").unwrap(), "77QmUPtjPfzWtF2AnpK9RQ");
    }

    #[test]
    fn only_algorithms_that_the_provider_names() {
        let rules = of_provider(ProviderTokenRules { algorithms: Some(&[ES256, RS256]), ..provider() });
        let reason = "its algorithm is not one that the provider says to use";
        assert_eq!(judge(&json!({}), &rules), Err(IdTokenError::Refused(reason)));
    }
}
