//! The marks of the credential that a request shows, by which later requests of the same caller are recognized.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, SET_COOKIE};

use super::chain::Chain;
use super::method::Method;
use super::{AuthRequest, chain};
use crate::message::cookies;
use crate::model::credential_mark::CredentialMark;

impl Chain {
    /// Marks the credential of a request. A server's key and a signed link are not marked: they are not the caller's own.
    #[must_use]
    pub(crate) fn marks(&self, request: &AuthRequest<'_>) -> Vec<CredentialMark> {
        let shown = self.find(request);
        if shown.iter().any(|(method, _)| matches!(method, Method::Keys(_))) {
            return Vec::new();
        }
        let own = shown.iter().filter(|(method, _)| !matches!(method, Method::Links(_)));
        let whole = own.map(|(method, shown)| {
            CredentialMark::whole(chain::parts(method, shown, request).iter().map(Vec::as_slice))
        });
        let fields = request.headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let fields = fields.map(|value| CredentialMark::named(AUTHORIZATION.as_str().as_bytes(), value));
        let cookies = cookies::pairs(request.headers).filter_map(|pair| self.app_cookies().mark(pair));
        whole.chain(fields).chain(cookies).collect()
    }

    /// Marks the cookies that an answer of the app sets: the next requests of the caller will show them.
    #[must_use]
    pub(crate) fn marks_of_answer(&self, headers: &HeaderMap) -> Vec<CredentialMark> {
        let lines = headers.get_all(SET_COOKIE).iter().map(HeaderValue::as_bytes);
        let pairs = lines.map(|line| line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
        pairs.filter_map(|pair| self.app_cookies().mark(pair)).collect()
    }
}
