//! The browser of a hand-over, as a host recognizes it.

use http::header::{HeaderMap, HeaderValue};

use crate::message::cookies;
use crate::model::digest::sha256;
use crate::random;

/// The cookie by which a host recognizes the browser during a hand-over.
const BROWSER: &str = "__Host-callgate.browser";
/// The life of that cookie in seconds: longer than that of two tickets, after which the browser shows it.
const MAX_AGE: u64 = 120;
/// The length of its value in characters: 256 bits.
const LENGTH: usize = 43;

/// A browser as a host recognizes it.
pub(super) struct Browser {
    secret: String,
}

impl Browser {
    /// Reads the browser's cookie. A browser without one gets a new value.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut sent = cookies::values(headers, BROWSER).filter(|secret| secret.len() == LENGTH);
        let secret = sent.next().filter(|_| sent.next().is_none()).map(str::to_owned);
        Self { secret: secret.unwrap_or_else(random::text::<32>) }
    }

    pub(super) fn digest(&self) -> String {
        hex::encode(sha256(self.secret.as_bytes()))
    }

    /// Writes its cookie. A page of a listed origin on another site sends and keeps only cookies with `SameSite=None`.
    pub(super) fn cookie(&self, same_site: &str) -> HeaderValue {
        let secret = &self.secret;
        let line = format!("{BROWSER}={secret}; Max-Age={MAX_AGE}; Path=/; Secure; HttpOnly; SameSite={same_site}");
        HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}
