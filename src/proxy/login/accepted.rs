//! A login whose credential is spent: its session is opened now, or when its ticket is redeemed.

use http::Response;
use http::header;

use super::session::PbxLogin;
use crate::exchange::Body;
use crate::model::account::Language;
use crate::model::grant::PbxGrant;
use crate::model::session::SessionId;
use crate::pbx;
use crate::proxy::answer::page;
use crate::proxy::error::Error;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::proxy::gate::caller::Caller;

/// A login whose credential is spent.
pub(super) struct AcceptedLogin {
    pub(super) caller: Caller,
    pub(super) grant: PbxGrant,
    pub(super) language: Option<Language>,
}

impl AcceptedLogin {
    /// Returns its facts for the audit log.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts::of_caller(&self.caller).of_pbx_grant(&self.grant)
    }

    /// Opens the session, and audits the grant.
    ///
    /// # Errors
    /// When the PBX gives none, no audit line can be written, or the account was frozen meanwhile.
    pub(super) async fn open(&self, login: PbxLogin<'_>, attempt: &Attempt<'_>) -> Result<SessionId, Error> {
        self.open_with(login, attempt, login.sessions.mint(self.grant.role())).await
    }

    /// Opens the session for the browser that is here, and lets it go on to the landing page with the PBX's cookies.
    ///
    /// # Errors
    /// As [`AcceptedLogin::open`].
    pub(super) async fn land(&self, login: PbxLogin<'_>, attempt: &Attempt<'_>) -> Result<Response<Body>, Error> {
        let PbxLogin { sessions, settings, .. } = login;
        let questions = sessions.mint_cookies(self.grant.role(), &attempt.context.authority.raw);
        let cookies = self.open_with(login, attempt, questions).await?;
        // The landing page takes no language from its address.
        if let Some(language) = &self.language {
            sessions.set_language(language, &cookies, attempt.context).await;
        }
        let mut response = page::continue_to(&settings.landing).respond();
        for cookie in cookies {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// Opens the session by these questions to the PBX, and audits the grant.
    ///
    /// # Errors
    /// As [`AcceptedLogin::open`].
    async fn open_with<T>(
        &self,
        login: PbxLogin<'_>,
        attempt: &Attempt<'_>,
        questions: impl Future<Output = Result<T, pbx::Error>>,
    ) -> Result<T, Error> {
        let (gate, facts) = (login.gate, self.facts());
        let pending = gate.watch(attempt, &facts);
        let opened = questions.await;
        pending.settle();
        let opened = opened.map_err(|error| {
            gate.audit_refusal(attempt, &facts, &error.to_string());
            Error::from(error)
        })?;
        self.refuse_frozen(login, attempt)?;
        gate.audit_grant(attempt, &facts).await?;
        Ok(opened)
    }

    /// Refuses the login if its account was frozen since it was accepted.
    ///
    /// # Errors
    /// When it was.
    pub(super) fn refuse_frozen(&self, login: PbxLogin<'_>, attempt: &Attempt<'_>) -> Result<(), Error> {
        let is_frozen = login.gate.state.freezes.covers_role(self.grant.role());
        login.gate.refuse_frozen(is_frozen, &self.facts(), attempt)
    }
}
