//! Signed links: an address that names an account, ends at a set time, and works once.
//!
//! The signature covers host, path, and every parameter except the signature itself. The signed message is a list of
//! texts, each after its length in bytes, so that two lists never look the same: `15:callgate-link-1`, the host, the
//! path, then the name and the value of each parameter, sorted by name.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};

use super::grant::ACCOUNT;
use super::path::PBX_PATH;
use super::secret::Secret;

/// The parameter that marks an address as a signed link.
pub const SIGNATURE: &str = "sig";
/// The shortest secret, in bytes.
pub const MIN_SECRET: usize = 32;

/// The first text of the signed message: its purpose and version.
const FORM: &str = "callgate-link-1";
const VERSION: (&str, &str) = ("v", "1");
const KEY: &str = "kid";
const EXPIRES: &str = "exp";
const NONCE: &str = "nonce";

/// The tolerated difference between the clocks of signer and callgate.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// The longest query that is read, in bytes.
const MAX_QUERY: usize = 2048;
/// The most parameters.
const MAX_PARAMETERS: usize = 20;
/// The number of base64url characters that 128 bits need.
const MIN_NONCE: usize = 22;
const MAX_NONCE: usize = 64;

/// A secret that signs links, with its id.
#[derive(Clone)]
pub struct LinkKey {
    id: String,
    key: hmac::Key,
    is_unseen: bool,
}

impl LinkKey {
    /// Makes a key of a secret.
    #[must_use]
    pub fn new(id: String, secret: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        Self { id, key, is_unseen: secret.is_unseen() }
    }

    /// Returns the id, which links carry as `kid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Tells whether this process cannot see the secret, and so cannot sign.
    #[must_use]
    pub const fn is_unseen(&self) -> bool {
        self.is_unseen
    }

    /// Signs a link, and returns its query. `claims`: names and values in any order, without repeated names.
    #[must_use]
    pub fn sign(&self, host: &str, claims: &[(&str, &str)], expires: Timestamp, nonce: &str) -> String {
        let expires = expires.as_second().to_string();
        let own = [VERSION, (KEY, &self.id), (EXPIRES, &expires), (NONCE, nonce)];
        let mut parameters: Vec<_> = own.iter().chain(claims).map(|&(name, value)| (name, value)).collect();
        parameters.sort_unstable();
        let signature = hmac::sign(&self.key, canonical(host, &parameters).as_bytes());
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&parameters).append_pair(SIGNATURE, &BASE64_URL_SAFE_NO_PAD.encode(signature));
        query.finish()
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The contents of a valid link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLink {
    /// The parameters that are claims, by name.
    pub claims: Vec<(String, String)>,
    /// The id of the link: the same for every spelling of this link, and for no other link.
    pub id: [u8; 32],
    /// The time from which on the link is refused.
    pub until: Timestamp,
}

/// The reason why a link is refused, for the operator only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The query or the number of parameters exceeds the bounds.
    #[error("the link is too long")]
    Long,
    /// A parameter is given twice.
    #[error("a parameter of the link is given twice")]
    Doubled,
    /// A parameter is missing.
    #[error("the link has no {0}")]
    Missing(&'static str),
    /// The link has another version.
    #[error("the link has another version")]
    Version,
    /// There is no key with the link's `kid`.
    #[error("no key has the link's kid")]
    Key,
    /// The signature does not match: the link was changed, or another secret signed it.
    #[error("the signature does not fit the link on this host")]
    Signature,
    /// `exp` is not a time.
    #[error("the link's exp is not a time")]
    Time,
    /// `exp` has passed.
    #[error("the link has expired")]
    Expired,
    /// `exp` is further away than `ttl`.
    #[error("the link lives longer than `ttl`")]
    TooFar,
    /// The nonce has a wrong length or characters.
    #[error("the link's nonce is not 22 to 64 characters of A-Z a-z 0-9 - _")]
    Nonce,
}

impl LinkError {
    /// Tells whether the signature of the refused link was right.
    #[must_use]
    pub const fn is_genuine(self) -> bool {
        match self {
            Self::Time | Self::Expired | Self::TooFar | Self::Nonce => true,
            Self::Long | Self::Doubled | Self::Missing(_) | Self::Version | Self::Key | Self::Signature => false,
        }
    }
}

/// Tells whether a query is a signed link: it has the parameter `sig`.
#[must_use]
pub fn is_signed_link(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == SIGNATURE)
}

/// Returns the `kid` of a link that has not been verified.
#[must_use]
pub fn key_of(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == KEY).map(|(_, value)| value.into_owned())
}

/// Verifies a link: the query of a request for [`PBX_PATH`] on `host`, which may have a port. `ttl`: the longest life
/// of links.
///
/// # Errors
/// When none of the keys signed this query for this host, or the link is not valid now.
pub fn read(
    query: &str,
    host: &str,
    keys: &[LinkKey],
    ttl: SignedDuration,
    now: Timestamp,
) -> Result<SignedLink, LinkError> {
    if query.len() > MAX_QUERY {
        return Err(LinkError::Long);
    }
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).take(MAX_PARAMETERS + 1).collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(LinkError::Long);
    }
    let mut parameters: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    parameters.sort_unstable();
    if parameters.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(LinkError::Doubled);
    }
    let signature = take(&mut parameters, SIGNATURE)?;
    let value = |name| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let own = |name| value(name).ok_or(LinkError::Missing(name));
    if own(VERSION.0)? != VERSION.1 {
        return Err(LinkError::Version);
    }
    let id = own(KEY)?;
    let key = keys.iter().find(|key| key.id == id).ok_or(LinkError::Key)?;
    let signature: [u8; 32] = BASE64_URL_SAFE_NO_PAD
        .decode(signature)
        .ok()
        .and_then(|signature| signature.try_into().ok())
        .ok_or(LinkError::Signature)?;
    // This comparison takes constant time.
    hmac::verify(&key.key, canonical(host, &parameters).as_bytes(), &signature).map_err(|_| LinkError::Signature)?;
    let until = until(own(EXPIRES)?, ttl, now)?;
    if !is_nonce(own(NONCE)?) {
        return Err(LinkError::Nonce);
    }
    let is_claim = |name: &str| ![VERSION.0, KEY, EXPIRES, NONCE].contains(&name);
    // An empty `account` still counts as one. A link without `account` is another link, and may be for an
    // administrator.
    let says = |name: &str, value: &str| name == ACCOUNT || !value.is_empty();
    let claims = parameters.iter().filter(|(name, value)| is_claim(name) && says(name, value));
    let claims = claims.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(SignedLink { claims, id: signature, until })
}

/// Writes the message that is signed. `parameters`: sorted by name.
fn canonical(host: &str, parameters: &[(&str, &str)]) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    let names = parameters.iter().flat_map(|&(name, value)| [name, value]);
    [FORM, host, PBX_PATH].into_iter().chain(names).map(|text| format!("{}:{text}", text.len())).collect()
}

fn take<'q>(parameters: &mut Vec<(&'q str, &'q str)>, name: &'static str) -> Result<&'q str, LinkError> {
    let at = parameters.iter().position(|(known, _)| *known == name).ok_or(LinkError::Missing(name))?;
    Ok(parameters.remove(at).1)
}

/// Returns the time from which on the link is refused.
fn until(expires: &str, ttl: SignedDuration, now: Timestamp) -> Result<Timestamp, LinkError> {
    let digits = expires.bytes().all(|byte| byte.is_ascii_digit());
    let expires: i64 = expires.parse().ok().filter(|_| digits).ok_or(LinkError::Time)?;
    let expires = Timestamp::from_second(expires).map_err(|_| LinkError::Time)?;
    let until = expires.checked_add(SKEW).map_err(|_| LinkError::Time)?;
    if until <= now {
        return Err(LinkError::Expired);
    }
    let latest = now.checked_add(ttl).and_then(|latest| latest.checked_add(SKEW)).map_err(|_| LinkError::Time)?;
    if expires > latest { Err(LinkError::TooFar) } else { Ok(until) }
}

fn is_nonce(nonce: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (MIN_NONCE..=MAX_NONCE).contains(&nonce.len()) && nonce.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    const TTL: SignedDuration = SignedDuration::from_secs(60);

    fn key(id: &str, secret: &str) -> LinkKey {
        LinkKey::new(id.to_owned(), &Secret::new(secret.to_owned()))
    }

    fn keys() -> [LinkKey; 2] {
        [key("2026", SECRET), key("2025", &SECRET.replace('a', "A"))]
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A link for account 40 that ends at second 1,060.
    fn link() -> String {
        keys()[0].sign("app.example.com", &[("domain", "acme.example.com"), ("account", "40")], at(1060), NONCE)
    }

    #[track_caller]
    fn check(query: &str, host: &str, now: i64, expected: Result<&[(&str, &str)], LinkError>) {
        let read = read(query, host, &keys(), TTL, at(now));
        let claims = read
            .as_ref()
            .map(|link| link.claims.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>());
        assert_eq!(claims.as_deref().map_err(|invalid| **invalid), expected, "{query} at {now}");
    }

    #[track_caller]
    fn refused(query: &str, expected: LinkError) {
        check(query, "app.example.com", 1000, Err(expected));
    }

    const CLAIMS: &[(&str, &str)] = &[("account", "40"), ("domain", "acme.example.com")];

    /// Computed with Python's hmac, so that other programs get the same signature.
    #[test]
    fn a_link_has_one_spelling_and_one_signature() {
        assert_eq!(
            canonical("App.example.com:443", &[("account", "40"), ("note", "ü 密&=")]),
            "15:callgate-link-115:app.example.com9:/auth/pbx7:account2:404:note8:ü 密&="
        );
        assert_eq!(
            link(),
            "account=40&domain=acme.example.com&exp=1060&kid=2026&nonce=AAAAAAAAAAAAAAAAAAAAAA&v=1&sig=vSLtpgI2dA24knkPYTMHCoXcQppOfF8WQGF7ronM7i4"
        );
    }

    #[test]
    fn a_good_link_says_whom_it_is_for() {
        check(&link(), "app.example.com", 1000, Ok(CLAIMS));
        check(&link(), "APP.example.com:443", 1000, Ok(CLAIMS));
        let (before, signature) = link().split_once("&sig=").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let backwards = before.rsplit('&').collect::<Vec<_>>().join("&");
        check(&format!("sig={signature}&{backwards}"), "app.example.com", 1000, Ok(CLAIMS));
        check(&link().replace("40", "%34%30"), "app.example.com", 1000, Ok(CLAIMS));
        let by_old = keys()[1].sign("app.example.com", &[("sub", "ann")], at(1060), NONCE);
        check(&by_old, "app.example.com", 1000, Ok(&[("sub", "ann")]));
    }

    #[test]
    fn every_spelling_of_a_link_is_one_link() {
        let id = |query: &str| read(query, "app.example.com", &keys(), TTL, at(1000)).unwrap().id;
        assert_eq!(id(&link()), id(&link().replace("40", "%34%30")));
        assert_eq!(id(&link()), id(&format!("&&{}", link())));
        let other = keys()[0].sign("app.example.com", CLAIMS, at(1060), &NONCE.replace('A', "B"));
        assert_ne!(id(&link()), id(&other));
    }

    #[test]
    fn whatever_is_changed_breaks_it() {
        for (from, to) in [
            ("account=40", "account=41"),
            ("account=40&", ""),
            ("account=40", "account=40&user=bob"),
            ("account=40", "account=4&0="),
            ("account=40&domain=acme", "account=40domain&acme="),
            ("account", "Account"),
            ("acme.example.com", "evil.example.com"),
            ("exp=1060", "exp=1061"),
            ("exp=1060", "exp=01060"),
            ("nonce=A", "nonce=B"),
            ("kid=2026", "kid=2025"),
            ("sig=", "sig=A"),
            ("v=1&", "v=1&utm_source=mail&"),
        ] {
            let changed = link().replacen(from, to, 1);
            assert_ne!(changed, link(), "{from}");
            refused(&changed, LinkError::Signature);
        }
        check(&link(), "other.example.com", 1000, Err(LinkError::Signature));
        check(&link(), "app.example.com:8443", 1000, Err(LinkError::Signature));
    }

    #[test]
    fn a_signature_is_spelled_in_one_way() {
        let signature = link().split_once("&sig=").unwrap().1.to_owned();
        let with = |signature: &str| format!("{}{signature}", link().split_inclusive("&sig=").next().unwrap());
        for signature in [
            String::new(),
            "x".to_owned(),
            format!("{signature}="),
            signature[..42].to_owned(),
            format!("{signature}A"),
            format!("%00{signature}"),
            format!("{signature}%0A"),
        ] {
            refused(&with(&signature), LinkError::Signature);
        }
    }

    #[test]
    fn what_is_missing_doubled_or_unknown_is_said() {
        for (from, to, expected) in [
            ("account=40", "account=40&account=40", LinkError::Doubled),
            ("account=40", "account=40&%61ccount=41", LinkError::Doubled),
            ("v=1", "v=1&sig=x", LinkError::Doubled),
            ("&sig=", "&sign=", LinkError::Missing("sig")),
            ("&kid=2026", "", LinkError::Missing("kid")),
            ("&v=1", "", LinkError::Missing("v")),
            ("v=1", "v=2", LinkError::Version),
            ("kid=2026", "kid=2024", LinkError::Key),
            ("kid=2026", "kid=", LinkError::Key),
        ] {
            refused(&link().replacen(from, to, 1), expected);
        }
        refused("", LinkError::Missing("sig"));
        refused(&"a=b&".repeat(21), LinkError::Long);
        refused(&format!("{}&x={}", link(), "x".repeat(2048)), LinkError::Long);
    }

    /// Links that are signed and still refused, because the signer is wrong.
    #[test]
    fn a_signature_alone_is_not_enough() {
        for (expires, nonce, expected) in [
            (1091, NONCE, LinkError::TooFar),
            (970, NONCE, LinkError::Expired),
            (1060, "short", LinkError::Nonce),
            (1060, "AAAAAAAAAAAAAAAAAAAAA", LinkError::Nonce),
            (1060, "AAAAAAAAAAAAAAAAAAAAA%", LinkError::Nonce),
            (1060, &"A".repeat(65), LinkError::Nonce),
        ] {
            refused(&keys()[0].sign("app.example.com", CLAIMS, at(expires), nonce), expected);
        }
        for expires in ["", "soon", "-1", "+1060", "1e3", "99999999999999999999"] {
            let mut parameters = [("exp", expires), ("kid", "2026"), ("nonce", NONCE), ("v", "1")];
            parameters.sort_unstable();
            let signature = hmac::sign(&keys()[0].key, canonical("app.example.com", &parameters).as_bytes());
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(parameters).append_pair("sig", &BASE64_URL_SAFE_NO_PAD.encode(signature));
            refused(&query.finish(), LinkError::Time);
        }
    }

    #[test]
    fn clocks_may_lie_half_a_minute_apart() {
        check(&link(), "app.example.com", 1089, Ok(CLAIMS));
        check(&link(), "app.example.com", 1090, Err(LinkError::Expired));
        check(&link(), "app.example.com", 970, Ok(CLAIMS));
        check(&link(), "app.example.com", 969, Err(LinkError::TooFar));
        assert_eq!(read(&link(), "app.example.com", &keys(), TTL, at(1000)).unwrap().until, at(1090));
    }

    #[test]
    fn a_link_is_seen_by_its_signature() {
        assert!(
            is_signed_link("a=b&sig=")
                && is_signed_link("%73ig=x")
                && !is_signed_link("Sig=x")
                && !is_signed_link("")
                && !is_signed_link("a=sig")
        );
    }

    #[test]
    fn a_key_does_not_print() {
        assert!(!format!("{:?}", keys()[0]).contains(SECRET));
    }
}
