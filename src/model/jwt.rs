//! JSON Web Tokens (RFC 7519): verification of a token under the rules of RFC 8725. Pure; the time is an argument.

mod id_token;
mod keys;
mod logout_token;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

pub use self::id_token::{IdTokenError, IdTokenRules, ProviderTokenRules};
pub use self::keys::{JwtKeyError, KeyFormat, VerificationKeys, algorithm};
pub use self::logout_token::ProviderLogout;
use super::json::{self, JsonError};

/// The longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 8 << 10;

/// The accepted values of `typ` in the header (RFC 7519 §5.1, RFC 9068 §2.1). A token of another type, such as a
/// logout token, was signed with the same key for another purpose.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// Values of the claim `typ` by which Keycloak marks tokens that do not prove a caller.
const NO_PROOF: [&str; 3] = ["Logout", "Refresh", "Offline"];

/// The reason why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// The token names an unknown key. The key may have been published since.
    UnknownKey,
    /// The token is invalid, for this reason.
    Refused(&'static str),
    /// The signature is right, but the token is not valid here or now, for this reason.
    Unfit(&'static str),
}

impl TokenError {
    /// Returns the reason, for the operator.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::UnknownKey => "its key is unknown",
            Self::Refused(reason) | Self::Unfit(reason) => reason,
        }
    }

    /// Returns the same reason for a token whose signature is right.
    const fn into_unfit(self) -> Self {
        Self::Unfit(self.reason())
    }
}

/// The rules for a token, besides its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The accepted issuers; `None`: any issuer that has the key.
    pub issuers: Option<Vec<String>>,
    /// The accepted audiences; `None`: only tokens without an audience are accepted.
    pub audiences: Option<Vec<String>>,
    /// The claim that names the audience of a token without `aud`; `None`: such a token is for no audience.
    pub audience_claim: Option<String>,
    /// The accepted algorithms; `None`: all that the key is for.
    pub algorithms: Option<Vec<Algorithm>>,
    /// The required type; `None`: one of the usual ones.
    pub typ: Option<String>,
    /// The greatest age of the token, from `iat`; `None`: only `exp` limits it.
    pub max_age: Option<Duration>,
    /// The tolerated difference between clocks.
    pub leeway: Duration,
}

/// The contents of a valid token.
#[derive(Debug)]
pub struct VerifiedToken {
    /// Its claims.
    pub claims: Map<String, Value>,
    /// Its end in seconds of Unix time, leeway included.
    pub until: f64,
}

/// A parsed token. Nothing in it has been verified.
pub struct UnverifiedToken<'t> {
    message: &'t str,
    signature: &'t str,
    header: JoseHeader,
    claims: Map<String, Value>,
}

/// The members of a token's header that are read. `jku`, `x5u`, `jwk` and `x5c` are ignored: they would let the author
/// of the token choose the key.
struct JoseHeader {
    algorithm: Algorithm,
    key: Option<String>,
    typ: Option<String>,
}

impl fmt::Debug for UnverifiedToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'t> UnverifiedToken<'t> {
    /// Parses the text of a token.
    ///
    /// # Errors
    /// When the token is malformed, or signed with an unknown algorithm.
    pub fn read(text: &'t [u8]) -> Result<Self, TokenError> {
        Self::read_within(text, MAX_TOKEN)
    }

    fn read_within(text: &'t [u8], longest: usize) -> Result<Self, TokenError> {
        let text = str::from_utf8(text).ok().filter(|text| text.len() <= longest);
        let (message, signature) = text.and_then(|text| text.rsplit_once('.')).ok_or(MALFORMED)?;
        let (header, claims) = message.split_once('.').ok_or(MALFORMED)?;
        let header = JoseHeader::read(&object(header)?)?;
        Ok(Self { message, signature, header, claims: object(claims)? })
    }

    /// Returns the unverified issuer. It may choose the provider that is asked for keys, and nothing else.
    #[must_use]
    pub fn alleged_issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Verifies the token at a time, in seconds of Unix time.
    ///
    /// # Errors
    /// When the token proves nothing.
    pub fn prove(&self, keys: &VerificationKeys, rules: &TokenRules, now: f64) -> Result<VerifiedToken, TokenError> {
        self.header.check(rules)?;
        self.check_signature(keys)?;
        self.check_purpose(rules).map_err(TokenError::into_unfit)?;
        let until = self.check_times(rules, now).map_err(TokenError::into_unfit)?;
        Ok(VerifiedToken { claims: self.claims.clone(), until })
    }

    fn check_signature(&self, keys: &VerificationKeys) -> Result<(), TokenError> {
        let JoseHeader { algorithm, key, .. } = &self.header;
        let mut candidates = keys.named(key.as_deref());
        if candidates.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        candidates.retain(|key| key.is_for(*algorithm));
        if candidates.is_empty() {
            return Err(TokenError::Refused("its algorithm is not one of the key's"));
        }
        let mut tried = candidates.iter().take(keys::MAX_TRIES);
        match tried.any(|key| key.has_signed(self.message, self.signature, *algorithm)) {
            true => Ok(()),
            false => Err(WRONG_SIGNATURE),
        }
    }

    /// Checks issuer, audience and purpose.
    fn check_purpose(&self, rules: &TokenRules) -> Result<(), TokenError> {
        let is_listed = |list: &[String], text: &str| list.iter().any(|listed| listed == text);
        if let Some(issuers) = &rules.issuers
            && !self.alleged_issuer().is_some_and(|issuer| is_listed(issuers, issuer))
        {
            return Err(TokenError::Refused("its issuer is not a trusted one"));
        }
        match (&rules.audiences, self.audiences(rules.audience_claim.as_deref())?) {
            // A token with an audience is not valid for anyone else (RFC 7519 §4.1.3).
            (None, named) if !named.is_empty() => {
                Err(TokenError::Refused("it is for an audience, and none is configured"))
            }
            (Some(audiences), named) if !named.iter().any(|name| is_listed(audiences, name)) => {
                Err(TokenError::Refused("it is for another audience"))
            }
            _ => self.check_kind(),
        }
    }

    /// Checks that the token is of a kind that proves a caller.
    fn check_kind(&self) -> Result<(), TokenError> {
        match self.claims.get("typ").and_then(Value::as_str) {
            // Security events, such as logout tokens, have `events` (RFC 8417 §2.2). They do not prove a caller.
            _ if self.claims.contains_key("events") => Err(TokenError::Refused("it tells of an event")),
            Some(typ) if NO_PROOF.contains(&typ) => Err(TokenError::Refused("it is a token for another purpose")),
            _ => Ok(()),
        }
    }

    /// Returns the audiences in `aud`; in a token without `aud`, those in the claim `instead`.
    fn audiences(&self, instead: Option<&str>) -> Result<Vec<&str>, TokenError> {
        match self.claims.get("aud").or_else(|| self.claims.get(instead?)) {
            None => Ok(Vec::new()),
            Some(Value::String(name)) => Ok(vec![name]),
            Some(Value::Array(names)) => {
                names.iter().map(|name| name.as_str().ok_or(TokenError::Refused("its audience is not text"))).collect()
            }
            Some(_) => Err(TokenError::Refused("its audience is not text")),
        }
    }

    /// Checks the times, and returns the end.
    fn check_times(&self, rules: &TokenRules, now: f64) -> Result<f64, TokenError> {
        let leeway = rules.leeway.as_secs_f64();
        let until = self.time("exp", "exp is not a number")?.ok_or(TokenError::Refused("it has no exp"))? + leeway;
        if now >= until {
            return Err(TokenError::Refused("it has expired"));
        }
        if self.time("nbf", "nbf is not a number")?.is_some_and(|from| now < from - leeway) {
            return Err(TokenError::Refused("it is not valid yet"));
        }
        let issued = self.time("iat", "iat is not a number")?;
        if issued.is_some_and(|at| now < at - leeway) {
            return Err(TokenError::Refused("it was issued in the future"));
        }
        let Some(max_age) = rules.max_age else { return Ok(until) };
        let oldest =
            issued.ok_or(TokenError::Refused("it has no iat, and max_age is configured"))? + max_age.as_secs_f64();
        if now >= oldest + leeway { Err(TokenError::Refused("it is older than max_age")) } else { Ok(until) }
    }

    /// Reads a time, which must be a number. Times written as text are refused: compared as text, a token would never
    /// end.
    fn time(&self, name: &str, problem: &'static str) -> Result<Option<f64>, TokenError> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or(TokenError::Refused(problem))
    }
}

impl JoseHeader {
    fn read(fields: &Map<String, Value>) -> Result<Self, TokenError> {
        if fields.contains_key("crit") {
            return Err(TokenError::Refused("its header demands an extension"));
        }
        let text = |name, problem| match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenError::Refused(problem)),
        };
        let algorithm = text("alg", "`alg` in its header is not text")?.and_then(|name| algorithm(&name));
        let algorithm = algorithm.ok_or(TokenError::Refused("its algorithm is unknown"))?;
        let key = text("kid", "`kid` in its header is not text")?;
        Ok(Self { algorithm, key, typ: text("typ", "`typ` in its header is not text")? })
    }

    /// Returns the media type in lower case; `application/` may be left out (RFC 7515 §4.1.9).
    fn media_type(&self) -> Option<String> {
        let typ = self.typ.as_ref()?.to_ascii_lowercase();
        Some(typ.strip_prefix("application/").map_or_else(|| typ.clone(), str::to_owned))
    }

    fn check(&self, rules: &TokenRules) -> Result<(), TokenError> {
        if rules.algorithms.as_ref().is_some_and(|believed| !believed.contains(&self.algorithm)) {
            return Err(TokenError::Refused("its algorithm is not one of `algorithms`"));
        }
        let typ = self.media_type();
        let is_right = match (&rules.typ, typ.as_deref()) {
            (Some(demanded), typ) => typ.is_some_and(|typ| typ.eq_ignore_ascii_case(demanded)),
            (None, typ) => typ.is_none_or(|typ| TYPES.contains(&typ)),
        };
        if is_right { Ok(()) } else { Err(TokenError::Refused("it has another type")) }
    }
}

const WRONG_SIGNATURE: TokenError = TokenError::Refused("its signature is wrong");
const MALFORMED: TokenError = TokenError::Refused("it is malformed");

/// Decodes one part of a token.
fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED)?;
    json::object(&bytes).map_err(|error| match error {
        JsonError::Syntax | JsonError::NotAnObject => MALFORMED,
        JsonError::Twice => TokenError::Refused("a name stands twice in it"),
        JsonError::LongInteger => TokenError::Refused("it has an integer that is longer than 64 bits"),
    })
}
