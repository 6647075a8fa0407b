//! The contract of an auth method: how it finds its kind of credential in a request, and how it judges it.

use std::borrow::Cow;

use super::{AuthRequest, Error, Verdict};
use crate::model::principal::Principal;
use crate::observe::metrics;

/// A credential as a request shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// A key, a token, or the query of a signed link.
    Text(Cow<'a, [u8]>),
    /// The place is taken, but no credential can be read there: the reason.
    Malformed(&'static str),
    /// The login that a cookie of callgate's remembers.
    Remembered(Principal),
    /// Cookies, fields or a certificate, which the method reads from the request itself.
    InRequest,
}

/// What each kind of method offers to the chain.
pub(super) trait Credentials {
    /// Returns the name in the metrics and in `callgate explain`.
    fn label(&self) -> metrics::CountedMethod;

    /// Finds the credential in a request. `None`: the methods abstain.
    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>>;

    /// Judges the credential that [`Credentials::find`] found in the same request.
    ///
    /// # Errors
    /// When an app or a server of keys that must be asked gives no answer.
    async fn judge(&self, shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error>;

    /// Tells whether a browser sends the credential as a cookie, also when it is no longer valid.
    fn is_cookie(&self) -> bool {
        false
    }

    /// Returns the bytes by which limits recognize the credential. Needed where it is not [`Shown::Text`].
    fn fingerprint(&self, shown: &Shown<'_>, _request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
        match shown {
            Shown::Text(text) => vec![text.to_vec()],
            Shown::Malformed(_) | Shown::Remembered(_) | Shown::InRequest => Vec::new(),
        }
    }
}
