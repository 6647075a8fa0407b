//! One try at a login, as the limits know it.
//!
//! `failures` counts guesses, by the client that guesses. A request without a credential guesses nothing. A credential
//! that logged in at this address before has failures of its own: it uses up no quota of its neighbours, and they none of
//! it. Requests that another site's page makes a browser send use up a quota of their own.

use http::HeaderValue;
use jiff::Timestamp;
use tokio::time::Instant;

use super::effects::Effects;
use crate::auth::CredentialDigest;
use crate::limit::{LimitKey, LimitQuery, LimitSource, Limited, Limits};
use crate::model::credential_mark::CredentialMark;
use crate::model::digest::Digest;
use crate::model::grant::Requested;
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::proxy::browser::trigger::Trigger;
use crate::proxy::context::{LoginRequest, RequestContext};

/// One try at a login.
#[derive(Clone)]
pub(in crate::proxy) struct Attempt<'a> {
    /// The kind of login.
    pub(in crate::proxy) kind: LoginKind,
    pub(in crate::proxy) context: &'a RequestContext,
    pub(in crate::proxy) effects: Effects<'a>,
    trigger: Trigger,
    credential: Option<ShownCredential>,
    marks: CallerMarks,
    /// The origin of the page that asks, if it is one that the operator listed.
    page: Option<HeaderValue>,
    /// Whether the client sends Fetch Metadata.
    is_browser: bool,
}

/// The credential that a request shows.
#[derive(Clone, Copy)]
struct ShownCredential {
    digest: Digest,
    is_cookie: bool,
    /// Whether it logged in at this address before.
    is_proven: bool,
}

/// The marks of a credential, by which later requests of its caller are recognized.
#[derive(Clone, Default)]
pub(in crate::proxy) struct CallerMarks {
    pub(in crate::proxy) marks: Vec<CredentialMark>,
    /// When it was shown.
    pub(in crate::proxy) at: Timestamp,
}

impl<'a> Attempt<'a> {
    /// Looks at a request before anything counts it.
    pub(super) fn new(
        (kind, trigger, credential): (LoginKind, Trigger, Option<CredentialDigest>),
        request: LoginRequest<'_>,
        limits: &Limits,
        context: &'a RequestContext,
        effects: Effects<'a>,
    ) -> Self {
        let credential = credential.map(|CredentialDigest { digest, is_cookie }| {
            let source = LimitSource::credential(context.client(), digest);
            ShownCredential { digest, is_cookie, is_proven: limits.proven.has(&source, Instant::now()) }
        });
        let is_browser = request.headers.contains_key("sec-fetch-site");
        Self { kind, context, effects, trigger, credential, marks: CallerMarks::default(), page: None, is_browser }
    }

    /// Adds the marks of its credential.
    #[must_use]
    pub(super) fn with_marks(self, marks: Vec<CredentialMark>) -> Self {
        Self { marks: CallerMarks { marks, at: Timestamp::now() }, ..self }
    }

    /// Adds the listed origin of the page that asks.
    #[must_use]
    pub(super) fn of_listed_page(self, origin: HeaderValue) -> Self {
        Self { page: Some(origin), ..self }
    }

    /// Returns the origin of the page that asks, if it is one that the operator listed.
    pub(super) fn listed_origin(&self) -> Option<&[u8]> {
        self.page.as_ref().map(HeaderValue::as_bytes)
    }

    /// Returns the marks of its credential.
    pub(in crate::proxy) const fn marks(&self) -> &CallerMarks {
        &self.marks
    }

    fn is_proven(&self) -> bool {
        self.credential.is_some_and(|credential| credential.is_proven)
    }

    /// Tells whether a page of another origin sent the window here.
    pub(super) fn is_sent(&self) -> bool {
        self.trigger == Trigger::Navigation
    }

    // === Where it counts ===

    /// Returns the source that its requests count for.
    fn source(&self) -> LimitSource {
        match (self.trigger, self.credential) {
            (_, Some(credential)) if credential.is_proven => self.credential_source(credential.digest),
            (Trigger::Navigation, _) => LimitSource::elsewhere(self.context.client()),
            (Trigger::Own | Trigger::ForeignPage, _) => self.address(),
        }
    }

    /// Returns the source that its guesses count for.
    fn guesser(&self) -> LimitSource {
        match self.credential.filter(|credential| credential.is_proven) {
            Some(credential) => self.credential_source(credential.digest),
            None => self.address(),
        }
    }

    fn address(&self) -> LimitSource {
        LimitSource::address(self.context.client())
    }

    fn credential_source(&self, credential: Digest) -> LimitSource {
        LimitSource::credential(self.context.client(), credential)
    }

    // === What counts ===

    /// Asks limits in their order.
    pub(in crate::proxy) async fn ask(&self, limits: &Limits, queries: Vec<LimitQuery<'_>>) -> Result<(), Limited> {
        self.effects.ask(limits, queries, &self.context.findings.refusers).await
    }

    /// Checks whether this client has guessed too often for a credential to be judged, and counts the request.
    pub(super) async fn count_guarded_request(&self, limits: &Limits) -> Result<(), Limited> {
        let mut queries = self.failures(limits);
        queries.push(self.request(limits));
        self.ask(limits, queries).await
    }

    /// Counts the request.
    pub(in crate::proxy) async fn count_request(&self, limits: &Limits) -> Result<(), Limited> {
        self.ask(limits, vec![self.request(limits)]).await
    }

    fn request<'l>(&self, limits: &'l Limits) -> LimitQuery<'l> {
        LimitQuery::count(&limits.client, &self.source())
    }

    /// Checks whether this client has guessed too often for a credential to be judged. Called again when there is a
    /// verdict, right before the client learns it: of many tries at once, no more get a verdict than may fail.
    pub(in crate::proxy) async fn check_failures(&self, limits: &Limits) -> Result<(), Limited> {
        self.ask(limits, self.failures(limits)).await
    }

    /// As [`Attempt::check_failures`], and counts the caller that the credential proves.
    pub(super) async fn count_caller(&self, limits: &Limits, caller: LimitKey) -> Result<(), Limited> {
        let mut queries = self.failures(limits);
        queries.push(LimitQuery::count(&limits.caller, caller));
        self.ask(limits, queries).await
    }

    /// The questions whether this client has guessed too often.
    fn failures<'l>(&self, limits: &'l Limits) -> Vec<LimitQuery<'l>> {
        let Some(credential) = self.credential else { return Vec::new() };
        let guesser = self.guesser();
        let mut queries = vec![LimitQuery::look(&limits.failures, &guesser)];
        if self.trigger == Trigger::Navigation && !self.is_proven() {
            queries.push(LimitQuery::look(&limits.stale_cookies, &self.source()));
        }
        if credential.is_cookie {
            queries.push(LimitQuery::look(&limits.stale_cookies, &guesser));
        }
        queries
    }

    /// Counts a wrong guess, before the client learns that it is wrong. A page of another origin makes whole windows come
    /// with a link of its own: such a link is no guess of the visitor's.
    pub(in crate::proxy) async fn count_guess(&self, limits: &Limits) -> Result<(), Limited> {
        if self.trigger != Trigger::Own {
            return self.count_sent(limits).await;
        }
        self.context.findings.has_guessed.set(true);
        self.ask(limits, vec![LimitQuery::count(&limits.failures, &self.guesser())]).await
    }

    /// Counts a cookie that expired or was never good. The same cookie counts once in 15 minutes.
    pub(super) async fn count_stale(&self, limits: &Limits) -> Result<(), Limited> {
        if self.trigger != Trigger::Own {
            return self.count_sent(limits).await;
        }
        let Some(credential) = self.credential else { return Ok(()) };
        let cookie = self.credential_source(credential.digest);
        self.effects.forget(&limits.proven, &cookie);
        if !self.effects.remember(&limits.stale, &cookie) {
            return Ok(());
        }
        self.ask(limits, vec![LimitQuery::count(&limits.stale_cookies, &self.address())]).await
    }

    /// Counts a bad credential in a window that another page sent here: apart, because a program may claim to be such a
    /// window and guess without end. The same credential counts once in 15 minutes.
    async fn count_sent(&self, limits: &Limits) -> Result<(), Limited> {
        let Some(credential) = self.credential else { return Ok(()) };
        if !self.effects.remember(&limits.stale, &self.credential_source(credential.digest)) {
            return Ok(());
        }
        let sent = LimitSource::elsewhere(self.context.client());
        self.ask(limits, vec![LimitQuery::count(&limits.stale_cookies, &sent)]).await
    }

    /// The questions that count an account that the caller named and may not have: for the caller, and for the address of a
    /// program, which may have the credentials of many callers.
    pub(super) fn foreign_account<'l>(&self, limits: &'l Limits, principal: &Principal) -> Vec<LimitQuery<'l>> {
        let mut queries = Vec::new();
        if !self.is_browser && !self.is_proven() {
            queries.push(LimitQuery::count(&limits.failures, &self.address()));
        }
        queries.push(LimitQuery::count(&limits.failures, naming_key(principal)));
        queries
    }

    // === What logged in ===

    /// Remembers a credential that logged in at this address.
    pub(in crate::proxy) fn remember_proven(&self, limits: &Limits, credential: Digest) {
        self.effects.remember(&limits.proven, &self.credential_source(credential));
    }

    /// Remembers the credential of the request, which logged in.
    pub(super) fn remember_own(&self, limits: &Limits) {
        if let Some(credential) = self.credential {
            self.remember_proven(limits, credential.digest);
        }
    }
}

/// The questions whether a caller has named others' accounts too often to name one.
pub(super) fn requested<'l>(limits: &'l Limits, principal: &Principal, requested: &Requested) -> Vec<LimitQuery<'l>> {
    let names_one = *requested != Requested::default();
    names_one.then(|| LimitQuery::look(&limits.failures, naming_key(principal))).into_iter().collect()
}

/// Returns the key under which the accounts that a caller names are counted.
fn naming_key(principal: &Principal) -> LimitKey {
    LimitKey::of(&[b"account", principal.method.as_bytes(), principal.subject.as_bytes()])
}
