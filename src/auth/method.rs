//! The table of all kinds of methods.
//!
//! Methods whose credentials stand at the same place of a request judge together as one [`Method`]: all API keys, all
//! signed links, all tokens of one location. The chain groups them once, when it is built.

use std::rc::Rc;

use super::app::AppMethod;
use super::credentials::{Credentials, Shown};
use super::header::HeaderMethod;
use super::jwt::Tokens;
use super::key::ApiKeys;
use super::link::SignedLinks;
use super::mtls::MtlsMethod;
use super::oidc::OidcMethod;
use super::{AuthRequest, Error, Verdict};
use crate::observe::metrics;

/// Makes an enum with an arm for each kind of method, which hands every call of [`Credentials`] on to the arm's type.
macro_rules! methods {
    ($($(#[$doc:meta])* $arm:ident($kind:ty),)*) => {
        /// Methods that judge one kind of credential.
        #[derive(Debug)]
        pub(super) enum Method {
            $($(#[$doc])* $arm($kind),)*
        }

        impl Method {
            pub(super) fn label(&self) -> metrics::CountedMethod {
                match self { $(Self::$arm(kind) => kind.label(),)* }
            }

            pub(super) fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
                match self { $(Self::$arm(kind) => kind.find(request),)* }
            }

            pub(super) async fn judge(&self, shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
                match self { $(Self::$arm(kind) => kind.judge(shown, request).await,)* }
            }

            pub(super) fn is_cookie(&self) -> bool {
                match self { $(Self::$arm(kind) => kind.is_cookie(),)* }
            }

            pub(super) fn fingerprint(&self, shown: &Shown<'_>, request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
                match self { $(Self::$arm(kind) => kind.fingerprint(shown, request),)* }
            }
        }
    };
}

methods! {
    /// The app says who its cookie belongs to.
    App(AppMethod),
    /// Servers show API keys.
    Keys(ApiKeys),
    /// A proxy before callgate names the caller.
    Header(Rc<HeaderMethod>),
    /// The other end of the connection showed a certificate.
    Mtls(MtlsMethod),
    /// Servers sign links.
    Links(SignedLinks),
    /// Identity providers sign tokens, which stand at one location.
    Tokens(Tokens),
    /// A person logged in at an identity provider.
    Oidc(Rc<OidcMethod>),
}

impl Method {
    /// Adds a method that judges the same credentials. Returns it if it does not.
    pub(super) fn join(&mut self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Keys(keys), Self::Keys(more)) => keys.extend(more),
            (Self::Links(links), Self::Links(more)) => links.extend(more),
            (Self::Tokens(tokens), Self::Tokens(more)) if tokens.is_at_location_of(&more) => tokens.extend(more),
            (_, other) => return Some(other),
        }
        None
    }
}
