//! Before the credential is judged: the page that asks, the audit log, failures, the limit of the client.

use super::attempt::Attempt;
use super::effects::Effects;
use super::prove::ELSEWHERE;
use super::{Gate, ask_of};
use crate::auth::CredentialDigest;
use crate::model::credential_mark::CredentialMark;
use crate::model::digest::Digest;
use crate::model::login::LoginKind;
use crate::proxy::browser::cors::Initiator;
use crate::proxy::browser::trigger::{self, Trigger};
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;

impl Gate {
    /// Refuses what a page of another origin does unseen, then counts the request: before anything else is done for it.
    ///
    /// # Errors
    /// When a page of another origin asks unseen, no audit line can be written, or a limit is used up.
    pub(in crate::proxy) async fn admit<'a>(
        &self,
        kind: LoginKind,
        request: LoginRequest<'_>,
        context: &'a RequestContext,
        effects: Effects<'a>,
    ) -> Result<Attempt<'a>, Error> {
        let shown = self.chain.shown(&ask_of(kind, request, context));
        let attempt = self.begin((kind, shown.digest()), request, context, effects)?;
        let attempt = attempt.with_marks(shown.marks(request.headers));
        self.check_audit()?;
        attempt.count_guarded_request(&self.state.limits).await?;
        Ok(attempt)
    }

    /// As [`Gate::admit`], for a request that shows no credential.
    ///
    /// # Errors
    /// As [`Gate::admit`].
    pub(in crate::proxy) async fn admit_visit<'a>(
        &self,
        request: LoginRequest<'_>,
        context: &'a RequestContext,
    ) -> Result<Attempt<'a>, Error> {
        let attempt = self.begin((LoginKind::Pbx, None), request, context, Effects::Live)?;
        self.check_audit()?;
        attempt.count_request(&self.state.limits).await?;
        Ok(attempt)
    }

    /// Counts a logout. It needs no audit log that takes lines: nothing is given to anybody.
    ///
    /// # Errors
    /// When a page of another origin asks unseen, or a limit is used up.
    pub(in crate::proxy) async fn admit_logout(
        &self,
        request: LoginRequest<'_>,
        context: &RequestContext,
    ) -> Result<(), Error> {
        let attempt = self.begin((LoginKind::Pbx, None), request, context, Effects::Live)?;
        Ok(attempt.count_request(&self.state.limits).await?)
    }

    /// Returns the marks of the credential that a request shows.
    pub(in crate::proxy) fn marks_of(
        &self,
        request: LoginRequest<'_>,
        context: &RequestContext,
    ) -> Vec<CredentialMark> {
        self.chain.shown(&ask_of(LoginKind::Pbx, request, context)).marks(request.headers)
    }

    /// As [`Gate::admit`], for a credential that no auth method knows. The request is not counted.
    ///
    /// # Errors
    /// When a page of another origin asks unseen, no audit line can be written, or the client has guessed too often.
    pub(in crate::proxy) async fn admit_credential<'a>(
        &self,
        request: LoginRequest<'_>,
        digest: Digest,
        context: &'a RequestContext,
    ) -> Result<Attempt<'a>, Error> {
        let credential = CredentialDigest { digest, is_cookie: false };
        let attempt = self.begin((LoginKind::Pbx, Some(credential)), request, context, Effects::Live)?;
        self.check_audit()?;
        attempt.check_failures(&self.state.limits).await?;
        Ok(attempt)
    }

    fn begin<'a>(
        &self,
        (kind, credential): (LoginKind, Option<CredentialDigest>),
        request: LoginRequest<'_>,
        context: &'a RequestContext,
        effects: Effects<'a>,
    ) -> Result<Attempt<'a>, Error> {
        let initiator = self.hosts.initiator(request.headers, &context.authority, self.hosts.origins(kind));
        let trigger = match trigger::of(request.method, request.headers, &initiator) {
            _ if self.chain.shows_deliberate_field(request.headers) => Trigger::Own,
            Trigger::ForeignPage => {
                effects.note_refusal(None, ELSEWHERE);
                return Err(Error::CrossSite);
            }
            trigger => trigger,
        };
        let attempt = Attempt::new((kind, trigger, credential), request, &self.state.limits, context, effects);
        Ok(match initiator {
            Initiator::Listed(origin) => attempt.of_listed_page(origin),
            Initiator::Own | Initiator::Foreign => attempt,
        })
    }

    /// Refuses logins while no audit line could tell of them.
    fn check_audit(&self) -> Result<(), Error> {
        self.logs.check_audit().map_err(Error::NotAudited)
    }
}
