//! The marks of the credential that a request shows, by which later requests of the same caller are recognized.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, SET_COOKIE};

use super::chain::{Chain, ShownCredentials};
use super::method::Method;
use crate::message::cookies;
use crate::model::credential_mark::CredentialMark;

impl ShownCredentials<'_> {
    /// Marks the credential of the request, whose fields these are. A server's key and a signed link are not marked: they are
    /// not the caller's own.
    #[must_use]
    pub(crate) fn marks(&self, headers: &HeaderMap) -> Vec<CredentialMark> {
        if self.all.iter().any(|shown| matches!(shown.method, Method::Keys(_))) {
            return Vec::new();
        }
        let own = self.all.iter().filter(|shown| !matches!(shown.method, Method::Links(_)));
        let whole = own.map(|shown| CredentialMark::of_digest(shown.digest));
        let fields = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let fields = fields.map(|value| CredentialMark::named(AUTHORIZATION.as_str().as_bytes(), value));
        let cookies = cookies::pairs(headers).filter_map(|pair| self.chain.app_cookies().mark(pair));
        whole.chain(fields).chain(cookies).collect()
    }
}

impl Chain {
    /// Marks the cookies that an answer of the app sets: the next requests of the caller will show them.
    #[must_use]
    pub(crate) fn marks_of_answer(&self, headers: &HeaderMap) -> Vec<CredentialMark> {
        let lines = headers.get_all(SET_COOKIE).iter().map(HeaderValue::as_bytes);
        let pairs = lines.map(|line| line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
        pairs.filter_map(|pair| self.app_cookies().mark(pair)).collect()
    }
}
