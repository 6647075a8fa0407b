//! Logouts: the person's own, and those that a provider reports (OpenID Connect Back-Channel Logout 1.0).

use std::rc::Rc;

use http::HeaderMap;
use http::header::HeaderValue;
use jiff::Timestamp;

use super::OidcMethod;
use super::metadata::{Metadata, with_query};
use crate::model::digest::{Digest, sha256_of};
use crate::model::jwt::{IdTokenError, ProviderLogout, UnverifiedToken};
use crate::state::{KeepError, MarkError};

/// The scope in which logout tokens are marked as used.
const TOKENS: &str = "oidc logout";

/// The reason why a logout token ends no login. It never contains a text of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLogoutToken {
    /// No provider of ours signed it: somebody may be guessing.
    #[error("{0}")]
    Forged(&'static str),
    /// The provider signed it, and it is not valid here or now.
    #[error("{0}")]
    Unfit(String),
    /// The provider's keys are not known yet.
    #[error("the provider's metadata has not been fetched yet")]
    Unverifiable,
}

impl From<IdTokenError> for BadLogoutToken {
    fn from(bad: IdTokenError) -> Self {
        match bad {
            IdTokenError::Unreadable | IdTokenError::Unsigned => UNREADABLE,
            IdTokenError::UnknownKey => {
                Self::Forged("the logout token is signed with a key that the provider does not have")
            }
            IdTokenError::Signature => Self::Forged("the signature of the logout token is wrong"),
            IdTokenError::Audience(name) => Self::Unfit(format!("the logout token is also for {name:?} (aud)")),
            IdTokenError::Refused(reason) => Self::Unfit(format!("the logout token is refused: {reason}")),
        }
    }
}

impl BadLogoutToken {
    /// Returns the error of a request without a token.
    #[must_use]
    pub(crate) const fn missing() -> Self {
        Self::Forged("the request has no logout token")
    }

    /// Returns the error of a token that ended its logins before.
    #[must_use]
    pub(crate) fn used() -> Self {
        Self::Unfit("the logout token was used before".to_owned())
    }
}

const UNREADABLE: BadLogoutToken = BadLogoutToken::Forged("the logout token cannot be read");

/// A logout that a provider reports, verified.
#[derive(Debug)]
pub(crate) struct ReportedLogout {
    /// What ends.
    pub(crate) logout: ProviderLogout,
    /// The methods whose logins end: those of this client of this provider.
    pub(crate) methods: Vec<Rc<OidcMethod>>,
}

/// Verifies a logout token with the keys of the provider that it names, if the token is for a client of ours there.
///
/// # Errors
/// When it ends no login.
pub(crate) async fn verify_logout(providers: &[Rc<OidcMethod>], token: &str) -> Result<ReportedLogout, BadLogoutToken> {
    let token = UnverifiedToken::read(token.as_bytes()).map_err(|_| UNREADABLE)?;
    let is_named = |method: &&Rc<OidcMethod>| token.is_alleged_for(&method.settings.issuer, &method.settings.client_id);
    let methods: Vec<_> = providers.iter().filter(is_named).map(Rc::clone).collect();
    let Some(first) = methods.first() else {
        return Err(BadLogoutToken::Forged("the logout token is of another provider, or for another client"));
    };
    let logout = first.prove_logout(&token).await?;
    Ok(ReportedLogout { logout, methods })
}

impl ReportedLogout {
    /// Tells whether the token was used before.
    pub(crate) async fn is_used(&self) -> bool {
        match self.methods.first() {
            Some(method) => method.once.is_marked(TOKENS, &self.id(method)).await,
            None => false,
        }
    }

    /// Ends the logins.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub(crate) async fn end_logins(&self) -> Result<(), KeepError> {
        for method in &self.methods {
            method.end_logins(&self.logout).await?;
        }
        Ok(())
    }

    /// Marks the token as used, for as long as it is valid.
    ///
    /// # Errors
    /// When it was marked before, or the mark cannot be kept.
    pub(crate) async fn mark(&self) -> Result<(), MarkError> {
        let Some(method) = self.methods.first() else { return Ok(()) };
        let until = Timestamp::from_second(self.logout.until).unwrap_or(Timestamp::MAX);
        method.once.mark(TOKENS, &self.id(method), until).await
    }

    fn id(&self, method: &OidcMethod) -> Digest {
        sha256_of([method.settings.issuer.as_bytes(), self.logout.jti.as_bytes()])
    }
}

impl OidcMethod {
    async fn prove_logout(&self, token: &UnverifiedToken<'_>) -> Result<ProviderLogout, BadLogoutToken> {
        let metadata = self.provider.known().await.ok_or(BadLogoutToken::Unverifiable)?;
        match self.judge_logout(token, &metadata) {
            // The provider may have new keys.
            Err(IdTokenError::UnknownKey) => {
                let metadata = self.provider.renewed().await.ok_or(IdTokenError::UnknownKey)?;
                Ok(self.judge_logout(token, &metadata)?)
            }
            judged => Ok(judged?),
        }
    }

    fn judge_logout(&self, token: &UnverifiedToken<'_>, metadata: &Metadata) -> Result<ProviderLogout, IdTokenError> {
        let rules = self.token_rules(metadata);
        token.prove_logout(&metadata.keys, &rules, Timestamp::now().as_duration().as_secs_f64())
    }

    // === The person's own logout ===

    /// Ends the login of the browser's cookie.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) async fn end_login(&self, headers: &HeaderMap, host: &HeaderValue) -> Result<(), KeepError> {
        match self.login_of(headers, host) {
            Some((sealed, _)) => self.end_cookie(sealed).await,
            None => Ok(()),
        }
    }

    /// Returns the address where the person also logs out of the provider, if the provider has one.
    pub(crate) async fn end_session(&self) -> Option<String> {
        let metadata = self.provider.known().await?;
        let end = metadata.document.end_session_endpoint();
        let end =
            end.inspect_err(|error| tracing::warn!(method = self.name, error = %error, "no logout at the provider"));
        let after = self.settings.after_logout.as_deref().map(|after| ("post_logout_redirect_uri", after));
        let pairs: Vec<_> = [("client_id", self.settings.client_id.as_str())].into_iter().chain(after).collect();
        Some(with_query(&end.ok()??, &pairs))
    }
}
