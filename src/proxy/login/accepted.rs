//! A login whose credential is spent: its session is opened now, or when its ticket is redeemed.

use std::sync::Arc;

use http::Response;
use http::header::{self, HeaderValue};
use jiff::Timestamp;
use tokio::time::Instant;

use super::session::PbxLogin;
use crate::exchange::Body;
use crate::model::account::Language;
use crate::model::grant::PbxGrant;
use crate::model::session::{EndReason, SessionId};
use crate::observe::spans::{RequestTrace, SpanKind, SpanRecord, Tracer};
use crate::pbx::{self, HeldSession, IssuedSession, SessionFilter, SessionLogin};
use crate::proxy::answer::page;
use crate::proxy::answer::reader::Reader;
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::proxy::gate::caller::Caller;

/// The reason of a refusal where the caller logged out while the login was under way.
const LOGGED_OUT: &str = "the caller has logged out meanwhile";

/// A login whose credential is spent.
pub(super) struct AcceptedLogin {
    pub(super) caller: Caller,
    pub(super) grant: PbxGrant,
    pub(super) language: Option<Language>,
    /// The PBX's host, with its port, for the browser; `None`: where the browser is when its session is opened.
    pub(super) meets_at: Option<String>,
    /// The path on the PBX's host at which the login ends; `None`: the landing page.
    pub(super) page: Option<String>,
    /// The name of the PBX node, where there are several.
    pub(super) node: Option<String>,
}

impl AcceptedLogin {
    /// Returns its facts for the audit log.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts::of_caller(&self.caller).of_pbx_grant(&self.grant).at_node(self.node.as_deref())
    }

    /// Opens the session, and audits the grant.
    ///
    /// # Errors
    /// When the PBX gives none, no audit line can be written, or the account was frozen meanwhile.
    pub(super) async fn open(&self, login: PbxLogin<'_>, attempt: &Attempt<'_>) -> Result<SessionId, Error> {
        let session = self.session_login(login, self.meets_at.clone());
        self.open_with(login, attempt, login.sessions.mint(self.grant.role(), session)).await
    }

    /// Opens the session for the browser that is here, and lets it go on to its page with the PBX's cookies.
    ///
    /// # Errors
    /// As [`AcceptedLogin::open`].
    pub(super) async fn land(
        &self,
        login: PbxLogin<'_>,
        attempt: &Attempt<'_>,
        reader: Reader<'_>,
    ) -> Result<Response<Body>, Error> {
        let PbxLogin { sessions, settings, .. } = login;
        let host = &attempt.context.authority.raw;
        let session = self.session_login(login, host.to_str().ok().map(str::to_owned));
        let questions = sessions.mint_cookies(self.grant.role(), host, session);
        let cookies = self.open_with(login, attempt, questions).await?;
        // The landing page takes no language from its address.
        if let Some(language) = &self.language {
            sessions.set_language(language, &cookies, attempt.context).await;
        }
        let mut response = page::continue_to(reader, self.page.as_ref().unwrap_or(&settings.landing)).respond();
        for cookie in cookies {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// Opens the session for a WebSocket under the PBX's host, and audits the grant. It ends with what is returned.
    ///
    /// # Errors
    /// As [`AcceptedLogin::open`].
    pub(super) async fn hold(
        &self,
        login: PbxLogin<'_>,
        host: &HeaderValue,
        attempt: &Attempt<'_>,
    ) -> Result<HeldSession, Error> {
        let session = self.session_login(login, host.to_str().ok().map(str::to_owned));
        let held = login.sessions.hold(self.grant.role(), host, session, &login.gate.logs);
        self.open_with(login, attempt, held).await
    }

    /// Opens the session by these questions to the PBX, and audits the grant.
    ///
    /// # Errors
    /// As [`AcceptedLogin::open`].
    async fn open_with<T>(
        &self,
        login: PbxLogin<'_>,
        attempt: &Attempt<'_>,
        questions: impl Future<Output = Result<(T, Arc<IssuedSession>), pbx::Error>>,
    ) -> Result<T, Error> {
        let (gate, facts) = (login.gate, self.facts());
        let pending = gate.watch(attempt, &facts);
        let span = OpeningSpan::begin(gate, attempt.context);
        let opened = questions.await;
        pending.settle();
        if let Some(span) = span {
            span.end(opened.is_err());
        }
        let (opened, session) = opened.map_err(|error| {
            gate.audit_refusal(attempt, &facts, &error.to_string());
            Error::from(error)
        })?;
        if let Err(refusal) = self.confirm(login, &session, attempt).await {
            // The PBX has opened it all the same.
            login.sessions.end(&SessionFilter::number(session.number), EndReason::Refused.into(), &gate.logs);
            return Err(refusal);
        }
        Ok(opened)
    }

    /// Decides whether a session that was opened may be handed over, and audits that.
    ///
    /// # Errors
    /// When its account was frozen or its caller logged out meanwhile, or no audit line can be written.
    async fn confirm(&self, login: PbxLogin<'_>, session: &IssuedSession, attempt: &Attempt<'_>) -> Result<(), Error> {
        self.refuse_frozen(login, attempt)?;
        if session.is_over() || self.caller.has_ended(&login.gate.chain).await {
            login.gate.audit_refusal(attempt, &self.facts(), LOGGED_OUT);
            return Err(login.gate.unauthenticated(attempt.context));
        }
        login.gate.audit_grant(attempt, &self.facts()).await
    }

    fn session_login(&self, login: PbxLogin<'_>, host: Option<String>) -> SessionLogin {
        let pbx = login.settings.identity();
        self.caller.session_login(self.grant.rule(), host, (self.node.clone(), pbx))
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

/// The span of a session that is opened, as a part of the exchange that asks for it.
struct OpeningSpan<'a> {
    tracer: &'a Tracer,
    trace: RequestTrace,
    context: &'a RequestContext,
    begun: Timestamp,
    asked: Instant,
}

impl<'a> OpeningSpan<'a> {
    /// Begins, if a collector is configured: without one, no clock is read.
    fn begin(gate: &'a Gate, context: &'a RequestContext) -> Option<Self> {
        let (tracer, trace) = (gate.logs.tracer()?, context.trace?);
        Some(Self { tracer, trace, context, begun: Timestamp::now(), asked: Instant::now() })
    }

    fn end(self, is_error: bool) {
        self.tracer.add(SpanRecord {
            context: self.trace.child(),
            parent: Some(self.trace.context.span),
            kind: SpanKind::Client,
            name: "open PBX session".to_owned(),
            begun: self.begun,
            duration: self.asked.elapsed(),
            attributes: vec![("callgate.request_id", self.context.id.as_str().into())],
            is_error,
        });
    }
}
