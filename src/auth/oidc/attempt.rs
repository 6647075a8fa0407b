//! A login that has begun and not ended. The browser keeps its data in a sealed cookie, and callgate keeps nothing. Each
//! login has its own cookie, so several tabs can log in at once.

use aws_lc_rs::constant_time;
use http::HeaderMap;
use http::header::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::login::SET_BACK;
use super::{ATTRIBUTES, field};
use crate::message::cookies;
use crate::random;

/// The longest time of a person at the provider, in seconds.
const LIFE: i64 = 600;
/// The most logins that a browser may have begun.
const MAX_ATTEMPTS: usize = 5;
/// The length of a login's id.
const ID: usize = 8;

/// A login that has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OidcAttempt {
    /// Its id among those of the browser.
    pub(super) id: String,
    /// The second part of `state`, behind the id. Only this browser and the provider know it.
    secret: String,
    /// The `nonce` that the ID token must contain.
    pub(super) nonce: String,
    /// The PKCE code verifier (RFC 7636).
    pub(super) verifier: String,
    /// The path where the login ends.
    pub(super) to: String,
    /// When it began, in seconds since 1970.
    began: i64,
}

impl OidcAttempt {
    pub(super) fn new(verifier: String, to: String, now: Timestamp) -> Self {
        let (id, secret, nonce) = (random::text::<6>(), random::text::<18>(), random::text::<18>());
        Self { id, secret, nonce, verifier, to, began: now.as_second() }
    }

    pub(super) fn state(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    pub(super) fn is_of(&self, state: &str) -> bool {
        constant_time::verify_slices_are_equal(self.state().as_bytes(), state.as_bytes()).is_ok()
    }

    /// Tells whether it began at most [`LIFE`] ago. One that seems to begin in the future was made before the clock was set
    /// back.
    pub(super) fn is_young(&self, now: Timestamp) -> bool {
        let began = Timestamp::from_second(self.began).unwrap_or(Timestamp::MIN);
        let age = now.duration_since(began);
        age < SignedDuration::from_secs(LIFE) && age >= -SET_BACK
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and a number")
    }

    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// Returns the name of the cookie of the login that a state belongs to.
pub(super) fn name_of(state: &str) -> Option<String> {
    let (id, _) = state.split_once('.')?;
    let is_ours = id.len() == ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_ours.then(|| format!("{}-{id}", cookies::PREFIX))
}

pub(super) fn cookie(id: &str, sealed: &str) -> HeaderValue {
    field(&format!("{}-{id}={sealed}; Max-Age={LIFE}; {ATTRIBUTES}", cookies::PREFIX))
}

/// Returns the `Set-Cookie` value that removes the login of a state.
#[must_use]
pub(crate) fn forget(state: &str) -> Option<HeaderValue> {
    name_of(state).map(|name| expired(&name))
}

/// Returns the `Set-Cookie` values that remove the oldest logins, so that one more does not exceed [`MAX_ATTEMPTS`].
#[must_use]
pub(crate) fn forget_oldest(headers: &HeaderMap) -> Vec<HeaderValue> {
    let names: Vec<_> = cookies::ours(headers).filter(|name| is_attempt(name)).collect();
    let too_many = (names.len() + 1).saturating_sub(MAX_ATTEMPTS);
    names[..too_many].iter().map(|name| expired(name)).collect()
}

/// Returns the `Set-Cookie` values that remove all logins that have begun.
#[must_use]
pub(crate) fn forget_all(headers: &HeaderMap) -> Vec<HeaderValue> {
    cookies::ours(headers).filter(|name| is_attempt(name)).map(expired).collect()
}

fn is_attempt(name: &str) -> bool {
    name.strip_prefix(cookies::PREFIX)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|id| name_of(&format!("{id}.")).is_some())
}

fn expired(name: &str) -> HeaderValue {
    field(&format!("{name}=; Max-Age=0; {ATTRIBUTES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn survives_its_cookie() {
        let attempt = OidcAttempt::new("verifier".into(), "/auth/pbx?lang=de".into(), at(1000));
        let read = OidcAttempt::read(&attempt.write()).unwrap();
        assert_eq!(
            (read.state(), read.nonce, read.verifier, read.to),
            (attempt.state(), attempt.nonce, attempt.verifier, attempt.to)
        );
        assert!(OidcAttempt::read(b"{}").is_none() && OidcAttempt::read(b"").is_none());
    }

    #[test]
    fn is_of_one_state_for_ten_minutes() {
        let attempt = OidcAttempt::new(String::new(), String::new(), at(1000));
        assert!(attempt.is_of(&attempt.state()));
        assert!(!attempt.is_of(&OidcAttempt::new(String::new(), String::new(), at(1000)).state()));
        assert!(!attempt.is_of(&attempt.id) && !attempt.is_of(""));
        assert!(attempt.is_young(at(1599)) && !attempt.is_young(at(1600)));
        assert!(attempt.is_young(at(940)) && !attempt.is_young(at(939)));
    }

    #[test]
    fn its_cookie_is_named_by_its_state() {
        let attempt = OidcAttempt::new(String::new(), String::new(), at(0));
        assert_eq!(name_of(&attempt.state()).unwrap(), format!("__Host-callgate-{}", attempt.id));
        for state in ["", ".", "short.x", "12345678", "1234567;.x", "123456789.x"] {
            assert_eq!(name_of(state), None, "{state}");
        }
    }

    #[test]
    fn a_browser_is_at_five_logins_at_most() {
        let mut headers = HeaderMap::new();
        assert!(forget_oldest(&headers).is_empty());
        let line = "__Host-callgate=login; __Host-callgate-11111111=a; b=c; __Host-callgate-22222222=a; \
                    __Host-callgate-33333333=a; __Host-callgate-44444444=a; __Host-callgate-x;y=a; __Host-callgate-55555555=a";
        headers.insert("cookie", line.parse().unwrap());
        let forgotten = forget_oldest(&headers);
        assert_eq!(forgotten, ["__Host-callgate-11111111=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"]);
        assert_eq!(forget_all(&headers).len(), 5);
    }
}
